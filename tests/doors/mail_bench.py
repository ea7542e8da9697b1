"""A worker, its database, and a pretend org to log mails in."""

from datetime import UTC, datetime

import pytest

from admin import create_app
from admin.trace import trace_of
from core.database.models import MailFileRow, MailTextRow
from core.mail import queue as mail_queue
from core.mail import texts as mail_texts
from core.mail.bulk_insert import write as write_rows
from core.mail.kept import FileChunk
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, Row, State
from core.mail.store import Filter, entries
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay.parts import Parts
from relay.record import new_mail_id
from sync.worker import Worker
from tests.doors.bcc_lookup import config
from tests.doors.connected import connected, person
from tests.sandbox.org.records import Features
from tests.sandbox.org.server import PretendOrg

ONE = b"i" * 32
"""What the parts of a mail have in common."""
TO_ALL = "To: a@client.test, b@client.test, c@client.test, d@client.test\r\n"


class Bench:
    """Anna, connected, in API mode; her org, and a worker."""

    def __init__(self, database, org, app, tmp_path, url):
        self.database, self.org = database, org
        self.anna = person(database)
        self.set(Setting.LOGGING, "api")
        self.policy(Setting.OWN_DOMAINS, "acme.test")
        self.connections = Connections(database, app)
        connected(self.connections, org, app, self.anna)
        self.config = config(org, tmp_path, url)
        self.worker = Worker(database, self.config)

    def set(self, name, value):
        with self.database.writing() as session:
            settings_store.set_preference(session, self.anna, name, value, actor=None)

    def policy(self, name, value):
        with self.database.writing() as session:
            settings_store.set_policy(session, name, value, actor=None)

    def mail(
        self,
        *recipients,
        header=None,
        body="Hello Bob",
        subject="Our offer",
        number=1,
        state=State.WAITING,
        decision=Decision.API,
        at=None,
        message_id="default",
        person_id=None,
        identity=None,
        files_mb=None,
    ):
        recipients = recipients or ("bob@client.test",)
        header = header if header is not None else f"To: {', '.join(recipients)}\r\n"
        raw = f"From: Anna A <anna@acme.test>\r\nSubject: {subject}\r\n{header}\r\n{body}\r\n"
        raw = raw.encode() if isinstance(raw, str) else raw
        at, mail_id = at or datetime.now(UTC), new_mail_id()
        if files_mb is not None:
            raw = self.kept(mail_id, raw, files_mb)
        row = Row(
            id=mail_id, time=at, process="p", person=person_id or self.anna.id, sender="anna@acme.test",
            recipient_count=len(recipients), recipients=tuple(recipients), subject=subject,
            message_id=f"<{number}@acme.test>" if message_id == "default" else message_id, mode="api",
            decision=decision, reason=Reason.API, state=state, upstream="250 2.0.0 Ok", bcc=Copy.NONE,
            due_at=at, text=raw, identity=identity,
        )  # fmt: skip
        with self.database.writing() as session:
            write_rows(session, [row])
        return row.id

    def kept(self, mail_id, raw, files_mb):
        """The mail as the relay keeps it, and its files in the database."""
        header, _, body = raw.partition(b"\r\n\r\n")
        parts = Parts(header + b"\r\n", files_mb << 20)
        pieces = parts.feed(b"\r\n" + body)
        kept, last = parts.end()
        with self.database.writing() as session:
            mail_texts.keep_files(
                session, [FileChunk(mail_id, one.file, one.number, one.data) for one in [*pieces, *last]]
            )
        return kept

    def files(self):
        with self.database.reading() as session:
            return session.query(MailFileRow).count()

    def part(self, address, header=TO_ALL, **more):
        """One transaction of a mail to several people."""
        return self.mail(address, header=header, identity=ONE, **more)

    def once(self):
        return self.worker.once()

    def row(self, mail_id):
        with self.database.reading() as session:
            [found] = [one.row for one in entries(session, Filter(), 1000) if one.row.id == mail_id]
        return found

    def state(self, mail_id):
        return self.row(mail_id).state

    def log(self, mail_id):
        with self.database.reading() as session:
            return mail_queue.log_of(session, mail_id)

    def texts(self):
        with self.database.reading() as session:
            return session.query(MailTextRow).count()

    def records(self, name):
        return [row for row in self.org.org.rows.get(name.lower(), {}).values() if not row["IsDeleted"]]

    def logged(self, name="EmailMessage"):
        return self.records(name)

    def people(self):
        """How the people of each e-mail message are related to it."""
        found = {}
        for one in self.records("EmailMessageRelation"):
            found.setdefault(one["EmailMessageId"], set()).add((one["RelationId"], one["RelationType"]))
        return found

    def logged_by_einstein(self, *people, message_id="<1@acme.test>", sender="anna@acme.test", **values):
        tool = self.org.org.put("User", Username="eac@acme.test", Name="Einstein", IsActive=True)
        values = {"MessageDate": datetime.now(UTC)} | values
        record = self.org.org.put(
            "EmailMessage", MessageIdentifier=message_id, FromAddress=sender, Subject="Our offer", Status="3",
            CreatedById=tool, LastModifiedById=tool, **values,
        )  # fmt: skip
        for one in people:
            self.org.org.put(
                "EmailMessageRelation", EmailMessageId=record, RelationId=one, RelationType="ToAddress"
            )
        return record

    def contact(self, email="bob@client.test", **values):
        return self.org.org.put("Contact", LastName="Buyer", FirstName="Bob", Email=email, **values)

    def lead(self, email="bob@client.test", **values):
        return self.org.org.put("Lead", LastName="Lead", Company="X", Email=email, **values)

    def deal(self, contact, name="Chairs", **values):
        deal = self.org.org.put("Opportunity", Name=name, StageName="S", **values)
        self.org.org.put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=False)
        return deal


def claimed(session, worker, *, most, only):
    """The mails that this worker takes: person -> jobs."""
    return mail_queue.claim(session, worker, mail_queue.due_jobs(session, worker, only, most=most))


def make_org(**features):
    pretend = PretendOrg(Features(**features))
    pretend.start()
    pretend.anna = pretend.org.put(
        "User", Username="anna@acme.test", Name="Anna", Email="a@acme.test", IsActive=True
    )
    return pretend


@pytest.fixture(params=[{}])
def org(request):
    pretend = make_org(**request.param)
    yield pretend
    pretend.stop()


@pytest.fixture
def bench(sqlite, org, org_app, tmp_path):
    return Bench(sqlite, org, org_app, tmp_path, None)


class OnBothDatabases:
    """What concerns locks and claims is asked of SQLite and of PostgreSQL."""

    @pytest.fixture
    def bench(self, database, org, org_app, tmp_path, database_url):
        return Bench(database, org, org_app, tmp_path, database_url)


TASKS = pytest.mark.parametrize("org", [{"enhanced_email": False}], indirect=True)


SHARED = pytest.mark.parametrize("org", [{"enhanced_email": False, "shared_activities": True}], indirect=True)


KEYED = pytest.mark.parametrize("org", [{"blindcopy_key": True}], indirect=True)


def refused(code):
    from core.salesforce.login import Refused
    from core.salesforce.troubles import trouble

    def raise_it(*_):
        raise Refused(trouble(code))

    return raise_it


def refuse(bench, code, message):
    from tests.sandbox.org.records import Refused

    bench.check = bench.org.org.check

    def check(kind, row, before):
        raise Refused(code, message)

    bench.org.org.check = check


def check_length(org, most):
    from tests.sandbox.org.records import Refused

    original = org.check

    def check(kind, row, before):
        if len(row.get("TextBody") or "") > most:
            raise Refused("STRING_TOO_LONG", "TextBody: data value too large", "TextBody")
        original(kind, row, before)

    return check


def end_the_pause(bench):
    from core.database.models import OrganisationRow

    with bench.database.writing() as session:
        for row in session.query(OrganisationRow):
            row.paused_until = None
    bench.worker = Worker(bench.database, bench.config)


def new_id_of(time):
    milliseconds = int(time.timestamp() * 1000)
    text = f"{milliseconds:012x}" + "7" + "0" * 19
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def stored_org(bench):
    from tests.sandbox.org.oauth import ORGANISATION

    return ORGANISATION


def told(bench, mail_id):
    with create_app(bench.config).test_request_context():
        return " ".join(trace_of(bench.row(mail_id), bench.log(mail_id), None).steps)

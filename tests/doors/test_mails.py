"""Mails that wait, logged in the pretend org by the worker: once, on the right records, with the reason."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from core.database.models import MailLogRow, MailRow, MailTextRow, ProcessRow
from core.mail import queue as mail_queue
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, Row, State
from core.mail.store import Filter, entries
from core.mail.writes import MatchResult
from core.salesforce import api_usage, late_commits
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay.record import new_mail_id
from sync.mail import batch, waiting, write
from sync.worker import Worker
from tests.doors.test_connections import connected, person
from tests.doors.test_pick_up import config
from tests.sandbox.org.faults import Fault
from tests.sandbox.org.records import Features
from tests.sandbox.org.server import PretendOrg


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

    def mail(self, *recipients, header=None, body="Hello Bob", subject="Our offer", number=1, state=State.WAITING,
             decision=Decision.API, at=None, message_id="default", person_id=None):  # fmt: skip
        recipients = recipients or ("bob@client.test",)
        header = header if header is not None else f"To: {', '.join(recipients)}\r\n"
        raw = f"From: Anna A <anna@acme.test>\r\nSubject: {subject}\r\n{header}\r\n{body}\r\n"
        at = at or datetime.now(UTC)
        row = Row(
            id=new_mail_id(), time=at, process="p", person=person_id or self.anna.id, sender="anna@acme.test",
            recipient_count=len(recipients), recipients=tuple(recipients), subject=subject,
            message_id=f"<{number}@acme.test>" if message_id == "default" else message_id, mode="api",
            decision=decision, reason=Reason.API, state=state, upstream="250 2.0.0 Ok", bcc=Copy.NONE,
            due_at=at, text=raw.encode() if isinstance(raw, str) else raw,
        )  # fmt: skip
        with self.database.writing() as session:
            write_rows(session, [row])
        return row.id

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

    def contact(self, email="bob@client.test", **values):
        return self.org.org.put("Contact", LastName="Buyer", FirstName="Bob", Email=email, **values)

    def lead(self, email="bob@client.test", **values):
        return self.org.org.put("Lead", LastName="Lead", Company="X", Email=email, **values)

    def deal(self, contact, name="Chairs", **values):
        deal = self.org.org.put("Opportunity", Name=name, StageName="S", **values)
        self.org.org.put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=False)
        return deal


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


class TestAMail:
    def test_is_logged_on_contact_and_opportunity_as_an_email_message(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        [message] = bench.logged()
        wanted = {
            "Subject": "Our offer", "TextBody": "Hello Bob", "ToIds": [bob], "RelatedToId": deal, "Status": "3",
            "FromAddress": "anna@acme.test", "FromName": "Anna A", "MessageIdentifier": "<1@acme.test>", "Incoming": False,
        }  # fmt: skip
        assert {name: message[name] for name in wanted} == wanted
        assert bench.texts() == 0, "the text goes with the state"
        assert [target.id for target in bench.log(mail).written] == [message["Id"]]

    @TASKS
    def test_is_a_closed_task_where_there_is_no_enhanced_email(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        assert bench.once()
        [task] = bench.logged("Task")
        wanted = {
            "Subject": "Email: Our offer", "WhoId": bob, "WhatId": deal, "Status": "Completed", "TaskSubtype": "Email",
            "Type": "Email", "OwnerId": bench.org.anna, "Description": "Hello Bob\n\nMessage-ID: <1@acme.test>",
        }  # fmt: skip
        assert {name: task[name] for name in wanted} == wanted
        assert bench.state(mail) is State.LOGGED

    def test_to_nobody_known_waits_without_its_text_and_is_logged_when_somebody_comes(self, bench):
        mail = bench.mail()
        assert bench.once()
        assert (bench.state(mail), bench.texts()) == (State.UNMATCHED, 0)
        bob = bench.contact()
        bench.worker = Worker(bench.database, bench.config)  # what a worker knows is good for a minute
        assert bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["TextBody"], message["Subject"]) == ([bob], None, "Our offer")
        assert bench.state(mail) is State.LOGGED

    def test_to_colleagues_too_is_logged_for_the_client_and_asks_for_nobody_else(self, bench):
        bench.contact()
        bench.contact("carl@acme.test")
        bench.policy(Setting.NEVER_LOG, "lawyer@law.test")
        bench.contact("lawyer@law.test")
        bench.mail("bob@client.test", "carl@acme.test", "lawyer@law.test")
        assert bench.once()
        [message] = bench.logged()
        assert len(message["ToIds"]) == 1
        assert message["ToAddress"] is None

    def test_that_was_blind_copied_to_somebody_is_not_logged_there_unless_that_is_wanted(self, bench):
        bob, cleo = bench.contact(), bench.contact("cleo@client.test")
        bench.mail("bob@client.test", "cleo@client.test", header="To: bob@client.test\r\n")
        assert bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["BccIds"], message["BccAddress"]) == ([bob], None, None)
        bench.set(Setting.BLIND_COPIED, "yes")
        bench.mail("bob@client.test", "cleo@client.test", header="Cc: bob@client.test\r\n", number=2)
        assert bench.once()
        [_, message] = bench.logged()
        assert (message["CcIds"], message["BccIds"]) == ([bob], [cleo])

    def test_that_only_blind_copied_people_get_is_nobodys(self, bench):
        bench.contact()
        mail = bench.mail("bob@client.test", header="To: undisclosed-recipients:;\r\n")
        assert bench.once()
        assert bench.state(mail) is State.DISMISSED
        assert bench.log(mail).trace.result is MatchResult.NOBODY_COUNTS

    @pytest.mark.parametrize(
        ("rule", "state", "tasks"),
        [("unmatched", State.UNMATCHED, 0), ("nothing", State.DISMISSED, 0), ("task", State.LOGGED, 1)],
    )
    def test_without_a_match_follows_the_rule(self, bench, rule, state, tasks):
        bench.set(Setting.NO_MATCH, rule)
        mail = bench.mail()
        assert bench.once()
        assert (bench.state(mail), len(bench.logged("Task"))) == (state, tasks)
        if tasks:
            [task] = bench.logged("Task")
            assert (task["IsClosed"], task["WhoId"]) == (False, None)

    @pytest.mark.parametrize(
        ("keep", "subject", "text"),
        [
            ("text", "Our offer", "Hello Bob"),
            ("subject", "Our offer", None),
            ("envelope", "(not kept)", None),
        ],
    )
    def test_keeps_as_much_as_is_wanted(self, bench, keep, subject, text):
        bench.contact()
        bench.set(Setting.KEEP, keep)
        bench.mail()
        assert bench.once()
        [message] = bench.logged()
        assert (message["Subject"], message["TextBody"]) == (subject, text)

    def test_with_300_recipients_is_logged_on_each_once(self, bench):
        contacts = {bench.contact(f"c{n}@client.test") for n in range(120)}
        mail = bench.mail(*[f"c{n}@client.test" for n in range(300)])
        assert bench.once()
        on = [one for message in bench.logged() for one in message["ToIds"]]
        assert (len(bench.logged()), len(on), set(on)) == (3, 120, contacts)
        assert bench.state(mail) is State.LOGGED

    def test_to_addresses_that_look_like_queries_asks_for_them(self, bench):
        odd = ["o'hara@client.test", "a\\b@client.test", "x') OR Setting LIKE ('%@client.test"]
        bench.contact("o'hara@client.test")
        mail = bench.mail(*odd)
        assert bench.once()
        [message] = bench.logged()
        assert len(message["ToIds"]) == 1
        assert bench.state(mail) is State.LOGGED

    def test_with_ten_megabytes_of_html_is_cut_to_what_fits(self, bench):
        bench.contact()
        body = "<html><body>" + "<p>Ünïcödé 📨 words</p>" * 10_000
        bench.mail(header="To: bob@client.test\r\nContent-Type: text/html; charset=utf-8\r\n", body=body)
        assert bench.once()
        [message] = bench.logged()
        assert message["HtmlBody"] is None
        assert message["TextBody"].startswith("Ünïcödé 📨 words")
        assert 30_000 < len(message["TextBody"].encode()) <= 32_000

    @pytest.mark.parametrize(
        "kind", ["multipart/encrypted; boundary=x", "application/pkcs7-mime; name=smime.p7m", "image/png"]
    )
    def test_that_is_encrypted_or_only_an_attachment_is_logged_without_text(self, bench, kind):
        bench.contact()
        bench.mail(header=f"To: bob@client.test\r\nContent-Type: {kind}\r\n", body="aGVsbG8=")
        assert bench.once()
        [message] = bench.logged()
        assert (message["TextBody"], message["HtmlBody"], message["Subject"]) == (None, None, "Our offer")

    def test_without_a_message_id_is_known_by_ours(self, bench):
        bench.contact()
        mail = bench.mail(message_id=None)
        assert bench.once()
        assert bench.logged()[0]["MessageIdentifier"] == f"<{mail}@blindcopy.invalid>"


class TestChoosing:
    def test_a_contact_comes_before_a_lead_unless_it_is_otherwise_wanted(self, bench):
        bob, lead = bench.contact(), bench.lead()
        bench.mail()
        bench.once()
        assert bench.logged()[-1]["ToIds"] == [bob]
        bench.set(Setting.FIRST, "lead")
        bench.mail(number=2)
        bench.once()
        assert bench.logged()[-1]["ToIds"] == [lead]

    @pytest.mark.parametrize(
        ("rule", "expected"), [("oldest", [0]), ("all", [0, 1, 2]), ("most-recent-activity", [1])]
    )
    def test_of_several_contacts_by_the_rule(self, bench, rule, expected):
        now = bench.org.org.clock()
        ids = [
            bench.contact(CreatedDate=now - timedelta(days=9 - n), LastActivityDate=day)
            for n, day in enumerate([None, now.date(), (now - timedelta(days=3)).date()])
        ]
        bench.set(Setting.DUPLICATES, rule)
        bench.mail()
        bench.once()
        assert set(bench.logged()[0]["ToIds"]) == {ids[n] for n in expected}

    @pytest.mark.parametrize(
        ("rule", "expected"), [("only-open", 0), ("none", 0), ("most-recent-open", 1), ("all-open", 2)]
    )
    def test_of_several_opportunities_by_the_rule(self, bench, rule, expected):
        bob = bench.contact()
        bench.deal(bob, "A")
        newest = bench.deal(bob, "B", LastModifiedDate=bench.org.org.clock() + timedelta(hours=1))
        bench.deal(bob, "closed", IsClosed=True)
        bench.set(Setting.OPPORTUNITY, rule)
        bench.mail()
        bench.once()
        deals = [message["RelatedToId"] for message in bench.logged() if message["RelatedToId"]]
        assert len(deals) == expected
        assert expected != 1 or deals == [newest]
        assert sum(bob in (message["ToIds"] or ()) for message in bench.logged()) == 1, (
            "once on the contact all the same"
        )

    def test_the_account_where_no_opportunity_leads_to_it(self, bench):
        account = bench.org.org.put("Account", Name="Client Inc.")
        bench.contact(AccountId=account)
        bench.mail()
        bench.once()
        assert bench.logged()[0]["RelatedToId"] == account
        bench.set(Setting.LOG_ON, "contacts,leads,opportunities")
        bench.mail(number=2)
        bench.once()
        assert bench.logged()[1]["RelatedToId"] is None

    @pytest.mark.parametrize(("log_on", "contacts"), [("leads", 0), ("accounts", 0), ("contacts", 1)])
    def test_only_what_is_to_be_logged_on(self, bench, log_on, contacts):
        account = bench.org.org.put("Account", Name="Client Inc.")
        bench.contact(AccountId=account)
        lead = bench.lead("lee@prospect.test")
        bench.set(Setting.LOG_ON, log_on)
        bench.mail("bob@client.test", "lee@prospect.test")
        bench.once()
        on = [one for message in bench.logged() for one in message["ToIds"] or ()]
        assert on == {"leads": [lead], "accounts": [], "contacts": on}[log_on]
        assert sum(one.startswith("003") for one in on) == contacts

    @TASKS
    def test_contacts_and_leads_never_share_a_record(self, bench):
        bob, cleo = bench.contact(), bench.contact("cleo@client.test")
        deal = bench.deal(cleo)
        leads = {bench.lead("l1@p.test"), bench.lead("l2@p.test")}
        mail = bench.mail("bob@client.test", "cleo@client.test", "l1@p.test", "l2@p.test")
        bench.once()
        assert bench.state(mail) is State.LOGGED, bench.log(mail)
        on = {task["WhoId"]: task["WhatId"] for task in bench.logged("Task")}
        assert on == {bob: None, cleo: deal} | dict.fromkeys(leads)

    @SHARED
    def test_contacts_share_a_task_where_the_org_shares_activities(self, bench):
        contacts = {bench.contact(f"c{n}@client.test") for n in range(60)}
        bench.mail(*[f"c{n}@client.test" for n in range(60)])
        bench.once()
        assert sorted(len(task["TaskWhoIds"]) for task in bench.logged("Task")) == [10, 50]
        assert {one for task in bench.logged("Task") for one in task["TaskWhoIds"]} == contacts

    def test_a_person_account_is_the_contact_that_stands_for_it(self, bench):
        account = bench.org.org.put("Account", Name="Bob Buyer")
        bob = bench.contact(AccountId=account)
        bench.mail()
        bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["RelatedToId"]) == ([bob], account)

    def test_a_converted_lead_is_the_contact_that_it_became(self, bench):
        contact = bench.contact("new@client.test")
        bench.lead(IsConverted=True, ConvertedContactId=contact)
        bench.mail()
        bench.once()
        assert bench.logged()[0]["ToIds"] == [contact]


class TestTrouble:
    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.LOST])
    def test_that_passes_is_tried_again(self, bench, fault):
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(fault, "query")
        assert not bench.once()
        assert bench.state(mail) is State.WAITING
        assert bench.row(mail).due_at > datetime.now(UTC)
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)
        assert bench.log(mail).trace.tries[0].code == "SERVER_UNAVAILABLE"

    def test_of_a_lost_answer_never_writes_twice_and_waits_for_a_late_commit(self, bench, monkeypatch):
        bench.contact()
        bench.org.org.seen_after = timedelta(seconds=1.5)
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert not bench.once(), "nothing shows yet, and nothing may be written before it could"
        assert (bench.state(mail), len(bench.logged())) == (State.WAITING, 1)
        threading.Event().wait(1.6)
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)
        assert [target.id for target in bench.log(mail).written] == [bench.logged()[0]["Id"]]

    def test_of_a_time_out_before_anything_was_written_is_repeated_when_nothing_can_come_any_more(
        self, bench, monkeypatch
    ):
        monkeypatch.setattr("core.salesforce.client.SECONDS_TO_ANSWER", 1)
        monkeypatch.setattr(late_commits, "UNTIL_A_WRITE_SHOWS", timedelta(seconds=2))
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.HTML, "composite")
        assert not bench.once()
        assert not bench.once()
        threading.Event().wait(2.1)
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)

    @TASKS
    def test_of_a_lost_answer_finds_the_task_by_its_last_line(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert bench.once()
        assert (bench.state(mail), len(bench.logged("Task"))) == (State.LOGGED, 1)

    @KEYED
    def test_of_a_lost_answer_is_no_matter_where_the_org_knows_the_key(self, bench):
        bench.contact()
        bench.org.org.seen_after = timedelta(minutes=5)
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert bench.once()
        [message] = bench.logged()
        assert bench.state(mail) is State.LOGGED
        assert bench.log(mail).written[0].id[:15] == message["Id"][:15]

    def test_of_locked_rows_concerns_those_rows_only(self, bench):
        for n in range(4):
            bench.contact(f"c{n}@client.test")
        mails = [bench.mail(f"c{n}@client.test", number=n) for n in range(4)]
        bench.org.faults.order(Fault.LOCKED, "composite")
        assert not bench.once()
        assert sorted(bench.state(mail) for mail in mails) == ["logged", "logged", "waiting", "waiting"]
        assert bench.once()
        assert len(bench.logged()) == 4

    def test_of_the_limit_pauses_the_whole_org(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.LIMIT, "query")
        assert not bench.once()
        calls = len(bench.org.calls)
        assert not bench.once()
        assert (bench.state(mail), len(bench.org.calls)) == (State.WAITING, calls)
        end_the_pause(bench)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_below_the_reserve_nothing_is_asked_and_the_relays_are_told(self, bench):
        bench.contact()
        bench.set(Setting.BCC_ADDRESS, "emailtosalesforce@x.le.salesforce.com")
        bench.org.app.extensions["usage"] |= {"used": 13_600, "total": 15_000}
        first, second = bench.mail(), bench.mail(number=2)
        bench.once()
        assert bench.state(first) is State.LOGGED
        third = bench.mail(number=3)
        calls = len(bench.org.calls)
        assert not bench.once()
        assert (bench.state(third), len(bench.org.calls)) == (State.WAITING, calls)
        assert bench.state(second) is State.LOGGED
        with bench.database.reading() as session:
            assert settings_store.people(session).by_id[bench.anna.id].calls_are_scarce
        bench.org.app.extensions["usage"]["used"] = 100
        end_the_pause(bench)
        assert bench.once()
        assert bench.state(third) is State.LOGGED
        with bench.database.reading() as session:
            assert not settings_store.people(session).by_id[bench.anna.id].calls_are_scarce

    def test_of_a_dead_connection_waits_for_the_person(self, bench, org_app):
        bench.contact()
        mail = bench.mail()
        bench.org.tokens.revoke_all()
        assert not bench.once()
        assert bench.state(mail) is State.WAITING
        calls = len(bench.org.calls)
        assert not bench.once()
        assert len(bench.org.calls) == calls
        connected(bench.connections, bench.org, org_app, bench.anna)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_of_a_session_that_ends_is_renewed(self, bench):
        bench.contact()
        bench.mail()
        bench.org.tokens.expire_sessions()
        assert bench.once()
        assert len(bench.logged()) == 1

    def test_that_stays_says_why_and_is_tried_again_only_when_asked(self, bench):
        bob = bench.contact()
        refuse(bench, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "Our rule 7")
        mail = bench.mail()
        assert bench.once()
        log = bench.log(mail)
        assert (bench.state(mail), log.trouble_code, log.trouble_detail) == (
            State.FAILED, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "Our rule 7",
        )  # fmt: skip
        assert bench.once()
        assert bench.state(mail) is State.FAILED
        bench.org.org.check = bench.check
        with bench.database.writing() as session:
            mail_queue.log_again(session, mail)
        assert bench.once()
        [message] = bench.logged()
        assert (bench.state(mail), message["ToIds"], message["TextBody"]) == (
            State.LOGGED,
            [bob],
            "Hello Bob",
        )

    def test_of_a_contact_that_was_merged_away_matches_anew(self, bench):
        old = bench.contact()
        bench.mail()
        bench.once()
        new = bench.contact()
        bench.org.org.rows["contact"][old] |= {"IsDeleted": True, "MasterRecordId": new}
        mail = bench.mail(number=2)
        assert bench.once(), "what the worker remembered of Bob is old"
        assert bench.state(mail) is State.LOGGED
        assert bench.logged()[1]["ToIds"] == [new]

    def test_of_an_opportunity_that_was_deleted_drops_it(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        org = bench.org.org
        original = org.referred

        def gone(field, value):
            if value == deal:
                org.rows["opportunity"][deal]["IsDeleted"] = True
                for row in org.rows["opportunitycontactrole"].values():
                    row["IsDeleted"] = True
            return original(field, value)

        org.referred = gone
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        assert [message["RelatedToId"] for message in bench.logged()] == [None]

    def test_of_a_field_that_the_org_lost_asks_anew(self, bench):
        bench.contact()
        bench.mail()
        bench.once()
        del bench.org.org.objects["emailmessage"].fields["fromname"]
        mail = bench.mail(number=2)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_of_a_text_that_is_too_long_cuts_it(self, bench):
        bench.contact()
        kind = bench.org.org.objects["emailmessage"]
        bench.org.org.check, bench.check = check_length(bench.org.org, 5_000), bench.org.org.check
        assert kind
        mail = bench.mail(body="x" * 40_000)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        assert len(bench.logged()[0]["TextBody"]) <= 5_000

    @TASKS
    def test_of_no_right_on_tasks_says_what_to_do(self, bench):
        bench.contact()
        del bench.org.org.objects["task"]
        mail = bench.mail()
        assert bench.once()
        assert bench.state(mail) is State.FAILED


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


class TestClaims(OnBothDatabases):
    def test_of_a_worker_that_lives_are_respected_and_of_a_dead_one_taken_over(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.worker.beat()
        with bench.database.writing() as session:
            mail_queue.claim(session, bench.worker.process_id, most=10, only=[bench.anna.id])
        other = Worker(bench.database, bench.config)
        assert not other.once()
        assert bench.state(mail) is State.WAITING
        with bench.database.writing() as session:
            for row in session.query(ProcessRow):
                row.beat_at -= timedelta(minutes=1)
        assert other.once()
        assert bench.state(mail) is State.LOGGED

    def test_who_comes_back_settles_nothing(self, bench):
        bench.contact()
        mail = bench.mail()
        with bench.database.writing() as session:
            [job] = mail_queue.claim(session, "first", most=10, only=[bench.anna.id])[bench.anna.id]
        with bench.database.writing() as session:
            [again] = mail_queue.claim(session, "second", most=10, only=[bench.anna.id])[bench.anna.id]
        with bench.database.writing() as session:
            assert mail_queue.intend(session, [(job, job.log)]) == frozenset()
            mail_queue.settle(session, [mail_queue.End(job, State.FAILED, job.log)])
            assert mail_queue.intend(session, [(again, again.log)]) == {mail}
        assert bench.state(mail) is State.WAITING

    def test_the_longest_waiting_come_first(self, bench):
        ids = [bench.mail(number=n, at=datetime.now(UTC) - timedelta(minutes=n)) for n in range(5)]
        with bench.database.writing() as session:
            found = mail_queue.claim(session, "x", most=10, only=[bench.anna.id])[bench.anna.id]
        assert [job.row.id for job in found] == [ids[4], ids[3]]

    def test_two_workers_at_once_write_each_mail_once(self, bench):
        for n in range(40):
            bench.contact(f"c{n}@client.test")
            bench.mail(f"c{n}@client.test", number=n)
        workers = [Worker(bench.database, bench.config) for _ in range(3)]
        threads = [threading.Thread(target=worker.once) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bench.once()
        assert sorted(message["MessageIdentifier"] for message in bench.logged()) == sorted(
            f"<{n}@acme.test>" for n in range(40)
        )


class TestReceipts:
    def copied(self, bench, **more):
        bench.set(Setting.LOGGING, "bcc+receipt")
        return bench.mail(state=State.COPIED, decision=Decision.COPY_AND_API, **more)

    def test_a_copy_that_salesforce_has_is_confirmed(self, bench):
        mail = self.copied(bench)
        bench.org.org.put(
            "Task",
            Subject="Email: Our offer",
            OwnerId=bench.org.anna,
            TaskSubtype="Email",
            Status="Completed",
        )
        assert bench.once()
        assert (bench.state(mail), bench.texts()) == (State.CONFIRMED, 0)

    def test_a_copy_is_looked_for_three_times_and_can_then_be_logged_by_hand(self, bench):
        bench.contact()
        mail = self.copied(bench, at=datetime.now(UTC) - timedelta(hours=2))
        for _ in range(3):
            assert bench.once()
        row = bench.row(mail)
        assert (row.state, row.due_at, bench.log(mail).trace.result) == (
            State.COPIED,
            None,
            MatchResult.NOT_CONFIRMED,
        )
        assert bench.logged() == []
        with bench.database.writing() as session:
            mail_queue.log_again(session, mail)
        assert bench.once()
        assert (bench.state(mail), bench.logged()[0]["TextBody"]) == (State.LOGGED, "Hello Bob")

    def test_two_of_one_subject_confirm_nothing(self, bench):
        mail = self.copied(bench)
        for _ in range(2):
            bench.org.org.put(
                "Task", Subject="Our offer", OwnerId=bench.org.anna, TaskSubtype="Email", Status="Completed"
            )
        assert bench.once()
        assert bench.state(mail) is State.COPIED


class TestTidying:
    def test_old_rows_go_with_all_that_hangs_on_them(self, bench):
        bench.contact()
        old = bench.mail(at=datetime.now(UTC) - timedelta(days=91))
        bench.once()
        with bench.database.writing() as session:
            row = session.get(MailRow, old)
            assert row.state == "logged"
            moved = new_id_of(datetime.now(UTC) - timedelta(days=91))
            for table in (MailLogRow,):
                session.query(table).delete()
            row.id = moved
        bench.once()
        with bench.database.reading() as session:
            assert session.query(MailRow).count() == 0


def new_id_of(time):
    milliseconds = int(time.timestamp() * 1000)
    text = f"{milliseconds:012x}" + "7" + "0" * 19
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def test_what_is_ignored_is_not_asked_for(bench):
    bench.contact()
    mail = bench.mail("bob@client.test", "news@letters.test")
    bench.once()
    unmatched = bench.mail("news@letters.test", number=2)
    bench.once()
    assert (bench.state(mail), bench.state(unmatched)) == (State.LOGGED, State.UNMATCHED)
    with bench.database.writing() as session:
        mail_queue.ignore(session, bench.anna.id, "letters.test")
    bench.once()
    assert bench.state(unmatched) is State.DISMISSED


def test_a_person_picks_the_record(bench):
    bob = bench.contact("other@client.test")
    deal = bench.deal(bob)
    mail = bench.mail()
    bench.once()
    with bench.database.writing() as session:
        mail_queue.pick(session, mail, [bob, deal])
    assert bench.once()
    assert bench.state(mail) is State.LOGGED
    on = {
        one
        for message in bench.logged()
        for one in (*(message["ToIds"] or ()), message["RelatedToId"])
        if one
    }
    assert on == {bob, deal}


def test_calls_of_a_batch_are_few(bench):
    for n in range(60):
        bob = bench.contact(f"c{n}@client.test")
        if n % 3 == 0:
            bench.deal(bob)
    bench.lead("lee@p.test")
    for n in range(20):
        bench.mail(*[f"c{m}@client.test" for m in range(n, n + 5)], "lee@p.test", number=n)
    before = len(bench.org.calls)
    assert bench.once()
    asked = [one for one in bench.org.calls[before:] if "query" in one or one.startswith("POST")]
    assert len(asked) == 4, asked


def test_usage_is_kept_by_organisation(bench):
    bench.contact()
    bench.mail()
    bench.once()
    with bench.database.reading() as session:
        [one] = [api_usage.organisation(session, stored_org(bench))]
    assert one.usage.total == 15_000


def stored_org(bench):
    from tests.sandbox.org.oauth import ORGANISATION

    return ORGANISATION


class TestWhatAnAttackFound(OnBothDatabases):
    def test_a_database_that_was_away_when_mails_were_settled_leaves_none_claimed(self, bench, monkeypatch):
        from core.database.engine import DatabaseUnavailable

        bench.contact()
        mail = bench.mail()
        real = mail_queue.settle

        def away(session, ends):
            monkeypatch.setattr(mail_queue, "settle", real)
            raise DatabaseUnavailable("away")

        monkeypatch.setattr(mail_queue, "settle", away)
        assert not bench.once()
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)

    @pytest.mark.parametrize(
        "org", [{"enhanced_email": False}, {"enhanced_email": False, "blindcopy_key": True}], indirect=True
    )
    def test_an_uncertain_write_is_not_forgotten_when_the_records_change(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert len(bench.logged("Task")) == 1
        for name, record_id in (("opportunity", deal),):
            bench.org.org.rows[name][record_id]["IsDeleted"] = True
        for role in bench.org.org.rows["opportunitycontactrole"].values():
            role["IsDeleted"] = True
        for _ in range(3):
            bench.worker = Worker(bench.database, bench.config)
            bench.once()
        assert sum(task["WhoId"] == bob for task in bench.logged("Task")) == 1, bench.log(mail)
        assert bench.state(mail) is State.LOGGED

    def test_a_record_that_is_named_three_ways_is_one(self, bench):
        bob = bench.contact("other@client.test")
        mail = bench.mail()
        bench.once()
        with bench.database.writing() as session:
            mail_queue.pick(session, mail, [bob, bob[:15], bob])
        assert bench.once()
        assert [len(message["ToIds"]) for message in bench.logged()] == [1]

    def test_a_record_can_be_chosen_for_an_unmatched_mail_only(self, bench):
        bob = bench.contact()
        mail = bench.mail()
        bench.once()
        with pytest.raises(mail_queue.NothingToLogBy), bench.database.writing() as session:
            mail_queue.pick(session, mail, [bob])

    @KEYED
    def test_a_message_id_of_many_bytes_is_found_again(self, bench, monkeypatch):
        bench.contact()
        mail = bench.mail(message_id="<" + "é" * 200 + "@x>")
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        assert bench.logged()[0]["MessageIdentifier"].endswith("@blindcopy.invalid>")

    def test_one_odd_mail_holds_up_nobody(self, bench, monkeypatch):
        bench.contact()
        good, odd = bench.mail(), bench.mail(number=2, header=f"To: {'(' * 5_000} bob@client.test\r\n")
        bench.once()
        assert bench.state(good) is State.LOGGED
        assert bench.state(odd) in {State.LOGGED, State.DISMISSED}
        real = write.fields

        def broken(row, *more):
            if row.subject == "broken":
                raise ZeroDivisionError
            return real(row, *more)

        monkeypatch.setattr(waiting, "fields", broken)
        fine, bad = bench.mail(number=3), bench.mail(number=4, subject="broken")
        assert not bench.once()
        assert (bench.state(fine), bench.state(bad)) == (State.LOGGED, State.WAITING)
        for _ in range(6):
            bench.once()
        assert (bench.state(bad), bench.log(bad).trouble_code) == (State.FAILED, "unforeseen")

    def test_what_was_written_before_something_unforeseen_is_not_written_again(self, bench, monkeypatch):
        bench.contact()
        mails = [bench.mail(number=n, subject="broken" if n == 3 else "fine") for n in range(1, 4)]
        monkeypatch.setattr(write, "MOST_CHARACTERS", 0)
        real = write.fields

        def broken(row, *more):
            if row.subject == "broken":
                raise ZeroDivisionError
            return real(row, *more)

        monkeypatch.setattr(waiting, "fields", broken)
        bench.once()
        assert [bench.state(mail) for mail in mails] == [State.LOGGED, State.LOGGED, State.WAITING]
        for _ in range(6):
            bench.once()
        assert bench.state(mails[2]) is State.FAILED
        assert sorted(one["MessageIdentifier"] for one in bench.logged()) == [
            "<1@acme.test>",
            "<2@acme.test>",
        ]

    def test_a_page_that_is_all_tags_costs_no_more_than_its_length(self):
        from sync.mail.content import readable

        for piece in ("<!--", "<a ", "<a b='", "<", "</script", "<script>"):
            assert len(readable(piece * 20_000)) < 200_000

    @pytest.mark.parametrize("code", ["INACTIVE_ORGANIZATION", "INVALID_LOGIN"])
    def test_an_answer_that_concerns_the_connection_is_no_endless_loop(self, bench, code, monkeypatch):
        from core.salesforce.client import Client
        from core.salesforce.login import Refused
        from core.salesforce.troubles import trouble

        bench.contact()
        mail = bench.mail()
        asked = []

        def refuse_all(*_, **__):
            asked.append(1)
            raise Refused(trouble(code))

        monkeypatch.setattr(Client, "query", refuse_all)
        bench.worker.mails.log_due(threading.Event())
        assert len(asked) < 3
        assert bench.state(mail) is State.WAITING

    def test_an_operators_fault_fails_nobodys_mail(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.org.tokens.client.client_secret = "changed"
        bench.org.tokens.expire_sessions()
        assert not bench.once()
        assert bench.state(mail) is State.WAITING
        bench.org.tokens.client.client_secret = "blindcopy-secret"
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_receipts_that_cannot_be_had_concern_the_copies_only(self, bench, monkeypatch):
        bench.contact()
        bench.set(Setting.LOGGING, "bcc+receipt")
        copy = bench.mail(state=State.COPIED, decision=Decision.COPY_AND_API)
        mail = bench.mail(number=2)
        monkeypatch.setattr(batch, "confirmed", refused("INVALID_TYPE"))
        bench.once()
        assert (bench.state(copy), bench.row(copy).due_at) == (State.COPIED, None)
        assert bench.state(mail) is State.LOGGED

    def test_a_mail_that_is_written_wholly_is_logged_whatever_else_is_refused(self, bench, monkeypatch):
        from core.salesforce.client import Client

        bench.contact()
        first, second = bench.mail(), bench.mail(number=2)
        monkeypatch.setattr(write, "MOST_CHARACTERS", 0)
        real, calls = Client.create, []

        def create(self, *more):
            calls.append(1)
            return real(self, *more) if len(calls) == 1 else refused("INSUFFICIENT_ACCESS")()

        monkeypatch.setattr(Client, "create", create)
        bench.once()
        assert (bench.state(first), bench.state(second)) == (State.LOGGED, State.FAILED)

    def test_never_log_holds_for_what_waits_too(self, bench):
        bob, lawyer = bench.contact(), bench.contact("lawyer@law.test")
        mail = bench.mail("bob@client.test", "lawyer@law.test")
        bench.org.faults.order(Fault.LOCKED, "composite")
        refuse(bench, "UNABLE_TO_LOCK_ROW", "locked")
        assert not bench.once()
        bench.org.org.check = bench.check
        bench.org.faults.clear()
        bench.policy(Setting.NEVER_LOG, "law.test")
        assert bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], lawyer in (message["ToIds"] or ())) == ([bob], False)
        assert bench.state(mail) is State.LOGGED

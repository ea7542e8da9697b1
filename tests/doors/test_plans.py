"""How the databases find what they are asked for: by an index that leads to it, however much lies in the
tables, and whether or not anybody has let the database gather statistics."""

import re
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from admin import create_app
from admin.passwords import hashed
from core.config import read_config
from core.database import heartbeats
from core.database.models import MailLogRow, MailRow, MailTextRow
from core.health import look_at_installation
from core.journal.entries import Begun, Ended, UnknownSender
from core.mail import first_mails
from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.retention import Retention
from core.mail.row import State
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from sync.worker import Worker
from tests.doors.bcc_lookup import config
from tests.doors.browser import ADMINS_PAGES, EVERYBODYS_PAGES, PASSWORD, Browser
from tests.doors.history import connect_all, fill
from tests.doors.journal_bench import left_behind, load_orphans
from tests.doors.rows import row

ROWS, PEOPLE = 20_000, 40
GROWING = (
    "mail",
    "mail_log",
    "mail_text",
    "first_mail",
    "task",
    "task_history",
    "own_task",
    "audit",
    "unknown_sender",
)
"""Tables that grow with time or mails; those that grow with people are read whole here and there."""

MAY_SCAN = (
    # the newest rows, or the oldest, in the order of the key, up to a limit
    r"FROM mail JOIN person .* ORDER BY mail\.id DESC\s+LIMIT",
    r"FROM audit .*ORDER BY audit\.id DESC\s+LIMIT",
    r"FROM unknown_sender ORDER BY unknown_sender\.mails DESC, .* LIMIT",
    # --once, which a person types: whatever waits is made due
    r"UPDATE mail SET due_at=.* WHERE mail\.due_at > ",
)  # fmt: skip
MAY_SORT = (
    # people, by their oldest mail
    r"AS oldest",
    # the groups of a minute's rows, and of the last ten thousand that failed
    r"SELECT mail\.person_id \+ .* WHERE mail\.id >= ",
    r"SELECT mail_log\.trouble_code, count.* LIMIT",
)


@contextmanager
def recorded(database, into):
    """Every statement that goes to the driver, with its parameters."""

    def note(connection, cursor, statement, parameters, context, many):
        into.setdefault(" ".join(statement.split()), parameters[0] if many else parameters)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def plan(database, statement, parameters, before=None):
    """What the database says it would do."""
    with database.engine.connect() as connection:
        if before is not None:
            connection.exec_driver_sql(before)
        words = "EXPLAIN QUERY PLAN " if database.sqlite_file else "EXPLAIN "
        found = connection.exec_driver_sql(words + statement, parameters or ())
        return [str(line[3] if database.sqlite_file else line[0]).strip() for line in found]


def scans(database, statement, parameters):
    """The lines of the plan by which a growing table is read from end to end."""
    if database.sqlite_file:
        lines = plan(database, statement, parameters)
        return [one for one in lines if re.search(rf"\bSCAN ({'|'.join(GROWING)})\b", one)]
    # PostgreSQL reads a small table whole whatever indexes there are, so it is asked to do without where it
    # can
    any_way = plan(database, statement, parameters, "SET LOCAL enable_seqscan = off")
    needed = [one for one in any_way if re.search(rf"Seq Scan on ({'|'.join(GROWING)})\b", one)]
    chosen = [one for one in plan(database, statement, parameters) if re.search(r"Seq Scan on mail\b", one)]
    return needed + chosen


def faults(database, statements):
    """The statements that read a growing table from end to end, or sort what they found in it."""
    found = []
    for statement, parameters in statements.items():
        if not re.match(r"SELECT|UPDATE|DELETE|INSERT|WITH", statement):
            continue
        if not any(re.search(rf"\b{table}\b", statement) for table in GROWING):
            continue
        if any(re.search(allowed, statement) for allowed in MAY_SCAN):
            continue
        lines = scans(database, statement, parameters)
        if "FROM mail " in statement and not any(re.search(allowed, statement) for allowed in MAY_SORT):
            lines += [one for one in plan(database, statement, parameters) if "TEMP B-TREE" in one]
        if lines:
            found.append((statement[:600], lines))
    return found


def analyse(database):
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("ANALYZE")


@pytest.fixture
def people(database):
    return fill(database, ROWS, people=PEOPLE, waiting=200)


@pytest.fixture(params=["no statistics", "statistics"])
def statistics(request, database, people):
    if request.param == "statistics" or database.sqlite_file is None:
        analyse(database)  # PostgreSQL does it by itself, sooner or later


pytestmark = pytest.mark.usefixtures("statistics")


MUST_USE = {
    r"^SELECT anon_\d.person_id .*AS oldest": "mail_due_of_person",
    r"^SELECT mail.id, .* FROM mail WHERE mail.person_id = .* ORDER BY mail.due_at": "mail_due_of_person",
    r"^SELECT mail.id FROM mail WHERE mail.claimed_by = ": "mail_claimed",
    r"^SELECT mail.id FROM mail WHERE mail.state = .* AND mail.due_at IS NOT NULL AND mail.id "
    r"< ": "mail_due_of_state",
    r"^SELECT mail.identity, mail.id .*FROM mail .*WHERE mail.identity IN": "mail_identity",
    r"FROM mail .* WHERE mail.person_id = .* AND mail.state = .* ORDER BY mail.id "
    r"DESC": "mail_of_person_and_state",
}
"""What would be a search by any index, and is fast by one only."""


def check_indexes(database, statements, wanted):
    for pattern, index in MUST_USE.items():
        if index not in wanted:
            continue
        found = [(one, parameters) for one, parameters in statements.items() if re.search(pattern, one)]
        assert found, pattern
        for statement, parameters in found:
            before = None if database.sqlite_file else "SET LOCAL enable_seqscan = off"
            assert any(index in line for line in plan(database, statement, parameters, before)), statement


class TestNothingIsReadFromEndToEnd:
    def test_by_the_worker(self, database, org, org_app, people, tmp_path):
        with database.writing() as session:
            account = people_store.all_persons(session)[0]
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
            settings_store.set_preference(session, account, Setting.LOGGING, "api", actor=None)
        connect_all(database, org_app, org, people[:3])
        org.org.put("Contact", LastName="C", Email="c0@client.test")
        worker = Worker(database, config(org, tmp_path, str(database.engine.url)))
        worker.mails._database = worker._database = database  # noqa: SLF001  the one that is listened to
        statements = {}
        with recorded(database, statements):
            worker.once()
        assert len(statements) > 30
        assert faults(database, statements) == []
        if database.sqlite_file:  # PostgreSQL knows how many rows there are, and may do with less
            check_indexes(database, statements, {"mail_due_of_person", "mail_claimed"})

    def test_by_tidying(self, database):
        statements = {}
        with recorded(database, statements):
            Retention(database).tidy(timedelta(days=60), timedelta(days=5))
        assert len(statements) > 5
        assert faults(database, statements) == []
        if database.sqlite_file:
            check_indexes(database, statements, {"mail_due_of_state"})
        with database.reading() as session:
            assert (
                not session.query(MailRow)
                .filter(MailRow.time < datetime.now(UTC) - timedelta(days=61))
                .count()
            )

    def test_by_the_relay(self, database, people, tmp_path):
        statements, now = {}, datetime.now(UTC)
        with recorded(database, statements), database.writing() as session:
            one = row(people[0], state=State.WAITING)
            write_rows(session, [one, row(people[1])])
            mail_store.mails_of_others(session, "me", now - timedelta(minutes=1))
            mail_store.lost_replies(session, now - timedelta(hours=1))
            mail_store.copy_refusals(session, now - timedelta(hours=1))
            mail_store.note_lost_reply(session, one.id, b"x")
            mail_store.reply_delivered(session, one.id)
            mail_store.remove_pending(session, one.id)
            mail_store.close_orphans(session, now)
            mail_store.count_unknown(session, [UnknownSender("a", "a", now)])
            for mail_id in ("one", "two"):
                first_mails.claim_copy(session, b"i" * 32, mail_id)
            first_mails.give_up_copy(session, b"i" * 32, "one")
            heartbeats.has_other_relays(session, "me")
        left_behind(tmp_path, Begun(row(people[0])), Ended(row(people[2], state=State.COPIED)))
        with recorded(database, statements):
            load_orphans(database, tmp_path)
        assert len(statements) > 8
        assert faults(database, statements) == []

    def test_by_the_worker_where_mails_have_identities(self, database, people):
        statements = {}
        with recorded(database, statements), database.writing() as session:
            wanted = {bytes([number]) * 32: f"mail {number}" for number in range(3)}
            writers = first_mails.claim_records(session, wanted)
            first_mails.holders(session, writers.values())
            first_mails.take_over_records(session, b"\x01" * 32, of="mail 1", by="mail 2")
            first_mails.mails_of(session, wanted)
            first_mails.forget_old(session, timedelta(days=60))
        assert len(statements) >= 6
        assert faults(database, statements) == []
        if database.sqlite_file:
            check_indexes(database, statements, {"mail_identity"})

    def test_by_the_pages(self, database, database_url, people, tmp_path):
        app = create_app(
            read_config({"DATABASE_URL": database_url, "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
                         "BLINDCOPY_LISTEN": "submission://127.0.0.1:9", "BLINDCOPY_STATE_DIR": str(tmp_path)})
        )  # fmt: skip
        app.config["TESTING"] = True
        pages_database = app.extensions["blindcopy"].database
        with pages_database.writing() as session:
            for email in ("p0@acme.test", "p1@acme.test"):
                people_store.set_password_hash(session, email, hashed(PASSWORD), actor=None)
        statements, admin, person = {}, Browser(app, "p0@acme.test"), Browser(app, "p1@acme.test")
        with recorded(pages_database, statements):
            for page in (*EVERYBODYS_PAGES, "/tasks", "/tasks?list=all"):
                assert person.get(page).status == 200, page
            for page in (*EVERYBODYS_PAGES, *ADMINS_PAGES, "/health", "/settings/salesforce/diagnostics"):
                assert admin.get(page).status == 200, page
            for browser in (admin, person):
                for state in State:
                    assert browser.get(f"/activity?state={state.value}").status == 200
                older = re.search(r"before=([0-9a-f-]+)", browser.get("/activity").page).group(1)
                assert browser.get(f"/activity?before={older}").status == 200
            assert admin.get("/activity?person=p3@acme.test&state=failed").status == 200
            for browser in (admin, person):
                assert browser.get("/activity?others=1").status == 200
            assert admin.get("/activity?person=p3@acme.test&others=1").status == 200
            list(look_at_installation(pages_database))
        pages_database.close()
        assert len(statements) > 40
        assert faults(database, statements) == []
        if database.sqlite_file:
            check_indexes(database, statements, {"mail_of_person_and_state"})

    def test_a_scan_would_be_seen(self, database):
        statement = "SELECT mail.id FROM mail WHERE mail.subject = 'x'"
        assert [found for found, _ in faults(database, {statement: ()})] == [statement]


def test_what_is_filled_in_looks_like_months_of_mail(database, people):
    with database.reading() as session:
        states = Counter(state for (state,) in session.query(MailRow.state))
    assert states[State.LOGGED] > ROWS // 3
    assert states[State.WAITING] == 200


class TestWhatIsKeptLongEnoughGoes:
    def test_mails_texts_and_senders_in_portions_until_all_are_gone(self, database, people):
        with database.writing() as session:
            mail_store.count_unknown(
                session, [UnknownSender(f"s{n}", f"s{n}@x.test", datetime.now(UTC) - timedelta(days=n)) for n in range(90)]
            )  # fmt: skip
        Retention(database).tidy(timedelta(days=30), timedelta(days=5))
        oldest = datetime.now(UTC) - timedelta(days=30, minutes=5)
        with database.reading() as session:
            assert session.query(MailRow).filter(MailRow.time < oldest).count() == 0
            assert session.query(MailRow).count() > ROWS // 4
            assert (
                session.query(MailLogRow)
                .filter(~session.query(MailRow).filter(MailRow.id == MailLogRow.mail_id).exists())
                .count()
                == 0
            )
            assert len(mail_store.unknown_senders(session)) == 30

    def test_nobody_looks_for_a_match_any_more_after_so_many_days(self, database, people):
        Retention(database).tidy(timedelta(days=90), timedelta(days=5))
        with database.reading() as session:
            due = session.query(MailRow).filter(MailRow.state == "unmatched", MailRow.due_at.is_not(None))
            assert due.count() > 0
            assert due.filter(MailRow.time < datetime.now(UTC) - timedelta(days=5, minutes=5)).count() == 0

    def test_a_text_that_nothing_needs_is_erased_in_its_turn(self, database, people):
        with database.writing() as session:
            needless = session.query(MailRow.id).filter(MailRow.state == "logged").limit(700).all()
            session.add_all(MailTextRow(mail_id=mail_id, content=b"x") for (mail_id,) in needless)
        retention = Retention(database)
        for _ in range(3):
            retention.tidy(timedelta(days=91), timedelta(days=5))
        with database.reading() as session:
            assert session.query(MailTextRow).count() == 200

    def test_it_ends_where_the_worker_is_to_stop(self, database, people):
        Retention(database).tidy(timedelta(days=1), timedelta(days=1), is_stopping=lambda: True)
        with database.reading() as session:
            assert session.query(MailRow).count() == ROWS + 200

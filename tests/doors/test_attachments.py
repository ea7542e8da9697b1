"""What becomes of the files that are attached to mails."""

import asyncio
import base64
import random
from datetime import UTC, datetime, timedelta

import pytest

from core.database.models import MailFileRow, MailLogRow, MailRow, OrganisationRow
from core.journal.file import JournalFull
from core.mail import texts as mail_texts
from core.mail.kept import FILE_CHUNK, FileChunk, Left
from core.mail.progress import FileState
from core.mail.retention import Retention
from core.mail.row import State
from core.mail.store import first_id
from core.salesforce import late_commits
from core.salesforce.client import Client
from core.salesforce.login import Refused
from core.salesforce.troubles import trouble
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from sync.mail.content import read_content
from sync.worker import Worker
from tests.doors.conftest import running
from tests.doors.connected import connect_anna
from tests.doors.mail_bench import (
    TASKS,
    TO_ALL,
    bench,  # noqa: F401
    org,  # noqa: F401
    told,
)
from tests.sandbox.org.faults import Fault
from tests.sandbox.org.records import Refused as RefusedByOrg
from tests.sandbox.org.soql import SoqlError
from tests.sandbox.sink import Script, Sink

TEXT = "Content-Type: text/plain\r\n\r\nHello"


def attached(name, data=b"offer", kind="application/octet-stream"):
    content = base64.encodebytes(data).decode().replace("\n", "\r\n")
    return (
        f"Content-Type: {kind}\r\nContent-Disposition: attachment; filename={name}\r\n"
        f"Content-Transfer-Encoding: base64\r\n\r\n{content}"
    )


def mixed(*parts, to="To: bob@client.test\r\n"):
    header = f"{to}Content-Type: multipart/mixed; boundary=b\r\n"
    return {"header": header, "body": "".join(f"\r\n--b\r\n{part}" for part in parts) + "\r\n--b--"}


def contents(bench):
    """The files in Salesforce: title -> bytes, each as often as it is there."""
    return sorted(
        (one["Title"], base64.b64decode(one["VersionData"])) for one in bench.records("ContentVersion")
    )


def on(bench, record):
    """The titles of the files that are attached to a record."""
    documents = {one["Id"]: one["Title"] for one in bench.records("ContentDocument")}
    links = bench.records("ContentDocumentLink")
    return sorted(documents[one["ContentDocumentId"]] for one in links if one["LinkedEntityId"] == record)


@pytest.fixture
def with_files(bench):
    bench.set(Setting.ATTACHMENTS, "files")
    bench.contact()
    return bench


class TestNames:
    def test_and_sizes_stand_below_the_text(self, bench):
        bench.contact()
        mail = bench.mail(
            **mixed(TEXT, attached("offer.pdf", bytes(70_000)), attached("=?utf-8?b?5oql5Lu3?=.txt", b"abc")),
            files_mb=0,
        )
        bench.once()
        [message] = bench.logged()
        assert message["TextBody"] == "Hello\n\n[Attachments]\noffer.pdf (68 KB)\n报价.txt (3 bytes)"
        assert message["HasAttachment"] is True
        assert (contents(bench), bench.files()) == ([], 0)
        assert "2 files were attached; their names stand below the text" in told(bench, mail)

    @TASKS
    def test_stand_in_the_comments_of_a_task(self, bench):
        bench.contact()
        bench.mail(**mixed(TEXT, attached("offer.pdf")), files_mb=0)
        bench.once()
        [task] = bench.records("Task")
        assert (
            "Hello\n\n[Attachments]\noffer.pdf (5 bytes)\n\nMessage-ID: <1@acme.test>" in task["Description"]
        )

    def test_are_not_told_where_nothing_is_wanted(self, bench):
        bench.set(Setting.ATTACHMENTS, "none")
        bench.contact()
        bench.mail(**mixed(TEXT, attached("offer.pdf")), files_mb=0)
        bench.once()
        [message] = bench.logged()
        assert (message["TextBody"], message["HasAttachment"]) == ("Hello", False)

    @pytest.mark.parametrize("keep", ["subject", "envelope"])
    def test_are_text_and_go_with_it(self, bench, keep):
        bench.set(Setting.KEEP, keep)
        bench.contact()
        bench.mail(**mixed(TEXT, attached("offer.pdf")), files_mb=0)
        bench.once()
        [message] = bench.logged()
        assert (message["TextBody"], message["HasAttachment"]) == (None, False)

    def test_of_very_many_are_counted(self, bench):
        bench.contact()
        bench.mail(**mixed(TEXT, *[attached(f"{number}.pdf") for number in range(30)]), files_mb=0)
        bench.once()
        [message] = bench.logged()
        assert message["TextBody"].endswith("19.pdf (5 bytes)\nand 10 more")

    def test_stay_whole_where_the_text_is_cut(self, bench):
        bench.contact()
        bench.mail(**mixed(TEXT + "x" * 40_000, attached("offer.pdf")), files_mb=0)
        bench.once()
        [message] = bench.logged()
        assert message["TextBody"].endswith(
            "[Cut here: Salesforce takes no more]\n\n[Attachments]\noffer.pdf (5 bytes)"
        )
        assert len(message["TextBody"]) <= 32_000


class TestFiles:
    def test_are_attached_to_the_e_mail(self, with_files):
        data = random.Random(1).randbytes(3 * FILE_CHUNK)
        mail = with_files.mail(**mixed(TEXT, attached("offer.pdf", data), attached("price.csv")), files_mb=10)
        assert with_files.files() > 3
        with_files.once()
        [message] = with_files.logged()
        assert contents(with_files) == [("offer.pdf", data), ("price.csv", b"offer")]
        assert on(with_files, message["Id"]) == ["offer.pdf", "price.csv"]
        assert message["TextBody"].startswith("Hello\n\n[Attachments]\noffer.pdf (768 KB)")
        assert (with_files.files(), with_files.texts()) == (0, 0)
        assert "offer.pdf, price.csv: attached to the record in Salesforce" in told(with_files, mail)

    @TASKS
    def test_are_linked_to_the_task(self, with_files):
        with_files.mail(**mixed(TEXT, attached("offer.pdf")), files_mb=10)
        with_files.once()
        [task] = with_files.records("Task")
        assert on(with_files, task["Id"]) == ["offer.pdf"]

    def test_are_there_once_where_the_mail_is_on_several_records(self, with_files):
        with_files.lead("l@prospect.test")
        both = ("bob@client.test", "l@prospect.test")
        with_files.mail(
            *both, **mixed(TEXT, attached("offer.pdf"), to=f"To: {', '.join(both)}\r\n"), files_mb=10
        )
        with_files.once()
        assert [on(with_files, one["Id"]) for one in with_files.logged()] == [["offer.pdf"]] * 2
        assert len(contents(with_files)) == 1

    def test_are_there_once_where_the_mail_comes_in_parts(self, with_files):
        with_files.contact("a@client.test")
        first = with_files.part("a@client.test", **mixed(TEXT, attached("offer.pdf"), to=TO_ALL), files_mb=10)
        with_files.once()
        with_files.lead("b@client.test")
        later = with_files.part("b@client.test", **mixed(TEXT, attached("offer.pdf"), to=TO_ALL), files_mb=10)
        with_files.once()
        assert [with_files.state(one) for one in (first, later)] == [State.LOGGED] * 2
        assert [on(with_files, one["Id"]) for one in with_files.logged()] == [["offer.pdf"]] * 2
        assert len(contents(with_files)) == 1

    def test_that_salesforce_refuses_are_named_with_the_reason(self, with_files):
        mail = with_files.mail(**mixed(TEXT, attached("run.exe"), attached("offer.pdf")), files_mb=10)
        with_files.once()
        [message] = with_files.logged()
        assert on(with_files, message["Id"]) == ["offer.pdf"]
        assert (
            "run.exe (5 bytes; only named: the organisation takes no files of this type)"
            in message["TextBody"]
        )
        assert "run.exe: only named, as the organisation takes no files of this type" in told(
            with_files, mail
        )

    @pytest.mark.parametrize("org", [{"file_storage": 10}], indirect=True)
    def test_for_which_the_organisation_has_no_room_are_named_with_that(self, with_files):
        with_files.mail(
            **mixed(TEXT, attached("a.pdf", b"123456789"), attached("b.pdf", b"123")), files_mb=10
        )
        with_files.once()
        [message] = with_files.logged()
        assert on(with_files, message["Id"]) == ["a.pdf"]
        assert "b.pdf (3 bytes; only named: the organisation's file storage is full)" in message["TextBody"]
        assert with_files.worker  # and nothing else waits for that

    def test_that_are_too_large_are_named_with_that(self, with_files):
        mail = with_files.mail(**mixed(TEXT, attached("film.mp4", bytes(2_000_000))), files_mb=1)
        with_files.once()
        [message] = with_files.logged()
        assert "film.mp4 (1.9 MB; only named: too large)" in message["TextBody"]
        assert "film.mp4: only named, as the policy's room for the files of a mail is smaller" in told(
            with_files, mail
        )

    def test_that_are_not_whole_are_named_with_that(self, with_files):
        with_files.mail(**mixed(TEXT, attached("offer.pdf", bytes(600_000))), files_mb=10)
        with with_files.database.writing() as session:
            session.query(MailFileRow).filter(MailFileRow.number == 1).delete()
        with_files.once()
        [message] = with_files.logged()
        assert "offer.pdf (586 KB; only named: it could not be kept)" in message["TextBody"]
        assert contents(with_files) == []

    def test_that_are_not_wanted_any_more_are_only_named(self, with_files):
        with_files.mail(**mixed(TEXT, attached("offer.pdf")), files_mb=10)
        with_files.set(Setting.ATTACHMENTS, "names")
        with_files.once()
        [message] = with_files.logged()
        assert message["TextBody"].endswith("offer.pdf (5 bytes)")
        assert (contents(with_files), with_files.files()) == ([], 0)

    def test_are_written_in_the_words_of_a_page_too(self, with_files):
        page = "Content-Type: text/html\r\n\r\n<p>Hello <i>there</i></p>"
        both = (
            f"Content-Type: multipart/alternative; boundary=c\r\n\r\n--c\r\n{TEXT}\r\n--c\r\n{page}\r\n--c--"
        )
        with_files.mail(**mixed(both, attached("a&b.pdf")), files_mb=10)
        with_files.once()
        [message] = with_files.logged()
        assert message["HtmlBody"].endswith("<p>[Attachments]<br>a&amp;b.pdf (5 bytes)</p>")


class TestFaults:
    """Each file is there once, whatever happens."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(late_commits, "UNTIL_A_WRITE_SHOWS", timedelta(seconds=0))

    def until_logged(self, bench, mail, tries=12):
        for _ in range(tries):
            bench.once()
            if bench.state(mail) is State.LOGGED:
                return
        raise AssertionError(bench.state(mail))

    @pytest.mark.parametrize(
        "fault", [Fault.LOST, Fault.HTML, Fault.EXPIRED, Fault.GARBAGE, Fault.BARE_401, Fault.LIMIT]
    )
    @pytest.mark.parametrize("path", ["ContentVersion", "query", "composite"])
    def test_of_the_calls(self, with_files, fault, path):
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf", b"1"), attached("b.pdf", b"2")), files_mb=10)
        with_files.org.faults.order(fault, path, times=2)
        for _ in range(3):
            with_files.once()
            with with_files.database.writing() as session:
                session.query(OrganisationRow).update({"paused_until": None, "pauses": 0, "is_scarce": False})
            with_files.worker = Worker(with_files.database, with_files.config)
        self.until_logged(with_files, mail)
        [message] = with_files.logged()
        assert contents(with_files) == [("a.pdf", b"1"), ("b.pdf", b"2")]
        assert on(with_files, message["Id"]) == ["a.pdf", "b.pdf"]

    def test_an_answer_that_is_lost_is_looked_for_before_the_file_is_written_again(
        self, with_files, monkeypatch
    ):
        monkeypatch.setattr(late_commits, "UNTIL_A_WRITE_SHOWS", timedelta(minutes=14))
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        with_files.org.faults.order(Fault.LOST, "sobjects/ContentVersion")
        with_files.once()
        assert (with_files.state(mail), with_files.logged()) == (State.WAITING, [])
        assert with_files.log(mail).files[0].is_uncertain
        self.until_logged(with_files, mail)
        assert len(contents(with_files)) == 1

    def test_a_file_that_is_not_found_waits_until_its_write_would_show(self, with_files, monkeypatch):
        monkeypatch.setattr(late_commits, "UNTIL_A_WRITE_SHOWS", timedelta(minutes=14))
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        with_files.org.faults.order(Fault.HTML, "sobjects/ContentVersion")
        for _ in range(3):
            with_files.once()
        assert (with_files.state(mail), contents(with_files)) == (State.WAITING, [])
        with with_files.database.writing() as session:
            session.query(MailLogRow).update({"not_before": datetime.now(UTC) - timedelta(seconds=1)})
        self.until_logged(with_files, mail)
        assert len(contents(with_files)) == 1

    @TASKS
    def test_a_worker_that_is_gone_between_the_record_and_its_link(self, with_files):
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        with_files.org.faults.order(Fault.HTML, "composite/sobjects", times=99)
        with_files.once()
        with_files.org.faults.clear()
        self.until_logged(with_files, mail)
        with with_files.database.writing() as session:  # as it was before the link was made
            log = session.query(MailLogRow).one()
            log.targets = [{**one, "has_files": False} for one in log.targets]
            session.query(MailRow).update({"state": "waiting", "due_at": datetime.now(UTC)})
        self.until_logged(with_files, mail)
        [task] = with_files.records("Task")
        assert on(with_files, task["Id"]) == ["a.pdf"]


class TestWhatIsLeftBehind:
    def chunk(self, bench, mail_id):
        with bench.database.writing() as session:
            mail_texts.keep_files(session, [FileChunk(mail_id, 0, 0, b"secret")])

    @pytest.mark.parametrize(("days", "stays"), [(0, True), (2, False)])
    def test_of_mails_that_never_came_is_erased_after_a_day(self, bench, days, stays):
        self.chunk(bench, first_id(datetime.now(UTC) - timedelta(days=days)) + "-7000-8000-000000000000")
        Retention(bench.database).tidy(timedelta(days=90), timedelta(days=30))
        assert bool(bench.files()) is stays

    def test_lies_encrypted(self, bench):
        self.chunk(bench, "x")
        with bench.database.reading() as session:
            assert b"secret" not in session.query(MailFileRow).one().content


def test_the_relay_keeps_files_in_pieces_and_the_worker_reads_them(database, tmp_path):
    data = random.Random(3).randbytes(400_000)
    raw = whole(mixed(TEXT, attached("offer.pdf", data), attached("small.txt", b"x")))

    async def then(relay, row):
        kept = await asyncio.to_thread(text_and_files, database, row.id)
        content, files = kept
        assert content.text == "Hello"
        assert [one.left for one in content.attachments] == [Left.FILE] * 2
        assert files == {0: data, 1: b"x"}
        assert relay.sink.taken[0].data.encode() == raw + b""

    through(database, tmp_path, raw, then, attachments="files")


def test_what_takes_too_long_to_write_down_is_only_named(database, tmp_path, monkeypatch):
    from core.journal.file import Journal

    original = Journal.append

    def append(self, entries):
        return [
            JournalFull() if b'"number"' in one.data[:200] else done
            for one, done in zip(entries, original(self, entries), strict=True)
        ]

    monkeypatch.setattr(Journal, "append", append)
    raw = whole(mixed(TEXT, attached("offer.pdf", bytes(6_000_000))))

    async def then(relay, row):
        content, _ = await asyncio.to_thread(text_and_files, database, row.id)
        assert [one.left for one in content.attachments] == [Left.NO_ROOM]
        assert relay.logbook.trouble is None

    through(database, tmp_path, raw, then, attachments="files")


def test_a_mail_whose_parts_cannot_be_told_apart_goes_on(database, tmp_path, monkeypatch):
    monkeypatch.setattr("relay.parts.Parts.end", lambda self: 1 / 0)

    async def then(relay, row):
        kept = await asyncio.to_thread(kept_text, database, row.id)
        assert kept.startswith(b"From: anna@acme.test")
        assert relay.sink.taken[0].complete

    through(database, tmp_path, whole(mixed(TEXT)), then)


def test_past_what_may_wait_files_are_only_named(database, tmp_path):
    raw = whole(mixed(TEXT, attached("offer.pdf", bytes(600_000))))
    with database.writing() as session:
        settings_store.set_policy(session, Setting.ATTACHMENTS_WAITING_MB, "1", actor=None)
        mail_texts.keep_files(session, [FileChunk("x", 0, number, bytes(400_000)) for number in range(3)])

    async def then(relay, row):
        content, _ = await asyncio.to_thread(text_and_files, database, row.id)
        assert [one.left for one in content.attachments] == [Left.NO_ROOM]

    through(database, tmp_path, raw, then, attachments="files")


def test_of_a_mail_that_is_refused_no_file_stays(database, tmp_path):
    raw = whole(mixed(TEXT, attached("offer.pdf", bytes(600_000))))

    async def then(relay, row):
        with database.reading() as session:
            assert session.query(MailFileRow).count() == 0

    sink = Sink(Script(replies={"dot": ["550 5.7.1 No"]}))
    through(database, tmp_path, raw, then, sink, State.REFUSED, attachments="files")


def whole(mail):
    return f"From: anna@acme.test\r\nSubject: x\r\n{mail['header']}\r\n{mail['body']}\r\n".encode()


def kept_text(database, mail_id):
    with database.reading() as session:
        return mail_texts.read(session, [mail_id])[mail_id]


def text_and_files(database, mail_id):
    from sync.mail.attached import decoded

    with database.reading() as session:
        content = read_content(mail_texts.read(session, [mail_id])[mail_id])
        files = {
            one.file: b"".join(decoded(mail_texts.file(session, mail_id, one.file, one.pieces), one.encoding))
            for one in content.attachments
            if one.file is not None
        }
    return content, files


def through(database, tmp_path, raw, then, sink=None, state=State.WAITING, **preferences):
    async def claim():
        async with running(database, tmp_path, sink) as relay:
            await asyncio.to_thread(connect_anna, database, "api", **preferences)
            await relay.snapshot.look()
            client = await relay.connect()
            await client.mail(raw)
            await then(relay, await relay.row(state=state))

    asyncio.run(claim())


def test_the_relay_and_the_worker_use_the_same_words():
    assert {one.value for one in FileState} >= {one.value for one in Left} - {Left.CUT, Left.INLINE}


class TestMailsThatMeetTrouble:
    """A file costs no other mail anything, and its own mail is logged in the end."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch):
        monkeypatch.setattr(late_commits, "UNTIL_A_WRITE_SHOWS", timedelta(seconds=0))

    def refusing(self, bench, monkeypatch, code, kind="ContentVersion"):
        original = bench.org.org.check

        def check(sobject, row, before):
            if sobject.name == kind:
                raise RefusedByOrg(code, "no")
            original(sobject, row, before)

        monkeypatch.setattr(bench.org.org, "check", check)

    def test_a_file_that_is_locked_delays_its_own_mail_only(self, with_files, monkeypatch):
        self.refusing(with_files, monkeypatch, "UNABLE_TO_LOCK_ROW")
        held = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        others = [with_files.mail(number=number) for number in range(2, 6)]
        with_files.once()
        assert with_files.state(held) is State.WAITING
        assert {with_files.state(one) for one in others} == {State.LOGGED}

    def test_files_leave_the_calls_that_are_never_used(self, with_files):
        mails = [
            with_files.mail(**mixed(TEXT, attached(f"{number}.pdf")), files_mb=10, number=number)
            for number in range(20)
        ]
        usage = with_files.org.app.extensions["usage"]
        usage.update(used=880, total=1000)
        with_files.once()
        assert 5 < len(contents(with_files)) < 20
        assert usage["used"] < 910
        usage.update(used=0)
        with with_files.database.writing() as session:
            session.query(MailRow).filter(MailRow.state == "waiting").update({"due_at": datetime.now(UTC)})
            session.query(OrganisationRow).update({"is_scarce": False, "calls_used": 0, "paused_until": None})
        for _ in range(3):
            with_files.worker = Worker(with_files.database, with_files.config)
            with_files.once()
        assert {with_files.state(one) for one in mails} == {State.LOGGED}
        assert len(contents(with_files)) == 20

    @pytest.mark.parametrize("asks_first", [True, False])
    def test_where_salesforce_tells_nothing_of_files_the_mail_is_logged(
        self, with_files, monkeypatch, asks_first
    ):
        original = with_files.org.org.query

        def query(text, *, everything):
            if "FROM ContentVersion" in text and ("Title IN" in text) is asks_first:
                raise SoqlError("INVALID_TYPE", "sObject type 'ContentVersion' is not supported")
            return original(text, everything=everything)

        monkeypatch.setattr(with_files.org.org, "query", query)
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        with_files.once()
        assert with_files.state(mail) is State.LOGGED
        [message] = with_files.logged()
        assert "a.pdf (5 bytes; Salesforce does not take it: INVALID_TYPE)" in message["TextBody"]

    @TASKS
    def test_where_nothing_can_be_linked_the_task_stands_all_the_same(self, with_files, monkeypatch):
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        create = Client.create

        def refused_as_a_whole(self, sobject, records):
            if sobject == "ContentDocumentLink":
                raise Refused(trouble("INVALID_TYPE"))
            return create(self, sobject, records)

        monkeypatch.setattr(Client, "create", refused_as_a_whole)
        with_files.once()
        assert (with_files.state(mail), len(with_files.records("Task"))) == (State.LOGGED, 1)

    def test_long_names_are_looked_for_in_several_calls(self, with_files):
        names = [f"{'报价单' * 60}{number}.pdf" for number in range(12)]
        mail = with_files.mail(**mixed(TEXT, *[attached(name) for name in names]), files_mb=10)
        with_files.once()
        assert with_files.state(mail) is State.LOGGED
        assert [title for title, _ in contents(with_files)] == sorted(names)

    def test_a_file_that_never_gets_an_answer_is_given_up(self, with_files):
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        with_files.org.faults.order(Fault.HTML, "sobjects/ContentVersion", times=1000)
        for _ in range(40):
            with_files.once()
        assert with_files.state(mail) is State.LOGGED
        [message] = with_files.logged()
        assert "a.pdf (5 bytes; only named: Salesforce gave no answer to it)" in message["TextBody"]

    def test_a_file_that_is_deleted_before_its_record_is_there(self, with_files, monkeypatch):
        mail = with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        self.refusing(with_files, monkeypatch, "UNABLE_TO_LOCK_ROW", "EmailMessage")
        with_files.once()
        monkeypatch.undo()
        for kind in ("contentversion", "contentdocument"):
            for row in with_files.org.org.rows[kind].values():
                row["IsDeleted"] = True
        for _ in range(8):
            with_files.once()
        assert with_files.state(mail) is State.LOGGED
        assert with_files.log(mail).files[0].code == "ENTITY_IS_DELETED"

    def test_a_later_part_finds_the_file_of_one_that_failed(self, with_files, monkeypatch):
        self.refusing(with_files, monkeypatch, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "EmailMessage")
        with_files.contact("a@client.test")
        one = {"files_mb": 10, **mixed(TEXT, attached("a.pdf"), to=TO_ALL)}
        first = with_files.part("a@client.test", **one)
        with_files.once()
        assert with_files.state(first) is State.FAILED
        monkeypatch.undo()
        later = with_files.part("a@client.test", **one)
        for _ in range(3):
            with_files.once()
        assert with_files.state(later) is State.LOGGED
        assert len(contents(with_files)) == 1

    def test_an_unmatched_mail_keeps_the_names(self, with_files):
        mail = with_files.mail(
            "new@client.test", **mixed(TEXT, attached("a.pdf"), to="To: new@client.test\r\n"), files_mb=10
        )
        with_files.once()
        assert (with_files.state(mail), with_files.files()) == (State.UNMATCHED, 0)
        with_files.contact("new@client.test")
        with with_files.database.writing() as session:
            session.query(MailRow).update({"due_at": datetime.now(UTC)})
        with_files.worker = Worker(with_files.database, with_files.config)
        with_files.once()
        [message] = with_files.logged()
        assert message["TextBody"] == "[Attachments]\na.pdf (5 bytes; only named: it could not be kept)"

    def test_of_one_that_has_failed_they_are_erased_after_a_while(self, with_files, monkeypatch):
        self.refusing(with_files, monkeypatch, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "EmailMessage")
        with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10)
        with_files.once()
        with_files.mail(**mixed(TEXT, attached("a.pdf")), files_mb=10, number=2)  # and one that waits
        now = datetime.now(UTC)
        for long_before, left in ((now - timedelta(days=15), 2), (now + timedelta(minutes=1), 1)):
            with with_files.database.writing() as session:
                mail_texts.erase_files_left_behind(
                    session, first_id(now + timedelta(minutes=1)), first_id(long_before)
                )
            assert with_files.files() == left

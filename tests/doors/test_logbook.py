"""The logbook: journal first, the database soon; no mail waits longer than its bounds, no row is lost or doubled."""

import asyncio
import base64
import fcntl
import json
import sqlite3
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from core.database.engine import Database, DatabaseUnavailable
from core.database.installation import restored_at
from core.database.models import InstallationRow, JournalRow, MailRow
from core.journal.entries import Begun, Ended, LostReply, PasswordUsed, UnknownSender, Void, to_bytes
from core.journal.file import Append, Journal, journals
from core.journal.loading import Loader, Orphans
from core.mail import queue as mail_queue
from core.mail.row import Decision, State
from core.mail.store import unknown_senders
from core.people.store import app_passwords
from core.secrets import Box
from relay import logbook as module
from relay.logbook import JournalOptions, Logbook
from relay.meters import RowLost, RowsLoaded
from relay.snapshot import Snapshot
from tests.doors.conftest import BOX, add_anna, mail, people_of_one, running, until
from tests.doors.test_storage import row, rows
from tests.sandbox.sink import Script, Sink

SIZE = 1 << 20


@pytest.fixture
def person(database):
    add_anna(database)
    return 1


def logbook(database, directory, seen=None, size=SIZE):
    return Logbook(database, JournalOptions(directory, size, BOX), (seen if seen is not None else []).append)


def counted(database):
    with database.reading() as session:
        return sum(sender.mails for sender in unknown_senders(session))


def no_loss(mail_id, cause):
    raise AssertionError(f"{mail_id} was lost: {cause}")


def left_behind(directory, *entries, box=BOX):
    """The journal of a relay that was killed; its path."""
    journal = Journal.made(directory, SIZE, box)
    assert journal.append([_append(entry) for entry in entries]) == [None] * len(entries)
    journal.close()
    return journal.path


def _append(entry):
    return Append(to_bytes(entry), hold=entry.row.id if isinstance(entry, Begun) else None, reserve=500)


def load_orphans(database, directory, box=BOX, on_lost=no_loss):
    orphans = Orphans(database, directory, box, on_lost)
    orphans.load()
    return orphans


class Lock:
    """Another process's transaction that holds SQLite's write lock."""

    def __init__(self, tmp_path):
        self.connection = sqlite3.connect(
            tmp_path / "blindcopy.db", isolation_level=None, check_same_thread=False
        )
        self.connection.execute("BEGIN IMMEDIATE")

    def release(self):
        self.connection.rollback()
        self.connection.close()


class TestOneWay:
    def test_many_rows_come_into_the_database_in_bulk(self, database, person, tmp_path):
        async def claim():
            seen = []
            book = logbook(database, tmp_path, seen, size=4 << 20)
            begun = [row(person) for _ in range(300)]
            assert all(await asyncio.gather(*(book.wait(book.begin(one)) for one in begun)))
            assert rows(database) == [], "what has only begun is no row yet"
            ended = [replace(one, state=State.COPIED, upstream="250 Ok") for one in begun]
            await asyncio.gather(*(book.end(one) for one in ended))
            await until(lambda: len(rows(database, limit=1000)) == 300)
            assert sorted(rows(database, limit=1000), key=lambda one: one.id) == sorted(
                ended, key=lambda one: one.id
            )
            await until(lambda: book.waiting_bytes() == 0)
            assert len([one for one in seen if isinstance(one, RowsLoaded)]) < 100
            await book.stop()

        asyncio.run(claim())

    def test_what_the_client_hears_of_is_in_the_journal_by_then(self, sqlite, tmp_path):
        """Whatever the database is at: a kill -9 right here loses nothing."""
        add_anna(sqlite)

        async def claim():
            book = logbook(sqlite, tmp_path)
            lock = Lock(tmp_path)
            one = row(1)
            assert await book.wait(book.begin(one))
            await book.end(replace(one, state=State.COPIED))
            [path] = journals(tmp_path)
            copy = tmp_path / "elsewhere" / path.name
            copy.parent.mkdir()
            copy.write_bytes(path.read_bytes())
            journal = Journal.opened(copy, BOX)
            assert journal.number_of_entries == 2
            journal.close()
            lock.release()
            await until(lambda: [one.state for one in rows(sqlite)] == [State.COPIED])
            await book.stop()

        asyncio.run(claim())

    def test_a_text_comes_with_its_row_and_only_where_the_mail_may_still_be_logged(
        self, database, person, tmp_path
    ):
        async def claim():
            book = logbook(database, tmp_path)
            kept, settled = [
                row(person, text=b"From: a\r\n\r\nHello", decision=Decision.API) for _ in range(2)
            ]
            for one, state in ((kept, State.WAITING), (settled, State.REFUSED)):
                await book.wait(book.begin(one))
                await book.end(replace(one, state=state, text=None))
            late = row(person, decision=Decision.API, state=State.WAITING, text=b"not begun")
            await book.end(late)
            await until(lambda: len(rows(database)) == 3)
            with database.reading() as session:
                assert mail_queue.text(session, kept.id) == b"From: a\r\n\r\nHello"
                assert mail_queue.text(session, late.id) == b"not begun"
                assert mail_queue.text(session, settled.id) is None
            await book.stop()

        asyncio.run(claim())

    def test_what_turned_out_to_be_a_repetition_makes_no_row(self, database, person, tmp_path):
        async def claim():
            book = logbook(database, tmp_path)
            one = row(person)
            await book.wait(book.begin(one))
            book.note(Void(one.id))
            await until(lambda: book.waiting_bytes() == 0)
            await book.stop()
            assert rows(database) == []

        asyncio.run(claim())

    def test_a_mail_that_is_long_under_way_is_shown_meanwhile(self, database, person, tmp_path):
        async def claim():
            book = logbook(database, tmp_path)
            slow, repeated = [
                row(person, decision=Decision.API, text=b"Hello", subject=name)
                for name in ("slow", "repeated")
            ]
            await book.wait(book.begin(slow))
            await book.wait(book.begin(repeated))
            await until(
                lambda: {one.state for one in rows(database)} == {State.PENDING} and len(rows(database)) == 2
            )
            book.note(Void(repeated.id))
            await book.end(replace(slow, state=State.WAITING, text=None))
            await until(
                lambda: [(one.subject, one.state) for one in rows(database)] == [("slow", State.WAITING)]
            )
            with database.reading() as session:
                assert mail_queue.text(session, slow.id) == b"Hello"
            await book.stop()

        asyncio.run(claim())

    def test_counts_and_uses_of_passwords_come_the_same_way(self, database, person, tmp_path):
        async def claim():
            book = logbook(database, tmp_path)
            for _ in range(3):
                book.note(UnknownSender("x@acme.test", "X@acme.test", datetime.now(UTC)))
            book.note(PasswordUsed(1, datetime.now(UTC)))
            await until(lambda: counted(database) == 3)
            with database.reading() as session:
                assert app_passwords(session, 1)[0].last_used_at is not None
            await book.stop()

        asyncio.run(claim())

    def test_after_a_clean_stop_all_is_in_the_database(self, database, person, tmp_path):
        async def claim():
            book = logbook(database, tmp_path)
            for _ in range(50):
                await book.end(row(person, state=State.COPIED))
            await book.stop()
            assert len(rows(database)) == 50
            [path] = journals(tmp_path)
            journal = Journal.opened(path, BOX)
            assert journal.number_of_entries == 0
            journal.close()

        asyncio.run(claim())

    def test_the_next_relay_takes_the_journal_that_is_there(self, database, person, tmp_path):
        """So their number stays that of the relays, and on a full disk there is one at all."""

        async def claim():
            for number in range(3):
                book = logbook(database, tmp_path)
                await book.end(row(person, state=State.COPIED))
                await book.stop()
                assert len(rows(database)) == number + 1
                assert len(journals(tmp_path)) == 1

        asyncio.run(claim())


class TestWithoutTheDatabase:
    def test_rows_wait_in_the_journal_and_follow(self, sqlite, tmp_path):
        add_anna(sqlite)

        async def claim():
            book = logbook(sqlite, tmp_path)
            lock = Lock(tmp_path)
            settled = [row(1, state=State.COPIED, upstream="250 Ok") for _ in range(20)]
            for one in settled:
                await book.end(one)
            assert rows(sqlite) == []
            assert book.waiting_bytes() > 0
            lock.release()
            await until(lambda: len(rows(sqlite)) == 20)
            assert rows(sqlite) == settled[::-1]
            await book.stop()

        asyncio.run(claim())

    def test_a_relay_goes_on_sending_and_everything_is_accounted_for_in_the_end(self, sqlite, tmp_path):
        async def claim():
            async with running(sqlite, tmp_path) as relay:
                client = await relay.connect()
                lock = Lock(tmp_path)
                for number in range(10):
                    assert (await client.mail(mail(message_id=f"<{number}@x>"))).startswith("250")
                lock.release()
                await until(lambda: len(relay.rows()) == 10)
                found = await asyncio.to_thread(relay.rows)
                assert sorted(one.message_id for one in found) == [f"<{number}@x>" for number in range(10)]
                assert {one.state for one in found} == {State.COPIED}

        asyncio.run(claim())

    def test_a_copy_refused_at_the_dot_is_remembered(self, sqlite, tmp_path):
        async def claim():
            async with running(
                sqlite, tmp_path, Sink(Script(replies={"dot": ["550 5.7.1 No copies", ""]}))
            ) as relay:
                client = await relay.connect()
                lock = Lock(tmp_path)
                assert (await client.mail(mail())).startswith("550")
                await asyncio.sleep(2)
                assert (await client.mail(mail())).startswith("250")
                assert [len(taken.rcpts) for taken in relay.sink.taken] == [1]
                lock.release()

        asyncio.run(claim())

    def test_a_relay_started_without_it_serves_with_its_last_settings(self, sqlite, tmp_path):
        add_anna(sqlite)

        async def claim():
            first = Snapshot(sqlite, tmp_path, BOX, "p1")
            await first.start()
            away = Database("postgresql+psycopg://nobody@127.0.0.1:1/x")
            second = Snapshot(away, tmp_path, BOX, "p2")
            await second.start()
            assert second.people == first.people
            assert second.people.policy.internal_domains == ("acme.test",)
            content = (tmp_path / "settings.snapshot").read_bytes()
            assert b"anna" not in content
            assert (tmp_path / "settings.snapshot").stat().st_mode & 0o777 == 0o600
            stranger = Snapshot(away, tmp_path, Box(["another secret key"]), "p3")
            await stranger.start()
            assert stranger.people is None
            away.close()

        asyncio.run(claim())

    def test_nobody_is_told_that_a_password_is_wrong_by_a_relay_that_cannot_know(self, sqlite, tmp_path):
        async def claim():
            async with running(sqlite, tmp_path) as relay:
                relay.snapshot.people = people_of_one()
                relay.snapshot.database = Database("postgresql+psycopg://nobody@127.0.0.1:1/x")
                client = await relay.connect(sign_in=False)
                assert (await client.command("AUTH PLAIN AGFubmFAYWNtZS50ZXN0AHdyb25n")).startswith(
                    "454 4.7.0"
                )
                assert (await client.command("AUTH PLAIN AGFubmFAYWNtZS50ZXN0AHNlY3JldA==")).startswith("235")

        asyncio.run(claim())


class TestWhatIsLost:
    def test_late_is_not_lost(self, database, person, tmp_path, monkeypatch, caplog):
        """A disk that stands still holds no mail up, and once it goes on every row is there."""
        import threading

        go_on = threading.Event()
        real = Journal.sync
        monkeypatch.setattr(Journal, "sync", lambda self: (go_on.wait(30), real(self)))

        async def claim():
            seen = []
            book = logbook(database, tmp_path, seen)
            ended = []
            for _ in range(5):
                one = row(person)
                await book.wait(book.begin(one))
                ended.append(replace(one, state=State.COPIED))
                await book.end(ended[-1])
            go_on.set()
            await until(lambda: len(rows(database)) == 5)
            await book.stop()
            assert not [one for one in seen if isinstance(one, RowLost)]
            assert book.rows_lost == 0

        began = datetime.now(UTC)
        asyncio.run(claim())
        assert (datetime.now(UTC) - began).total_seconds() < 30
        assert "lost" not in caplog.text

    def test_a_full_journal_stops_no_mail_and_each_lost_row_is_counted_and_named(
        self, sqlite, tmp_path, caplog
    ):
        add_anna(sqlite)

        async def claim():
            seen = []
            book = logbook(sqlite, tmp_path, seen, size=64 * 1024)
            lock = Lock(tmp_path)
            ended = [row(1, state=State.COPIED, subject="x" * 1_000) for _ in range(100)]
            for one in ended:
                await book.end(one)
            assert "journal is full" in book.trouble
            lost = book.rows_lost
            assert 0 < lost < 100
            assert len([one for one in seen if isinstance(one, RowLost)]) == lost
            lock.release()
            await until(lambda: len(rows(sqlite, limit=1000)) == 100 - lost)
            await until(lambda: book.trouble is None)
            named = {one.id for one in ended if f"lost id={one.id}" in caplog.text}
            assert named == {one.id for one in ended} - {one.id for one in rows(sqlite, limit=1000)}
            await book.end(row(1, state=State.COPIED))
            await until(lambda: len(rows(sqlite, limit=1000)) == 101 - lost)
            await book.stop()

        asyncio.run(claim())

    def test_without_a_place_for_a_journal_mails_go_on_and_it_is_said(self, sqlite, tmp_path):
        add_anna(sqlite)
        directory = tmp_path / "state"
        directory.write_text("no directory")

        async def claim():
            book = logbook(sqlite, directory)
            await book.wait(book.begin(row(1)))
            await book.end(row(1, state=State.COPIED))
            assert "no journal can be made" in book.trouble
            assert book.rows_lost == 1
            directory.unlink()
            await until(lambda: book.trouble is None)
            await book.end(row(1, state=State.COPIED))
            await until(lambda: len(rows(sqlite)) == 1)
            await book.stop()

        asyncio.run(claim())

    def test_a_state_directory_that_is_removed_is_made_anew_and_nothing_is_lost(self, sqlite, tmp_path):
        import shutil

        add_anna(sqlite)
        directory = tmp_path / "state"

        async def claim():
            book = logbook(sqlite, directory)
            lock = Lock(tmp_path)
            await book.end(row(1, state=State.COPIED))
            shutil.rmtree(directory)
            await until(lambda: len(journals(directory)) == 1)
            await book.end(row(1, state=State.COPIED))
            lock.release()
            await until(lambda: len(rows(sqlite)) == 2)
            await book.stop()

        asyncio.run(claim())

    def test_a_text_is_found_in_the_journal_that_was_in_use_before(self, sqlite, tmp_path):
        add_anna(sqlite)
        directory = tmp_path / "state"

        async def claim():
            book = logbook(sqlite, directory)
            one = row(1, decision=Decision.API, text=b"Hello")
            await book.wait(book.begin(one))
            [path] = journals(directory)
            path.unlink()
            await until(lambda: journals(directory) not in ([], [path]))
            await book.end(replace(one, state=State.WAITING, text=None))
            await until(lambda: [one.state for one in rows(sqlite)] == [State.WAITING])
            with sqlite.reading() as session:
                assert mail_queue.text(session, one.id) == b"Hello"
            await book.stop()

        asyncio.run(claim())

    def test_a_mail_without_an_end_at_the_stop_is_unknown_after_it(self, sqlite, tmp_path):
        add_anna(sqlite)

        async def claim():
            book = logbook(sqlite, tmp_path)
            await book.wait(book.begin(row(1)))
            await book.stop()

        asyncio.run(claim())
        load_orphans(sqlite, tmp_path)
        assert [one.state for one in rows(sqlite)] == [State.UNKNOWN]

    def test_an_empty_journal_of_another_size_is_removed(self, sqlite, tmp_path):
        add_anna(sqlite)

        async def claim():
            for size in (1 << 20, 2 << 20):
                book = logbook(sqlite, tmp_path, size=size)
                await book.end(row(1, state=State.COPIED))
                await book.stop()
            assert [path.stat().st_size for path in journals(tmp_path)] == [2 << 20]

        asyncio.run(claim())

    def test_a_row_that_no_database_takes_is_named_and_holds_up_no_other(
        self, database, person, tmp_path, caplog
    ):
        async def claim():
            book = logbook(database, tmp_path)
            stranger, fine = row(999, state=State.COPIED), row(person, state=State.COPIED)
            await asyncio.gather(book.end(stranger), book.end(fine))
            book.note(UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC)))
            await until(lambda: rows(database) == [fine] and counted(database) == 1)
            assert book.rows_lost == 1
            assert f"lost id={stranger.id}" in caplog.text
            await book.stop()
            assert counted(database) == 1

        asyncio.run(claim())

    def test_what_nobody_foresaw_costs_one_batch_and_is_counted(
        self, database, person, tmp_path, monkeypatch
    ):
        real, failing = Journal.append, [RuntimeError("odd")]

        def append(self, entries):
            if failing:
                raise failing.pop()
            return real(self, entries)

        monkeypatch.setattr(Journal, "append", append)

        async def claim():
            book = logbook(database, tmp_path)
            await book.end(row(person, state=State.COPIED))
            assert book.rows_lost == 1
            await book.end(row(person, state=State.COPIED))
            await until(lambda: len(rows(database)) == 1)
            await book.stop()

        asyncio.run(claim())

    def test_an_end_that_the_journal_does_not_take_comes_by_itself_where_its_beginning_stands(
        self, database, person, tmp_path, monkeypatch
    ):
        real = Journal.append

        def append(self, entries):
            if any(one.ends for one in entries):
                return [OSError("bad sector")] * len(entries)
            return real(self, entries)

        async def claim():
            book = logbook(database, tmp_path)
            one = row(person, decision=Decision.API, text=b"Hello")
            await book.wait(book.begin(one))
            monkeypatch.setattr(Journal, "append", append)
            await book.end(replace(one, state=State.WAITING, text=None))
            await until(lambda: [one.state for one in rows(database)] == [State.WAITING])
            with database.reading() as session:
                assert mail_queue.text(session, one.id) == b"Hello"
            assert book.rows_lost == 0
            await book.stop()

        asyncio.run(claim())

    def test_too_much_at_once_is_lost_with_a_word(self, database, person, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MOST_WAITING", 0)

        async def claim():
            book = logbook(database, tmp_path)
            await book.end(row(person, state=State.COPIED))
            assert book.rows_lost == 1
            await book.stop()

        asyncio.run(claim())


class TestJournalsOfRelaysThatAreGone:
    def test_are_loaded_by_any_process_and_what_never_ended_is_unknown(self, database, person, tmp_path):
        ended, never = (
            row(person, text=b"Hello", decision=Decision.API),
            row(person, text=b"World", decision=Decision.API),
        )
        left_behind(
            tmp_path, Begun(ended), Begun(never), Ended(replace(ended, state=State.WAITING, text=None)),
            LostReply(ended.id, b"f" * 32), UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC)),
        )  # fmt: skip
        load_orphans(database, tmp_path)
        found = {one.id: one for one in rows(database)}
        assert {key: one.state for key, one in found.items()} == {
            ended.id: State.WAITING, never.id: State.UNKNOWN,
        }  # fmt: skip
        assert found[ended.id].fingerprint == b"f" * 32
        with database.reading() as session:
            assert (mail_queue.text(session, ended.id), mail_queue.text(session, never.id)) == (
                b"Hello",
                b"World",
            )
        load_orphans(database, tmp_path)
        assert counted(database) == 1

    def test_are_left_alone_while_their_relay_lives(self, database, person, tmp_path):
        journal = Journal.made(tmp_path, SIZE, BOX)
        journal.append([_append(Ended(row(person, state=State.COPIED)))])
        load_orphans(database, tmp_path)
        assert rows(database) == []
        journal.close()
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 1

    def test_what_was_loaded_before_a_crash_is_not_loaded_again(self, database, person, tmp_path):
        """Counts are exact, however often the loader dies between the database's commit and its own next step."""
        entries = [UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC)) for _ in range(5)]
        journal = Journal.opened(left_behind(tmp_path, *entries), BOX)
        Loader(database, journal, no_loss).load_all()
        journal.close()  # killed before it was cleared
        load_orphans(database, tmp_path)
        assert counted(database) == 5

    def test_that_never_ended_and_are_known_to_have_ended_stay_as_they_are(self, database, person, tmp_path):
        """The relay died after its loader had brought the end, or a worker had gone on with it."""
        one = row(person)
        path = left_behind(tmp_path, Begun(one), Ended(replace(one, state=State.COPIED)))
        journal = Journal.opened(path, BOX)
        Loader(database, journal, no_loss).load_all()
        journal.close()
        load_orphans(database, tmp_path)
        assert [one.state for one in rows(database)] == [State.COPIED]

    def test_a_power_cut_that_took_the_last_entries_costs_no_later_mail(self, database, person, tmp_path):
        """The database may have seen entries that the journal has lost; numbers never come twice."""
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(2)))
        before = path.read_bytes()
        journal = Journal.opened(path, BOX)
        journal.append([_append(Ended(row(person, state=State.COPIED))) for _ in range(3)])
        Loader(database, journal, no_loss).load_all()
        journal.close()
        path.write_bytes(before)
        journal = Journal.opened(path, BOX)
        journal.append([_append(Ended(row(person, state=State.COPIED)))])
        Loader(database, journal, no_loss).load_all()
        journal.close()
        assert len(rows(database)) == 6

    def test_a_beginning_that_was_carried_behind_its_loaded_end_is_held_for_nothing(
        self, database, person, tmp_path
    ):
        one = row(person)
        path = left_behind(tmp_path, Ended(replace(one, state=State.COPIED)), Begun(one))
        journal = Journal.opened(path, BOX)
        with database.writing() as session:
            session.add(JournalRow(id=path.stem, loaded=next(record.number for record in journal.after(0))))
        loader = Loader(database, journal, no_loss)
        loader.load_all()
        loader.show_slow()
        loader.show_slow()
        assert rows(database) == []
        assert journal.names_held() == []
        journal.close()

    def test_with_an_entry_that_cannot_be_read_back_give_the_others(self, database, person, tmp_path):
        """A bad sector under a running relay, or a key that is gone for the middle of a file."""
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        with path.open("r+b") as file:
            file.seek(half.offsets[2] + 60)
            file.write(b"????????")
        Loader(database, journal, no_loss).load_all()
        assert len(rows(database)) == 4
        assert journal.is_damaged
        journal.close()

    def test_whose_last_entry_cannot_be_read_back_come_to_an_end(self, database, person, tmp_path):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(3)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        with path.open("r+b") as file:
            file.seek(half.offsets[-1] + 60)
            file.write(b"????????")
        Loader(database, journal, no_loss).load_all()
        assert len(rows(database)) == 2
        assert journal.is_damaged
        journal.close()

    def test_counts_are_exact_though_the_answer_to_the_commit_was_lost(
        self, database, person, tmp_path, monkeypatch
    ):
        path = left_behind(tmp_path, *[UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC))] * 3)
        journal = Journal.opened(path, BOX)
        loader, real, lost = Loader(database, journal, no_loss), Loader.write, [True]

        def write(self, entries, last):
            real(self, entries, last)
            if lost:
                lost.pop()
                raise DatabaseUnavailable("the answer was lost")

        monkeypatch.setattr(Loader, "write", write)
        with pytest.raises(DatabaseUnavailable):
            loader.load()
        loader.load_all()
        assert counted(database) == 3
        journal.close()

    def test_come_back_after_a_restore_under_the_running_process(self, database, person, tmp_path):
        """What still stands in the journal is loaded into the older database again."""
        with database.writing() as session:
            database.installation.keep(database.installation.advance(session))
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(4)))
        journal = Journal.opened(path, BOX)
        loader = Loader(database, journal, no_loss)
        loader.load_all()
        with database.writing() as session:  # as pg_restore does it, with the relay running
            session.query(MailRow).delete()
            session.query(JournalRow).delete()
            session.get(InstallationRow, 1).tick = 0
        with database.writing() as session:
            marker = database.installation.advance(session)
            assert restored_at(session) is not None
        database.installation.keep(marker)
        loader.load_all()
        assert len(rows(database)) == 4
        journal.close()

    def test_are_done_with_though_a_restored_database_knows_of_fewer_entries(
        self, database, person, tmp_path
    ):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        load_orphans(database, tmp_path)
        with database.writing() as session:
            session.get(JournalRow, path.stem).loaded = 2
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 5

    def test_wait_while_the_database_is_away(self, sqlite, person_in_sqlite, tmp_path):
        path = left_behind(tmp_path, Ended(row(1, state=State.COPIED)))
        away = Database("postgresql+psycopg://nobody@127.0.0.1:1/x")
        with pytest.raises(DatabaseUnavailable):
            load_orphans(away, tmp_path)
        away.close()
        assert path.exists()
        load_orphans(sqlite, tmp_path)
        assert len(rows(sqlite)) == 1

    def test_that_are_damaged_give_what_is_whole_and_are_put_aside(self, database, person, tmp_path, caplog):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        journal.close()
        content = bytearray(path.read_bytes())
        content[half.offsets[2] + 60] ^= 1
        path.write_bytes(content)
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 4
        assert [one.suffix for one in tmp_path.glob(f"{path.stem}*")] == [".damaged"]
        assert "ALARM a journal was damaged" in caplog.text

    def test_that_were_cut_too(self, database, person, tmp_path):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        journal.close()
        path.write_bytes(path.read_bytes()[: half.offsets[3] + 50])
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 3

    def test_of_another_key_wait_for_it_and_are_told_once(self, database, person, tmp_path, caplog):
        left_behind(tmp_path, Ended(row(person, state=State.COPIED)), box=Box(["another secret key"]))
        orphans = load_orphans(database, tmp_path)
        orphans.load()
        assert caplog.text.count("ALARM a journal cannot be read") == 1
        assert "BLINDCOPY_SECRET_KEY" in orphans.unreadable[0]
        load_orphans(database, tmp_path, Box(["0123456789abcdef", "another secret key"]))
        assert len(rows(database)) == 1

    @pytest.fixture
    def person_in_sqlite(self, sqlite):
        add_anna(sqlite)


class TestJournalsOfTheFirstRelease:
    """Files of encrypted lines, named journal-*.log, locked while their relay lives."""

    def line(self, entry, box=BOX):
        def plain(value):
            return value.isoformat() if isinstance(value, datetime) else base64.b64encode(value).decode()

        return box.closed(json.dumps({"kind": type(entry).__name__, **asdict(entry)}, default=plain).encode())

    def entries(self, person):
        waiting = row(
            person, decision=Decision.API, state=State.WAITING, text=b"Hello", fingerprint=b"f" * 32
        )
        return (
            waiting,
            LostReply(waiting.id, b"g" * 32),
            UnknownSender("a@x.test", "A@x.test", datetime.now(UTC)),
        )

    def test_are_taken_over(self, database, person, tmp_path):
        path = tmp_path / "journal-0193-1.log"
        waiting, *rest = self.entries(person)
        path.write_bytes(b"".join(self.line(one) + b"\n" for one in (waiting, *rest)))
        with path.open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            load_orphans(database, tmp_path)
            assert rows(database) == []
        load_orphans(database, tmp_path)
        assert rows(database) == [replace(waiting, fingerprint=b"g" * 32, text=None)]
        with database.reading() as session:
            assert mail_queue.text(session, waiting.id) == b"Hello"
        assert counted(database) == 1
        assert not path.exists()

    def test_with_lines_that_cannot_be_read_are_kept_aside(self, database, person, tmp_path):
        path = tmp_path / "journal-0193-1.log"
        waiting, *_ = self.entries(person)
        foreign = self.line(waiting, Box(["another secret key"]))
        path.write_bytes(foreign + b"\n" + self.line(waiting) + b"\n" + self.line(waiting)[:-20])
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 1
        assert (tmp_path / "journal-0193-1.unreadable").exists()


def test_the_bounds_add_up_to_less_than_a_second():
    assert 2 * module.SECONDS_FOR_THE_JOURNAL <= 1

"""The logbook when the database is slow, locked or away: no mail waits longer than its bounds, no row is lost."""

import asyncio
import os
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from core.mail import State
from core.secrets import Box
from core.storage.database import Database, DatabaseUnavailable
from core.storage.logbook import UnknownSender, unknown_senders
from relay import logbook as module
from relay.journal import Journal, JournalFull, LostReply
from relay.logbook import EarlierAnswer, Logbook, Used
from relay.snapshot import Snapshot
from tests.doors.conftest import BOX, add_anna, mail, people_of_one, running, until
from tests.doors.test_storage import row, rows
from tests.sandbox.sink import Script, Sink


def journal(tmp_path, box=BOX, process="p1"):
    return Journal(tmp_path, process, box)


@pytest.fixture
def person(database):
    add_anna(database)
    return 1


def counted(database):
    with database.reading() as session:
        return sum(sender.mails for sender in unknown_senders(session))


class Lock:
    """Somebody else's transaction that holds SQLite's write lock."""

    def __init__(self, tmp_path):
        self.connection = sqlite3.connect(
            tmp_path / "blindcopy.db", isolation_level=None, check_same_thread=False
        )
        self.connection.execute("BEGIN IMMEDIATE")

    def release(self):
        self.connection.rollback()
        self.connection.close()


class TestInTheDatabase:
    @pytest.fixture(autouse=True)
    def _patient(self, monkeypatch):
        """The bounds are another class's matter: a slow machine must not send these rows to the journal."""
        monkeypatch.setattr(module, "SECONDS_FOR_THE_DATABASE", 20.0)

    def test_many_rows_go_in_few_commits(self, database, person, tmp_path):
        async def claim():
            book = Logbook(database, journal(tmp_path))
            written = [row(person) for _ in range(300)]
            await asyncio.gather(*(book.write(one) for one in written))
            await until(
                lambda: len(rows(database, limit=1000)) == 300
            )  # a slow machine takes the way by the journal
            assert {one.id for one in rows(database, limit=1000)} == {one.id for one in written}
            await until(lambda: not list(tmp_path.glob("journal*")))
            await book.stop()

        asyncio.run(claim())

    def test_an_answered_mail_is_told_and_its_row_not_written(self, database, person, tmp_path):
        async def claim():
            book = Logbook(database, journal(tmp_path))
            first = row(person, time=datetime.now(UTC), state=State.COPIED, upstream="250 Ok")
            assert await book.write_unless_answered(first, b"f" * 32) is None
            await until(lambda: rows(database))
            book.note(LostReply(first.id, b"f" * 32))
            await until(lambda: rows(database)[0].fingerprint)
            assert await book.write_unless_answered(row(person), b"f" * 32) == EarlierAnswer(
                first.id, "250 Ok"
            )
            assert await book.write_unless_answered(row(person), b"g" * 32) is None
            assert len(rows(database)) == 2
            await book.stop()

        asyncio.run(claim())


class TestWithoutTheDatabase:
    def test_a_lost_reply_is_fed_back_after_its_row(self, database, person, tmp_path):
        """Both wait in one journal: the client that tries again has its 250 without a second delivery."""

        async def claim():
            pending = row(person, time=datetime.now(UTC))
            settled = replace(pending, state=State.COPIED, upstream="250 Ok")
            gone = journal(tmp_path, process="gone")
            gone.append([pending, settled, LostReply(pending.id, b"f" * 32)])
            gone.close()
            book = Logbook(database, journal(tmp_path))
            await until(lambda: [one.fingerprint for one in rows(database)] == [b"f" * 32])
            again = await book.write_unless_answered(row(person), b"f" * 32)
            assert again == EarlierAnswer(pending.id, "250 Ok")
            await book.stop()

        asyncio.run(claim())

    def test_a_sender_that_nobody_knows_is_counted_once_beside_a_row_that_is_refused(
        self, database, person, tmp_path
    ):
        async def claim():
            book = Logbook(database, journal(tmp_path))
            nobody = UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC))
            book.note(row(99_999))
            book.note(nobody)
            await until(lambda: counted(database) >= 1)
            await asyncio.sleep(2.5)
            assert counted(database) == 1
            await book.stop()

        asyncio.run(claim())

    def test_rows_wait_in_the_journal_within_the_bounds_and_are_fed_back(self, sqlite, tmp_path):
        add_anna(sqlite)

        async def claim():
            book = Logbook(sqlite, journal(tmp_path))
            lock = Lock(tmp_path)
            pending = row(1)
            settled = replace(pending, state=State.COPIED, upstream="250 Ok")
            await book.write_unless_answered(pending, b"f" * 32)
            await book.write(settled)
            assert rows(sqlite) == []
            assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("journal*")] == [0o600]
            lock.release()
            for _ in range(200):
                await asyncio.sleep(0.05)
                if rows(sqlite) and not list(tmp_path.glob("journal*")):
                    break
            assert rows(sqlite) == [settled]
            assert list(tmp_path.glob("journal*")) == []
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
                for _ in range(200):
                    await asyncio.sleep(0.05)
                    found = await asyncio.to_thread(relay.rows)
                    if len(found) == 10 and all(one.state is State.COPIED for one in found):
                        break
                assert sorted(one.message_id for one in found) == [f"<{number}@x>" for number in range(10)]
                assert {one.state for one in found} == {State.COPIED}

        asyncio.run(claim())

    def test_a_full_journal_stops_no_mail(self, sqlite, tmp_path, monkeypatch):
        add_anna(sqlite)
        monkeypatch.setattr("relay.journal._LARGEST", 10)

        async def claim():
            book = Logbook(sqlite, journal(tmp_path))
            lock = Lock(tmp_path)
            await book.write(row(1))
            lock.release()
            await book.stop()

        asyncio.run(claim())

    def test_a_long_outage_takes_two_files_at_most(self, tmp_path):
        mine = journal(tmp_path)

        def away(_):
            raise DatabaseUnavailable

        for _ in range(10):
            mine.append([row(1)])
            with pytest.raises(DatabaseUnavailable):
                mine.feed(away)
        assert len(list(tmp_path.iterdir())) == 2
        taken = []
        for _ in range(2):
            mine.feed(taken.extend)
        assert len(taken) == 10

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
                relay.snapshot._database = Database("postgresql+psycopg://nobody@127.0.0.1:1/x")
                client = await relay.connect(sign_in=False)
                assert (await client.command("AUTH PLAIN AGFubmFAYWNtZS50ZXN0AHdyb25n")).startswith(
                    "454 4.7.0"
                )
                assert (await client.command("AUTH PLAIN AGFubmFAYWNtZS50ZXN0AHNlY3JldA==")).startswith("235")

        asyncio.run(claim())

    def test_an_unexpected_failure_of_the_database_stops_no_mail_and_no_other_row(self, sqlite, tmp_path):
        add_anna(sqlite)

        async def claim():
            book = Logbook(sqlite, journal(tmp_path))
            stranger, fine = row(999), row(1)
            await asyncio.gather(book.write(stranger), book.write(fine))
            for _ in range(100):
                await asyncio.sleep(0.05)
                if rows(sqlite):
                    break
            assert rows(sqlite) == [fine]
            await book.stop()

        asyncio.run(claim())


class TestTheJournal:
    ENTRIES = (row(1, fingerprint=b"f" * 32), row(1, recipients=None, state=State.NOT_LOGGED), LostReply("id", b"g" * 32),
               UnknownSender("a@x.test", "A@x.test", datetime.now(UTC)))  # fmt: skip

    def test_gives_back_what_it_was_given_encrypted_meanwhile(self, tmp_path):
        mine = journal(tmp_path)
        mine.append(self.ENTRIES[:2])
        mine.append(self.ENTRIES[2:])
        [path] = tmp_path.iterdir()
        assert b"anna" not in path.read_bytes()
        taken = []
        mine.feed(taken.extend)
        assert tuple(taken) == self.ENTRIES
        assert list(tmp_path.iterdir()) == []

    def test_of_a_process_that_is_gone_is_fed_back_by_another(self, tmp_path):
        gone, alive = journal(tmp_path), journal(tmp_path, process="p2")
        gone.append(self.ENTRIES)
        taken = []
        alive.feed(taken.extend)
        assert taken == [], "its owner is still there"
        gone.close()
        alive.feed(taken.extend)
        assert tuple(taken) == self.ENTRIES

    def test_is_kept_where_it_cannot_be_taken(self, tmp_path):
        mine = journal(tmp_path)
        mine.append(self.ENTRIES)

        def away(_):
            raise DatabaseUnavailable

        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                mine.feed(away)
        mine.append(self.ENTRIES[:1])
        taken = []
        for _ in range(2):
            mine.feed(taken.extend)
        assert tuple(taken) == (*self.ENTRIES, self.ENTRIES[0])

    def test_taken_for_an_orphans_before_it_was_locked_is_begun_anew(self, tmp_path, monkeypatch):
        import relay.journal

        real, calls = relay.journal.fcntl.flock, []

        def locks_late(file, how):
            if not calls:
                calls.append(1)
                os.unlink(file.name)
            real(file, how)

        monkeypatch.setattr(relay.journal.fcntl, "flock", locks_late)
        mine = journal(tmp_path)
        mine.append(self.ENTRIES)
        taken = []
        mine.feed(taken.extend)
        assert tuple(taken) == self.ENTRIES

    def test_that_a_crash_cut_short_gives_what_is_whole(self, tmp_path):
        gone = journal(tmp_path)
        gone.append(self.ENTRIES)
        gone.close()
        [path] = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-20])
        taken = []
        journal(tmp_path, process="p2").feed(taken.extend)
        assert tuple(taken) == self.ENTRIES[:-1]

    def test_of_another_key_is_kept_aside(self, tmp_path):
        gone = journal(tmp_path, Box(["another secret key"]))
        gone.append(self.ENTRIES)
        gone.close()
        taken = []
        journal(tmp_path, process="p2").feed(taken.extend)
        assert taken == []
        assert [path.suffix for path in tmp_path.iterdir()] == [".unreadable"]

    def test_of_an_older_key_is_read(self, tmp_path):
        gone = journal(tmp_path, Box(["the old secret key"]))
        gone.append(self.ENTRIES)
        gone.close()
        taken = []
        journal(tmp_path, Box(["the new secret key", "the old secret key"]), "p2").feed(taken.extend)
        assert tuple(taken) == self.ENTRIES

    def test_on_a_disk_that_takes_nothing_says_so(self, tmp_path):
        tmp_path.rmdir()
        with pytest.raises(JournalFull):
            journal(tmp_path).append(self.ENTRIES)


def test_the_bounds_add_up_to_less_than_a_second():
    assert 2 * (module.SECONDS_FOR_THE_DATABASE + module.SECONDS_FOR_THE_JOURNAL) <= 1
    assert Used(1, datetime.now(UTC)).app_password_id == 1

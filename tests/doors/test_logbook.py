"""The logbook: journal first, the database soon; no mail waits for it."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

from core.database.engine import Database
from core.journal.entries import PasswordUsed, UnknownSender, Void
from core.journal.file import Journal, journals
from core.mail import texts as mail_texts
from core.mail.row import Decision, State
from core.people.store import app_passwords
from core.secrets import Box
from relay import logbook as module
from relay.meters import RowLost, RowsLoaded
from relay.snapshot import Snapshot
from tests.doors.conftest import BOX, add_anna, mail, people_of_one, running, until
from tests.doors.journal_bench import (
    Lock,
    counted,
    load_orphans,
    logbook,
    person,  # noqa: F401
)
from tests.doors.rows import row, rows
from tests.sandbox.sink import Script, Sink


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
                assert mail_texts.read(session, [kept.id]).get(kept.id) == b"From: a\r\n\r\nHello"
                assert mail_texts.read(session, [late.id]).get(late.id) == b"not begun"
                assert mail_texts.read(session, [settled.id]).get(settled.id) is None
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
                assert mail_texts.read(session, [slow.id]).get(slow.id) == b"Hello"
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
                assert mail_texts.read(session, [one.id]).get(one.id) == b"Hello"
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
                assert mail_texts.read(session, [one.id]).get(one.id) == b"Hello"
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


def test_the_bounds_add_up_to_less_than_a_second():
    assert 2 * module.SECONDS_FOR_THE_JOURNAL <= 1

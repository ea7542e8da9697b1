"""A journal's disk that is slower than the mails, a database whose connections break in the middle of a bulk
load, and a loader that was away for long."""

import asyncio
import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import text

from core.database.engine import Database, DatabaseUnavailable
from core.journal.entries import Begun, Ended
from core.journal.file import Journal
from core.journal.loading import Loader
from core.mail.row import State
from relay import logbook as module
from tests.doors.conftest import BOX, until
from tests.doors.journal_bench import (
    left_behind,
    load_orphans,
    logbook,
    no_loss,
    person,  # noqa: F401
)
from tests.doors.rows import row, rows


class TestADiskThatIsSlowerThanTheMails:
    def test_keeps_new_sessions_away_until_it_has_caught_up_and_loses_nothing(
        self, database, person, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(module, "MOST_WAITING", 40)
        is_slow, real = threading.Event(), Journal.sync

        def sync(self):
            real(self)
            if is_slow.is_set():
                time.sleep(0.2)

        monkeypatch.setattr(Journal, "sync", sync)

        async def claim():
            book = logbook(database, tmp_path, size=4 << 20)
            assert not book.is_behind
            await asyncio.sleep(0.2)
            is_slow.set()
            begun = [row(person) for _ in range(30)]
            answers = [book.begin(one) for one in begun[:3]]
            await asyncio.sleep(0.05)
            answers += [book.begin(one) for one in begun[3:]]
            assert book.is_behind
            is_slow.clear()
            await asyncio.gather(*(book.wait(one) for one in answers))
            await until(lambda: not book.is_behind)
            for one in begun:
                await book.end(replace(one, state=State.COPIED))
            await until(lambda: len(rows(database, limit=100)) == 30)
            assert {one.state for one in rows(database, limit=100)} == {State.COPIED}
            assert book.rows_lost == 0
            await book.stop()

        asyncio.run(claim())


class TestADatabaseThatGoesAwayDuringABulkLoad:
    @pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
    def test_has_everything_once_in_the_end(self, database, database_url, person, tmp_path):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(2_000)))
        journal, is_over = Journal.opened(path, BOX), threading.Event()
        other = Database(database_url, BOX)

        def cut():
            while not is_over.is_set():
                with other.writing() as session:
                    session.execute(
                        text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                             "WHERE datname = current_database() AND pid <> pg_backend_pid()")
                    )  # fmt: skip
                time.sleep(0.005)

        cutting = threading.Thread(target=cut)
        cutting.start()
        loader, troubles = Loader(database, journal, no_loss), 0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline or not loader.is_done:
            if time.monotonic() > deadline:
                is_over.set()
            try:
                loader.load_all()
                loader = loader if not loader.is_done else Loader(database, journal, no_loss)
                if is_over.is_set():
                    break
            except DatabaseUnavailable:
                troubles += 1
        is_over.set()
        cutting.join()
        other.close()
        assert troubles > 0
        assert len(rows(database, limit=3_000)) == 2_000
        journal.close()


class TestALoaderThatWasAway:
    def test_brings_everything_in_order_with_what_was_under_way(self, database, person, tmp_path):
        ended = [row(person, state=State.COPIED) for _ in range(4_000)]
        entries = [entry for one in ended for entry in (Begun(replace(one, state=State.PENDING)), Ended(one))]
        left_behind_large(tmp_path, [*entries, Begun(row(person))])
        load_orphans(database, tmp_path)
        found = rows(database, limit=5_000)
        assert [one.state for one in found].count(State.COPIED) == 4_000
        assert [one.state for one in found].count(State.UNKNOWN) == 1


def left_behind_large(directory, entries):
    journal = Journal.made(directory, 16 << 20, BOX)
    for entry in entries:
        assert journal.append([module._to_append(entry)]) == [None]  # noqa: SLF001  as the writer's thread does
    journal.close()

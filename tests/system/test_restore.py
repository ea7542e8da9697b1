"""An older database beside a newer Salesforce: nothing is repeated, and every task sync asks first."""

import contextlib
import shutil
import sqlite3
import threading
import time
from collections import Counter
from functools import partial

import pytest

from core.database.engine import Database
from core.database.installation import restored_at
from core.database.task_models import TaskSyncRow
from core.mail.store import Filter, entries
from core.secrets import Box
from tests.chaos import PERSONS, Chaos
from tests.system.conftest import Installation, SinkThread, until


@pytest.fixture
def house(has_key, tmp_path):
    """Relays, workers and an org, with nothing that goes wrong."""
    sink = SinkThread()
    chaos = Chaos(Installation(tmp_path, sink.port), sink, seed=7, has_key=has_key, pause=0.1)
    chaos.set_up()
    for number in range(2):
        chaos.relays[number] = chaos.installation.start_relay()
        chaos.start_worker(number)
    yield chaos
    chaos.end()
    sink.stop()


def under_load(chaos, seconds, meanwhile=lambda: None):
    """Clients send and tasks are made for so long; `meanwhile` is done in the middle of it."""
    chaos.stop.clear()
    threads = [threading.Thread(target=partial(chaos.send, number)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 2)
    result = meanwhile()
    chaos.installation.command("admin", "task", "add", "p1@acme.test", f"Task {time.monotonic()}")
    time.sleep(seconds / 2)
    chaos.stop.set()
    for thread in threads:
        thread.join()
    return result


def stop_all(chaos):
    for process in [*chaos.workers, *chaos.relays]:
        process.terminate()
    for process in [*chaos.workers, *chaos.relays]:
        process.wait(60)
    chaos.database.close()


def start_all(chaos):
    box = Box([chaos.installation.env["BLINDCOPY_SECRET_KEY"]])
    chaos.database = Database(chaos.installation.database_url, box)
    for number in range(2):
        chaos.start_worker(number)
        chaos.relays[number] = chaos.installation.start_relay()


def rows(chaos):
    with chaos.database.reading() as session:
        return {entry.row.id: entry.row for entry in entries(session, Filter(), 1_000_000)}


def written(chaos):
    """How often each mail stands on each record, and each task's subject."""
    mails = Counter(
        (message["MessageIdentifier"], one)
        for message in chaos.org.org.rows["emailmessage"].values()
        for one in (*(message["ToIds"] or ()), *([message["RelatedToId"]] if message["RelatedToId"] else ()))
    )
    tasks = Counter(
        row["Subject"]
        for row in chaos.org.org.rows["task"].values()
        if str(row["Subject"]).startswith("Task ")
    )
    return mails, tasks


@pytest.mark.parametrize(("copied_by", "has_key"), [("core backup", False), ("another tool", True)])
def test_a_restored_database_repeats_nothing_and_asks(house, tmp_path, copied_by):
    """`another tool`: a copy that does not know that it is one, as a snapshot of the disk; the marker tells."""
    path, copy = tmp_path / "blindcopy.db", tmp_path / "backup.db"

    def back_up():
        house.installation.command("core", "backup", str(copy))
        if copied_by == "another tool":
            with sqlite3.connect(copy) as opened:
                opened.execute("UPDATE installation SET is_copy = 0")
            opened.close()
        with contextlib.closing(sqlite3.connect(copy)) as opened:
            return {mail_id for (mail_id,) in opened.execute("SELECT id FROM mail")}

    in_the_backup = under_load(house, 8, back_up)
    house.come_to_rest()
    mails_before, tasks_before = written(house)
    assert len(rows(house)) > len(in_the_backup)
    stop_all(house)
    for name in ("blindcopy.db", "blindcopy.db-wal", "blindcopy.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    shutil.copy(copy, path)
    start_all(house)
    with house.database.reading() as session:
        assert until(lambda: restored_at(session)) is not None
    house.database.close()

    def syncs_that_ask():
        with house.database.reading() as session:
            return [
                row.plan["asks"]
                for row in session.query(TaskSyncRow).order_by(TaskSyncRow.person_id)
                if row.plan
            ]

    until(lambda: syncs_that_ask() == ["restored"] * PERSONS, 60)
    until(lambda: set(rows(house)) == in_the_backup)
    assert written(house)[1] == tasks_before, "nothing is written to tasks before somebody says yes"
    allow_late_commits(house)
    house.come_to_rest()
    mails_after, tasks_after = written(house)
    assert [key for key, number in mails_after.items() if number > 1] == []
    assert [key for key, number in tasks_after.items() if number > 1] == []
    assert mails_after == mails_before, "what was written is found again, and nothing else is written"
    assert tasks_after == tasks_before
    house.series = "later-"
    under_load(house, 2)
    house.come_to_rest()
    mails_in_the_end, _ = written(house)
    assert set(mails_in_the_end) > set(mails_after), "new mail is logged as ever"
    assert [key for key, number in mails_in_the_end.items() if number > 1] == []


def allow_late_commits(chaos):
    """The pretend org shows at once what a real one may show 14 minutes late."""
    with chaos.database.writing() as session:
        from datetime import timedelta

        from core.database.models import InstallationRow, MailLogRow
        from core.database.task_models import TaskRow

        row = session.get(InstallationRow, 1)
        row.restored_at -= timedelta(minutes=14)
        for log in session.query(MailLogRow).filter(MailLogRow.not_before.is_not(None)):
            log.not_before -= timedelta(minutes=14)
        for task in session.query(TaskRow).filter(TaskRow.not_before.is_not(None)):
            task.not_before -= timedelta(minutes=14)

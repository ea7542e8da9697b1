"""Task sync: what a quiet cycle costs at 1,000 and at 100,000 linked tasks, what 10,000 changes cost, how soon a change here is in
Salesforce, and the worker's memory. The pretend org's own time, which grows with its tasks, is not counted."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import event, func, select

from core.database.engine import Database
from core.database.task_models import TaskRow, TaskSyncRow
from core.endpoints import SalesforceApp
from core.people import store as people_store
from core.salesforce import client as door
from core.salesforce.connections import Connections
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field
from sync.session import Clocks, SalesforceSession
from sync.tasks.queue import TaskSyncs
from sync.tasks.schema import choices_of
from tests.bench.api import CHECKOUT, KEY, memory_of
from tests.sandbox.org.server import PretendOrg

CHANGES = 10_000
_CYCLES = 15


def measure(numbers=(1_000, 100_000)):
    figures = {}
    for number in numbers:
        with scene() as bench:
            seconds, memory = bench.first_sync(number)
            figures[f"first sync of {number:,} tasks: seconds"] = seconds
            figures[f"first sync of {number:,} tasks: worker's memory (MB)"] = memory
            calls, written, milliseconds = bench.quiet()
            figures[f"quiet cycle, {number:,} linked: API calls"] = calls
            figures[f"quiet cycle, {number:,} linked: statements that write"] = written
            figures[f"quiet cycle, {number:,} linked: own milliseconds"] = milliseconds
    with scene() as bench:
        bench.first_sync(CHANGES)
        bench.change_there("Changed")
        figures |= _of_changes("changed in Salesforce", bench.work_off())
        bench.change_here("changed")
        figures |= _of_changes("changed here", bench.work_off())
        bench.change_there("Once more")
        figures[f"{CHANGES:,} tasks changed in Salesforce: worker's memory (MB)"] = bench.memory_of_a_worker()
        bench.change_here("once more")
        figures[f"{CHANGES:,} tasks changed here: worker's memory (MB)"] = bench.memory_of_a_worker()
        bench.let_the_window_pass()
        figures["a change here is in Salesforce after: seconds"] = bench.seconds_to_salesforce()
    return figures


def _of_changes(what, found):
    calls, seconds = found
    name = f"{CHANGES:,} tasks {what}"
    reads = sum(number for call, number in calls.items() if "query" in call or call.endswith("/Task"))
    return {f"{name}: reads": reads, f"{name}: writes": calls["PATCH composite/sobjects"], f"{name}: calls in all": calls.total(),
            f"{name}: own seconds": seconds}  # fmt: skip


class Bench:
    def __init__(self, directory):
        self.org = PretendOrg()
        self.org.start()
        self.org.app.extensions["usage"]["total"] = 100_000_000
        self.user = self.org.org.put(
            "User", Username="a@acme.test", Name="A", Email="a@acme.test", IsActive=True
        )
        self.env = {
            **os.environ, "DATABASE_URL": f"sqlite:///{directory}/blindcopy.db", "BLINDCOPY_STATE_DIR": str(directory),
            "BLINDCOPY_SECRET_KEY": KEY, "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client",
            "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret", "BLINDCOPY_SALESFORCE_LOGIN_URL": self.org.url,
            "BLINDCOPY_SALESFORCE_CA_FILE": str(self.org.ca_file),
        }  # fmt: skip
        self.database = Database(self.env["DATABASE_URL"], Box([KEY]))
        self.database.migrate()
        app = SalesforceApp("blindcopy-client", "blindcopy-secret", "x", self.org.url, self.org.ca_file)
        self.connections = Connections(self.database, app)
        with self.database.writing() as session:
            self.anna = people_store.add_person(
                session, "a@acme.test", name="", is_admin=False, password_hash="x", actor=None
            )
        token = self.org.tokens.issue(self.user, "a", with_refresh=True)["refresh_token"]
        self.connections.by_refresh_token(
            self.anna, token, instance_url=self.org.url, user_id=self.user, actor=None
        )

    def first_sync(self, number):
        """By a worker that is started for it; until all are there."""
        mine = {"OwnerId": self.user, "CreatedById": self.user}
        for one in range(number):
            self.org.org.put(
                "Task", Subject=f"Task {one}", Description="What is to be done, and why. " * 8, **mine
            )
        with self.database.writing() as session:
            settings_store.set_preference(session, self.anna, Setting.TASK_SYNC, "both-ways", actor=None)
        return self._by_a_worker(lambda: self._number() == number and not self._sync().is_first)

    def quiet(self):
        """What a cycle does when nothing has changed; the median of several."""
        self.let_the_window_pass()
        worker, written, waited, spent = self._worker(), [0], [0.0], []
        event.listen(self.database.engine, "before_cursor_execute", lambda *more: _count(written, more[2]))
        with _waiting_counted(waited):
            self._cycle(worker)  # what the org has is asked for once
            calls, before = len(self.org.calls), written[0]
            for _ in range(_CYCLES):
                waited[0], began = 0.0, time.perf_counter()
                self._cycle(worker)
                spent.append(time.perf_counter() - began - waited[0])
        return (
            (len(self.org.calls) - calls) / _CYCLES,
            (written[0] - before) / _CYCLES - _OUR_OWN,
            statistics.median(spent) * 1000,
        )

    def change_there(self, word):
        self.let_the_window_pass()
        now = datetime.now(UTC)
        for number, row in enumerate(self.org.org.rows["task"].values()):
            row |= {"Subject": f"{word} {number}", "LastModifiedDate": now, "SystemModstamp": now}

    def change_here(self, word):
        self.let_the_window_pass()
        with self.database.reading() as session:
            ids = list(session.scalars(select(TaskRow.id)))
        for start in range(0, len(ids), 1_000):
            with self.database.writing() as session:
                for task_id in ids[start : start + 1_000]:
                    task_store.edit(session, self.anna.id, task_id, {Field.COMMENTS: f"{word} {task_id}"})

    def work_off(self):
        """One cycle in this process, as a worker does it: its calls, and its own time."""
        worker, waited = self._worker(), [0.0]
        self._cycle_of_nothing(worker)
        before, began = len(self.org.calls), time.perf_counter()
        with _waiting_counted(waited):
            self._cycle(worker)
        seconds = time.perf_counter() - began - waited[0]
        calls = Counter(call.rstrip("/").split("?")[0] for call in self.org.calls[before:])
        return _summed(calls), seconds

    def memory_of_a_worker(self):
        """That does the same."""
        with self.database.writing() as session:
            past = datetime.now(UTC) - timedelta(seconds=1)
            session.query(TaskSyncRow).update({"due_at": past, "look_at": past})
        return self._by_a_worker(lambda: not self._is_due())[1]

    def seconds_to_salesforce(self):
        process = subprocess.Popen(
            [sys.executable, "-m", "sync"], cwd=CHECKOUT, env=self.env, stderr=subprocess.DEVNULL
        )
        try:
            self._wait_for(lambda: not self._is_due())
            found = []
            for number in range(5):
                with self.database.writing() as session:
                    task_id = session.scalar(select(TaskRow.id).limit(1))
                    record = session.scalar(select(TaskRow.salesforce_id).where(TaskRow.id == task_id))
                    task_store.edit(session, self.anna.id, task_id, {Field.SUBJECT: f"soon {number}"})
                began = time.monotonic()
                self._wait_for(
                    lambda record=record, number=number: (
                        self.org.org.row(record)["Subject"] == f"soon {number}"
                    )
                )
                found.append(time.monotonic() - began)
            return statistics.median(found)
        finally:
            process.terminate()
            process.wait(60)

    def close(self):
        self.database.close()
        self.org.stop()

    def _by_a_worker(self, is_done):
        process = subprocess.Popen(
            [sys.executable, "-m", "sync"], cwd=CHECKOUT, env=self.env, stderr=subprocess.DEVNULL
        )
        began, most = time.monotonic(), [0]
        try:
            self._wait_for(lambda: most.append(memory_of(process.pid)) or is_done())
            return time.monotonic() - began, max(most)
        finally:
            process.terminate()
            process.wait(60)

    def _wait_for(self, is_so):
        for _ in range(12_000):
            if is_so():
                return
            time.sleep(0.05)
        raise TimeoutError

    def _worker(self):
        return TaskSyncs(self.connections, self.database, str(uuid.uuid4()))

    def _cycle(self, worker):
        with self.database.writing() as session:
            past = datetime.now(UTC) - timedelta(seconds=1)
            session.query(TaskSyncRow).update({"due_at": past, "look_at": past})
        for claimed in worker.claim(everything=False):
            worker.sync_person(*claimed, threading.Event(), everything=False)

    def _cycle_of_nothing(self, worker):
        """What the org has, asked for once an hour, is no part of what changes cost."""
        connection = _connection(self.database, self.anna)
        choices_of(
            worker.choices, SalesforceSession(self.connections, connection, api_reserve=10, clocks=Clocks())
        )

    def let_the_window_pass(self):
        """As after eleven minutes without a change."""
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        for row in self.org.org.rows["task"].values():
            row["SystemModstamp"] = long_ago
        with self.database.writing() as session:
            session.query(TaskSyncRow).update(
                {
                    "since": datetime.now(UTC) - timedelta(minutes=11),
                    "verify_at": datetime.now(UTC) + timedelta(hours=1),
                }
            )

    def _number(self):
        with self.database.reading() as session:
            return session.scalar(select(func.count()).select_from(TaskRow))

    def _sync(self):
        with self.database.reading() as session:
            return task_queue.task_sync(session, self.anna.id)

    def _is_due(self):
        with self.database.reading() as session:
            return bool(task_queue.due(session)) or bool(task_queue.in_hand(session))


def _connection(database, account):
    from core.salesforce import connection_store

    with database.reading() as session:
        return connection_store.connection(session, account.id)


def _summed(calls):
    found = Counter()
    for call, number in calls.items():
        found["GET queryAll" if "queryAll" in call else call] += number
    return found


def _count(written, statement):
    written[0] += statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE"))


_OUR_OWN = 1
"""The statement by which the bench makes a cycle due."""


@contextlib.contextmanager
def _waiting_counted(waited):
    """How long this process waits for answers."""
    real = door.WithTimeOut.send

    def counted(self, *arguments, **more):
        began = time.perf_counter()
        try:
            return real(self, *arguments, **more)
        finally:
            waited[0] += time.perf_counter() - began

    door.WithTimeOut.send = counted
    try:
        yield
    finally:
        door.WithTimeOut.send = real


@contextlib.contextmanager
def scene():
    with tempfile.TemporaryDirectory(prefix="blindcopy-bench-") as name:
        bench = Bench(Path(name))
        try:
            yield bench
        finally:
            bench.close()


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))

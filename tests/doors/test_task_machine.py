"""Promise 6 by a state machine: whatever is edited, deleted, lost and killed on both sides, two undisturbed cycles make every
linked pair equal, and every value that was here, or that a cycle has read, is there still, in the history or in the bin."""

import contextlib
import shutil
import tempfile
import threading
import uuid
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.database.engine import Database
from core.database.models import OrganisationRow
from core.database.task_models import TaskRow, TaskSyncRow
from core.endpoints import SalesforceApp
from core.refusal import Refusal
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field, Status
from core.tasks.task import Choices, Values, to_text
from sync.tasks.queue import TaskSyncs
from tests.doors.conftest import BOX, CALLBACK
from tests.doors.connected import person
from tests.doors.mail_bench import make_org
from tests.sandbox.org.faults import Fault

SUBJECTS = st.sampled_from(["a", "b", "x" * 300, "😀"])
FIELDS = st.one_of(
    st.tuples(st.just(Field.SUBJECT), SUBJECTS),
    st.tuples(st.just(Field.DUE), st.sampled_from([None, date(2026, 12, 1), date(2026, 12, 2)])),
    st.tuples(st.just(Field.PRIORITY), st.sampled_from(["High", "Normal", "Low"])),
    st.tuples(st.just(Field.COMMENTS), st.sampled_from(["", "c", "d\ne"])),
    st.tuples(st.just(Field.REMINDER), st.sampled_from([None, datetime(2026, 12, 1, 8, tzinfo=UTC)])),
)
STATUSES = ("Not Started", "In Progress", "Completed")
NEVER = 10_000


class Killed(BaseException):
    """The process is gone, right here."""


class Mortal(Database):
    """A database whose process is killed at a certain transaction, before it or right after it is on disk."""

    left = NEVER

    @contextlib.contextmanager
    def writing(self):
        self._step()
        with super().writing() as session:
            yield session
        self._step()

    @contextlib.contextmanager
    def reading(self):
        if self.left <= 0:
            raise Killed
        with super().reading() as session:
            yield session

    def _step(self):
        self.left -= 1
        if self.left <= 0:
            raise Killed


class Machine(RuleBasedStateMachine):
    org = template = None

    def __init__(self):
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        shutil.copy(self.template, self.directory / "blindcopy.db")
        self.url = f"sqlite:///{self.directory}/blindcopy.db"
        self.database = Database(self.url, BOX)
        self.org.org.rows["task"].clear()
        self.org.faults.clear()
        self.org.org.features.blindcopy_key = False
        self.app = SalesforceApp(
            "blindcopy-client", "blindcopy-secret", CALLBACK, self.org.url, self.org.ca_file
        )
        with self.database.reading() as session:
            from core.people.store import person_by_email

            self.anna = person_by_email(session, "anna@acme.test")
        # of its own: a token that an earlier run has rotated is dead
        token = self.org.tokens.issue(self.org.anna, uuid.uuid4().hex, with_refresh=True)["refresh_token"]
        Connections(self.database, self.app).by_refresh_token(
            self.anna, token, instance_url=self.org.url, user_id=self.org.anna, actor=None
        )
        self.made_here = self.made_there = self.undeleted = 0
        self.were_here, self.were_read = set(), set()

    @initialize()
    def first_sync(self):
        with self.database.writing() as session:
            settings_store.set_preference(session, self.anna, Setting.TASK_SYNC, "both-ways", actor=None)
        self.cycle(everything=True)

    # -- here

    @rule(subject=SUBJECTS)
    def add(self, subject):
        with self.database.writing() as session:
            task_store.add(session, self.anna.id, Values(subject=subject), is_wanted=True)
        self.made_here += 1

    @precondition(lambda self: self.rows())
    @rule(data=st.data(), change=FIELDS)
    def edit(self, data, change):
        self.do(data, lambda session, row: task_store.edit(session, self.anna.id, row.id, dict([change])))

    @precondition(lambda self: self.rows())
    @rule(data=st.data(), verb=st.sampled_from(["complete", "reopen", "delete", "restore"]))
    def verb(self, data, verb):
        def act(session, row):
            if verb == "restore":
                task_store.restore(session, self.anna.id, row.id, is_wanted=True)
            elif verb == "delete":
                task_store.remove(session, self.anna.id, row.id)
            else:
                getattr(task_store, verb)(session, self.anna.id, row.id, Choices())

        self.do(data, act)

    def do(self, data, act):
        row = data.draw(st.sampled_from(self.rows()))
        with contextlib.suppress(Refusal), self.database.writing() as session:
            act(session, row)

    # -- there

    @rule(subject=SUBJECTS)
    def add_there(self, subject):
        self.org.org.put("Task", Subject=subject[:255], OwnerId=self.org.anna, CreatedById=self.org.anna)
        self.made_there += 1

    @precondition(lambda self: self.records())
    @rule(
        data=st.data(),
        change=FIELDS | st.tuples(st.just(Field.STATUS), st.sampled_from(STATUSES)),
        is_long_ago=st.booleans(),
    )
    def edit_there(self, data, change, is_long_ago):
        record = data.draw(st.sampled_from(self.records()))
        name, value = change
        values = {
            Field.SUBJECT: lambda: {"Subject": value[:255]}, Field.DUE: lambda: {"ActivityDate": value and value.isoformat()},
            Field.PRIORITY: lambda: {"Priority": value}, Field.COMMENTS: lambda: {"Description": value or None},
            Field.STATUS: lambda: {"Status": value},
            Field.REMINDER: lambda: {"IsReminderSet": value is not None, "ReminderDateTime": value and "2026-12-01T08:00:00Z"},
        }[name]()  # fmt: skip
        self.org.org.update("Task", record["Id"], values, self.org.anna)
        if is_long_ago:  # so that what is edited here is the later
            record["LastModifiedDate"] -= timedelta(minutes=5)

    @precondition(lambda self: self.records())
    @rule(data=st.data())
    def delete_there(self, data):
        self.org.org.delete("Task", data.draw(st.sampled_from(self.records()))["Id"], self.org.anna)

    @rule(data=st.data())
    @precondition(lambda self: any(row["IsDeleted"] for row in self.org.org.rows["task"].values()))
    def undelete_there(self, data):
        record = data.draw(
            st.sampled_from([row for row in self.org.org.rows["task"].values() if row["IsDeleted"]])
        )
        record |= {"IsDeleted": False, "SystemModstamp": datetime.now(UTC) + timedelta(seconds=2)}
        self.undeleted += 1

    # -- between

    @rule(everything=st.booleans())
    def undisturbed_cycle(self, everything):
        self.read()
        self.cycle(everything=everything)

    @rule()
    def cycle_that_only_sends(self):
        self.cycle(everything=False, looks=False)

    @rule(
        fault=st.sampled_from([Fault.HTML, Fault.GARBAGE, Fault.LOST, Fault.LOCKED, Fault.EXPIRED]),
        path=st.sampled_from(["queryAll", "composite/sobjects/Task", "composite/sobjects$", ""]), times=st.integers(1, 2),
    )  # fmt: skip
    def cycle_with_a_fault(self, fault, path, times):
        self.org.faults.order(fault, path, times=times)
        self.cycle(everything=True)
        self.org.faults.clear()

    @rule(steps=st.integers(1, 14), everything=st.booleans())
    def killed_cycle(self, steps, everything):
        self.cycle(everything=everything, steps=steps)

    def cycle(self, *, everything, steps=NEVER, looks=True):
        database = Mortal(self.url, BOX)
        database.is_up_to_date = True
        database.left = steps
        worker = TaskSyncs(Connections(database, self.app), database, str(uuid.uuid4()))
        with self.database.writing() as session:
            past = datetime.now(UTC) - timedelta(seconds=1)
            session.query(TaskSyncRow).update({"due_at": past, **({"look_at": past} if looks else {})})
        try:
            for claimed in worker.claim(everything=everything):
                worker.sync_person(*claimed, threading.Event(), everything=everything)
        except Killed:
            pass
        finally:
            worker.finish()
            database.close()
        with self.database.writing() as session:  # its silence has been long enough
            session.query(TaskSyncRow).update({"claimed_by": None})
            session.query(OrganisationRow).update({"paused_until": None, "pauses": 0})
            sync = session.get(TaskSyncRow, self.anna.id)
            if sync.plan is not None:
                task_queue.confirm(session, self.anna.id)

    # -- what must hold

    @invariant()
    def remember(self):
        for row in self.rows():
            for field in Field:
                self.were_here.add((row.id, field, to_text(field, task_store.values_of(row).of(field))))

    def read(self):
        """What a cycle is about to read of linked tasks."""
        for row in self.rows():
            record = self.org.org.row(row.salesforce_id) if row.salesforce_id else None
            if record is not None and not record["IsDeleted"] and row.binned_at is None:
                self.were_read |= {
                    (row.id, field, to_text(field, value)) for field, value in _there(record).items()
                }

    def teardown(self):
        try:
            self.settle()
            self.check()
        finally:
            self.database.close()
            shutil.rmtree(self.directory)

    def settle(self):
        for _ in range(2):
            self.read()
            self.cycle(everything=True)
            with self.database.writing() as session:  # what could still show has shown by now
                session.query(TaskRow).filter(TaskRow.not_before.is_not(None)).update(
                    {"not_before": datetime.now(UTC) - timedelta(seconds=1)}
                )
            self.cycle(everything=True)
            self.remember()

    def check(self):
        rows = self.rows()
        alive = {row.salesforce_id: row for row in rows if row.binned_at is None}
        assert set(alive) == {record["Id"] for record in self.records()}
        for record_id, row in alive.items():
            mine, theirs = task_store.values_of(row), _there(self.org.org.row(record_id))
            for field in Field:
                held = mine.of(field)[:255] if field is Field.SUBJECT else mine.of(field)
                assert held == theirs[field], (field, held, theirs[field])
            assert not row.is_waiting
        # what was restored here as new, and is undeleted there as well, is two tasks
        assert len(rows) <= self.made_here + self.made_there + self.undeleted
        with self.database.reading() as session:
            kept = {
                row.id: {(one.field, one.value) for one in task_store.history(session, row.id)}
                for row in rows
            }
        for row in rows:
            kept[row.id] |= {(field, to_text(field, task_store.values_of(row).of(field))) for field in Field}
        for task_id, field, value in self.were_here:
            assert (field, value) in kept[task_id], (task_id, field, value)
        for task_id, field, value in self.were_read:
            is_the_beginning = any(
                name is field and value is not None and len(value) == 255 and (one or "").startswith(value)
                for name, one in kept[task_id]
            )
            assert (field, value) in kept[task_id] or is_the_beginning, (task_id, field, value)

    def rows(self):
        with self.database.reading() as session:
            return session.query(TaskRow).order_by(TaskRow.id).all()

    def records(self):
        return [row for row in self.org.org.rows["task"].values() if not row["IsDeleted"]]


def _there(record):
    return {
        Field.SUBJECT: record["Subject"] or "", Field.DUE: record["ActivityDate"], Field.PRIORITY: record["Priority"],
        Field.COMMENTS: record["Description"] or "", Field.STATUS: Status(record["Status"], not record["IsClosed"]),
        Field.REMINDER: record["ReminderDateTime"] if record["IsReminderSet"] else None,
    }  # fmt: skip


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    org = make_org()
    path = tmp_path_factory.mktemp("machine") / "template.db"
    database = Database(f"sqlite:///{path}", BOX)
    database.migrate()
    person(database)
    database.close()
    Machine.org, Machine.template = org, path
    yield
    org.stop()


def test_no_task_is_lost(scene):
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )

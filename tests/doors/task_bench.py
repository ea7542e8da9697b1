"""A person with tasks, a worker, and a pretend org to keep them the same with."""

import contextlib
import time
from datetime import UTC, datetime, timedelta

import pytest

from core.database.task_models import TaskSyncRow
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import picklists
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field
from core.tasks.lists import Which, listed
from core.tasks.task import Choices, Values
from sync.worker import Worker
from tests.doors.bcc_lookup import config
from tests.doors.connected import connected, person
from tests.doors.mail_bench import make_org


class TaskBench:
    """Anna, connected, with task sync both ways; her org, and a worker."""

    def __init__(self, database, org, app, tmp_path, url):
        self.database, self.org, self.app = database, org, app
        self.anna = person(database)
        self.connections = Connections(database, app)
        connected(self.connections, org, app, self.anna)
        self.config = config(org, tmp_path, url)
        self.worker, self.runner = Worker(database, self.config), Worker(database, self.config)

    # -- the person

    def on(self, value="both-ways"):
        self.set(Setting.TASK_SYNC, value)

    def set(self, name, value):
        with self.database.writing() as session:
            settings_store.set_preference(session, self.anna, name, value, actor=None)

    def policy(self, name, value):
        with self.database.writing() as session:
            settings_store.set_policy(session, name, value, actor=None)

    def add(self, subject="Call Bob", *, is_wanted=None, **values):
        with self.database.writing() as session:
            wanted = settings_store.syncs_tasks_of(session, self.anna.id) if is_wanted is None else is_wanted
            return task_store.add(session, self.anna.id, Values(subject=subject, **values), is_wanted=wanted)

    def edit(self, task_id, **changes):
        with self.database.writing() as session:
            task_store.edit(
                session, self.anna.id, task_id, {Field(name): value for name, value in changes.items()}
            )

    def do(self, what, task_id, *more, **named):
        with self.database.writing() as session:
            what(session, self.anna.id, task_id, *more, **named)

    def complete(self, task_id):
        self.do(task_store.complete, task_id, self.choices())

    def reopen(self, task_id):
        self.do(task_store.reopen, task_id, self.choices())

    def delete(self, task_id):
        self.do(task_store.remove, task_id)

    def choices(self):
        with self.database.reading() as session:
            sync = task_queue.task_sync(session, self.anna.id)
            return picklists.choices(session, sync and sync.organisation_id)

    # -- what is here

    def task(self, task_id):
        with self.database.reading() as session:
            return task_store.task(session, self.anna.id, task_id)

    def all(self, which=Which.ALL):
        with self.database.reading() as session:
            return listed(session, self.anna.id, which, datetime.now(UTC), Choices())

    def only(self, which=Which.ALL):
        [found] = self.all(which)
        return found

    def history(self, task_id):
        with self.database.reading() as session:
            return task_store.history(session, task_id)

    def sync(self):
        with self.database.reading() as session:
            return task_queue.task_sync(session, self.anna.id)

    def is_equal(self, task_id):
        task = self.task(task_id)
        there = self.org.org.row(task.salesforce_id)
        values = task.values
        reminder = there["ReminderDateTime"] if there["IsReminderSet"] else None
        return (values.subject, values.due, values.status.name, values.status.is_open, values.priority, values.comments, values.reminder) == (
            there["Subject"] or "", there["ActivityDate"], there["Status"], not there["IsClosed"], there["Priority"],
            there["Description"] or "", reminder,
        )  # fmt: skip

    # -- Salesforce

    def there(self, subject="Call Bob", **values):
        whose = {"OwnerId": self.org.anna, "CreatedById": self.org.anna}
        return self.org.org.put("Task", Subject=subject, **(whose | values))

    def change(self, record_id, **values):
        self.org.org.update("Task", record_id, values, self.org.anna)

    def remove(self, record_id):
        self.org.org.delete("Task", record_id, self.org.anna)

    def record(self, record_id):
        return self.org.org.row(record_id)

    def records(self):
        return [row for row in self.org.org.rows["task"].values() if not row["IsDeleted"]]

    # -- the worker

    def once(self):
        return self.worker.once()

    def cycle(self):
        """As the running worker does it: what is due, at its pace."""
        with self.database.writing() as session:
            past = datetime.now(UTC) - timedelta(seconds=1)
            session.query(TaskSyncRow).update({"due_at": past, "look_at": past})
        self.runner.beat()
        self.runner.sync_tasks()
        while self.runner.tasks.in_hand:
            time.sleep(0.01)

    def calls(self, what=None):
        """The calls of Task of what is done."""
        before = len(self.org.calls)
        (what or self.cycle)()
        return self.org.calls[before:]


@pytest.fixture(params=[{}])
def org(request):
    pretend = make_org(**request.param)
    yield pretend
    pretend.stop()


@pytest.fixture
def bench(sqlite, org, org_app, tmp_path):
    return TaskBench(sqlite, org, org_app, tmp_path, None)


class OnBothDatabases:
    """What concerns locks, claims, and each kind of statement is asked of SQLite and of PostgreSQL."""

    @pytest.fixture
    def bench(self, database, org, org_app, tmp_path, database_url):
        return TaskBench(database, org, org_app, tmp_path, database_url)


@pytest.fixture
def linked(bench):
    """A task that is on both sides."""
    bench.on()
    bench.once()
    bench.linked = bench.add()
    assert bench.once()
    return bench.linked


def confirm(bench):
    with bench.database.writing() as session:
        task_queue.confirm(session, bench.anna.id)


def _token(bench):
    from core.salesforce import connection_store

    with bench.database.reading() as session:
        return connection_store.connection(session, bench.anna.id)


@contextlib.contextmanager
def without_connection(bench):
    from core.database.models import ConnectionRow

    with bench.database.writing() as session:
        row = session.get(ConnectionRow, bench.anna.id)
        kept = {column.name: getattr(row, column.name) for column in ConnectionRow.__table__.columns}
        session.delete(row)
    yield
    with bench.database.writing() as session:
        session.add(ConnectionRow(**kept))


def raising(error):
    def raises(*_, **__):
        raise error

    return raises

"""Tasks, the same here and in the pretend org: what a person does on either side, and what goes wrong between."""

import contextlib
import time
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import event

from core.database.models import ProcessRow
from core.database.task_models import TaskRow, TaskSyncRow
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import links as task_links
from core.tasks import picklists
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.lists import Which, listed
from core.tasks.task import Choices, Field, Related, State, Status, Values
from sync.worker import Worker
from tests.doors.test_connections import connected, person
from tests.doors.test_mails import make_org
from tests.doors.test_pick_up import config
from tests.sandbox.org.faults import Fault


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


class TestFirstSync(OnBothDatabases):
    def test_brings_in_what_was_changed_within_a_day_and_sends_nothing(self, bench):
        old = [bench.add(f"old {n}") for n in range(3)]
        bench.there("mine")
        bench.there(
            "somebody else's", OwnerId=bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        )
        bench.on()
        assert bench.once()
        assert sorted(one.values.subject for one in bench.all()) == ["mine", "old 0", "old 1", "old 2"]
        bench.edit(old[0], subject="old and edited")
        assert bench.once()
        assert [row["Subject"] for row in bench.records()] == ["mine", "somebody else's"]
        assert bench.task(old[0]).state is State.LOCAL

    def test_the_window_is_a_day_and_its_edge_belongs_to_it(self, bench):
        bench.on()
        edge = bench.sync().enabled_at - timedelta(hours=24)
        for minutes, subject in ((1, "23:59"), (0, "24:00"), (-1, "24:01")):
            at = edge + timedelta(minutes=minutes)
            bench.there(subject, LastModifiedDate=at, SystemModstamp=at, CreatedDate=at)
        assert bench.once()
        assert sorted(one.values.subject for one in bench.all()) == ["23:59", "24:00"]

    def test_what_was_moved_by_a_machine_only_does_not_come_in(self, bench):
        bench.on()
        old = datetime.now(UTC) - timedelta(days=9)
        bench.there("old", LastModifiedDate=old)  # its SystemModstamp is new
        assert bench.once()
        assert bench.all() == []

    def test_a_task_is_sent_when_the_person_says_so(self, bench):
        task_id = bench.add("old")
        bench.on()
        bench.once()
        bench.do(task_store.send, task_id, is_syncing=True)
        assert bench.task(task_id).state is State.WAITING
        assert bench.once()
        assert bench.is_equal(task_id)

    def test_the_same_task_on_both_sides_is_paired_and_salesforce_wins(self, bench):
        task_id = bench.add("Call Bob", due=date(2026, 12, 1), comments="mine")
        there = bench.there("Call Bob", ActivityDate=date(2026, 12, 1), Description="theirs")
        bench.on()
        assert bench.once()
        task = bench.only()
        assert (task.id, task.salesforce_id, task.values.comments) == (task_id, there, "theirs")
        assert [(one.field, one.value, one.why) for one in bench.history(task_id)] == [
            (Field.COMMENTS, "mine", "paired")
        ]

    @pytest.mark.parametrize("side", ["here", "there", "there, out of the window"])
    def test_where_there_is_doubt_nothing_is_paired(self, bench, side):
        for _ in range(2 if side == "here" else 1):
            bench.add("Call Bob")
        for number in range(1 if side == "here" else 2):
            old = datetime.now(UTC) - timedelta(days=3)
            is_old = side == "there, out of the window" and number
            bench.there("Call Bob", **({"LastModifiedDate": old, "SystemModstamp": old} if is_old else {}))
        bench.on()
        assert bench.once()
        assert sum(one.salesforce_id is None for one in bench.all()) == (2 if side == "here" else 1)

    def test_a_plan_is_shown_first_where_the_policy_asks_for_it(self, bench):
        bench.policy(Setting.CONFIRM_FIRST_SYNC, "yes")
        bench.add("Call Bob")
        for subject in ("Call Bob", "one", "two"):
            bench.there(subject)
        bench.on()
        assert bench.once()
        assert (len(bench.all()), bench.sync().plan) == (
            1,
            task_queue.Plan(task_queue.Asks.FIRST, 2, 1, 0, 0),
        )
        assert bench.once()
        assert len(bench.all()) == 1
        with bench.database.writing() as session:
            task_queue.confirm(session, bench.anna.id)
        assert bench.once()
        assert (len(bench.all()), bench.sync().plan) == (3, None)

    @pytest.mark.parametrize(
        "values",
        [{"TaskSubtype": "Email"}, {"TaskSubtype": "List Email"}, {"TaskSubtype": "Call"}, {"IsRecurrence": True},
         {"Type": "Email", "TaskSubtype": None}, {"Description": "Hello\n\nMessage-ID: <1@acme.test>"}],
    )  # fmt: skip
    def test_what_is_no_task_stays_out(self, bench, values):
        bench.there(**values)
        bench.on()
        assert bench.once()
        assert bench.all() == []

    def test_a_task_that_is_the_log_of_a_mail_stays_out_whatever_became_of_it(self, bench):
        from core.database.task_models import OwnTaskRow

        log = bench.there("Email: Our offer", Description="changed")
        with bench.database.writing() as session:
            session.add(OwnTaskRow(salesforce_id=log[:15]))
        bench.on()
        assert bench.once()
        assert bench.all() == []


class TestEveryVerbBothWays(OnBothDatabases):
    def test_create_here(self, bench, linked):
        assert bench.is_equal(linked)
        assert bench.task(linked).state is State.IN_SYNC

    def test_create_there(self, bench, linked):
        there = bench.there("theirs", ActivityDate=date(2026, 12, 24), Priority="Low", Status="In Progress", Description="a\r\nb",
                            IsReminderSet=True, ReminderDateTime=datetime(2026, 12, 23, 8, tzinfo=UTC))  # fmt: skip
        assert bench.once()
        [task] = [one for one in bench.all() if one.id != linked]
        assert task.salesforce_id == there
        assert bench.is_equal(task.id)

    def test_edit_here(self, bench, linked):
        bench.edit(linked, subject="Call Eve", due=date(2026, 12, 2), priority="High", comments="soon",
                   reminder=datetime(2026, 12, 1, 9, tzinfo=UTC))  # fmt: skip
        assert bench.task(linked).state is State.WAITING
        assert bench.once()
        assert bench.is_equal(linked)
        bench.edit(linked, due=None, comments="", reminder=None)
        assert bench.once()
        assert bench.is_equal(linked)
        assert bench.task(linked).values.reminder is None

    def test_edit_there(self, bench, linked):
        bench.change(
            bench.task(linked).salesforce_id,
            Subject="Call Eve",
            ActivityDate="2026-12-02",
            Priority="Low",
            Description="soon",
        )
        assert bench.once()
        assert bench.task(linked).values.subject == "Call Eve"
        assert bench.is_equal(linked)

    def test_complete_and_reopen_here(self, bench, linked):
        bench.complete(linked)
        assert bench.once()
        assert bench.record(bench.task(linked).salesforce_id)["Status"] == "Completed"
        bench.reopen(linked)
        assert bench.once()
        assert bench.record(bench.task(linked).salesforce_id)["Status"] == "Not Started"

    def test_complete_and_reopen_there(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Status="Completed")
        assert bench.once()
        assert not bench.task(linked).values.status.is_open
        bench.change(there, Status="Waiting on someone else")
        assert bench.once()
        assert bench.task(linked).values.status == Status("Waiting on someone else")

    def test_delete_here(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.delete(linked)
        assert bench.once()
        assert bench.record(there)["IsDeleted"]
        assert bench.only(Which.BIN).id == linked

    def test_delete_there(self, bench, linked):
        bench.remove(bench.task(linked).salesforce_id)
        assert bench.once()
        assert bench.all() == []
        assert bench.only(Which.BIN).binned is task_store.Binned.SALESFORCE

    def test_echoes_cause_no_write(self, bench, linked):
        bench.there("theirs")
        bench.once()
        stamps = [row["SystemModstamp"] for row in bench.records()]
        versions = [one.version for one in bench.all()]
        for _ in range(3):
            assert not [
                call
                for call in bench.calls(bench.once)
                if "composite/sobjects" in call and "Task" not in call
            ]
        assert [row["SystemModstamp"] for row in bench.records()] == stamps
        assert [one.version for one in bench.all()] == versions


class TestStatusAndPriority:
    def test_an_edit_leaves_a_finer_status_and_priority_alone(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Status="Deferred", Priority="Low")
        bench.once()
        bench.edit(linked, subject="other")
        assert bench.once()
        row = bench.record(there)
        assert (row["Subject"], row["Status"], row["Priority"]) == ("other", "Deferred", "Low")

    def test_completed_and_reopened_before_the_worker_came_is_as_it_was(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Status="In Progress")
        bench.once()
        bench.complete(linked)
        bench.reopen(linked)
        assert bench.once()
        assert bench.record(there)["Status"] == "In Progress"

    def test_two_ways_of_being_done_are_one_and_salesforces_word_stands(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.org.org.put(
            "TaskStatus", ApiName="Won", MasterLabel="Won", IsClosed=True, IsDefault=False, SortOrder=9
        )
        row = bench.record(there)
        row |= {
            "Status": "Won",
            "IsClosed": True,
            "SystemModstamp": datetime.now(UTC),
            "LastModifiedDate": datetime.now(UTC),
        }
        bench.complete(linked)
        assert bench.once()
        assert bench.task(linked).values.status == Status("Won", is_open=False)
        assert bench.record(there)["Status"] == "Won"
        assert bench.task(linked).state is State.IN_SYNC

    def test_a_status_that_the_organisation_removed_becomes_its_own_word(self, bench, linked):
        """Its statuses were asked for; then an admin renamed “Completed”."""
        field = bench.org.org.objects["task"].fields["status"]
        renamed = type(field)(**{**vars(field), "values": ("Not Started", "Done")})
        bench.org.org.objects["task"].fields["status"] = renamed
        for row in bench.org.org.rows["taskstatus"].values():
            if row["ApiName"] == "Completed":
                row |= {"ApiName": "Done", "MasterLabel": "Done"}
        bench.complete(linked)
        for _ in range(3):
            bench.once()
        assert bench.record(bench.task(linked).salesforce_id)["Status"] == "Done"
        assert bench.is_equal(linked)
        assert bench.task(linked).state is State.IN_SYNC


class TestConflicts:
    def test_the_later_wins_and_the_loser_is_one_click_away(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Subject="theirs")
        early = datetime.now(UTC) - timedelta(minutes=2)
        bench.record(there)["LastModifiedDate"] = early
        bench.edit(linked, subject="ours")
        assert bench.once()
        assert (bench.task(linked).values.subject, bench.record(there)["Subject"]) == ("ours", "ours")
        assert bench.task(linked).state is State.CONFLICT
        [loser] = [one for one in bench.history(linked) if one.why == "conflict"]
        assert (loser.value, loser.side) == ("theirs", "salesforce")
        bench.do(task_store.restore_value, linked, loser.id, bench.choices())
        assert bench.once()
        assert bench.record(there)["Subject"] == "theirs"
        assert bench.task(linked).state is State.IN_SYNC

    def test_within_two_seconds_salesforce_wins(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.edit(linked, subject="ours")
        bench.change(there, Subject="theirs")
        assert bench.once()
        assert (bench.task(linked).values.subject, bench.record(there)["Subject"]) == ("theirs", "theirs")
        assert [one.value for one in bench.history(linked) if one.why == "conflict"] == ["ours"]

    def test_different_fields_are_no_conflict(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Description="theirs")
        bench.edit(linked, subject="ours")
        assert bench.once()
        assert bench.is_equal(linked)
        row = bench.record(there)
        assert (row["Subject"], row["Description"], bench.task(linked).state) == (
            "ours",
            "theirs",
            State.IN_SYNC,
        )

    def test_a_clock_that_is_wrong_decides_nothing(self, bench, linked):
        """Salesforce is an hour ahead; what was edited here last is the later."""
        skew = timedelta(hours=1)
        bench.org.app.extensions["skew"] = skew
        bench.org.org.clock = lambda: datetime.now(UTC) + skew
        there = bench.task(linked).salesforce_id
        bench.change(there, Subject="theirs")
        bench.record(there)["LastModifiedDate"] -= timedelta(minutes=1)
        bench.edit(linked, subject="ours")
        assert bench.once()
        assert bench.record(there)["Subject"] == "ours"

    def test_deleted_on_one_side_and_edited_on_the_other_is_deleted_and_can_be_had_back(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.edit(linked, subject="edited here")
        bench.remove(there)
        assert bench.once()
        assert bench.only(Which.BIN).values.subject == "edited here"
        bench.do(task_store.restore, linked, is_wanted=True)
        assert bench.once()
        task = bench.task(linked)
        assert task.salesforce_id not in {None, there}
        assert bench.is_equal(linked)

    def test_what_was_edited_there_is_in_the_bin_too(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Subject="edited there")
        bench.delete(linked)
        assert bench.once()
        assert bench.record(there)["IsDeleted"]
        told = {bench.only(Which.BIN).values.subject} | {one.value for one in bench.history(linked)}
        assert "edited there" in told

    def test_taken_out_of_the_bin_before_the_worker_came_nothing_has_happened(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.delete(linked)
        bench.do(task_store.restore, linked, is_wanted=True)
        assert bench.once()
        assert (bench.task(linked).salesforce_id, bench.record(there)["IsDeleted"]) == (there, False)

    def test_undeleted_there_it_is_back(self, bench, linked):
        there = bench.task(linked).salesforce_id
        for delete in (lambda: bench.remove(there), lambda: bench.delete(linked)):
            delete()
            bench.once()
            assert bench.all() == []
            later = datetime.now(UTC) + timedelta(seconds=3)
            bench.record(there).update(IsDeleted=False, SystemModstamp=later)
            assert bench.once()
            assert bench.only().salesforce_id == there


class TestOwners:
    @pytest.fixture
    def carl(self, bench):
        """Another person of the same organisation, who syncs as well."""
        user = bench.org.org.put(
            "User", Username="carl@acme.test", Name="Carl", Email="c@acme.test", IsActive=True
        )
        account = person(bench.database, "carl@acme.test")
        bench.org.tokens.client.default_user = user
        return account, user

    def test_a_task_that_is_reassigned_leaves_the_list_and_comes_back(self, bench, linked):
        there = bench.task(linked).salesforce_id
        stranger = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        bench.edit(linked, comments="not synchronised yet")
        bench.change(there, OwnerId=stranger)
        assert bench.once()
        assert bench.once()
        assert bench.all() == []
        assert bench.only(Which.BIN).binned is task_store.Binned.REASSIGNED
        assert not bench.record(there)["IsDeleted"]
        bench.change(there, OwnerId=bench.org.anna)
        assert bench.once()
        assert (bench.only().id, bench.only().salesforce_id) == (linked, there)

    def test_one_that_is_assigned_to_the_person_comes_in(self, bench, linked):
        stranger = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        there = bench.there("theirs", OwnerId=stranger)
        bench.once()
        assert len(bench.all()) == 1
        bench.change(there, OwnerId=bench.org.anna)
        assert bench.once()
        assert there in {one.salesforce_id for one in bench.all()}

    def test_whom_it_is_about_is_shown_and_followed_through_a_merge(self, bench, linked):
        put = bench.org.org.put
        bob, rob = put("Contact", LastName="Bob"), put("Contact", LastName="Rob")
        there = bench.there("about", WhoId=bob, WhatId=put("Account", Name="Client"))
        bench.once()
        [task] = [one for one in bench.all() if one.salesforce_id == there]
        assert (task.who, task.what[1]) == ((bob, "Bob"), "Client")
        bench.record(there)["WhoId"] = rob  # as a merge does it: no trigger, no stamp
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update({"since": datetime.now(UTC) + timedelta(days=1)})
        assert bench.once()
        assert bench.task(task.id).who == (rob, "Rob")


class TestHalt(OnBothDatabases):
    @pytest.fixture
    def seven(self, bench):
        bench.on()
        ids = [bench.there(f"task {n}") for n in range(7)]
        assert bench.once()
        return ids

    def test_more_than_half_lost_there_is_asked_about(self, bench, seven):
        for one in seven[:4]:
            bench.remove(one)
        assert bench.once()
        assert bench.sync().plan == task_queue.Plan(task_queue.Asks.LOST_THERE, 0, 0, 4, 7)
        bench.edit(bench.all()[0].id, comments="waits")
        assert bench.once()
        assert len(bench.all()) == 7
        with bench.database.writing() as session:
            task_queue.confirm(session, bench.anna.id)
        assert bench.once()
        assert (len(bench.all()), bench.sync().plan) == (3, None)

    def test_half_of_them_is_believed(self, bench, seven):
        for one in seven[:3]:
            bench.remove(one)
        assert bench.once()
        assert len(bench.all()) == 4

    def test_more_than_half_deleted_here_is_asked_about(self, bench, seven):
        for one in bench.all()[:4]:
            bench.delete(one.id)
        assert bench.once()
        assert bench.sync().plan == task_queue.Plan(task_queue.Asks.LOST_HERE, 0, 0, 4, 7)
        assert len(bench.records()) == 7
        with bench.database.writing() as session:
            task_queue.confirm(session, bench.anna.id)
        assert bench.once()
        assert len(bench.records()) == 3

    def test_an_org_that_shows_nothing_any_more_is_asked_about(self, bench, seven):
        bench.org.org.rows["task"].clear()
        assert bench.once()
        assert bench.sync().plan.asks is task_queue.Asks.LOST_THERE
        assert len(bench.all()) == 7


class TestFinding:
    def test_a_task_that_was_purged_is_missed(self, bench, linked):
        del bench.org.org.rows["task"][bench.task(linked).salesforce_id]
        assert bench.once()
        assert bench.only(Which.BIN).binned is task_store.Binned.GONE

    def test_an_archived_task_is_still_there(self, bench, linked):
        bench.record(bench.task(linked).salesforce_id).update(
            IsArchived=True, Subject="old", SystemModstamp=datetime.now(UTC)
        )
        assert bench.once()
        assert bench.only().values.subject == "old"

    def test_a_commit_that_shows_late_is_seen(self, bench, linked):
        bench.org.org.seen_after = timedelta(seconds=1)
        there = bench.org.org.create("Task", {"Subject": "late"}, bench.org.anna)
        bench.cycle()
        bench.cycle()
        assert len(bench.all()) == 1
        bench.org.org.shown_at[there] = datetime.now(UTC)
        bench.cycle()
        assert there in {one.salesforce_id for one in bench.all()}

    def test_many_changes_within_a_second_are_all_seen(self, bench, linked):
        at = datetime.now(UTC).replace(microsecond=0)
        ids = {bench.there(f"task {n}", SystemModstamp=at, LastModifiedDate=at) for n in range(2_050)}
        bench.cycle()
        assert ids <= {one.salesforce_id for one in bench.all()}

    def test_what_was_changed_without_a_stamp_is_found_in_rotation(self, bench, linked):
        bench.record(bench.task(linked).salesforce_id)["Subject"] = "silently"
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update(
                {"since": datetime.now(UTC) + timedelta(days=1), "verify_at": datetime.now(UTC)}
            )
        bench.cycle()
        assert bench.task(linked).values.subject == "silently"

    def test_a_quiet_cycle_is_one_call(self, bench, linked):
        bench.cycle()
        assert bench.calls() == ["GET queryAll/"]

    def test_what_is_changed_here_waits_for_no_look(self, bench, linked):
        bench.cycle()
        bench.edit(linked, subject="soon")

        def due():
            bench.runner.sync_tasks()
            while bench.runner.tasks.in_hand:
                time.sleep(0.01)

        assert bench.calls(due) == ["POST composite/sobjects/Task", "PATCH composite/sobjects"]
        assert bench.is_equal(linked)
        assert bench.calls(due) == []


class TestOffAndOn(OnBothDatabases):
    def test_off_both_directions_stop_and_nothing_is_deleted(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.on("off")
        bench.edit(linked, subject="ours")
        bench.change(there, Description="theirs")
        assert bench.once()
        assert (bench.task(linked).values.comments, bench.record(there)["Subject"]) == ("", "Call Bob")

    def test_on_again_what_happened_meanwhile_is_applied(self, bench, linked):
        second = bench.add("second")
        third = bench.add("third")
        bench.once()
        bench.on("off")
        bench.edit(linked, subject="ours")
        bench.change(bench.task(linked).salesforce_id, Description="theirs")
        bench.remove(bench.task(second).salesforce_id)
        gone = bench.task(third).salesforce_id
        bench.delete(third)
        local = bench.add("made while off")
        bench.on()
        assert bench.once()
        assert bench.is_equal(linked)
        assert bench.task(linked).values == Values("ours", comments="theirs")
        assert bench.task(second).state is State.BIN
        assert bench.record(gone)["IsDeleted"]
        assert bench.task(local).state is State.LOCAL

    def test_what_is_gone_since_longer_than_the_bin_remembers_is_asked_about(self, bench, linked):
        bench.on("off")
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update({"succeeded_at": datetime.now(UTC) - timedelta(days=16)})
        del bench.org.org.rows["task"][bench.task(linked).salesforce_id]
        bench.on()
        assert bench.once()
        assert bench.sync().plan == task_queue.Plan(task_queue.Asks.GONE, 0, 0, 1, 1)
        assert bench.task(linked).state is State.IN_SYNC
        with bench.database.writing() as session:
            task_queue.confirm(session, bench.anna.id)
        assert bench.once()
        assert bench.task(linked).state is State.BIN


class TestFaults:
    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.LIMIT, Fault.BARE_401])
    @pytest.mark.parametrize("path", ["queryAll", "composite/sobjects/Task", "composite/sobjects$"])
    def test_whatever_breaks_off_is_done_the_next_time(self, bench, linked, fault, path):
        bench.edit(linked, subject="ours")
        bench.add("new")
        bench.there("theirs")
        bench.org.faults.order(fault, path)
        bench.once()
        with bench.database.writing() as session:
            from core.database.models import OrganisationRow

            session.query(OrganisationRow).update({"paused_until": None, "pauses": 0})
            session.query(TaskRow).filter(TaskRow.not_before.is_not(None)).update(
                {"not_before": datetime.now(UTC) - timedelta(seconds=1)}
            )
        assert bench.once() or bench.once()
        assert len(bench.records()) == len(bench.all()) == 3
        assert all(bench.is_equal(one.id) for one in bench.all())

    @pytest.mark.parametrize("org", [{}, {"blindcopy_key": True}], indirect=True)
    def test_a_create_whose_answer_was_lost_is_found_and_not_repeated(self, bench, linked):
        task_id = bench.add("new", comments="x")
        bench.org.faults.order(Fault.LOST, "composite/sobjects$", method="POST")
        assert not bench.once()
        assert bench.task(task_id).state is State.WAITING
        bench.edit(task_id, subject="edited meanwhile")
        assert bench.once()
        assert len([row for row in bench.records() if row["Description"] == "x"]) == 1
        assert bench.is_equal(task_id)

    def test_one_that_was_never_made_is_made_when_it_would_have_shown(self, bench, linked):
        task_id = bench.add("new")
        bench.org.faults.order(Fault.HTML, "composite/sobjects$", method="POST")
        assert not bench.once()
        assert not bench.once()
        with bench.database.writing() as session:
            session.get(TaskRow, task_id).not_before = datetime.now(UTC) - timedelta(seconds=1)
        assert bench.once()
        assert bench.is_equal(task_id)

    def test_one_that_was_deleted_here_while_nobody_knew_is_deleted_there(self, bench, linked):
        task_id = bench.add("new")
        bench.org.faults.order(Fault.LOST, "composite/sobjects$", method="POST")
        bench.once()
        bench.delete(task_id)
        assert bench.once()
        assert [row["Subject"] for row in bench.records()] == ["Call Bob"]

    def test_rows_that_somebody_holds_come_again(self, bench, linked):
        second = bench.add("second")
        bench.once()
        for one in (linked, second):
            bench.edit(one, comments="x")
        bench.org.faults.order(Fault.LOCKED, "composite/sobjects$", method="PATCH")
        assert not bench.once()
        assert {bench.task(one).state for one in (linked, second)} == {State.IN_SYNC, State.WAITING}
        assert bench.once()
        assert {bench.task(one).state for one in (linked, second)} == {State.IN_SYNC}

    def test_what_salesforce_refuses_is_said_on_the_task_and_holds_up_nothing(self, bench, linked):
        second = bench.add("second")
        bench.once()
        lead = bench.org.org.put("Lead", LastName="L", Company="C")
        bench.record(bench.task(linked).salesforce_id).update(
            WhoId=lead, WhatId=bench.org.org.put("Account", Name="A")
        )
        for one in (linked, second):
            bench.edit(one, comments="x")
        assert bench.once()
        assert (bench.task(linked).state, bench.task(linked).trouble_code) == (
            State.FAILED,
            "FIELD_INTEGRITY_EXCEPTION",
        )
        assert bench.task(second).state is State.IN_SYNC
        bench.record(bench.task(linked).salesforce_id).update(WhoId=None)
        bench.do(task_store.send, linked, is_syncing=True)
        assert bench.once()
        assert bench.is_equal(linked)

    def test_an_owner_who_was_made_inactive_is_said_on_the_task(self, bench, linked):
        bench.org.org.row(bench.org.anna)["IsActive"] = False
        task_id = bench.add("new")
        assert bench.once()
        assert (bench.task(task_id).state, bench.task(task_id).trouble_code) == (
            State.FAILED,
            "INACTIVE_OWNER_OR_USER",
        )

    def test_a_task_about_a_record_that_is_deleted_goes_on(self, bench, linked):
        contact = bench.org.org.put("Contact", LastName="Bob")
        there = bench.task(linked).salesforce_id
        bench.change(there, WhoId=contact)
        bench.once()
        bench.org.org.delete("Contact", contact, bench.org.anna)
        bench.edit(linked, subject="ours")
        bench.change(there, Description="theirs")
        assert bench.once()
        assert bench.is_equal(linked)

    def test_what_a_new_task_is_about_is_said_to_salesforce_or_why_not(self, bench, linked):
        contact = bench.org.org.put("Contact", LastName="Bob")
        with bench.database.writing() as session:
            good, bad = (
                task_store.add(
                    session, bench.anna.id, Values(one), is_wanted=True, related=Related(who_id=one)
                )
                for one in (contact, "0035g0000000999AAA")
            )
        assert bench.once()
        assert bench.record(bench.task(good).salesforce_id)["WhoId"] == contact
        assert (bench.task(bad).state, bench.task(bad).trouble_code) == (
            State.FAILED,
            "INVALID_CROSS_REFERENCE_KEY",
        )
        bench.once()
        assert bench.task(good).who == (contact, "Bob")

    def test_a_record_that_makes_no_sense_is_said_on_its_task(self, bench, linked):
        bench.record(bench.task(linked).salesforce_id).update(
            ActivityDate="9999-99-99", SystemModstamp=datetime.now(UTC)
        )
        other = bench.there("fine")
        assert bench.once()
        assert bench.task(linked).trouble_code == "unreadable_record"
        assert other in {one.salesforce_id for one in bench.all()}
        bench.record(bench.task(linked).salesforce_id).update(
            ActivityDate=date(9999, 12, 31), SystemModstamp=datetime.now(UTC)
        )
        assert bench.once()
        assert (bench.task(linked).state, bench.task(linked).values.due) == (
            State.IN_SYNC,
            date(9999, 12, 31),
        )

    def test_two_workers_do_it_once(self, bench, linked):
        import threading

        for n in range(30):
            bench.add(f"task {n}")
        workers = [Worker(bench.database, bench.config) for _ in range(3)]
        hands = [threading.Thread(target=worker.once) for worker in workers]
        for hand in hands:
            hand.start()
        for hand in hands:
            hand.join()
        assert bench.once()
        assert len(bench.records()) == 31

    def test_a_worker_that_was_thought_dead_writes_nothing(self, bench, linked):
        with bench.database.writing() as session:
            [held] = task_queue.claim(session, "dead", [bench.anna.id], everything=True)
        bench.once()
        with bench.database.writing() as session, pytest.raises(task_queue.Lost):
            task_queue.hold(session, held)

    def test_what_a_killed_worker_of_this_machine_had_is_taken_up_at_once(self, bench, linked):
        from core.database.heartbeats import _home

        with bench.database.writing() as session:
            now = datetime.now(UTC)
            session.add(ProcessRow(id="killed", kind="worker", host="h", pid=2**22 - 1, started_at=now, beat_at=now, settings_revision=1,
                                   listeners=[], journal_bytes=0, home=_home()))  # fmt: skip
        with bench.database.writing() as session:
            task_queue.claim(session, "killed", [bench.anna.id], everything=True)
        bench.edit(linked, subject="x")
        assert bench.once()
        assert bench.is_equal(linked)


class TestWhatAnAttackFound(OnBothDatabases):
    @pytest.mark.parametrize("org", [{"blindcopy_key": True}], indirect=True)
    def test_the_keys_of_two_installations_are_never_the_same(self, bench, linked, tmp_path, org_app):
        from core.database.engine import Database
        from tests.doors.conftest import BOX

        other = Database(f"sqlite:///{tmp_path}/other.db", BOX)
        other.migrate()
        second = TaskBench(other, bench.org, org_app, tmp_path, f"sqlite:///{tmp_path}/other.db")
        second.on()
        second.once()
        task_id = second.add("a wholly new task")
        assert second.once()
        assert second.task(task_id).values.subject == "a wholly new task"
        assert {row["Subject"] for row in bench.records()} == {"Call Bob", "a wholly new task"}
        other.close()

    @pytest.mark.parametrize("org", [{"blindcopy_key": True}], indirect=True)
    def test_a_create_that_was_lost_and_then_refused_can_be_mended(self, bench, linked):
        real = bench.org.org.create

        def strict(sobject, values, user):
            if values.get("Subject") == "bad":
                from tests.sandbox.org.records import Refused

                raise Refused("FIELD_CUSTOM_VALIDATION_EXCEPTION", "not that word")
            return real(sobject, values, user)

        task_id = bench.add("bad")
        bench.org.faults.order(Fault.HTML, "composite/sobjects$", method="POST")
        bench.once()
        bench.org.org.create = strict
        bench.once()
        assert bench.task(task_id).state is State.FAILED
        bench.edit(task_id, subject="good")
        assert bench.once()
        assert bench.is_equal(task_id)

    @pytest.mark.parametrize("org", [{"blindcopy_key": True}], indirect=True)
    def test_another_field_that_must_be_unique_links_nothing(self, bench, linked):
        from tests.sandbox.org.records import Refused

        def taken(*_):
            raise Refused(
                "DUPLICATE_VALUE",
                f"duplicate value found: Code__c duplicates value on record with id: {bench.task(linked).salesforce_id[:15]}",
            )

        bench.org.org.create, real = taken, bench.org.org.create
        task_id = bench.add("new")
        assert bench.once()
        assert (bench.task(task_id).state, bench.task(task_id).salesforce_id) == (State.FAILED, None)
        bench.org.org.create = real
        bench.do(task_store.send, task_id, is_syncing=True)
        assert bench.once()
        assert bench.is_equal(task_id)

    def test_a_page_and_a_cycle_do_not_wait_for_each_other(self, bench, linked):
        """Both lock the sync's row first, then the task's: on PostgreSQL anything else is a deadlock."""
        import threading

        def click():
            for number in range(20):
                bench.edit(linked, comments=str(number))

        hand = threading.Thread(target=click)
        hand.start()
        while hand.is_alive():
            bench.once()
        hand.join()
        assert bench.once()
        assert (bench.task(linked).values.comments, bench.is_equal(linked)) == ("19", True)

    @pytest.mark.parametrize("hours", [-1, 1])
    def test_a_clock_that_is_an_hour_off_hides_no_new_task(self, bench, linked, hours):
        skew = timedelta(hours=hours)
        bench.org.app.extensions["skew"] = skew
        bench.org.org.clock = lambda: datetime.now(UTC) + skew
        for number in range(3):
            there = bench.there(f"new {number}")
            bench.cycle()
            assert there in {one.salesforce_id for one in bench.all()}

    def test_what_a_dead_worker_has_in_hand_holds_up_nobody(self, bench, linked):
        with bench.database.writing() as session:
            task_queue.claim(session, "dead", [bench.anna.id], everything=True)
        with bench.database.writing() as session:
            from core.salesforce import connection_store

            connection_store.disconnect(session, bench.anna, actor=None)
        assert bench.once()

    def test_a_reassigned_task_reaches_its_new_owner_who_switches_on_later(self, bench, linked):
        from core.salesforce.connection_store import Identity, Tokens, Way, connect

        user = bench.org.org.put(
            "User", Username="carl@acme.test", Name="Carl", Email="c@acme.test", IsActive=True
        )
        there = bench.task(linked).salesforce_id
        bench.change(there, OwnerId=user)
        bench.once()
        assert bench.only(Which.BIN).id == linked
        carl = person(bench.database, "carl@acme.test")
        with bench.database.writing() as session:
            mine = _token(bench)
            connect(session, carl, Identity(bench.sync().organisation_id, user, "carl@acme.test"), way=Way.SIGN_IN,
                    login_url=bench.org.url, tokens=Tokens(mine.access_token, mine.refresh_token, bench.org.url), actor=None)  # fmt: skip
            settings_store.set_preference(session, carl, Setting.TASK_SYNC, "both-ways", actor=None)
        bench.once()
        with bench.database.reading() as session:
            assert [one.id for one in listed(session, carl.id, Which.ALL, datetime.now(UTC), Choices())] == [
                linked
            ]

    def test_connected_as_somebody_else_for_a_while_the_list_comes_back(self, bench, linked):
        from core.database.models import ConnectionRow

        anna = bench.org.anna
        other = bench.org.org.put(
            "User", Username="carl@acme.test", Name="Carl", Email="c@acme.test", IsActive=True
        )
        for user in (other, anna):
            with bench.database.writing() as session:
                session.query(ConnectionRow).update({"user_id": user})
            bench.once()
        assert (bench.only().id, bench.task(linked).state) == (linked, State.IN_SYNC)

    def test_thousands_of_deletions_are_done_in_small_portions(self, bench):
        from sync.tasks import pull

        bench.on()
        ids = [bench.there(f"task {number}") for number in range(900)]
        bench.once()
        for one in ids[:449]:
            bench.remove(one)
        held, real = [], pull.task_links.remove

        def counted(session, *more):
            held.append(id(session))
            real(session, *more)

        pull.task_links.remove = counted
        try:
            assert bench.once()
        finally:
            pull.task_links.remove = real
        assert len(bench.all()) == 451
        assert max(held.count(one) for one in set(held)) <= 449  # ids of sessions can come again
        assert len(held) == 449

    def test_two_tasks_of_one_subject_keep_their_values_when_an_answer_is_lost(self, bench, linked):
        first, second = (
            bench.add("Call", comments="a", due=date(2027, 1, 1)),
            bench.add("Call", comments="b", due=date(2027, 2, 2)),
        )
        real, made = bench.org.org.create, []

        def one_only(sobject, values, user):
            if values.get("Description") == "a" and not made:
                made.append(1)
                from tests.sandbox.org.records import Refused

                raise Refused("UNABLE_TO_LOCK_ROW", "locked")
            return real(sobject, values, user)

        bench.org.org.create = one_only
        bench.org.faults.order(Fault.LOST, "composite/sobjects$", method="POST")
        bench.once()
        bench.once()
        with bench.database.writing() as session:
            session.query(TaskRow).filter(TaskRow.not_before.is_not(None)).update(
                {"not_before": datetime.now(UTC) - timedelta(seconds=1)}
            )
        assert bench.once()
        assert [bench.task(one).values.comments for one in (first, second)] == ["a", "b"]
        assert all(bench.is_equal(one) for one in (first, second))

    def test_a_yes_is_for_what_was_told(self, bench):
        bench.on()
        ids = [bench.there(f"task {number}") for number in range(12)]
        bench.once()
        for one in ids[:7]:
            bench.remove(one)
        bench.once()
        for one in ids[7:]:
            bench.remove(one)
        with bench.database.writing() as session:
            task_queue.confirm(session, bench.anna.id)
        bench.once()
        assert (len(bench.all()), bench.sync().plan.delete) == (12, 12)

    def test_off_and_on_again_within_a_cycle_asks_anew(self, bench, linked):
        bench.policy(Setting.CONFIRM_FIRST_SYNC, "yes")
        with bench.database.writing() as session:
            [held] = task_queue.claim(session, "w", [bench.anna.id], everything=True)
        bench.on("off")
        bench.on()
        with bench.database.writing() as session:
            task_queue.release(session, held, {"is_first": False})
        assert bench.sync().is_first
        bench.there("theirs")
        assert bench.once()
        assert bench.sync().plan == task_queue.Plan(task_queue.Asks.FIRST, 1, 0, 0, 0)

    def test_a_record_that_makes_sense_again_gets_what_was_edited(self, bench, linked):
        there = bench.task(linked).salesforce_id
        good = bench.record(there)["ActivityDate"]
        bench.record(there).update(ActivityDate="9999-99-99", SystemModstamp=datetime.now(UTC))
        bench.edit(linked, subject="ours")
        bench.once()
        bench.record(there).update(ActivityDate=good, SystemModstamp=datetime.now(UTC))
        assert bench.once()
        assert bench.is_equal(linked)

    def test_what_cannot_be_deleted_there_is_back_with_what_was_edited(self, bench, linked):
        bench.edit(linked, subject="ours")
        bench.delete(linked)
        bench.org.org.objects["task"].deletable = False
        bench.once()
        assert bench.once()
        assert bench.only().id == linked
        assert bench.is_equal(linked)

    def test_the_bin_is_emptied_after_fifteen_days_whether_synchronised_or_not(self, bench, linked):
        bench.on("off")
        bench.delete(linked)
        with bench.database.writing() as session:
            session.query(TaskRow).update({"binned_at": datetime.now(UTC) - timedelta(days=15, minutes=1)})
        bench.once()
        assert bench.all(Which.BIN) == []


def confirm(bench):
    with bench.database.writing() as session:
        task_queue.confirm(session, bench.anna.id)


class TestWhatASecondAttackFound:
    @pytest.fixture
    def thirty(self, bench):
        bench.on()
        bench.there_ids = [bench.there(f"task {number}") for number in range(30)]
        assert bench.once()
        return [one.id for one in bench.all()]

    def test_a_yes_cannot_be_used_twice_though_the_cycle_broke_off(self, bench, thirty):
        for one in thirty[:16]:
            bench.delete(one)
        bench.once()
        bench.add("new")
        confirm(bench)
        bench.org.faults.order(Fault.HTML, "composite/sobjects$", method="POST")
        bench.once()
        assert len(bench.records()) == 14
        for one in thirty[16:]:
            bench.delete(one)
        bench.once()
        assert bench.sync().plan.asks is task_queue.Asks.LOST_HERE
        assert len(bench.records()) == 14

    def test_nor_from_the_other_side(self, bench, thirty):
        for one in bench.there_ids[:16]:
            bench.remove(one)
        bench.once()
        bench.edit(thirty[29], subject="x")
        confirm(bench)
        bench.org.faults.order(Fault.HTML, "composite/sobjects$", method="PATCH")
        bench.once()
        assert len(bench.all()) == 14
        for one in bench.there_ids[16:28]:
            bench.remove(one)
        bench.once()
        assert (len(bench.all()), bench.sync().plan.asks) == (14, task_queue.Asks.LOST_THERE)

    def test_a_yes_holds_until_it_is_done(self, bench, thirty):
        for one in thirty[:16]:
            bench.delete(one)
        bench.once()
        confirm(bench)
        bench.org.faults.order(Fault.LOCKED, "composite/sobjects$", method="DELETE")
        bench.once()
        assert bench.once() or bench.once()
        assert (len(bench.records()), bench.sync().plan, bench.sync().confirmed) == (14, None, None)

    def test_a_yes_to_the_first_sync_deletes_nothing_there(self, bench, thirty):
        bench.on("off")
        bench.policy(Setting.CONFIRM_FIRST_SYNC, "yes")
        for one in thirty[:16]:
            bench.delete(one)
        bench.on()
        bench.once()
        assert (bench.sync().plan.asks, bench.sync().plan.send) == (task_queue.Asks.FIRST, 16)
        confirm(bench)
        bench.once()
        assert (bench.sync().plan.asks, len(bench.records())) == (task_queue.Asks.LOST_HERE, 30)

    def test_deleted_on_both_sides_is_no_loss(self, bench, thirty):
        for one in thirty[:25]:
            bench.delete(one)
            bench.remove(bench.task(one).salesforce_id)
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update(
                {"confirmed": {"asks": "lost-here", "bring_in": 0, "pair": 0, "delete": 25, "of": 30}}
            )
        assert bench.once()
        assert (len(bench.all()), bench.sync().plan) == (5, None)

    def test_one_record_that_is_held_slows_down_nothing_else(self, bench, linked):
        real = bench.org.org.update

        def held(sobject, record_id, values, user):
            from tests.sandbox.org.records import Refused

            if record_id == bench.task(linked).salesforce_id:
                raise Refused("UNABLE_TO_LOCK_ROW", "locked")
            real(sobject, record_id, values, user)

        bench.org.org.update = held
        bench.edit(linked, subject="x")
        for _ in range(9):
            bench.cycle()
        ahead = bench.sync().look_at - datetime.now(UTC)
        assert ahead <= timedelta(seconds=61)
        bench.org.org.update = real
        bench.cycle()
        assert bench.is_equal(linked)
        assert bench.sync().look_at - datetime.now(UTC) <= timedelta(seconds=61)

    def test_after_an_outage_an_edit_brings_back_the_pace(self, bench, linked):
        bench.org.faults.order(Fault.HTML, times=100)
        for _ in range(9):
            bench.cycle()
        assert bench.sync().look_at - datetime.now(UTC) > timedelta(seconds=61)
        bench.org.faults.clear()
        bench.edit(linked, subject="x")
        bench.runner.sync_tasks()
        while bench.runner.tasks.in_hand:
            time.sleep(0.01)
        assert bench.is_equal(linked)
        assert bench.sync().look_at - datetime.now(UTC) <= timedelta(seconds=61)

    def test_what_waits_for_a_limit_is_left_over(self, bench, linked):
        bench.edit(linked, subject="x")
        bench.org.faults.order(Fault.LIMIT)
        assert not bench.once()
        assert not bench.once()

    def test_a_lost_create_that_was_given_away_is_not_made_again(self, bench, linked):
        colleague = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        task_id = bench.add("new")
        bench.org.faults.order(Fault.LOST, "composite/sobjects$", method="POST")
        bench.once()
        [made] = [row for row in bench.records() if row["Subject"] == "new"]
        bench.change(made["Id"], OwnerId=colleague)
        with bench.database.writing() as session:
            session.get(TaskRow, task_id).not_before = datetime.now(UTC) - timedelta(seconds=1)
        bench.once()
        assert len([row for row in bench.records() if row["Subject"] == "new"]) == 1
        assert bench.task(task_id).binned is task_store.Binned.REASSIGNED

    def test_a_key_that_is_new_repeats_nothing(self, bench, linked):
        task_id = bench.add("new")
        bench.org.faults.order(Fault.LOST, "composite/sobjects$", method="POST")
        bench.once()
        from tests.sandbox.org.schema import Field as SchemaField

        bench.org.org.objects["task"].fields["blindcopy_key__c"] = SchemaField(
            "Blindcopy_Key__c", length=64, is_external_id=True, is_unique=True
        )
        bench.worker.tasks.choices.forget(bench.sync().organisation_id)
        assert bench.once()
        assert len([row for row in bench.records() if row["Subject"] == "new"]) == 1
        assert bench.is_equal(task_id)

    def test_what_was_about_somebody_who_is_gone_can_be_had_back(self, bench, linked):
        contact = bench.org.org.put("Contact", LastName="Bob")
        there = bench.task(linked).salesforce_id
        bench.change(there, WhoId=contact)
        bench.once()
        bench.org.org.delete("Contact", contact, bench.org.anna)
        bench.remove(there)
        bench.once()
        bench.do(task_store.restore, linked, is_wanted=True)
        bench.once()
        assert (bench.task(linked).state, bench.task(linked).trouble_code) == (
            State.FAILED,
            "ENTITY_IS_DELETED",
        )
        bench.do(task_store.send, linked, is_syncing=True)
        assert bench.once()
        assert bench.is_equal(linked)

    def test_a_subject_that_fits_is_not_cut_because_the_comments_were_too_long(self, bench, linked):
        bench.edit(linked, subject="x" * 255)
        bench.once()
        with bench.database.writing() as session:
            session.get(TaskRow, linked).is_by_bytes = True
        bench.edit(linked, comments="ü" * 31_000)
        assert bench.once()
        row = bench.record(bench.task(linked).salesforce_id)
        assert (row["Subject"], len(row["Description"].encode())) == ("x" * 255, 31_360)

    def test_an_organisation_that_one_has_left_holds_nothing_up(self, bench, linked):
        from core.database.models import ConnectionRow

        task_id = bench.add("new")
        bench.org.faults.order(Fault.LOST, "composite/sobjects$", method="POST")
        bench.once()
        with bench.database.writing() as session:
            session.query(ConnectionRow).update({"organisation_id": "00D000000000002AAA"})
        assert bench.once()
        bench.do(task_store.send, task_id, is_syncing=True)
        assert bench.once()
        assert bench.task(task_id).state is State.IN_SYNC
        bench.delete(linked)
        with bench.database.writing() as session:
            session.query(TaskRow).filter_by(id=linked).update(
                {"binned_at": datetime.now(UTC) - timedelta(days=16)}
            )
        bench.once()
        assert bench.all(Which.BIN) == []


def _token(bench):
    from core.salesforce import connection_store

    with bench.database.reading() as session:
        return connection_store.connection(session, bench.anna.id)


class TestWhatAReaderFound(OnBothDatabases):
    def test_a_yes_to_what_is_long_gone_is_enough_though_others_went_too(self, bench, linked):
        more = [bench.add(f"task {number}") for number in range(5)]
        assert bench.once()
        bench.on("off")
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update({"succeeded_at": datetime.now(UTC) - timedelta(days=16)})
        for one in more[:2]:
            del bench.org.org.rows["task"][bench.task(one).salesforce_id]
        bench.remove(bench.task(linked).salesforce_id)
        bench.on()
        bench.once()
        assert bench.sync().plan == task_queue.Plan(task_queue.Asks.GONE, delete=2, of=6)
        confirm(bench)
        assert bench.once()
        assert bench.sync().plan is None
        assert {one.id for one in bench.all(Which.BIN)} == {linked, *more[:2]}

    def test_what_was_handed_over_is_not_lost(self, bench, linked):
        stranger = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        more = [bench.add(f"task {number}") for number in range(6)]
        assert bench.once()
        for one in more:
            bench.change(bench.task(one).salesforce_id, OwnerId=stranger)
        assert bench.once()
        assert bench.sync().plan is None
        assert [one.id for one in bench.all()] == [linked]

    def test_sync_now_finds_what_was_handed_over(self, bench, linked):
        stranger = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        bench.change(bench.task(linked).salesforce_id, OwnerId=stranger)
        bench.cycle()
        assert bench.task(linked).state is State.IN_SYNC, "a query for the person's tasks does not tell"
        with bench.database.writing() as session:
            task_queue.sync_now(session, bench.anna.id)
        bench.cycle()
        assert bench.task(linked).binned is task_store.Binned.REASSIGNED

    def test_sync_now_is_heard_while_a_look_is_under_way(self, bench, linked):
        bench.cycle()
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update({"due_at": datetime.now(UTC) - timedelta(seconds=1)})
            [held] = task_queue.claim(session, bench.runner.process_id, {bench.anna.id})
        with bench.database.writing() as session:
            task_queue.sync_now(session, bench.anna.id)
        later = datetime.now(UTC) + timedelta(hours=1)
        with bench.database.writing() as session:
            task_queue.release(session, held, {"due_at": later, "look_at": later, "verify_at": later})
        sync = bench.sync()
        assert sync.verify_at is None
        assert max(sync.due_at, sync.look_at) < later

    def test_what_is_somebody_elses_by_now_is_not_deleted(self, bench, linked):
        stranger = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        there = bench.task(linked).salesforce_id
        bench.change(there, OwnerId=stranger)
        bench.delete(linked)
        bench.cycle()
        assert not bench.record(there)["IsDeleted"]
        assert bench.task(linked).binned is task_store.Binned.REASSIGNED
        assert bench.calls() == ["GET queryAll/"], "and that is all there is to it"

    def test_a_record_that_has_the_whole_call_refused_holds_up_no_other(self, bench, linked):
        made = [bench.add(f"task {number}") for number in range(9)]
        poison = bench.add("poison")
        bench.edit(linked, comments="poison")
        bench.org.faults.order(Fault.POISON, "composite/sobjects$", times=1_000)
        assert bench.once()
        assert {bench.task(one).state for one in made} == {State.IN_SYNC}
        assert {bench.task(one).state for one in (poison, linked)} == {State.FAILED}
        assert bench.task(poison).trouble_code == "JSON_PARSER_ERROR"
        assert len(bench.records()) == 10

    def test_a_call_that_no_record_can_be_blamed_for_fails_none(self, bench, linked):
        made = [bench.add(f"task {number}") for number in range(4)]
        bench.org.faults.order(Fault.UNKNOWN_FIELD, "composite/sobjects$", method="POST")
        assert not bench.once()
        assert {bench.task(one).state for one in made} == {State.WAITING}
        assert bench.sync().trouble_code == "INVALID_FIELD"
        assert bench.once()
        assert len(bench.records()) == 5

    def test_what_is_lost_beside_much_that_was_handed_over_is_asked_about(self, bench, linked):
        stranger = bench.org.org.put("User", Username="b", Name="B", IsActive=True)
        more = [bench.add(f"task {number}") for number in range(29)]
        assert bench.once()
        for one in more[:18]:
            bench.change(bench.task(one).salesforce_id, OwnerId=stranger)
        for one in more[18:28]:
            bench.remove(bench.task(one).salesforce_id)
        assert bench.once()
        assert bench.sync().plan == task_queue.Plan(task_queue.Asks.LOST_THERE, delete=10, of=30)

    def test_what_is_added_while_disconnected_is_sent_when_connected_again(self, bench, linked):
        with without_connection(bench):
            task_id = bench.add("meanwhile")
        assert bench.once()
        assert bench.is_equal(task_id)

    def test_a_create_that_never_left_us_waits_for_nobody(self, bench, linked, monkeypatch):
        from core.salesforce.login import NeverSent

        task_id = bench.add("new")
        with monkeypatch.context() as patch:
            real = bench.connections.__class__.client

            def without_network(self, connection):
                client = real(self, connection)
                patch.setattr(client, "create", raising(NeverSent("NewConnectionError")))
                return client

            patch.setattr(bench.connections.__class__, "client", without_network)
            assert not bench.once()
        assert bench.once()
        assert bench.is_equal(task_id)

    def test_what_was_added_before_the_first_connection_stays_here(self, bench):
        bench.policy(Setting.TASK_SYNC, "both-ways")
        with without_connection(bench):
            task_id = bench.add("before")
        assert bench.once()
        assert bench.task(task_id).state is State.LOCAL
        assert bench.records() == []


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


class TestTexts:
    @pytest.mark.parametrize("text", ["x" * 300, "😀" * 200, "ü" * 255])
    def test_what_salesforce_cannot_hold_stays_whole_here_and_says_so(self, bench, linked, text):
        bench.edit(linked, subject=text)
        assert bench.once()
        task = bench.task(linked)
        assert (task.values.subject, task.state) == (text, State.IN_SYNC)
        assert task.is_cut == (len(text.encode("utf-16-le")) > 510)
        there = bench.record(task.salesforce_id)["Subject"]
        assert text.startswith(there)
        assert len(there) in {255, 127}
        assert bench.calls().count("PATCH composite/sobjects") == 0

    def test_and_goes_to_the_history_when_it_is_changed_there(self, bench, linked):
        bench.edit(linked, subject="x" * 300)
        bench.once()
        bench.change(bench.task(linked).salesforce_id, Subject="short")
        assert bench.once()
        assert bench.task(linked).values.subject == "short"
        assert "x" * 300 in [one.value for one in bench.history(linked)]

    def test_an_org_that_counts_bytes_gets_less(self, bench, linked):
        class Bytes(str):  # noqa: SLOT000
            def __len__(self):
                return len(self.encode())

        real = bench.org.org.converted
        bench.org.org.converted = lambda one, value: real(
            one, Bytes(value) if type(value) is str and one.name == "Subject" else value
        )
        bench.edit(linked, subject="ü" * 200)
        for _ in range(3):
            bench.once()
        assert bench.task(linked).state is State.IN_SYNC
        assert bench.record(bench.task(linked).salesforce_id)["Subject"] == "ü" * 124


@pytest.mark.parametrize("ask", ["waiting", "waiting_number", "deletions_due", "unsettled"])
def test_what_every_cycle_asks_does_not_look_at_all_that_is_linked(sqlite, ask):
    asked = []
    event.listen(sqlite.engine, "before_cursor_execute", lambda *more: asked.append(more[2:4]))
    more = {"after": 0, "most": 1} if ask == "waiting" else {}
    with sqlite.reading() as session:
        getattr(task_links, ask)(session, 1, "00D000000000001AAA", **more)
        statement, parameters = asked[-1]
        plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    assert any(index in str(plan) for index in ("task_waiting", "task_unsettled")), plan
    assert "task_linked" not in str(plan)


def test_ids_are_stable_and_never_used_again(bench):
    first, second = bench.add("a"), bench.add("b")
    with bench.database.writing() as session:
        session.delete(session.get(TaskRow, second))
    assert bench.add("c") > second > first

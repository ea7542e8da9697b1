"""Tasks, the same here and in the pretend org: what a person does on either side."""

import time
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import event

from core.database.task_models import TaskRow, TaskSyncRow
from core.settings.catalogue import Setting
from core.tasks import links as task_links
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field, Status
from core.tasks.lists import Which
from core.tasks.task import TaskState, Values
from tests.doors.connected import person
from tests.doors.task_bench import (
    OnBothDatabases,
    bench,  # noqa: F401
    linked,  # noqa: F401
    org,  # noqa: F401
)


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
        assert bench.task(old[0]).state is TaskState.LOCAL

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
        assert bench.task(task_id).state is TaskState.WAITING
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
            task_queue.SyncPlan(task_queue.Asks.FIRST, 2, 1, 0, 0),
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
        assert bench.task(linked).state is TaskState.IN_SYNC

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
        assert bench.task(linked).state is TaskState.WAITING
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
        assert bench.task(linked).state is TaskState.IN_SYNC

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
        assert bench.task(linked).state is TaskState.IN_SYNC


class TestConflicts:
    def test_the_later_wins_and_the_loser_is_one_click_away(self, bench, linked):
        there = bench.task(linked).salesforce_id
        bench.change(there, Subject="theirs")
        early = datetime.now(UTC) - timedelta(minutes=2)
        bench.record(there)["LastModifiedDate"] = early
        bench.edit(linked, subject="ours")
        assert bench.once()
        assert (bench.task(linked).values.subject, bench.record(there)["Subject"]) == ("ours", "ours")
        assert bench.task(linked).state is TaskState.CONFLICT
        [loser] = [one for one in bench.history(linked) if one.why == "conflict"]
        assert (loser.value, loser.side) == ("theirs", "salesforce")
        bench.do(task_store.restore_value, linked, loser.id, bench.choices())
        assert bench.once()
        assert bench.record(there)["Subject"] == "theirs"
        assert bench.task(linked).state is TaskState.IN_SYNC

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
            TaskState.IN_SYNC,
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
        assert bench.sync().plan == task_queue.SyncPlan(task_queue.Asks.LOST_THERE, 0, 0, 4, 7)
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
        assert bench.sync().plan == task_queue.SyncPlan(task_queue.Asks.LOST_HERE, 0, 0, 4, 7)
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
        bench.org.org.seen_after = timedelta(minutes=5)
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
        assert bench.task(second).state is TaskState.BIN
        assert bench.record(gone)["IsDeleted"]
        assert bench.task(local).state is TaskState.LOCAL

    def test_what_is_gone_since_longer_than_the_bin_remembers_is_asked_about(self, bench, linked):
        bench.on("off")
        with bench.database.writing() as session:
            session.query(TaskSyncRow).update({"succeeded_at": datetime.now(UTC) - timedelta(days=16)})
        del bench.org.org.rows["task"][bench.task(linked).salesforce_id]
        bench.on()
        assert bench.once()
        assert bench.sync().plan == task_queue.SyncPlan(task_queue.Asks.GONE, 0, 0, 1, 1)
        assert bench.task(linked).state is TaskState.IN_SYNC
        with bench.database.writing() as session:
            task_queue.confirm(session, bench.anna.id)
        assert bench.once()
        assert bench.task(linked).state is TaskState.BIN


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

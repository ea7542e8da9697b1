"""Task sync when a call, a record or a text gets in between."""

from datetime import UTC, date, datetime, timedelta

import pytest

from core.database.models import ProcessRow
from core.database.task_models import TaskRow, TaskSyncRow
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.lists import Which
from core.tasks.task import Related, TaskState, Values
from sync.worker import Worker
from tests.doors.task_bench import (
    OnBothDatabases,
    bench,  # noqa: F401
    confirm,
    linked,  # noqa: F401
    org,  # noqa: F401
    raising,
    without_connection,
)
from tests.sandbox.org.faults import Fault


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
        assert bench.task(task_id).state is TaskState.WAITING
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
        assert {bench.task(one).state for one in (linked, second)} == {TaskState.IN_SYNC, TaskState.WAITING}
        assert bench.once()
        assert {bench.task(one).state for one in (linked, second)} == {TaskState.IN_SYNC}

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
            TaskState.FAILED,
            "FIELD_INTEGRITY_EXCEPTION",
        )
        assert bench.task(second).state is TaskState.IN_SYNC
        bench.record(bench.task(linked).salesforce_id).update(WhoId=None)
        bench.do(task_store.send, linked, is_syncing=True)
        assert bench.once()
        assert bench.is_equal(linked)

    def test_an_owner_who_was_made_inactive_is_said_on_the_task(self, bench, linked):
        bench.org.org.row(bench.org.anna)["IsActive"] = False
        task_id = bench.add("new")
        assert bench.once()
        assert (bench.task(task_id).state, bench.task(task_id).trouble_code) == (
            TaskState.FAILED,
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
            TaskState.FAILED,
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
            TaskState.IN_SYNC,
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
        with bench.database.writing() as session, pytest.raises(task_queue.ClaimLost):
            task_queue.hold(session, held)

    def test_what_a_killed_worker_of_this_machine_had_is_taken_up_at_once(self, bench, linked):
        from core.database.heartbeats import pid_namespace

        with bench.database.writing() as session:
            now = datetime.now(UTC)
            session.add(ProcessRow(id="killed", kind="worker", host="h", pid=2**22 - 1, started_at=now, beat_at=now, settings_revision=1,
                                   listeners=[], journal_bytes=0, home=pid_namespace()))  # fmt: skip
        with bench.database.writing() as session:
            task_queue.claim(session, "killed", [bench.anna.id], everything=True)
        bench.edit(linked, subject="x")
        assert bench.once()
        assert bench.is_equal(linked)


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
        assert bench.sync().plan == task_queue.SyncPlan(task_queue.Asks.GONE, delete=2, of=6)
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
        assert bench.task(linked).state is TaskState.IN_SYNC, "a query for the person's tasks does not tell"
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
        assert {bench.task(one).state for one in made} == {TaskState.IN_SYNC}
        assert {bench.task(one).state for one in (poison, linked)} == {TaskState.FAILED}
        assert bench.task(poison).trouble_code == "JSON_PARSER_ERROR"
        assert len(bench.records()) == 10

    def test_a_call_that_no_record_can_be_blamed_for_fails_none(self, bench, linked):
        made = [bench.add(f"task {number}") for number in range(4)]
        bench.org.faults.order(Fault.UNKNOWN_FIELD, "composite/sobjects$", method="POST")
        assert not bench.once()
        assert {bench.task(one).state for one in made} == {TaskState.WAITING}
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
        assert bench.sync().plan == task_queue.SyncPlan(task_queue.Asks.LOST_THERE, delete=10, of=30)

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
        assert bench.task(task_id).state is TaskState.LOCAL
        assert bench.records() == []


class TestTexts:
    @pytest.mark.parametrize("text", ["x" * 300, "😀" * 200, "ü" * 255])
    def test_what_salesforce_cannot_hold_stays_whole_here_and_says_so(self, bench, linked, text):
        bench.edit(linked, subject=text)
        assert bench.once()
        task = bench.task(linked)
        assert (task.values.subject, task.state) == (text, TaskState.IN_SYNC)
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
        assert bench.task(linked).state is TaskState.IN_SYNC
        assert bench.record(bench.task(linked).salesforce_id)["Subject"] == "ü" * 124

"""Task sync: faults that were found by trying."""

import time
from datetime import UTC, date, datetime, timedelta

import pytest

from core.database.task_models import TaskRow, TaskSyncRow
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.lists import Which, listed
from core.tasks.task import Choices, TaskState
from tests.doors.connected import person
from tests.doors.task_bench import (
    OnBothDatabases,
    TaskBench,
    _token,
    bench,  # noqa: F401
    confirm,
    linked,  # noqa: F401
    org,  # noqa: F401
)
from tests.sandbox.org.faults import Fault


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
        assert bench.task(task_id).state is TaskState.FAILED
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
        assert (bench.task(task_id).state, bench.task(task_id).salesforce_id) == (TaskState.FAILED, None)
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
        from core.salesforce.connection_store import OAuthTokens, Way, connect
        from core.salesforce.login import Identity

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
                    login_url=bench.org.url, tokens=OAuthTokens(mine.access_token, mine.refresh_token, bench.org.url), actor=None)  # fmt: skip
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
        assert (bench.only().id, bench.task(linked).state) == (linked, TaskState.IN_SYNC)

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
        assert bench.sync().plan == task_queue.SyncPlan(task_queue.Asks.FIRST, 1, 0, 0, 0)

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
            TaskState.FAILED,
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
        assert bench.task(task_id).state is TaskState.IN_SYNC
        bench.delete(linked)
        with bench.database.writing() as session:
            session.query(TaskRow).filter_by(id=linked).update(
                {"binned_at": datetime.now(UTC) - timedelta(days=16)}
            )
        bench.once()
        assert bench.all(Which.BIN) == []

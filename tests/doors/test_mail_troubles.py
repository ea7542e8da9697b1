"""Mails that wait, when Salesforce, a claim or time gets in between."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from core.database.models import MailLogRow, MailRow, ProcessRow
from core.mail import queue as mail_queue
from core.mail import requests as mail_requests
from core.mail.progress import MatchResult
from core.mail.row import Decision, State
from core.mail.store import logged_by_others
from core.salesforce import late_commits
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from sync.worker import Worker
from tests.doors.connected import connected
from tests.doors.mail_bench import (
    KEYED,
    TASKS,
    OnBothDatabases,
    bench,  # noqa: F401
    check_length,
    claimed,
    end_the_pause,
    new_id_of,
    org,  # noqa: F401
    refuse,
)
from tests.sandbox.org.faults import Fault


class TestTrouble:
    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.LOST])
    def test_that_passes_is_tried_again(self, bench, fault):
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(fault, "query")
        assert not bench.once()
        assert bench.state(mail) is State.WAITING
        assert bench.row(mail).due_at > datetime.now(UTC)
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)
        assert bench.log(mail).trace.tries[0].code == "SERVER_UNAVAILABLE"

    def test_of_a_lost_answer_never_writes_twice_and_waits_for_a_late_commit(self, bench, monkeypatch):
        bench.contact()
        bench.org.org.seen_after = timedelta(minutes=5)
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert not bench.once(), "nothing shows yet, and nothing may be written before it could"
        assert (bench.state(mail), len(bench.logged())) == (State.WAITING, 1)
        for record_id in bench.org.org.shown_at:
            bench.org.org.shown_at[record_id] = datetime.now(UTC)
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)
        assert [target.id for target in bench.log(mail).written] == [bench.logged()[0]["Id"]]

    def test_of_a_time_out_before_anything_was_written_is_repeated_when_nothing_can_come_any_more(
        self, bench, monkeypatch
    ):
        monkeypatch.setattr("core.salesforce.client.SECONDS_TO_ANSWER", 1)
        monkeypatch.setattr(late_commits, "UNTIL_A_WRITE_SHOWS", timedelta(seconds=2))
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.HTML, "composite")
        assert not bench.once()
        assert not bench.once()
        threading.Event().wait(2.1)
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)

    @TASKS
    def test_of_a_lost_answer_finds_the_task_by_its_last_line(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert bench.once()
        assert (bench.state(mail), len(bench.logged("Task"))) == (State.LOGGED, 1)

    @KEYED
    def test_of_a_lost_answer_is_no_matter_where_the_org_knows_the_key(self, bench):
        bench.contact()
        bench.org.org.seen_after = timedelta(minutes=5)
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert bench.once()
        [message] = bench.logged()
        assert bench.state(mail) is State.LOGGED
        assert bench.log(mail).written[0].id[:15] == message["Id"][:15]

    def test_of_locked_rows_concerns_those_rows_only(self, bench):
        for n in range(4):
            bench.contact(f"c{n}@client.test")
        mails = [bench.mail(f"c{n}@client.test", number=n) for n in range(4)]
        bench.org.faults.order(Fault.LOCKED, "composite")
        assert not bench.once()
        assert sorted(bench.state(mail) for mail in mails) == ["logged", "logged", "waiting", "waiting"]
        assert bench.once()
        assert len(bench.logged()) == 4

    def test_of_the_limit_pauses_the_whole_org(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.LIMIT, "query")
        assert not bench.once()
        calls = len(bench.org.calls)
        assert not bench.once()
        assert (bench.state(mail), len(bench.org.calls)) == (State.WAITING, calls)
        end_the_pause(bench)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_below_the_reserve_nothing_is_asked_and_the_relays_are_told(self, bench):
        bench.contact()
        bench.set(Setting.BCC_ADDRESS, "emailtosalesforce@x.le.salesforce.com")
        bench.org.app.extensions["usage"] |= {"used": 13_600, "total": 15_000}
        first, second = bench.mail(), bench.mail(number=2)
        bench.once()
        assert bench.state(first) is State.LOGGED
        third = bench.mail(number=3)
        calls = len(bench.org.calls)
        assert not bench.once()
        assert (bench.state(third), len(bench.org.calls)) == (State.WAITING, calls)
        assert bench.state(second) is State.LOGGED
        with bench.database.reading() as session:
            assert settings_store.people(session).by_id[bench.anna.id].calls_are_scarce
        bench.org.app.extensions["usage"]["used"] = 100
        end_the_pause(bench)
        assert bench.once()
        assert bench.state(third) is State.LOGGED
        with bench.database.reading() as session:
            assert not settings_store.people(session).by_id[bench.anna.id].calls_are_scarce

    def test_of_a_dead_connection_waits_for_the_person(self, bench, org_app):
        bench.contact()
        mail = bench.mail()
        bench.org.tokens.revoke_all()
        assert not bench.once()
        assert bench.state(mail) is State.WAITING
        calls = len(bench.org.calls)
        assert not bench.once()
        assert len(bench.org.calls) == calls
        connected(bench.connections, bench.org, org_app, bench.anna)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_of_a_session_that_ends_is_renewed(self, bench):
        bench.contact()
        bench.mail()
        bench.org.tokens.expire_sessions()
        assert bench.once()
        assert len(bench.logged()) == 1

    def test_that_stays_says_why_and_is_tried_again_only_when_asked(self, bench):
        bob = bench.contact()
        refuse(bench, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "Our rule 7")
        mail = bench.mail()
        assert bench.once()
        log = bench.log(mail)
        assert (bench.state(mail), log.trouble_code, log.trouble_detail) == (
            State.FAILED, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "Our rule 7",
        )  # fmt: skip
        assert bench.once()
        assert bench.state(mail) is State.FAILED
        bench.org.org.check = bench.check
        with bench.database.writing() as session:
            mail_requests.log_again(session, mail)
        assert bench.once()
        [message] = bench.logged()
        assert (bench.state(mail), message["ToIds"], message["TextBody"]) == (
            State.LOGGED,
            [bob],
            "Hello Bob",
        )

    def test_of_a_contact_that_was_merged_away_matches_anew(self, bench):
        old = bench.contact()
        bench.mail()
        bench.once()
        new = bench.contact()
        bench.org.org.rows["contact"][old] |= {"IsDeleted": True, "MasterRecordId": new}
        mail = bench.mail(number=2)
        assert bench.once(), "what the worker remembered of Bob is old"
        assert bench.state(mail) is State.LOGGED
        assert bench.logged()[1]["ToIds"] == [new]

    def test_of_an_opportunity_that_was_deleted_drops_it(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        org = bench.org.org
        original = org.referred

        def gone(field, value):
            if value == deal:
                org.rows["opportunity"][deal]["IsDeleted"] = True
                for row in org.rows["opportunitycontactrole"].values():
                    row["IsDeleted"] = True
            return original(field, value)

        org.referred = gone
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        assert [message["RelatedToId"] for message in bench.logged()] == [None]

    def test_of_a_field_that_the_org_lost_asks_anew(self, bench):
        bench.contact()
        bench.mail()
        bench.once()
        del bench.org.org.objects["emailmessage"].fields["fromname"]
        mail = bench.mail(number=2)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_of_a_text_that_is_too_long_cuts_it(self, bench):
        bench.contact()
        kind = bench.org.org.objects["emailmessage"]
        bench.org.org.check, bench.check = check_length(bench.org.org, 5_000), bench.org.org.check
        assert kind
        mail = bench.mail(body="x" * 40_000)
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        assert len(bench.logged()[0]["TextBody"]) <= 5_000

    @TASKS
    def test_of_no_right_on_tasks_says_what_to_do(self, bench):
        bench.contact()
        del bench.org.org.objects["task"]
        mail = bench.mail()
        assert bench.once()
        assert bench.state(mail) is State.FAILED


class TestClaims(OnBothDatabases):
    def test_of_a_worker_that_lives_are_respected_and_of_a_dead_one_taken_over(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.worker.beat()
        with bench.database.writing() as session:
            claimed(session, bench.worker.process_id, most=10, only=[bench.anna.id])
        other = Worker(bench.database, bench.config)
        assert not other.once()
        assert bench.state(mail) is State.WAITING
        with bench.database.writing() as session:
            for row in session.query(ProcessRow):
                row.beat_at -= timedelta(minutes=1)
        assert other.once()
        assert bench.state(mail) is State.LOGGED

    def test_who_comes_back_settles_nothing(self, bench):
        bench.contact()
        mail = bench.mail()
        with bench.database.writing() as session:
            [job] = claimed(session, "first", most=10, only=[bench.anna.id])[bench.anna.id]
        with bench.database.writing() as session:
            [again] = claimed(session, "second", most=10, only=[bench.anna.id])[bench.anna.id]
        with bench.database.writing() as session:
            assert mail_queue.intend(session, [(job, job.log)]) == frozenset()
            mail_queue.settle(session, [mail_queue.End(job, State.FAILED, job.log)])
            assert mail_queue.intend(session, [(again, again.log)]) == {mail}
        assert bench.state(mail) is State.WAITING

    def test_the_longest_waiting_come_first(self, bench):
        ids = [bench.mail(number=n, at=datetime.now(UTC) - timedelta(minutes=n)) for n in range(5)]
        with bench.database.writing() as session:
            found = claimed(session, "x", most=2, only=[bench.anna.id])[bench.anna.id]
        assert [job.row.id for job in found] == [ids[4], ids[3]]

    def test_two_workers_at_once_write_each_mail_once(self, bench):
        for n in range(40):
            bench.contact(f"c{n}@client.test")
            bench.mail(f"c{n}@client.test", number=n)
        workers = [Worker(bench.database, bench.config) for _ in range(3)]
        threads = [threading.Thread(target=worker.once) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bench.once()
        assert sorted(message["MessageIdentifier"] for message in bench.logged()) == sorted(
            f"<{n}@acme.test>" for n in range(40)
        )


class TestReceipts:
    def copied(self, bench, **more):
        bench.set(Setting.LOGGING, "bcc+receipt")
        return bench.mail(state=State.COPIED, decision=Decision.COPY_AND_API, **more)

    def test_a_copy_that_salesforce_has_is_confirmed(self, bench):
        mail = self.copied(bench)
        bench.org.org.put(
            "Task",
            Subject="Email: Our offer",
            OwnerId=bench.org.anna,
            TaskSubtype="Email",
            Status="Completed",
        )
        assert bench.once()
        assert (bench.state(mail), bench.texts()) == (State.CONFIRMED, 0)

    @pytest.mark.parametrize("comes_first", [True, False])
    def test_a_copy_that_another_tool_has_logged_too_names_it(self, bench, comes_first):
        mail = self.copied(bench)
        own = {"MessageIdentifier": "<1@acme.test>", "CreatedById": bench.org.anna, "Status": "3"}
        if comes_first:
            bench.logged_by_einstein()
        bench.org.org.put("EmailMessage", **own)
        if not comes_first:
            bench.logged_by_einstein(message_id="1@acme.test")
        bench.once()
        assert bench.state(mail) is State.CONFIRMED
        assert [one.by for one in bench.log(mail).trace.also] == ["Einstein"]
        with bench.database.reading() as session:
            found = logged_by_others(session, datetime.now(UTC) - timedelta(days=30), bench.anna.id)
        assert found.mails == 1

    def test_a_copy_is_looked_for_three_times_and_can_then_be_logged_by_hand(self, bench):
        bench.contact()
        mail = self.copied(bench, at=datetime.now(UTC) - timedelta(hours=2))
        for _ in range(3):
            assert bench.once()
        row = bench.row(mail)
        assert (row.state, row.due_at, bench.log(mail).trace.result) == (
            State.COPIED,
            None,
            MatchResult.NOT_CONFIRMED,
        )
        assert bench.logged() == []
        with bench.database.writing() as session:
            mail_requests.log_again(session, mail)
        assert bench.once()
        assert (bench.state(mail), bench.logged()[0]["TextBody"]) == (State.LOGGED, "Hello Bob")

    def test_two_of_one_subject_confirm_nothing(self, bench):
        mail = self.copied(bench)
        for _ in range(2):
            bench.org.org.put(
                "Task", Subject="Our offer", OwnerId=bench.org.anna, TaskSubtype="Email", Status="Completed"
            )
        assert bench.once()
        assert bench.state(mail) is State.COPIED


class TestTidying:
    def test_old_rows_go_with_all_that_hangs_on_them(self, bench):
        bench.contact()
        old = bench.mail(at=datetime.now(UTC) - timedelta(days=91))
        bench.once()
        with bench.database.writing() as session:
            row = session.get(MailRow, old)
            assert row.state == "logged"
            moved = new_id_of(datetime.now(UTC) - timedelta(days=91))
            for table in (MailLogRow,):
                session.query(table).delete()
            row.id = moved
        bench.once()
        with bench.database.reading() as session:
            assert session.query(MailRow).count() == 0

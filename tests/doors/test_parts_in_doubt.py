"""Parts of one mail while something is not known or not allowed: no second record, and nobody left out in
silence."""

import random
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from core.database.engine import DatabaseUnavailable
from core.mail import first_mails
from core.mail import queue as mail_queue
from core.mail import requests as mail_requests
from core.mail.row import State
from core.settings.catalogue import Setting
from sync.mail import queue as mail_batches
from sync.worker import Worker
from tests.doors.mail_bench import (
    ONE,
    TASKS,
    Bench,
    OnBothDatabases,
    bench,  # noqa: F401
    end_the_pause,
    org,  # noqa: F401
)
from tests.sandbox.org.records import Refused as RefusedThere


def refusing(bench, record, code="FIELD_CUSTOM_VALIDATION_EXCEPTION"):
    """Salesforce refuses whatever names this record; what to put back."""
    check = bench.org.org.check

    def refuse(kind, row, before):
        if kind.name.startswith("EmailMessage") and record in str(row):
            raise RefusedThere(code, "no")
        check(kind, row, before)

    bench.org.org.check = refuse
    return check


def everybody(bench):
    return {who for people in bench.people().values() for who, _ in people}


def again(bench, mail_id):
    with bench.database.writing() as session:
        mail_requests.log_again(session, mail_id)
    bench.once()


class TestARefusedLead(OnBothDatabases):
    @pytest.mark.parametrize("is_of_the_second", [True, False])
    def test_is_written_once_its_own_part_or_the_first_one_is_logged_again(self, bench, is_of_the_second):
        bench.contact("a@client.test")
        lead = bench.lead("b@client.test")
        check = refusing(bench, lead)
        parts = [bench.part("a@client.test"), bench.part("b@client.test")]
        bench.once()
        assert {bench.state(one) for one in parts} == {State.FAILED}
        bench.org.org.check = check
        again(bench, parts[is_of_the_second])
        assert lead in everybody(bench)
        assert len(bench.logged()) == 2, "a lead stands alone"

    def test_of_the_first_part_is_not_forgotten_when_another_part_was_logged_meanwhile(self, bench):
        bench.contact("a@client.test")
        lead, _ = bench.lead("d@client.test"), bench.lead("b@client.test")
        check = refusing(bench, lead)
        first = bench.mail("a@client.test", "d@client.test", identity=ONE)
        bench.once()
        bench.part("b@client.test")
        bench.once()
        bench.org.org.check = check
        again(bench, first)
        assert bench.state(first) is State.LOGGED
        assert lead in everybody(bench)


class TestWhatAPersonPicks(OnBothDatabases):
    def test_for_one_part_says_nothing_of_a_part_that_comes_with_it(self, bench):
        first = bench.part("a@client.test")
        bench.once()
        zoe, bob = bench.contact("z@other.test"), bench.contact("b@client.test")
        with bench.database.writing() as session:
            mail_requests.pick(session, first, [zoe])
        bench.part("b@client.test")
        bench.once()
        bench.once()
        assert everybody(bench) == {zoe, bob}
        assert len(bench.logged()) == 1

    def test_for_one_part_says_nothing_of_those_who_were_unmatched_with_it(self, bench):
        first, second = bench.part("a@client.test"), bench.part("b@client.test")
        bench.once()
        zoe, bob = bench.contact("z@other.test"), bench.contact("b@client.test")
        bench.worker = Worker(bench.database, bench.config)
        with bench.database.writing() as session:
            mail_requests.pick(session, first, [zoe])
        bench.worker.mails.log_some(threading.Event())
        again(bench, second)
        bench.once()
        assert everybody(bench) == {zoe, bob}


class TestTheNeverLogList:
    def test_holds_for_what_is_still_missing(self, bench):
        bench.contact("a@client.test")
        lead = bench.lead("d@client.test")
        check = refusing(bench, lead, "UNABLE_TO_LOCK_ROW")
        bench.mail("a@client.test", "d@client.test")
        bench.worker.mails.log_some(threading.Event())
        assert len(bench.logged()) == 1
        bench.policy(Setting.NEVER_LOG, "client.test")
        bench.org.org.check = check
        end_the_pause(bench)
        bench.once()
        assert lead not in everybody(bench)

    def test_holds_for_whom_a_later_part_would_add(self, bench):
        bench.contact("a@client.test")
        bob = bench.contact("b@client.test")
        bench.part("a@client.test")
        bench.once()
        check = refusing(bench, bob, "UNABLE_TO_LOCK_ROW")
        second = bench.part("b@client.test")
        bench.worker.mails.log_some(threading.Event())
        bench.policy(Setting.NEVER_LOG, "b@client.test")
        bench.org.org.check = check
        end_the_pause(bench)
        bench.once()
        assert bob not in everybody(bench)
        assert bench.state(second) is State.LOGGED


def test_who_could_not_be_added_is_named_on_the_part_that_was_set_aside(bench):
    bench.contact("a@client.test")
    _, carl = bench.contact("b@client.test"), bench.contact("c@client.test")
    bench.part("a@client.test")
    bench.once()
    refusing(bench, carl)
    parts = [bench.part("b@client.test"), bench.part("c@client.test")]
    bench.once()
    for one in parts:
        assert bench.state(one) is State.LOGGED
        assert bench.log(one).trace.not_added == (carl,)


@TASKS
def test_a_part_waits_for_an_unmatched_one_whose_write_was_begun(bench, monkeypatch):
    """Its record may be there; until that is known nobody takes its place."""
    bench.set(Setting.LOG_ON, "accounts")
    account = bench.org.org.put("Account", Name="Client")
    first = bench.part("a@client.test")
    bench.once()
    assert bench.state(first) is State.UNMATCHED
    for name in "ab":
        bench.contact(f"{name}@client.test", AccountId=account)
    bench.worker = Worker(bench.database, bench.config)
    again_due(bench, first)
    settle = mail_queue.settle

    def away(*_):
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(mail_queue, "settle", away)
    bench.worker.mails.log_some(threading.Event())
    monkeypatch.setattr(mail_queue, "settle", settle)
    assert len(bench.records("Task")) == 1
    assert bench.state(first) is State.WAITING
    bench.part("b@client.test")
    for _ in range(3):
        bench.worker.mails.log_some(threading.Event())
    bench.once()
    assert len(bench.records("Task")) == 1


def again_due(bench, mail_id):
    from sqlalchemy import update

    from core.database.models import MailRow

    with bench.database.writing() as session:
        session.execute(update(MailRow).where(MailRow.id == mail_id).values(due_at=datetime.now(UTC)))


@pytest.mark.parametrize("subject", ["Our offer", ""])
def test_a_restored_first_part_finds_the_record_that_others_were_added_to(bench, monkeypatch, subject):
    ann, _ = bench.contact("a@client.test"), bench.contact("b@client.test")
    old = datetime.now(UTC) - timedelta(hours=2)
    check = refusing(bench, ann, "UNABLE_TO_LOCK_ROW")
    first = bench.part("a@client.test", at=old, subject=subject)
    bench.worker.mails.log_some(threading.Event())
    in_backup = bench.log(first)
    assert in_backup.missing
    bench.org.org.check = check
    end_the_pause(bench)
    bench.once()
    second = bench.part("b@client.test", at=old + timedelta(seconds=30), subject=subject)
    bench.once()
    [message] = bench.logged()
    with bench.database.writing() as session:
        forget(session, second)
        mail_queue.keep_logs(session, {first: in_backup})
    back_to_waiting(bench, first)
    monkeypatch.setattr(mail_batches, "restored_at", lambda _: datetime.now(UTC) - timedelta(hours=1))
    bench.once()
    bench.once()
    assert [one["Id"] for one in bench.logged()] == [message["Id"]]
    assert bench.state(first) is State.LOGGED


def forget(session, mail_id):
    from core.database.models import FirstMailRow, MailLogRow, MailRow, MailTextRow

    for table in (MailTextRow, MailLogRow):
        session.query(table).filter(table.mail_id == mail_id).delete()
    session.query(MailRow).filter(MailRow.id == mail_id).delete()
    session.query(FirstMailRow).delete()


def back_to_waiting(bench, mail_id):
    from sqlalchemy import update

    from core.database.models import MailRow

    with bench.database.writing() as session:
        session.execute(
            update(MailRow)
            .where(MailRow.id == mail_id)
            .values(state=State.WAITING.value, due_at=datetime.now(UTC), claimed_by=None)
        )


def test_workers_that_claim_and_join_do_not_wait_for_each_other(
    database, org, org_app, tmp_path, database_url
):
    bench = Bench(database, org, org_app, tmp_path, database_url)
    mails = {
        bytes([number]) * 32: bench.mail("a@client.test", identity=bytes([number]) * 32)
        for number in range(40)
    }
    troubles, until = [], time.monotonic() + 4

    def work(step, seed):
        chance = random.Random(seed)
        while time.monotonic() < until:
            try:
                with bench.database.writing() as session:
                    step(session, chance)
            except DatabaseUnavailable as trouble:
                troubles.append(str(trouble))

    def claim(session, chance):
        jobs = mail_queue.due_jobs(session, f"w{chance.random()}", [bench.anna.id], most=200)
        chance.shuffle(jobs)
        mail_queue.claim(session, "w", jobs)

    def join(session, chance):
        first_mails.claim_records(session, mails)
        first_mails.holders(session, chance.sample(sorted(mails.values()), 30))

    def let_go(session, _):
        mail_queue.let_go(session, "w")

    threads = [
        threading.Thread(target=work, args=(step, number))
        for number, step in enumerate((claim, claim, join, let_go))
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert troubles == []

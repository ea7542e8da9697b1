"""Mails that wait: faults that were found by trying."""

import threading

import pytest

from core.mail import queue as mail_queue
from core.mail import requests as mail_requests
from core.mail.row import Decision, State
from core.settings.catalogue import Setting
from sync.mail import batch, write
from sync.worker import Worker
from tests.doors.mail_bench import (
    KEYED,
    OnBothDatabases,
    bench,  # noqa: F401
    org,  # noqa: F401
    refuse,
    refused,
)
from tests.sandbox.org.faults import Fault


class TestWhatAnAttackFound(OnBothDatabases):
    def test_a_database_that_was_away_when_mails_were_settled_leaves_none_claimed(self, bench, monkeypatch):
        from core.database.engine import DatabaseUnavailable

        bench.contact()
        mail = bench.mail()
        real = mail_queue.settle

        def away(session, ends):
            monkeypatch.setattr(mail_queue, "settle", real)
            raise DatabaseUnavailable("away")

        monkeypatch.setattr(mail_queue, "settle", away)
        assert not bench.once()
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)

    @pytest.mark.parametrize(
        "org", [{"enhanced_email": False}, {"enhanced_email": False, "blindcopy_key": True}], indirect=True
    )
    def test_an_uncertain_write_is_not_forgotten_when_the_records_change(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert len(bench.logged("Task")) == 1
        for name, record_id in (("opportunity", deal),):
            bench.org.org.rows[name][record_id]["IsDeleted"] = True
        for role in bench.org.org.rows["opportunitycontactrole"].values():
            role["IsDeleted"] = True
        for _ in range(3):
            bench.worker = Worker(bench.database, bench.config)
            bench.once()
        assert sum(task["WhoId"] == bob for task in bench.logged("Task")) == 1, bench.log(mail)
        assert bench.state(mail) is State.LOGGED

    def test_a_record_that_is_named_three_ways_is_one(self, bench):
        bob = bench.contact("other@client.test")
        mail = bench.mail()
        bench.once()
        with bench.database.writing() as session:
            mail_requests.pick(session, mail, [bob, bob[:15], bob])
        assert bench.once()
        assert [len(message["ToIds"]) for message in bench.logged()] == [1]

    def test_a_record_can_be_chosen_for_an_unmatched_mail_only(self, bench):
        bob = bench.contact()
        mail = bench.mail()
        bench.once()
        with pytest.raises(mail_requests.NothingToLogBy), bench.database.writing() as session:
            mail_requests.pick(session, mail, [bob])

    @KEYED
    def test_a_message_id_of_many_bytes_is_found_again(self, bench, monkeypatch):
        bench.contact()
        mail = bench.mail(message_id="<" + "é" * 200 + "@x>")
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        assert bench.logged()[0]["MessageIdentifier"].endswith("@blindcopy.invalid>")

    def test_one_odd_mail_holds_up_nobody(self, bench, monkeypatch):
        bench.contact()
        good, odd = bench.mail(), bench.mail(number=2, header=f"To: {'(' * 5_000} bob@client.test\r\n")
        bench.once()
        assert bench.state(good) is State.LOGGED
        assert bench.state(odd) in {State.LOGGED, State.DISMISSED}
        real = write.fields

        def broken(draft):
            if draft.row.subject == "broken":
                raise ZeroDivisionError
            return real(draft)

        monkeypatch.setattr(write, "fields", broken)
        fine, bad = bench.mail(number=3), bench.mail(number=4, subject="broken")
        assert not bench.once()
        assert (bench.state(fine), bench.state(bad)) == (State.LOGGED, State.WAITING)
        for _ in range(6):
            bench.once()
        assert (bench.state(bad), bench.log(bad).trouble_code) == (State.FAILED, "unforeseen")

    def test_what_was_written_before_something_unforeseen_is_not_written_again(self, bench, monkeypatch):
        bench.contact()
        mails = [bench.mail(number=n, subject="broken" if n == 3 else "fine") for n in range(1, 4)]
        monkeypatch.setattr(write, "MOST_BYTES", 0)
        real = write.fields

        def broken(draft):
            if draft.row.subject == "broken":
                raise ZeroDivisionError
            return real(draft)

        monkeypatch.setattr(write, "fields", broken)
        bench.once()
        assert [bench.state(mail) for mail in mails] == [State.LOGGED, State.LOGGED, State.WAITING]
        for _ in range(6):
            bench.once()
        assert bench.state(mails[2]) is State.FAILED
        assert sorted(one["MessageIdentifier"] for one in bench.logged()) == [
            "<1@acme.test>",
            "<2@acme.test>",
        ]

    @pytest.mark.parametrize("code", ["INACTIVE_ORGANIZATION", "INVALID_LOGIN"])
    def test_an_answer_that_concerns_the_connection_is_no_endless_loop(self, bench, code, monkeypatch):
        from core.salesforce.client import Client
        from core.salesforce.login import Refused
        from core.salesforce.troubles import trouble

        bench.contact()
        mail = bench.mail()
        asked = []

        def refuse_all(*_, **__):
            asked.append(1)
            raise Refused(trouble(code))

        monkeypatch.setattr(Client, "query", refuse_all)
        bench.worker.mails.log_some(threading.Event())
        assert len(asked) < 3
        assert bench.state(mail) is State.WAITING

    def test_an_operators_fault_fails_nobodys_mail(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.org.tokens.client.client_secret = "changed"
        bench.org.tokens.expire_sessions()
        assert not bench.once()
        assert bench.state(mail) is State.WAITING
        bench.org.tokens.client.client_secret = "blindcopy-secret"
        assert bench.once()
        assert bench.state(mail) is State.LOGGED

    def test_receipts_that_cannot_be_had_concern_the_copies_only(self, bench, monkeypatch):
        bench.contact()
        bench.set(Setting.LOGGING, "bcc+receipt")
        copy = bench.mail(state=State.COPIED, decision=Decision.COPY_AND_API)
        mail = bench.mail(number=2)
        monkeypatch.setattr(batch, "receipts", refused("INVALID_TYPE"))
        bench.once()
        assert (bench.state(copy), bench.row(copy).due_at) == (State.COPIED, None)
        assert bench.state(mail) is State.LOGGED

    def test_a_mail_that_is_written_wholly_is_logged_whatever_else_is_refused(self, bench, monkeypatch):
        from core.salesforce.client import Client

        bench.contact()
        first, second = bench.mail(), bench.mail(number=2)
        monkeypatch.setattr(write, "MOST_BYTES", 0)
        real, calls = Client.create, []

        def create(self, *more):
            calls.append(1)
            return real(self, *more) if len(calls) == 1 else refused("INSUFFICIENT_ACCESS")()

        monkeypatch.setattr(Client, "create", create)
        bench.once()
        assert (bench.state(first), bench.state(second)) == (State.LOGGED, State.FAILED)

    def test_never_log_holds_for_what_waits_too(self, bench):
        bob, lawyer = bench.contact(), bench.contact("lawyer@law.test")
        mail = bench.mail("bob@client.test", "lawyer@law.test")
        bench.org.faults.order(Fault.LOCKED, "composite")
        refuse(bench, "UNABLE_TO_LOCK_ROW", "locked")
        assert not bench.once()
        bench.org.org.check = bench.check
        bench.org.faults.clear()
        bench.policy(Setting.NEVER_LOG, "law.test")
        assert bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], lawyer in (message["ToIds"] or ())) == ([bob], False)
        assert bench.state(mail) is State.LOGGED

"""Mails that are logged together: what one of them meets is no other's, and what is known of each is kept."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, select

from core.database.models import MailRow, MailTextRow, PersonRow
from core.mail import queue as mail_queue
from core.mail import requests as mail_requests
from core.mail.retention import Retention
from core.mail.row import Decision, State
from core.salesforce import api_usage, connection_store, late_commits
from core.salesforce.client import Client
from core.salesforce.login import NeverSent, Refused
from core.salesforce.troubles import trouble
from core.settings.catalogue import Setting
from sync.mail import write
from sync.worker import Worker
from tests.doors.connected import person
from tests.doors.mail_bench import (
    OnBothDatabases,
    bench,  # noqa: F401
    claimed,
    new_id_of,
    org,  # noqa: F401
)
from tests.sandbox.org.faults import Fault
from tests.sandbox.org.schema import objects


def refusing(monkeypatch, code, subject="bad"):
    """Calls are refused as a whole where one record has this subject."""
    real, calls = Client.create, []

    def create(client, sobject, records):
        calls.append(len(records))
        if any(one["Subject"] == subject for one in records):
            raise Refused(trouble(code))
        return real(client, sobject, records)

    monkeypatch.setattr(Client, "create", create)
    return calls


class TestOneMailOfMany:
    def test_that_has_the_whole_call_refused_fails_alone(self, bench, monkeypatch):
        bench.contact()
        good = [bench.mail(number=number) for number in range(7)]
        bad = bench.mail(number=8, subject="bad")
        calls = refusing(monkeypatch, "JSON_PARSER_ERROR")
        assert bench.once()
        assert {bench.state(mail) for mail in good} == {State.LOGGED}
        assert (bench.state(bad), bench.log(bad).trouble_code) == (State.FAILED, "JSON_PARSER_ERROR")
        assert len(bench.logged()) == 7
        assert len(calls) <= 7, "by halves, not one by one"

    def test_keeps_what_was_written_of_it_before_the_call_was_refused(self, bench, monkeypatch):
        monkeypatch.setattr(write, "MOST_BYTES", 0)
        bench.contact()
        first, bad = bench.mail(number=1), bench.mail(number=2, subject="bad")
        refusing(monkeypatch, "JSON_PARSER_ERROR")
        assert bench.once()
        assert (bench.state(first), bench.state(bad)) == (State.LOGGED, State.FAILED)
        assert len(bench.logged()) == 1

    def test_whose_text_no_key_opens_keeps_it_and_says_so(self, bench):
        bench.contact()
        odd, good = bench.mail(number=1), bench.mail(number=2)
        with bench.database.writing() as session:
            session.get(MailTextRow, odd).content = b"under another key"
        assert bench.once()
        assert (bench.state(good), bench.state(odd)) == (State.LOGGED, State.FAILED)
        assert bench.log(odd).trouble_code == "lost_text"
        assert bench.texts() == 1

    def test_that_is_a_copy_stays_one_whatever_looking_for_its_receipt_meets(self, bench, monkeypatch):
        bench.set(Setting.LOGGING, "bcc+receipt")
        mail = bench.mail(state=State.COPIED, decision=Decision.COPY_AND_API)
        monkeypatch.setattr("sync.mail.batch.receipts", lambda *_: 1 / 0)
        for _ in range(7):
            with bench.database.writing() as session:
                session.get(MailRow, mail).due_at = datetime.now(UTC)
            bench.once()
        assert (bench.state(mail), bench.row(mail).due_at) == (State.COPIED, None)
        assert bench.log(mail).trouble_code == "unforeseen"


class TestAWriteWhoseAnswerWasLost:
    def test_is_looked_for_though_the_organisation_has_our_key_field_by_now(self, bench):
        """The first record has no key by which a second one could be refused."""
        bench.contact()
        mail = bench.mail()
        bench.org.faults.order(Fault.LOST, "composite")
        assert not bench.once()
        assert bench.log(mail).targets[0].is_sought
        bench.org.org.objects = objects(blindcopy_key=True)
        bench.worker = Worker(bench.database, bench.config)  # which asks anew what the organisation has
        assert bench.once()
        assert (bench.state(mail), len(bench.logged())) == (State.LOGGED, 1)

    def test_after_a_renewal_that_took_too_long_was_not_made(self, bench, monkeypatch):
        monkeypatch.setattr(late_commits, "LONGEST_RENEWAL", timedelta(seconds=-1))
        client = bench.connections.client(connection(bench, bench.anna))
        bench.org.faults.order(Fault.EXPIRED, "query")
        with pytest.raises(NeverSent):
            client.query("SELECT Id FROM User")


def connection(bench, account):
    with bench.database.reading() as session:
        return connection_store.connection(session, account.id)


class TestAnUnmatchedMail:
    def test_waits_once_it_is_matched_whatever_its_write_meets(self, bench):
        mail = bench.mail()
        assert bench.once()
        assert bench.state(mail) is State.UNMATCHED
        bench.contact()
        bench.org.faults.order(Fault.LOST, "composite")
        with bench.database.writing() as session:
            mail_queue.make_due(session)
        Worker(bench.database, bench.config).once()
        assert bench.state(mail) is State.WAITING, "or tidying would end a wait for a match"


class TestAClaim(OnBothDatabases):
    def test_takes_the_same_share_of_everybody(self, bench):
        other = person(bench.database, "other@acme.test")
        for number in range(8):
            bench.mail(number=number)
        late = bench.mail(number=9, person_id=other.id)
        with bench.database.reading() as session:
            people = mail_queue.people_with_due_mail(session, "w", select(PersonRow.id), most=10)
        assert people == [bench.anna.id, other.id]
        with bench.database.writing() as session:
            taken = claimed(session, "w", most=6, only=people)
        assert [job.row.id for job in taken[other.id]] == [late]
        assert len(taken[bench.anna.id]) == 3

    def test_of_a_round_that_failed_is_let_go_of_in_the_next(self, bench):
        bench.contact()
        mail = bench.mail()
        bench.worker.beat()
        with bench.database.writing() as session:
            claimed(session, bench.worker.process_id, most=10, only=[bench.anna.id])
        assert not bench.worker.mails.log_some(threading.Event()), "it is seen as this worker's own"
        assert bench.worker.mails.log_some(threading.Event())
        assert bench.state(mail) is State.LOGGED

    def test_is_not_due_for_a_person_whose_organisation_is_paused(self, bench):
        bench.mail()
        with bench.database.writing() as session:
            api_usage.pause(session, connection(bench, bench.anna).identity.organisation_id, "X")
        with bench.database.reading() as session:
            ready = connection_store.ready(session)
            assert mail_queue.people_with_due_mail(session, "w", ready, most=10) == []
            assert list(session.scalars(connection_store.able(session))) == [bench.anna.id]


class TestTidying(OnBothDatabases):
    def test_leaves_a_mail_alone_that_was_logged_again_meanwhile(self, bench):
        mail = bench.mail(state=State.UNMATCHED, at=datetime.now(UTC) - timedelta(days=10))
        with bench.database.writing() as session:
            row = session.get(MailRow, mail)
            row.id, old = new_id_of(row.time), row.id
            session.query(MailTextRow).filter(MailTextRow.mail_id == old).delete()
        [mail] = [row_id for (row_id,) in ids(bench)]
        is_first = []

        def in_between(connection, cursor, statement, *_):
            if statement.startswith("UPDATE mail SET due_at") and not is_first:
                is_first.append(True)
                if bench.database.sqlite_file is None:  # SQLite has one writer at a time
                    with bench.database.writing() as session:
                        mail_requests.log_again(session, mail)

        event.listen(bench.database.engine, "before_cursor_execute", in_between)
        Retention(bench.database).tidy(timedelta(days=90), timedelta(days=5))
        event.remove(bench.database.engine, "before_cursor_execute", in_between)
        assert is_first
        row = bench.row(mail)
        if bench.database.sqlite_file is None:
            assert row.state is State.WAITING
            assert row.due_at is not None
        else:
            assert (row.state, row.due_at) == (State.UNMATCHED, None)


def ids(bench):
    with bench.database.reading() as session:
        return session.query(MailRow.id).all()

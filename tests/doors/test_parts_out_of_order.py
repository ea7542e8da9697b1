"""Parts of one mail that fail, are picked for, wait, or are in other hands: one record all the same."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from admin import create_app
from admin.trace import trace_of
from core.database.models import MailRow
from core.mail import first_mails
from core.mail import requests as mail_requests
from core.mail.progress import ID_NOT_TOLD, MatchResult
from core.mail.queue import keep_logs
from core.mail.row import State
from core.salesforce.client import Client
from core.salesforce.login import Refused
from core.salesforce.troubles import trouble
from core.settings.catalogue import Setting
from sync.mail import batch
from sync.worker import Worker
from tests.doors.connected import person
from tests.doors.mail_bench import (
    ONE,
    SHARED,
    OnBothDatabases,
    bench,  # noqa: F401
    org,  # noqa: F401
    refuse,
)
from tests.sandbox.org.records import Refused as RefusedThere


@pytest.fixture
def contacts(bench):
    return [bench.contact(f"{name}@client.test") for name in "abc"]


def again(bench, mail_id):
    with bench.database.writing() as session:
        mail_requests.log_again(session, mail_id)


def pick(bench, mail_id, *ids):
    with bench.database.writing() as session:
        mail_requests.pick(session, mail_id, ids)


def who_is_on(bench, message):
    return {who for who, _ in bench.people()[message["Id"]]}


class TestPartsThatFailed(OnBothDatabases):
    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_are_one_record_in_whatever_order_they_are_logged_again(self, bench, contacts, order):
        refuse(bench, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "no")
        parts = [bench.part("a@client.test"), bench.part("b@client.test")]
        bench.once()
        assert {bench.state(one) for one in parts} == {State.FAILED}
        bench.org.org.check = bench.check
        for number in order:
            again(bench, parts[number])
            bench.once()
        [message] = bench.logged()
        assert {bench.state(one) for one in parts} == {State.LOGGED}
        assert who_is_on(bench, message) == set(contacts[:2])

    def test_on_one_record_of_two_write_the_other_only(self, bench, contacts):
        deal = bench.deal(contacts[0])
        other = bench.deal(contacts[0], name="Tables")
        bench.set(Setting.LOG_ON, "contacts,opportunities")
        bench.set(Setting.OPPORTUNITY, "all-open")
        check = bench.org.org.check

        def refuse_one(kind, row, before):
            if kind.name == "EmailMessage" and row.get("RelatedToId") == other:
                raise RefusedThere("FIELD_CUSTOM_VALIDATION_EXCEPTION", "no")
            check(kind, row, before)

        bench.org.org.check = refuse_one
        first = bench.part("a@client.test")
        bench.once()
        assert bench.state(first) is State.FAILED
        assert len(bench.logged()) == 1
        second = bench.part("b@client.test")
        bench.once()
        assert bench.state(second) is State.LOGGED
        bench.org.org.check = check
        again(bench, first)
        bench.once()
        assert bench.state(first) is State.LOGGED
        on = [one["RelatedToId"] for one in bench.logged()]
        assert len(on) == len(set(on)) <= 2
        assert deal in on


class TestPartsThatArePickedFor(OnBothDatabases):
    def test_at_once_stand_on_what_was_picked_for_each(self, bench):
        first, second = bench.part("a@client.test"), bench.part("b@client.test")
        bench.once()
        assert {bench.state(one) for one in (first, second)} == {State.UNMATCHED}
        zoe, yan = bench.contact("z@other.test"), bench.contact("y@other.test")
        pick(bench, first, zoe)
        pick(bench, second, yan)
        bench.once()
        bench.once()
        [message] = bench.logged()
        assert who_is_on(bench, message) == {zoe, yan}
        assert {bench.state(one) for one in (first, second)} == {State.LOGGED}

    def test_while_another_part_finds_somebody(self, bench):
        first, second = bench.part("a@client.test"), bench.part("b@client.test")
        bench.once()
        ann, zoe = bench.contact("a@client.test"), bench.contact("z@other.test")
        pick(bench, second, zoe)
        bench.worker = Worker(bench.database, bench.config)
        bench.once()
        bench.once()
        [message] = bench.logged()
        assert who_is_on(bench, message) == {ann, zoe}
        assert {bench.state(one) for one in (first, second)} == {State.LOGGED}


class TestAPart(OnBothDatabases):
    def test_waits_for_an_unmatched_one_that_a_worker_has_in_hand(self, bench, monkeypatch):
        first = bench.part("a@client.test")
        bench.once()
        contacts = [bench.contact("a@client.test"), bench.contact("b@client.test")]
        second = []
        original = batch.write

        def write_slowly(session, outcomes, mails):
            if not second:
                second.append(bench.part("b@client.test"))
                bench.other = Worker(bench.database, bench.config)
                bench.other.mails.log_some(threading.Event())
                assert bench.state(second[0]) is State.WAITING
            original(session, outcomes, mails)

        monkeypatch.setattr(batch, "write", write_slowly)
        bench.worker = Worker(bench.database, bench.config)
        bench.once()
        bench.once()
        [message] = bench.logged()
        assert who_is_on(bench, message) == set(contacts)
        assert {bench.state(one) for one in (first, *second)} == {State.LOGGED}

    def test_that_stands_back_has_not_been_tried(self, bench, contacts):
        with bench.database.writing() as session:
            session.execute(update(MailRow).values(attempts=0))
        refuse(bench, "UNABLE_TO_LOCK_ROW", "busy")
        first = bench.part("a@client.test")
        bench.worker.mails.log_some(threading.Event())
        second = bench.part("b@client.test")
        bench.worker.mails.log_some(threading.Event())
        assert {bench.state(one) for one in (first, second)} == {State.WAITING}
        with bench.database.reading() as session:
            tries = dict(session.execute(select(MailRow.id, MailRow.attempts)).all())
        assert tries[first] == 1
        assert tries[second] == 0
        assert bench.log(second).trace.tries == ()

    def test_does_not_wait_for_one_of_somebody_who_has_no_connection_any_more(self, bench, contacts):
        carl = person(bench.database, email="carl@acme.test")
        waiting = bench.part("a@client.test", person_id=carl.id)
        with bench.database.writing() as session:
            first_mails.claim_records(session, {ONE: waiting})
        second = bench.part("b@client.test")
        bench.once()
        assert bench.state(second) is State.LOGGED

    def test_names_its_own_recipient_in_its_header(self, bench, contacts):
        for name in "abc":
            bench.part(
                f"{name}@client.test", header=f"{'Cc' if name == 'c' else 'To'}: {name}@client.test\r\n"
            )
        bench.once()
        [message] = bench.logged()
        assert bench.people()[message["Id"]] == {
            (contacts[0], "ToAddress"),
            (contacts[1], "ToAddress"),
            (contacts[2], "CcAddress"),
        }

    def test_does_not_tell_again_what_the_first_one_tells(self, bench, contacts):
        parts = [bench.part(f"{name}@client.test") for name in "abc"]
        bench.once()
        assert bench.log(parts[0]).trace.chosen
        for one in parts[1:]:
            trace = bench.log(one).trace
            assert trace.result is MatchResult.SAME_MAIL
            assert not trace.chosen
            assert not trace.found
            assert not trace.places

    def test_is_told_with_the_names_of_its_records(self, bench, contacts):
        first, second = bench.part("a@client.test"), bench.part("b@client.test")
        bench.once()
        with create_app(bench.config).test_request_context():
            told = trace_of(bench.row(second), bench.log(second), None, bench.log(first))
        assert [one.text for one in told.written] == ["E-mail on Bob Buyer, Bob Buyer"]

    def test_says_why_it_was_not_logged_like_the_first_one(self, bench):
        parts = [bench.part("a@client.test"), bench.part("b@client.test")]
        bench.once()
        assert {bench.log(one).trace.result for one in parts} == {MatchResult.NO_MATCH_UNMATCHED}

    def test_has_a_record_of_its_own_where_the_first_ones_is_not_known(self, bench, contacts):
        first = bench.part("a@client.test")
        bench.once()
        log = bench.log(first)
        [target] = log.written
        with bench.database.writing() as session:
            keep_logs(session, {first: replace(log, targets=(replace(target, id=ID_NOT_TOLD),))})
        second = bench.part("b@client.test")
        bench.once()
        assert bench.state(second) is State.LOGGED
        assert bench.log(second).trace.not_added == ()
        assert {who for message in bench.logged() for who in who_is_on(bench, message)} == set(contacts[:2])


@SHARED
def test_a_shared_task_takes_fifty_people_and_the_others_have_one_of_their_own(bench):
    people = [bench.contact(f"p{number}@client.test") for number in range(53)]
    bench.mail(*[f"p{number}@client.test" for number in range(49)], identity=ONE)
    bench.once()
    bench.mail(*[f"p{number}@client.test" for number in range(49, 53)], identity=ONE)
    bench.once()
    one, other = bench.records("Task")
    assert sorted(len(task["TaskWhoIds"]) for task in (one, other)) == [4, 49]
    assert {*one["TaskWhoIds"], *other["TaskWhoIds"]} == set(people)


class TestARecordOfAnotherTool:
    def test_has_the_lead_too(self, bench, contacts):
        lead = bench.lead("d@client.test")
        record = bench.logged_by_einstein(contacts[0])
        one = bench.mail("a@client.test", "d@client.test", identity=ONE)
        bench.once()
        assert [message["Id"] for message in bench.logged()] == [record]
        assert bench.people()[record] == {(contacts[0], "ToAddress"), (lead, "ToAddress")}
        assert bench.state(one) is State.LOGGED

    def test_that_comes_after_ours_is_named_when_a_later_part_comes(self, bench, contacts):
        bench.part("a@client.test")
        bench.once()
        [ours] = bench.logged()
        bench.logged_by_einstein(contacts[0])
        second = bench.part("b@client.test")
        bench.once()
        assert len(bench.logged()) == 2, "theirs and ours"
        assert next(target.id for target in bench.log(second).written) == ours["Id"]
        assert [one.by for one in bench.log(second).trace.also] == ["Einstein"]

    def test_that_takes_too_long_to_look_for_holds_no_mail_up(self, bench, contacts, monkeypatch):
        query = Client.query

        def slowly(self, soql, *values):
            if "MessageIdentifier IN" in soql:
                raise Refused(trouble("QUERY_TIMEOUT"))
            return query(self, soql, *values)

        monkeypatch.setattr(Client, "query", slowly)
        one = bench.part("a@client.test")
        bench.once()
        assert bench.state(one) is State.LOGGED

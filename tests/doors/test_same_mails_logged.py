"""Parts of one mail, logged through the API: one record with all people, whenever they come."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from admin import create_app
from admin.trace import trace_of
from core.database.models import MailRow
from core.health import look_at_installation
from core.mail import first_mails
from core.mail.progress import MatchResult
from core.mail.row import State
from core.mail.store import Filter, entries, logged_by_others
from core.salesforce.client import Client, Written
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import trouble
from core.settings.catalogue import Setting
from sync.worker import Worker
from tests.doors.mail_bench import (
    KEYED,
    ONE,
    SHARED,
    TASKS,
    TO_ALL,
    OnBothDatabases,
    bench,  # noqa: F401
    org,  # noqa: F401
)


@pytest.fixture
def contacts(bench):
    return [bench.contact(f"{name}@client.test") for name in "abc"]


class TestPartsThatAreDueTogether(OnBothDatabases):
    def test_are_one_record_with_all_people(self, bench, contacts):
        first, *others = [bench.part(f"{name}@client.test") for name in "abc"]
        bench.once()
        [message] = bench.logged()
        assert bench.people() == {message["Id"]: {(one, "ToAddress") for one in contacts}}
        assert {bench.state(one) for one in (first, *others)} == {State.LOGGED}
        assert [bench.row(one).same_as for one in (first, *others)] == [None, first, first]
        for one in others:
            assert [target.id for target in bench.log(one).written] == [message["Id"]]
            assert bench.log(one).trace.result is MatchResult.SAME_MAIL
        assert bench.texts() == 0

    def test_are_one_record_with_two_workers_at_once(self, bench, contacts):
        for _ in range(4):
            for name in "abc":
                bench.part(f"{name}@client.test")
        workers = [Worker(bench.database, bench.config) for _ in range(2)]
        threads = [threading.Thread(target=one.once) for one in workers]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        bench.once()
        [message] = bench.logged()
        assert bench.people() == {message["Id"]: {(one, "ToAddress") for one in contacts}}

    def test_that_match_nobody_are_kept_together(self, bench):
        ids = [bench.part(f"{name}@client.test") for name in "ab"]
        bench.once()
        assert [bench.state(one) for one in ids] == [State.UNMATCHED] * 2
        bench.contact("b@client.test")
        bench.once()

    def test_of_different_mails_stay_apart(self, bench, contacts):
        bench.part("a@client.test")
        bench.mail("b@client.test", identity=b"j" * 32)
        bench.mail("c@client.test")
        bench.once()
        assert len(bench.logged()) == 3


class TestALatePart(OnBothDatabases):
    def test_adds_whom_it_brings_to_the_record_that_is_there(self, bench, contacts):
        first = bench.part("a@client.test")
        bench.once()
        second = bench.part("b@client.test")
        bench.once()
        third = bench.part("b@client.test")
        bench.once()
        [message] = bench.logged()
        assert bench.people() == {message["Id"]: {(one, "ToAddress") for one in contacts[:2]}}
        assert [bench.row(one).same_as for one in (first, second, third)] == [None, first, first]
        assert {bench.state(one) for one in (first, second, third)} == {State.LOGGED}
        assert bench.log(third).trace.result is MatchResult.SAME_MAIL
        assert len({target.id for one in (first, second, third) for target in bench.log(one).written}) == 1

    def test_adds_nobody_twice_where_a_try_is_repeated(self, bench, contacts, monkeypatch):
        bench.part("a@client.test")
        bench.once()
        second = bench.part("b@client.test")
        create = Client.create

        def lose_the_answer(client, kind, records):
            create(client, kind, records)
            raise Unavailable("lost")

        monkeypatch.setattr(Client, "create", lose_the_answer)
        bench.once()
        assert bench.state(second) is State.WAITING
        monkeypatch.setattr(Client, "create", create)
        bench.once()
        assert bench.state(second) is State.LOGGED
        assert [one["RelationId"] for one in bench.records("EmailMessageRelation")] == contacts[:2]

    def test_that_salesforce_does_not_let_be_added_is_named(self, bench, contacts, monkeypatch):
        bench.part("a@client.test")
        bench.once()
        second = bench.part("b@client.test")
        monkeypatch.setattr(
            Client, "create", lambda *_: [Written(None, trouble("INSUFFICIENT_ACCESS_OR_READONLY"))]
        )
        bench.once()
        assert bench.state(second) is State.LOGGED
        assert bench.log(second).trace.not_added == (contacts[1],)
        assert len(bench.logged()) == 1

    def test_is_logged_where_nobody_may_see_who_is_related(self, bench, contacts, monkeypatch):
        bench.part("a@client.test")
        bench.once()
        second = bench.part("b@client.test")
        query = Client.query

        def refuse(client, soql, *values, **more):
            if "FROM EmailMessageRelation" in soql:
                raise Refused(trouble("INSUFFICIENT_ACCESS"))
            return query(client, soql, *values, **more)

        monkeypatch.setattr(Client, "query", refuse)
        bench.once()
        assert bench.state(second) is State.LOGGED
        assert bench.log(second).trace.not_added == (contacts[1],)

    def test_is_tried_again_where_the_record_is_locked_just_then(self, bench, contacts, monkeypatch):
        bench.part("a@client.test")
        bench.once()
        second = bench.part("b@client.test")
        with monkeypatch.context() as patched:
            patched.setattr(Client, "create", lambda *_: [Written(None, trouble("UNABLE_TO_LOCK_ROW"))])
            bench.once()
        assert bench.state(second) is State.WAITING
        bench.once()
        assert bench.state(second) is State.LOGGED
        assert bench.log(second).trace.not_added == ()
        assert len(bench.records("EmailMessageRelation")) == 2

    def test_brings_an_opportunity_that_the_record_had_not(self, bench, contacts):
        bench.set(Setting.LOG_ON, "contacts,leads,opportunities")
        deal = bench.deal(contacts[1])
        bench.part("a@client.test")
        bench.once()
        bench.part("b@client.test")
        bench.once()
        [message] = bench.logged()
        assert message["RelatedToId"] == deal

    def test_brings_a_lead_which_has_a_record_of_its_own(self, bench, contacts):
        lead = bench.lead("d@client.test")
        bench.part("a@client.test")
        bench.once()
        bench.part("d@client.test")
        bench.part("d@client.test")
        bench.once()
        bench.part("d@client.test")
        bench.once()
        assert len(bench.logged()) == 2
        assert [one["RelationId"] for one in bench.records("EmailMessageRelation")] == [contacts[0], lead]

    def test_waits_while_the_first_is_under_way_elsewhere(self, bench, contacts):
        first = bench.part("a@client.test", at=datetime.now(UTC) + timedelta(hours=1))
        second = bench.part("b@client.test")
        with bench.database.writing() as session:
            first_mails.claim_records(session, {ONE: first})
        bench.once()
        assert len(bench.logged()) == 1
        assert {bench.state(first), bench.state(second)} == {State.LOGGED}

    @pytest.mark.parametrize("ended", [State.FAILED, State.DISMISSED, State.UNMATCHED, None])
    def test_is_the_first_where_that_came_to_nothing(self, bench, contacts, ended):
        gone = "01a21a41-4310-71ac-a2e7-000000000000"
        if ended is not None:
            gone = bench.mail("x@client.test", identity=ONE, state=ended, at=datetime.now(UTC))
            with bench.database.writing() as session:
                session.execute(update(MailRow).where(MailRow.id == gone).values(due_at=None))
        with bench.database.writing() as session:
            first_mails.claim_records(session, {ONE: gone})
        second = bench.part("b@client.test")
        bench.once()
        assert bench.state(second) is State.LOGGED
        assert bench.row(second).same_as is None


@KEYED
def test_the_key_is_of_the_mail_and_not_of_its_part(bench, contacts):
    first = bench.part("a@client.test")
    bench.once()
    [message] = bench.logged()
    [target] = bench.log(first).written
    assert message["Blindcopy_Key__c"] == target.key(ONE.hex())


@TASKS
def test_as_tasks_each_contact_has_its_own_once(bench, contacts):
    bench.part("a@client.test")
    bench.part("b@client.test")
    bench.once()
    bench.part("b@client.test")
    bench.part("c@client.test")
    bench.once()
    assert sorted(one["WhoId"] for one in bench.records("Task")) == sorted(contacts)


@SHARED
def test_as_a_shared_task_people_are_added_to_it(bench, contacts):
    bench.part("a@client.test")
    bench.once()
    bench.part("b@client.test")
    bench.once()
    [task] = bench.records("Task")
    assert set(task["TaskWhoIds"]) == set(contacts[:2])
    task["TaskWhoIds"] = [*task["TaskWhoIds"], contacts[2]]  # somebody adds one in Salesforce
    lee = bench.contact("d@client.test")
    bench.part("d@client.test")
    bench.once()
    [task] = bench.records("Task")
    assert set(task["TaskWhoIds"]) == {*contacts, lee}


class TestAMailThatAnotherToolHasLogged:
    """Einstein Activity Capture, the Outlook pane, a person who forwards."""

    @pytest.mark.parametrize("message_id", ["<1@acme.test>", "1@acme.test"])
    def test_is_not_written_again_and_says_who_did(self, bench, contacts, message_id):
        record = bench.logged_by_einstein(contacts[0], message_id=message_id)
        one = bench.part("a@client.test")
        bench.once()
        assert [message["Id"] for message in bench.logged()] == [record]
        assert bench.state(one) is State.LOGGED
        log = bench.log(one)
        assert {target.id for target in log.written} == {record}
        assert log.trace.there.by == "Einstein"

    @pytest.mark.parametrize("is_ours_to_change", [True, False])
    def test_has_what_our_rules_want_besides_added_where_that_may_be(
        self, bench, contacts, is_ours_to_change
    ):
        bench.set(Setting.LOG_ON, "contacts,leads,opportunities")
        deal = bench.deal(contacts[1])
        record = bench.logged_by_einstein(contacts[0], IsClientManaged=is_ours_to_change)
        one = bench.mail("a@client.test", "b@client.test", header=TO_ALL, identity=ONE)
        bench.once()
        [message] = bench.logged()
        assert bench.state(one) is State.LOGGED
        assert message["RelatedToId"] == (deal if is_ours_to_change else None)
        assert bench.log(one).trace.not_added == (() if is_ours_to_change else (deal,))
        assert bench.people()[record] == {(one, "ToAddress") for one in contacts[:2]}

    def test_is_counted_and_can_be_filtered_by(self, bench, contacts):
        bench.logged_by_einstein(contacts[0])
        one = bench.part("a@client.test")
        bench.mail("b@client.test", identity=b"j" * 32, number=2)
        bench.once()
        with bench.database.reading() as session:
            assert [entry.row.id for entry in entries(session, Filter(by_others=True), 10)] == [one]
            found = logged_by_others(session, datetime.now(UTC) - timedelta(days=30))
            assert (found.mails, found.copied) == (1, 0)
        found = [finding for finding in look_at_installation(bench.database) if finding.what == "other tools"]
        assert len(found) == 1
        assert found[0].parts["number"] == 1

    def test_is_told_in_words(self, bench, contacts):
        bench.logged_by_einstein(contacts[0])
        one = bench.part("a@client.test")
        bench.once()
        with create_app(bench.config).test_request_context():
            told = trace_of(bench.row(one), bench.log(one), None)
        assert any("Einstein logged it" in step for step in told.steps)
        assert len(told.written) == 1

    @pytest.mark.parametrize(
        "values",
        [
            {"sender": "carl@acme.test"},
            {"message_id": "<2@acme.test>"},
            {"MessageDate": datetime(2026, 11, 20, 8, 30, tzinfo=UTC)},
        ],
        ids=["author", "id", "time"],
    )
    def test_is_another_one_by_author_id_and_time(self, bench, contacts, values):
        bench.logged_by_einstein(contacts[0], **values)
        bench.part("a@client.test")
        bench.once()
        assert len(bench.logged()) == 2

    def test_is_another_one_by_its_subject_as_a_device_gives_one_id_to_all(self, bench, contacts):
        for number, name in enumerate("ab"):
            bench.mail(
                f"{name}@client.test", header=TO_ALL, subject=f"Scan {number}", identity=bytes([number]) * 32
            )
            bench.once()
        assert sorted(one["Subject"] for one in bench.logged()) == ["Scan 0", "Scan 1"]

    @pytest.mark.parametrize("code", ["INSUFFICIENT_ACCESS", "INVALID_FIELD"])
    def test_that_may_not_be_looked_for_is_logged_all_the_same(self, bench, contacts, monkeypatch, code):
        query = Client.query

        def refuse(client, soql, *values, **more):
            if "FROM EmailMessage" in soql:
                raise Refused(trouble(code))
            return query(client, soql, *values, **more)

        monkeypatch.setattr(Client, "query", refuse)
        one = bench.part("a@client.test")
        bench.once()
        assert bench.state(one) is State.LOGGED

    def test_is_known_by_its_date_however_late_it_came_to_us(self, bench, contacts):
        bench.logged_by_einstein(contacts[0], MessageDate=datetime(2026, 11, 20, 8, 30, tzinfo=UTC))
        one = bench.mail(
            "a@client.test", header=f"{TO_ALL}Date: Fri, 20 Nov 2026 09:30:00 +0100\r\n", identity=ONE
        )
        bench.once()
        assert len(bench.logged()) == 1
        assert bench.state(one) is State.LOGGED

    def test_takes_no_more_calls(self, bench, contacts):
        bench.set(Setting.LOG_ON, "contacts,leads,opportunities")
        for number in range(20):
            bench.mail("a@client.test", "lee@p.test", number=number, identity=bytes([number]) * 32)
        before = len(bench.org.calls)
        bench.once()
        asked = [one for one in bench.org.calls[before:] if "query/" in one or one.startswith("POST")]
        assert len(asked) == 4, asked  # contacts, leads, opportunities and messages together, the records

"""A person's Email to Salesforce address, looked up and kept."""

import pytest

from core.database.audit import changes
from core.database.models import PickUpRow
from core.people import store as people_store
from core.salesforce import bcc_address_queue
from core.salesforce.bcc_address import AddressOutcome, senders_that_salesforce_lacks, senders_to_propose
from core.settings import store as settings_store
from core.settings.catalogue import Logging, Setting
from tests.doors.bcc_lookup import (
    ADDRESS,
    anna,  # noqa: F401
    connections,  # noqa: F401
    found,
    give_address,
    worker,  # noqa: F401
)
from tests.doors.connected import (
    app,  # noqa: F401
    kept,
)
from tests.sandbox.org.faults import Fault


class TestTheWorker:
    def test_finds_the_address_and_says_whose_deed_it_was(self, connections, worker, org, anna, sqlite):
        give_address(org, "anna@acme.test, Sales@acme.test;\nacme.org")
        give_address(org, domain="other.na1.le.salesforce.com", name="Invoices")
        assert worker.once()
        one, address = found(sqlite, anna)
        assert address == ADDRESS
        assert (one.outcome, one.senders) == (
            AddressOutcome.FOUND,
            ("anna@acme.test", "sales@acme.test", "acme.org"),
        )
        with sqlite.reading() as session:
            [change] = [each for each in changes(session, 10) if each.change.what == "bcc-address"]
        assert (change.change.actor, change.change.after) == ("the worker", "(not shown)")

    def test_tells_a_missing_address_from_a_feature_that_is_off(self, connections, worker, org, anna, sqlite):
        assert worker.once()
        assert found(sqlite, anna)[0].outcome is AddressOutcome.FEATURE_OFF
        other = org.org.put("User", Username="bob@acme.test", Name="Bob", Email="b@acme.test", IsActive=True)
        give_address(org, user=other)
        assert worker.once()
        assert found(sqlite, anna) == (found(sqlite, anna)[0], None)
        assert found(sqlite, anna)[0].outcome is AddressOutcome.ADDRESS_MISSING

    def test_says_who_may_not_look(self, connections, worker, org, anna, sqlite):
        del org.org.objects["emailservicesaddress"]
        assert worker.once()
        assert found(sqlite, anna)[0].outcome is AddressOutcome.NO_RIGHT

    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.LIMIT])
    def test_goes_on_looking_while_salesforce_does_not_answer(
        self, connections, worker, org, anna, sqlite, fault
    ):
        give_address(org)
        org.faults.order(fault, "query")
        assert not worker.once()
        assert found(sqlite, anna)[0].outcome is AddressOutcome.LOOKING
        assert worker.once()
        assert found(sqlite, anna)[1] == ADDRESS

    def test_leaves_a_typed_address_alone_and_says_that_there_is_another(
        self, connections, worker, org, anna, sqlite
    ):
        give_address(org)
        typed = "emailtosalesforce@typed.le.salesforce.com"
        with sqlite.writing() as session:
            settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, typed, actor=None)
        assert worker.once()
        one, address = found(sqlite, anna)
        assert (one.is_another, address) == (True, typed)

    def test_asks_for_nobody_who_is_not_copied_or_not_connected(self, connections, worker, org, anna, sqlite):
        give_address(org)
        before = len(org.calls)
        with sqlite.writing() as session:
            bob = people_store.add_person(
                session, "bob@acme.test", name="", is_admin=False, password_hash="x", actor=None
            )
            settings_store.set_preference(session, bob, Setting.LOGGING, Logging.BCC, actor=None)
            settings_store.set_preference(session, anna, Setting.LOGGING, Logging.OFF, actor=None)
        assert worker.once()
        assert len(org.calls) == before

    def test_asks_by_policy_too_and_not_every_cycle(self, connections, worker, org, anna, sqlite):
        with sqlite.writing() as session:
            settings_store.set_preference(session, anna, Setting.LOGGING, "", actor=None)
            settings_store.set_policy(session, Setting.LOGGING, "bcc", actor=None)
        give_address(org)
        with sqlite.reading() as session:
            assert [account.id for account, _ in bcc_address_queue.due(session)] == [anna.id]
        worker.once()
        with sqlite.reading() as session:
            assert bcc_address_queue.due(session) == []
        with sqlite.writing() as session:
            session.query(PickUpRow).one().looked_at -= bcc_address_queue.AGAIN_AFTER[AddressOutcome.FOUND]
        with sqlite.reading() as session:
            assert [account.id for account, _ in bcc_address_queue.due(session)] == [anna.id]

    def test_of_an_address_that_was_taken_away_finds_it_again(self, connections, worker, org, anna, sqlite):
        give_address(org)
        worker.once()
        with sqlite.writing() as session:
            settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, "", actor=None)
        with sqlite.reading() as session:
            assert len(bcc_address_queue.due(session)) == 1
        worker.once()
        assert found(sqlite, anna)[1] == ADDRESS

    def test_pauses_for_a_broken_connection_and_has_nothing_to_retry(
        self, connections, worker, org, anna, sqlite
    ):
        org.tokens.revoke_all()
        assert worker.once(), "it is for Anna to mend, no retry helps"
        assert not kept(sqlite, anna).is_usable
        before = len(org.calls)
        assert worker.once()
        assert len(org.calls) == before


@pytest.mark.parametrize(
    ("senders", "lacking", "proposed"),
    [
        ((), (), ()),
        (("anna@acme.test",), ("sales@acme.test",), ()),
        (("acme.test",), (), ()),
        (("@acme.test",), (), ()),
        (
            ("ANNA@acme.test", "x@y.test"),
            ("anna@acme.test", "sales@acme.test"),
            ("ANNA@acme.test", "x@y.test"),
        ),
        (("anna@acme.test", "sales@acme.test", "new@acme.test"), (), ("new@acme.test",)),
    ],
)
def test_both_lists_are_compared(senders, lacking, proposed):
    ours = ("anna@acme.test", "sales@acme.test")
    assert senders_that_salesforce_lacks(ours, senders) == lacking
    assert senders_to_propose(ours, senders) == proposed

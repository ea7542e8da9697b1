"""The truth table of the decision."""

from dataclasses import replace

import pytest

from core.mail.reasons import Reason
from core.mail.row import Decision
from core.people.person import Person
from core.settings.catalogue import Logging
from core.settings.in_force import PersonSettings, policy_settings
from relay.decide import LARGEST_COPY, Envelope, Plan, decide
from relay.message import Message

BCC = "emailtosalesforce@x.le.salesforce.com"
ANNA = Person(
    1,
    "anna@acme.test",
    frozenset({"anna@acme.test", "sales@acme.test"}),
    (),
    PersonSettings(Logging.BCC, BCC),
)
MAIL = Message(author="Anna@ACME.test")
ENVELOPE = Envelope("anna@acme.test", ["bob@client.test"])
POLICY = replace(
    policy_settings({}),
    own_domains=("acme.test", ".intern.test"),
    never_log=("lawyer@law.test", ".bank.test"),
)
OFF = replace(ANNA, settings=PersonSettings(Logging.OFF, BCC))
NO_ADDRESS = replace(ANNA, settings=PersonSettings(Logging.BCC, None))


LOGS_BULK = replace(ANNA, settings=PersonSettings(Logging.BCC, BCC, log_bulk=True))
API = replace(ANNA, settings=PersonSettings(Logging.API, BCC), is_connected=True)
API_ONLY = replace(API, settings=PersonSettings(Logging.API, None))
SCARCE = replace(API, calls_are_scarce=True)
RECEIPT = replace(API, settings=PersonSettings(Logging.BCC_WITH_RECEIPT, BCC))
BY_API = Plan(Decision.API, Reason.API)
BY_COPY = Plan(Decision.COPY, Reason.COPY, BCC)
BY_BOTH = Plan(Decision.COPY_AND_API, Reason.COPY, BCC)


def to(*recipients, **fields):
    return replace(ENVELOPE, recipients=list(recipients), **fields)


ROWS = [
    # the first reason that applies wins, so each row also has what would apply later
    ("no author", replace(MAIL, author=None, is_automatic=True), ENVELOPE, ANNA, Reason.UNREADABLE_AUTHOR),
    ("no author, logging off", replace(MAIL, author=None), ENVELOPE, OFF, Reason.UNREADABLE_AUTHOR),
    ("somebody else's From", replace(MAIL, author="carl@acme.test"), ENVELOPE, OFF, Reason.NOT_OWN_ADDRESS),
    ("plus tag is another address", replace(MAIL, author="anna+x@acme.test"), ENVELOPE, ANNA, Reason.NOT_OWN_ADDRESS),
    ("logging off", replace(MAIL, is_by_salesforce=True), ENVELOPE, OFF, Reason.LOGGING_OFF),
    ("by Salesforce", replace(MAIL, is_by_salesforce=True), to("bob@client.test", sender=""), ANNA, Reason.BY_SALESFORCE),
    ("Salesforce's bounce address", MAIL, to("b@c.test", sender="a=b__x@k7.bnc.salesforce.com"), ANNA, Reason.BY_SALESFORCE),
    ("null sender", replace(MAIL, is_automatic=True), replace(ENVELOPE, sender=""), ANNA, Reason.NULL_SENDER),
    ("automatic", replace(MAIL, is_automatic=True, is_read_receipt=True), ENVELOPE, ANNA, Reason.AUTOMATIC),
    ("bulk", replace(MAIL, bulk_field="List-Id", is_read_receipt=True), ENVELOPE, ANNA, Reason.BULK),
    ("bulk that is wanted", replace(MAIL, bulk_field="Precedence"), ENVELOPE, LOGS_BULK, Reason.COPY),
    ("automatic, though bulk is wanted", replace(MAIL, is_automatic=True, bulk_field="Precedence"), ENVELOPE, LOGS_BULK, Reason.AUTOMATIC),
    ("read receipt", replace(MAIL, is_read_receipt=True, is_opted_out=True), ENVELOPE, ANNA, Reason.READ_RECEIPT),
    ("opted out", replace(MAIL, is_opted_out=True), to("carl@acme.test"), ANNA, Reason.OPTED_OUT),
    ("own domain", MAIL, to("carl@acme.test"), NO_ADDRESS, Reason.INTERNAL_ONLY),
    ("below an own domain", MAIL, to("carl@a.b.intern.test", "d@intern.test"), ANNA, Reason.INTERNAL_ONLY),
    ("never-log address", MAIL, to("lawyer@law.test"), ANNA, Reason.INTERNAL_ONLY),
    ("never-log domain and own", MAIL, to("x@m.bank.test", "carl@acme.test"), ANNA, Reason.INTERNAL_ONLY),
    ("name without domain", MAIL, to("postmaster"), ANNA, Reason.INTERNAL_ONLY),
    ("not below acme.test", MAIL, to("carl@sub.acme.test"), ANNA, Reason.COPY),
    ("one of two is outside", MAIL, to("carl@acme.test", "bob@client.test"), ANNA, Reason.COPY),
    ("other at a never-log address's domain", MAIL, to("clerk@law.test"), ANNA, Reason.COPY),
    ("no address", MAIL, to("bob@client.test", declared_size=LARGEST_COPY + 1), NO_ADDRESS, Reason.NO_BCC_ADDRESS),
    ("already copied", MAIL, to("bob@client.test", BCC, declared_size=LARGEST_COPY + 1), ANNA, Reason.ALREADY_COPIED),
    ("too large", MAIL, to("bob@client.test", declared_size=LARGEST_COPY + 1), ANNA, Reason.TOO_LARGE_TO_COPY),
    ("just not too large", MAIL, to("bob@client.test", declared_size=LARGEST_COPY), ANNA, Reason.COPY),
    ("copy", MAIL, ENVELOPE, ANNA, Reason.COPY),
    ("copy from an alias", replace(MAIL, author="SALES@acme.test"), ENVELOPE, ANNA, Reason.COPY),
]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "envelope", "person", "reason"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_the_first_reason_that_applies_wins(message, envelope, person, reason):
    detail = message.bulk_field if reason is Reason.BULK else None
    expected = (
        Plan(Decision.COPY, Reason.COPY, BCC)
        if reason is Reason.COPY
        else Plan(Decision.NONE, reason, detail=detail)
    )
    assert replace(decide(message, envelope, person, POLICY), is_private=False) == expected


@pytest.mark.parametrize(
    ("message", "envelope", "person", "keeps"),
    [
        (replace(MAIL, author="carl@acme.test"), ENVELOPE, ANNA, True),
        (replace(MAIL, author="carl@acme.test"), ENVELOPE, OFF, False),
        (replace(MAIL, author="carl@acme.test", is_opted_out=True), ENVELOPE, ANNA, False),
        (replace(MAIL, author="carl@acme.test"), to("carl@acme.test"), ANNA, False),
        (replace(MAIL, is_automatic=True), ENVELOPE, ANNA, True),
        (replace(MAIL, is_automatic=True), to("carl@acme.test"), ANNA, False),
        (replace(MAIL, bulk_field="List-Id"), ENVELOPE, ANNA, True),
        (replace(MAIL, bulk_field="List-Id", is_opted_out=True), ENVELOPE, ANNA, False),
        (MAIL, to("carl@acme.test"), ANNA, False),
    ],
)
def test_what_would_not_be_logged_anyway_leaves_nothing(message, envelope, person, keeps):
    assert decide(message, envelope, person, POLICY).keeps_content is keeps


@pytest.mark.parametrize(
    ("envelope", "person", "plan"),
    [
        (ENVELOPE, API, BY_API),
        (ENVELOPE, API_ONLY, BY_API),
        (ENVELOPE, replace(API, is_connected=False), Plan(Decision.NONE, Reason.NOT_CONNECTED)),
        (to("bob@client.test", BCC), replace(API, is_connected=False), Plan(Decision.NONE, Reason.ALREADY_COPIED)),
        (to("b@c.test", declared_size=LARGEST_COPY + 1), API, BY_API),
        (to("carl@acme.test"), API, Plan(Decision.NONE, Reason.INTERNAL_ONLY)),
        (ENVELOPE, SCARCE, BY_COPY),
        (to("b@c.test", declared_size=LARGEST_COPY + 1), SCARCE, BY_API),
        (ENVELOPE, replace(API_ONLY, calls_are_scarce=True), BY_API),
        (ENVELOPE, RECEIPT, BY_BOTH),
        (ENVELOPE, replace(RECEIPT, is_connected=False), BY_COPY),
        (ENVELOPE, replace(RECEIPT, settings=PersonSettings(Logging.BCC_WITH_RECEIPT, None)),
         Plan(Decision.NONE, Reason.NO_BCC_ADDRESS)),
    ],
)  # fmt: skip
def test_the_other_modes(envelope, person, plan):
    assert decide(MAIL, envelope, person, POLICY) == plan


def test_every_reason_has_a_row():
    not_decided_by_the_mail_alone = {Reason.SAME_MAIL, Reason.LOOP}
    assert {row[4] for row in ROWS} | {Reason.API, Reason.NOT_CONNECTED} == (
        set(Reason) - not_decided_by_the_mail_alone
    )


def test_without_own_domains_nothing_is_internal():
    assert decide(MAIL, to("carl@acme.test"), ANNA, policy_settings({})).reason is Reason.COPY

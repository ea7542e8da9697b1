"""Two levels of settings, and what each value must look like."""

import pytest

from core.people.addresses import (
    AddressError,
    address_key,
    checked_address,
    checked_bcc_address,
    checked_domain,
    matches,
)
from core.settings.catalogue import (
    InForce,
    Logging,
    Name,
    PersonSettings,
    PolicyEntry,
    SettingError,
    Source,
    UnknownSetting,
    checked,
    in_force,
    person_settings,
    policy_name,
    preference_name,
)

BCC = "emailtosalesforce@x.le.salesforce.com"

IN_FORCE = [
    # policy value, locked, preference -> value, source, locked
    (None, False, None, "off", Source.DEFAULT, False),
    (None, False, "bcc", "bcc", Source.PREFERENCE, False),
    (None, True, "bcc", "off", Source.DEFAULT, True),
    ("bcc", False, None, "bcc", Source.POLICY, False),
    ("bcc", False, "off", "off", Source.PREFERENCE, False),
    ("bcc", True, "off", "bcc", Source.POLICY, True),
]


@pytest.mark.parametrize(("policy", "locked", "preference", "value", "source", "is_locked"), IN_FORCE)
def test_in_force_is_the_locked_policy_else_the_preference_else_the_policy(
    policy, locked, preference, value, source, is_locked
):
    chosen = {Name.LOGGING: preference} if preference else {}
    found = in_force({Name.LOGGING: PolicyEntry(policy, locked)}, chosen)
    assert found[0] == InForce(Name.LOGGING, value, source, is_locked)


def test_a_person_of_whom_nothing_is_known_is_not_logged():
    assert person_settings({}, {}) == PersonSettings(Logging.OFF, None)


GOOD = [
    (Name.LOGGING, " BCC ", "bcc"),
    (Name.BCC_ADDRESS, BCC, BCC),
    (Name.BCC_ADDRESS, "", ""),
    (Name.OWN_DOMAINS, "ACME.test, .Sub.acme.test,, acme.test", "acme.test,.sub.acme.test"),
    (Name.OWN_DOMAINS, "acme.test\nother.test", "acme.test,other.test"),
    (Name.OWN_DOMAINS, "bücher.test", "xn--bcher-kva.test"),
    (Name.NEVER_LOG, "lawyer@law.test, bank.test", "lawyer@law.test,bank.test"),
    (Name.TIME_ZONE, "Europe/Berlin", "Europe/Berlin"),
    (Name.SHOW_SUBJECTS, "Yes", "yes"),
    (Name.MAILS_PER_MINUTE, " 0120", "120"),
]


@pytest.mark.parametrize(("name", "text", "stored"), GOOD)
def test_a_good_value_is_stored_in_one_spelling(name, text, stored):
    assert checked(name, text) == stored


BAD = [
    (Name.LOGGING, "sometimes", "none of: off, bcc"),
    (Name.BCC_ADDRESS, "anna@acme.test", "begins with emailtosalesforce@"),
    (Name.BCC_ADDRESS, "emailtosalesforce@acme.test", "ends in .salesforce.com"),
    (Name.BCC_ADDRESS, "emailtosalesforce@evilsalesforce.com", "ends in .salesforce.com"),
    (
        Name.BCC_ADDRESS,
        "emailtosalesforce@x.salesforce.com\r\nRCPT TO:<evil@x.test>",
        "cannot stand before the @",
    ),
    (Name.OWN_DOMAINS, "acme", "has no dot"),
    (Name.OWN_DOMAINS, "anna@acme.test", "is not a domain"),
    (Name.NEVER_LOG, "lawyer@", "has no dot"),
    (Name.TIME_ZONE, "Mars/Olympus", "IANA"),
    (Name.MAILS_PER_MINUTE, "0", "from 1"),
    (Name.MAILS_PER_MINUTE, "many", "whole number"),
]


@pytest.mark.parametrize(("name", "text", "said"), BAD)
def test_a_bad_value_is_refused_with_what_would_be_right(name, text, said):
    with pytest.raises(SettingError) as caught:
        checked(name, text)
    assert said in str(caught.value)


def test_the_policy_has_no_bcc_address_and_persons_no_own_domains():
    with pytest.raises(UnknownSetting):
        policy_name("bcc-address")
    with pytest.raises(UnknownSetting):
        preference_name("own-domains")


@pytest.mark.parametrize(
    "address",
    ["anna@acme.test", "o'brien+x@acme.co.uk", '"a b"@acme.test', "änna@acme.test", "a@xn--bcher-kva.test"],
)
def test_an_address_is_accepted(address):
    assert checked_address(f" {address} ") == address


@pytest.mark.parametrize(
    "text", ["", "anna", "anna@", "@acme.test", "a b@acme.test", "a@b@acme.test", "anna@acme", "anna@acme..test", "anna@-a.test",
             "a,b@acme.test", "a" * 65 + "@acme.test", "anna@" + "a." * 130 + "test", "anna@acme.test>", "<anna@acme.test>"]
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    with pytest.raises(AddressError):
        checked_address(text)


def test_addresses_are_compared_whole_without_case_and_as_a_labels():
    assert (
        address_key("Anna@Bücher.TEST")
        == address_key("anna@xn--bcher-kva.test.")
        == "anna@xn--bcher-kva.test"
    )
    assert address_key("anna+x@acme.test") != address_key("anna@acme.test")


def test_patterns_match_domains_whole():
    assert matches("a@acme.test", ["acme.test"])
    assert not matches("a@xacme.test", ["acme.test", ".acme.test"])
    assert matches("a@x.acme.test", [".acme.test"])


def test_the_bcc_address_keeps_its_spelling():
    assert (
        checked_bcc_address("EmailToSalesforce@X.le.salesforce.com")
        == "EmailToSalesforce@x.le.salesforce.com"
    )
    assert checked_domain("Acme.Test.") == "acme.test"

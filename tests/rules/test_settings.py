"""Two levels of settings, and what each value must look like."""

from dataclasses import fields

import pytest

from core.people.addresses import (
    AddressError,
    address_key,
    checked_address,
    checked_bcc_address,
    checked_domain,
    matches,
)
from core.settings.catalogue import Logging, Setting, UnknownSetting, policy_name, preference_name
from core.settings.in_force import (
    InForce,
    PersonSettings,
    PolicyEntry,
    PolicySettings,
    Rules,
    Source,
    in_force,
    person_settings,
)
from core.settings.kinds import OneOf, SettingError, SomeOf

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
    chosen = {Setting.LOGGING: preference} if preference else {}
    found = in_force({Setting.LOGGING: PolicyEntry(policy, locked)}, chosen)
    assert found[Setting.LOGGING] == InForce(Setting.LOGGING, value, source, is_locked)


def test_a_person_of_whom_nothing_is_known_is_not_logged():
    assert person_settings({}, {}) == PersonSettings(Logging.OFF, None)


GOOD = [
    (Setting.LOGGING, " BCC ", "bcc"),
    (Setting.BCC_ADDRESS, BCC, BCC),
    (Setting.BCC_ADDRESS, "", ""),
    (Setting.OWN_DOMAINS, "ACME.test, .Sub.acme.test,, acme.test", "acme.test,.sub.acme.test"),
    (Setting.OWN_DOMAINS, "acme.test\nother.test", "acme.test,other.test"),
    (Setting.OWN_DOMAINS, "bücher.test", "xn--bcher-kva.test"),
    (Setting.NEVER_LOG, "lawyer@law.test, bank.test", "lawyer@law.test,bank.test"),
    (Setting.TIME_ZONE, "Europe/Berlin", "Europe/Berlin"),
    (Setting.SHOW_SUBJECTS, "Yes", "yes"),
    (Setting.MAILS_PER_MINUTE, " 0120", "120"),
]


@pytest.mark.parametrize(("name", "text", "stored"), GOOD)
def test_a_good_value_is_stored_in_one_spelling(name, text, stored):
    assert name.check(text) == stored


BAD = [
    (Setting.LOGGING, "sometimes", "not one of: off, bcc"),
    (Setting.BCC_ADDRESS, "anna@acme.test", "begins with emailtosalesforce@"),
    (Setting.BCC_ADDRESS, "emailtosalesforce@acme.test", "ends in .salesforce.com"),
    (Setting.BCC_ADDRESS, "emailtosalesforce@evilsalesforce.com", "ends in .salesforce.com"),
    (
        Setting.BCC_ADDRESS,
        "emailtosalesforce@x.salesforce.com\r\nRCPT TO:<evil@x.test>",
        "cannot stand before the @",
    ),
    (Setting.OWN_DOMAINS, "acme", "has no dot"),
    (Setting.OWN_DOMAINS, "anna@acme.test", "is not a domain"),
    (Setting.NEVER_LOG, "lawyer@", "has no dot"),
    (Setting.TIME_ZONE, "Mars/Olympus", "IANA"),
    (Setting.MAILS_PER_MINUTE, "0", "from 1"),
    (Setting.MAILS_PER_MINUTE, "many", "whole number"),
]


@pytest.mark.parametrize(("name", "text", "said"), BAD)
def test_a_bad_value_is_refused_with_what_would_be_right(name, text, said):
    with pytest.raises(SettingError) as caught:
        name.check(text)
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


@pytest.mark.parametrize("setting", list(Setting))
def test_each_row_of_the_catalogue_is_whole(setting):
    about = setting.definition
    assert about.label
    if about.default:
        assert setting.check(about.default) == about.default
    assert about.kind.read(about.default) is not None
    if isinstance(about.kind, (OneOf, SomeOf)):
        assert set(about.kind.labels) == set(about.kind.words), "a page says something for each word"


@pytest.mark.parametrize("values", [Rules, PolicySettings])
def test_each_value_that_the_house_works_with_is_a_setting_of_that_name(values):
    derived = {"derived_domains"}
    assert {one.name for one in fields(values)} - derived <= {one.attribute for one in Setting}


def test_each_setting_is_of_use():
    worked_with = {one.name for values in (Rules, PolicySettings, PersonSettings) for one in fields(values)}
    looked_up_by_itself = {"task_sync", "time_zone"}
    assert {one.attribute for one in Setting} <= worked_with | looked_up_by_itself

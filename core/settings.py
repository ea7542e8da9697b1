"""Settings on two levels: the organisation's policy and the person's preference.

In force is the policy where it is locked, else the preference, else the policy's default. Values are kept as
the text that an operator types; every text that is stored has been through `checked`.

Pure: names and texts in, texts and values out."""

import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from core.addresses import AddressError, checked_bcc_address, checked_domain_pattern, checked_pattern
from core.refusal import Refusal


class Name(StrEnum):
    """The names that operators type."""

    LOGGING = "logging"
    BCC_ADDRESS = "bcc-address"
    TIME_ZONE = "time-zone"
    OWN_DOMAINS = "own-domains"
    NEVER_LOG = "never-log"
    MAILS_PER_MINUTE = "mails-per-minute"
    SHOW_SUBJECTS = "show-subjects-to-admins"


class Logging(StrEnum):
    """How mail is logged in Salesforce."""

    OFF = "off"
    BCC = "bcc"

    @property
    def copies(self) -> bool:
        """Whether mail is logged by blind copy."""
        return self is Logging.BCC


class Source(StrEnum):
    """Where the value in force comes from."""

    DEFAULT = "default"
    POLICY = "policy"
    PREFERENCE = "preference"


class SettingError(Refusal):
    """This is not a value of the setting."""


class UnknownSetting(SettingError):
    """There is no setting of this name on this level."""


class LockedSetting(SettingError):
    """The organisation's policy fixes this setting."""


@dataclass(frozen=True)
class Kind:
    """What one setting accepts, and on which levels it exists."""

    default: str
    check: Callable[[str], str]
    for_persons: bool
    for_policy: bool
    is_secret: bool = False
    """Encrypted in the database, and never noted in words."""


@dataclass(frozen=True)
class PolicyEntry:
    """The organisation's word on one setting; value None means that only the lock was set."""

    value: str | None = None
    locked: bool = False


@dataclass(frozen=True)
class InForce:
    """One setting as it applies: its text, who said so, and whether persons may differ."""

    name: Name
    value: str
    source: Source
    locked: bool


@dataclass(frozen=True)
class PersonSettings:
    """What applies to one person's mail."""

    logging: Logging
    bcc_address: str | None


@dataclass(frozen=True)
class PolicySettings:
    """What applies to everybody's mail."""

    own_domains: tuple[str, ...] = ()
    never_log: tuple[str, ...] = ()
    mails_per_minute: int = 60
    show_subjects_to_admins: bool = False


def _one_of(*values: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        value = text.strip().lower()
        if value not in values:
            raise SettingError(
                "“%(text)s” is none of: %(choices)s", text=text.strip(), choices=", ".join(values)
            )
        return value

    return check


def _number(text: str) -> str:
    value = text.strip()
    if not value.isdecimal() or not 0 < int(value) <= _LARGEST_NUMBER:
        raise SettingError(
            "“%(text)s” is not a whole number from 1 to %(most)s", text=value, most=_LARGEST_NUMBER
        )
    return str(int(value))


def _list_of(check_entry: Callable[[str], str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        entries = [entry for entry in text.replace("\n", ",").split(",") if entry.strip()]
        return ",".join(dict.fromkeys(_translated(check_entry, entry) for entry in entries))

    return check


def _bcc_address(text: str) -> str:
    return _translated(checked_bcc_address, text) if text.strip() else ""


def _time_zone(text: str) -> str:
    name = text.strip()
    if name and name not in zoneinfo.available_timezones():
        raise SettingError("“%(text)s” is not a time zone; write an IANA name like Europe/Berlin", text=name)
    return name


def _translated(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except AddressError as error:
        raise SettingError(error.sentence, **error.parts) from error


_LARGEST_NUMBER = 1_000_000

KINDS: Mapping[Name, Kind] = {
    Name.LOGGING: Kind(Logging.OFF, _one_of(*Logging), for_persons=True, for_policy=True),
    Name.BCC_ADDRESS: Kind("", _bcc_address, for_persons=True, for_policy=False, is_secret=True),
    Name.TIME_ZONE: Kind("", _time_zone, for_persons=True, for_policy=True),
    Name.OWN_DOMAINS: Kind("", _list_of(checked_domain_pattern), for_persons=False, for_policy=True),
    Name.NEVER_LOG: Kind("", _list_of(checked_pattern), for_persons=False, for_policy=True),
    Name.MAILS_PER_MINUTE: Kind("60", _number, for_persons=False, for_policy=True),
    Name.SHOW_SUBJECTS: Kind("no", _one_of("no", "yes"), for_persons=False, for_policy=True),
}


def preference_name(text: str) -> Name:
    """The setting that persons may choose. Raises UnknownSetting."""
    return _name(text, [name for name, kind in KINDS.items() if kind.for_persons])


def policy_name(text: str) -> Name:
    """The setting that the organisation may fix. Raises UnknownSetting."""
    return _name(text, [name for name, kind in KINDS.items() if kind.for_policy])


def checked(name: Name, text: str) -> str:
    """The text as it is stored. Raises SettingError with a sentence that names what would be right."""
    return KINDS[name].check(text)


def policy_in_force(policy: Mapping[Name, PolicyEntry]) -> list[InForce]:
    """Every setting of the organisation, in the order of the names."""
    return [
        _from_policy(name, policy.get(name, PolicyEntry())) for name, kind in KINDS.items() if kind.for_policy
    ]


def in_force(policy: Mapping[Name, PolicyEntry], preference: Mapping[Name, str]) -> list[InForce]:
    """Every setting of one person, in the order of the names."""
    names = [name for name, kind in KINDS.items() if kind.for_persons]
    return [_for_person(name, policy.get(name, PolicyEntry()), preference.get(name)) for name in names]


def person_settings(policy: Mapping[Name, PolicyEntry], preference: Mapping[Name, str]) -> PersonSettings:
    """What applies to this person's mail."""
    values = {setting.name: setting.value for setting in in_force(policy, preference)}
    return PersonSettings(logging=Logging(values[Name.LOGGING]), bcc_address=values[Name.BCC_ADDRESS] or None)


def policy_settings(policy: Mapping[Name, PolicyEntry]) -> PolicySettings:
    """What applies to everybody's mail."""
    values = {setting.name: setting.value for setting in policy_in_force(policy)}
    return PolicySettings(
        own_domains=entries(values[Name.OWN_DOMAINS]),
        never_log=entries(values[Name.NEVER_LOG]),
        mails_per_minute=int(values[Name.MAILS_PER_MINUTE]),
        show_subjects_to_admins=values[Name.SHOW_SUBJECTS] == "yes",
    )


def entries(text: str) -> tuple[str, ...]:
    """The entries of a stored list."""
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _name(text: str, names: list[Name]) -> Name:
    if text not in names:
        raise UnknownSetting(
            "“%(text)s” is not a setting here; there are: %(names)s", text=text, names=", ".join(names)
        )
    return Name(text)


def _from_policy(name: Name, entry: PolicyEntry) -> InForce:
    if entry.value is None:
        return InForce(name, KINDS[name].default, Source.DEFAULT, entry.locked)
    return InForce(name, entry.value, Source.POLICY, entry.locked)


def _for_person(name: Name, entry: PolicyEntry, chosen: str | None) -> InForce:
    if chosen is None or entry.locked:
        return _from_policy(name, entry)
    return InForce(name, chosen, Source.PREFERENCE, locked=False)

"""Settings on two levels: the organisation's policy and the person's preference.

In force is the policy where it is locked, else the preference, else the policy's default. Values are kept as
the text that an operator types; every text that is stored has been through `checked`.

Pure: names and texts in, texts and values out."""

import zoneinfo
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from core.mail.subject import DEFAULT_TEMPLATE, TemplateError, checked_template
from core.people.addresses import AddressError, checked_bcc_address, checked_domain_pattern, checked_pattern
from core.refusal import Refusal


class Name(StrEnum):
    """The names that operators type."""

    LOGGING = "logging"
    BCC_ADDRESS = "bcc-address"
    TASK_SYNC = "task-sync"
    LOG_ON = "log-on"
    FIRST = "first"
    DUPLICATES = "duplicates"
    OPPORTUNITY = "opportunity"
    NO_MATCH = "no-match"
    KEEP = "keep"
    BLIND_COPIED = "blind-copied"
    RECORD = "record"
    SUBJECT_TEMPLATE = "subject-template"
    TIME_ZONE = "time-zone"
    OWN_DOMAINS = "own-domains"
    NEVER_LOG = "never-log"
    CONFIRM_FIRST_SYNC = "confirm-first-sync"
    SYNC_INTERVAL = "sync-interval"
    FIRST_SYNC_HOURS = "first-sync-hours"
    API_SHARE = "api-share"
    API_RESERVE = "api-reserve"
    RECEIPT_AFTER = "receipt-after"
    MAILS_PER_MINUTE = "mails-per-minute"
    SHOW_SUBJECTS = "show-subjects-to-admins"
    RETENTION_DAYS = "retention-days"
    UNMATCHED_DAYS = "unmatched-days"


class Logging(StrEnum):
    """How mail is logged in Salesforce."""

    OFF = "off"
    BCC = "bcc"
    API = "api"
    BCC_WITH_RECEIPT = "bcc+receipt"

    @property
    def copies(self) -> bool:
        """Whether mail is logged by blind copy."""
        return self in {Logging.BCC, Logging.BCC_WITH_RECEIPT}


class TaskSync(StrEnum):
    """Whether tasks are kept the same here and in Salesforce."""

    OFF = "off"
    BOTH_WAYS = "both-ways"


class LogOn(StrEnum):
    """The kinds of record that a mail is logged on."""

    CONTACTS = "contacts"
    LEADS = "leads"
    ACCOUNTS = "accounts"
    OPPORTUNITIES = "opportunities"


class First(StrEnum):
    """Who counts where an address is a contact's and a lead's."""

    CONTACT = "contact"
    LEAD = "lead"


class Duplicates(StrEnum):
    """Which of several contacts, or leads, of one address."""

    OLDEST = "oldest"
    ALL = "all"
    MOST_RECENT_ACTIVITY = "most-recent-activity"


class Opportunity(StrEnum):
    """Which of a contact's open opportunities."""

    ONLY_OPEN = "only-open"
    NONE = "none"
    MOST_RECENT_OPEN = "most-recent-open"
    ALL_OPEN = "all-open"


class NoMatch(StrEnum):
    """What becomes of a mail on which nobody is found."""

    UNMATCHED = "unmatched"
    NOTHING = "nothing"
    TASK = "task"


class Keep(StrEnum):
    """How much of a mail goes to Salesforce."""

    TEXT = "text"
    SUBJECT = "subject"
    ENVELOPE = "envelope"


class Record(StrEnum):
    """As what a mail is logged."""

    AUTO = "auto"
    TASK = "task"
    EMAIL_MESSAGE = "email-message"


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
    keeps_text: bool = True


@dataclass(frozen=True)
class Rules:
    """How one person's mail is logged through the API."""

    log_on: frozenset[LogOn]
    first: First
    duplicates: Duplicates
    opportunity: Opportunity
    no_match: NoMatch
    keep: Keep
    blind_copied: bool
    record: Record
    subject_template: str


@dataclass(frozen=True)
class PolicySettings:
    """What applies to everybody's mail.

    `own_domains` are those that an admin has named: they decide who may send by a gateway. As long as none is named,
    `derived_domains`, those of the persons' sign-in addresses, decide what is internal, and nothing else."""

    own_domains: tuple[str, ...] = ()
    never_log: tuple[str, ...] = ()
    mails_per_minute: int = 60
    show_subjects_to_admins: bool = False
    api_reserve: int = 10
    receipt_after: int = 5
    retention_days: int = 90
    unmatched_days: int = 30
    confirm_first_sync: bool = False
    sync_interval: int = 60
    first_sync_hours: int = 24
    api_share: int = 30
    derived_domains: tuple[str, ...] = ()

    @property
    def internal_domains(self) -> tuple[str, ...]:
        """Mail to these domains only is internal."""
        return self.own_domains or self.derived_domains


def _one_of(*values: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        value = text.strip().lower()
        if value not in values:
            raise SettingError(
                "“%(text)s” is none of: %(choices)s", text=text.strip(), choices=", ".join(values)
            )
        return value

    return check


def _some_of(*values: str) -> Callable[[str], str]:
    """Any combination, in their own order; none at all would log nothing and is `logging off`."""

    def check(text: str) -> str:
        chosen = {entry.strip().lower() for entry in text.split(",") if entry.strip()}
        if not chosen or not chosen <= set(values):
            raise SettingError(
                "“%(text)s” is no combination of: %(choices)s", text=text.strip(), choices=", ".join(values)
            )
        return ",".join(value for value in values if value in chosen)

    return check


def _number(least: int = 1, most: int = 1_000_000) -> Callable[[str], str]:
    def check(text: str) -> str:
        value = text.strip()
        if (
            not (value.isascii() and value.isdecimal())
            or not least <= int(value[:9]) <= most
            or len(value) > 9
        ):
            raise SettingError(
                "“%(text)s” is not a whole number from %(least)s to %(most)s",
                text=value,
                least=least,
                most=most,
            )
        return str(int(value))

    return check


def _template(text: str) -> str:
    try:
        return checked_template(text)
    except TemplateError as error:
        raise SettingError(error.sentence, **error.parts) from error


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


KINDS: Mapping[Name, Kind] = {
    Name.LOGGING: Kind(Logging.OFF, _one_of(*Logging), for_persons=True, for_policy=True),
    Name.BCC_ADDRESS: Kind("", _bcc_address, for_persons=True, for_policy=False, is_secret=True),
    Name.TASK_SYNC: Kind(TaskSync.OFF, _one_of(*TaskSync), for_persons=True, for_policy=True),
    Name.LOG_ON: Kind(",".join(LogOn), _some_of(*LogOn), for_persons=True, for_policy=True),
    Name.FIRST: Kind(First.CONTACT, _one_of(*First), for_persons=True, for_policy=True),
    Name.DUPLICATES: Kind(Duplicates.OLDEST, _one_of(*Duplicates), for_persons=True, for_policy=True),
    Name.OPPORTUNITY: Kind(Opportunity.ONLY_OPEN, _one_of(*Opportunity), for_persons=True, for_policy=True),
    Name.NO_MATCH: Kind(NoMatch.UNMATCHED, _one_of(*NoMatch), for_persons=True, for_policy=True),
    Name.KEEP: Kind(Keep.TEXT, _one_of(*Keep), for_persons=True, for_policy=True),
    Name.BLIND_COPIED: Kind("no", _one_of("no", "yes"), for_persons=True, for_policy=True),
    Name.RECORD: Kind(Record.AUTO, _one_of(*Record), for_persons=True, for_policy=True),
    Name.SUBJECT_TEMPLATE: Kind(DEFAULT_TEMPLATE, _template, for_persons=True, for_policy=True),
    Name.TIME_ZONE: Kind("", _time_zone, for_persons=True, for_policy=True),
    Name.OWN_DOMAINS: Kind("", _list_of(checked_domain_pattern), for_persons=False, for_policy=True),
    Name.NEVER_LOG: Kind("", _list_of(checked_pattern), for_persons=False, for_policy=True),
    Name.CONFIRM_FIRST_SYNC: Kind("no", _one_of("no", "yes"), for_persons=False, for_policy=True),
    Name.SYNC_INTERVAL: Kind("60", _number(5, 86_400), for_persons=False, for_policy=True),
    Name.FIRST_SYNC_HOURS: Kind("24", _number(0, 8_760), for_persons=False, for_policy=True),
    Name.API_SHARE: Kind("30", _number(1, 100), for_persons=False, for_policy=True),
    Name.API_RESERVE: Kind("10", _number(0, 100), for_persons=False, for_policy=True),
    Name.RECEIPT_AFTER: Kind("5", _number(0), for_persons=False, for_policy=True),
    Name.MAILS_PER_MINUTE: Kind("60", _number(), for_persons=False, for_policy=True),
    Name.SHOW_SUBJECTS: Kind("no", _one_of("no", "yes"), for_persons=False, for_policy=True),
    Name.RETENTION_DAYS: Kind("90", _number(1, 36_500), for_persons=False, for_policy=True),
    Name.UNMATCHED_DAYS: Kind("30", _number(0, 36_500), for_persons=False, for_policy=True),
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
    return PersonSettings(
        logging=Logging(values[Name.LOGGING]), bcc_address=values[Name.BCC_ADDRESS] or None,
        keeps_text=values[Name.KEEP] == Keep.TEXT,
    )  # fmt: skip


def syncs_tasks(policy: Mapping[Name, PolicyEntry], preference: Mapping[Name, str]) -> bool:
    """Whether this person's tasks are kept the same here and in Salesforce."""
    entry = policy.get(Name.TASK_SYNC, PolicyEntry())
    return _for_person(Name.TASK_SYNC, entry, preference.get(Name.TASK_SYNC)).value == TaskSync.BOTH_WAYS


def time_zone(policy: Mapping[Name, PolicyEntry], preference: Mapping[Name, str]) -> zoneinfo.ZoneInfo | None:
    """The person's zone; None: the server's."""
    entry = policy.get(Name.TIME_ZONE, PolicyEntry())
    name = _for_person(Name.TIME_ZONE, entry, preference.get(Name.TIME_ZONE)).value
    return zoneinfo.ZoneInfo(name) if name else None


def rules(policy: Mapping[Name, PolicyEntry], preference: Mapping[Name, str]) -> Rules:
    """How this person's mail is logged through the API."""
    values = {setting.name: setting.value for setting in in_force(policy, preference)}
    return Rules(
        log_on=frozenset(LogOn(one) for one in entries(values[Name.LOG_ON])), first=First(values[Name.FIRST]),
        duplicates=Duplicates(values[Name.DUPLICATES]), opportunity=Opportunity(values[Name.OPPORTUNITY]),
        no_match=NoMatch(values[Name.NO_MATCH]), keep=Keep(values[Name.KEEP]),
        blind_copied=values[Name.BLIND_COPIED] == "yes", record=Record(values[Name.RECORD]),
        subject_template=values[Name.SUBJECT_TEMPLATE],
    )  # fmt: skip


def policy_settings(policy: Mapping[Name, PolicyEntry]) -> PolicySettings:
    """What applies to everybody's mail."""
    values = {setting.name: setting.value for setting in policy_in_force(policy)}
    return PolicySettings(
        own_domains=entries(values[Name.OWN_DOMAINS]),
        never_log=entries(values[Name.NEVER_LOG]),
        mails_per_minute=int(values[Name.MAILS_PER_MINUTE]),
        show_subjects_to_admins=values[Name.SHOW_SUBJECTS] == "yes",
        api_reserve=int(values[Name.API_RESERVE]),
        receipt_after=int(values[Name.RECEIPT_AFTER]),
        retention_days=int(values[Name.RETENTION_DAYS]),
        unmatched_days=int(values[Name.UNMATCHED_DAYS]),
        confirm_first_sync=values[Name.CONFIRM_FIRST_SYNC] == "yes",
        sync_interval=int(values[Name.SYNC_INTERVAL]),
        first_sync_hours=int(values[Name.FIRST_SYNC_HOURS]),
        api_share=int(values[Name.API_SHARE]),
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

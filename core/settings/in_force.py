"""Which value of a setting applies: the policy's where it is locked, else the person's own, else the policy's
default.

Values are kept as the text that an operator types; here they become what the rest of the house works with.

Pure: texts in, values out."""

import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from core.settings.catalogue import (
    Attachments,
    Duplicates,
    First,
    Keep,
    Logging,
    LogOn,
    NoMatch,
    Opportunity,
    RecordType,
    SendAs,
    Setting,
    TaskSyncMode,
)
from core.settings.kinds import SettingError


class Source(StrEnum):
    """Where the value in force comes from."""

    DEFAULT = "default"
    POLICY = "policy"
    PREFERENCE = "preference"


class LockedSetting(SettingError):
    """The organisation's policy fixes this setting."""


@dataclass(frozen=True)
class PolicyEntry:
    """The organisation's word on one setting; value None means that only the lock was set."""

    value: str | None = None
    locked: bool = False


@dataclass(frozen=True)
class InForce:
    """One setting as it applies: its text, who said so, and whether persons may differ."""

    name: Setting
    value: str
    source: Source
    locked: bool


@dataclass(frozen=True)
class PersonSettings:
    """What applies to one person's mail."""

    logging: Logging
    bcc_address: str | None
    keeps_text: bool = True
    log_bulk: bool = False
    keeps_files: bool = False


@dataclass(frozen=True)
class Rules:
    """How one person's mail is logged through the API."""

    log_on: frozenset[LogOn]
    first: First
    duplicates: Duplicates
    opportunity: Opportunity
    no_match: NoMatch
    keep: Keep
    attachments: Attachments
    blind_copied: bool
    record: RecordType
    subject_template: str


@dataclass(frozen=True)
class PolicySettings:
    """What applies to everybody's mail; each field is the setting of its name, and defaults stand in the
    catalogue.

    `own_domains` are those that an admin has named: they decide who may send by a gateway. As long as none is
    named, `derived_domains`, those of the persons' sign-in addresses, decide what is internal, and nothing
    else."""

    own_domains: tuple[str, ...]
    never_log: tuple[str, ...]
    blocked_domains: tuple[str, ...]
    send_as: SendAs
    mails_per_minute: int
    mails_per_day: int
    show_subjects_to_admins: bool
    show_internal_recipients: bool
    api_reserve: int
    receipt_after: int
    attachments_mb: int
    attachments_waiting_mb: int
    retention_days: int
    unmatched_days: int
    confirm_first_sync: bool
    sync_interval: int
    first_sync_hours: int
    api_share: int
    derived_domains: tuple[str, ...] = ()

    @property
    def internal_domains(self) -> tuple[str, ...]:
        """Mail to these domains only is internal."""
        return self.own_domains or self.derived_domains


def policy_in_force(policy: Mapping[Setting, PolicyEntry]) -> dict[Setting, InForce]:
    """Every setting of the organisation, in the catalogue's order."""
    return {
        setting: _from_policy(setting, policy.get(setting, PolicyEntry()))
        for setting in Setting
        if setting.is_for_policy
    }


def in_force(
    policy: Mapping[Setting, PolicyEntry], preference: Mapping[Setting, str]
) -> dict[Setting, InForce]:
    """Every setting of one person, in the catalogue's order."""
    return {
        setting: one_in_force(setting, policy, preference) for setting in Setting if setting.is_for_persons
    }


def one_in_force(
    setting: Setting, policy: Mapping[Setting, PolicyEntry], preference: Mapping[Setting, str]
) -> InForce:
    """One setting as it applies to a person."""
    entry, chosen = policy.get(setting, PolicyEntry()), preference.get(setting)
    if chosen is None or entry.locked:
        return _from_policy(setting, entry)
    return InForce(setting, chosen, Source.PREFERENCE, locked=False)


def person_settings(
    policy: Mapping[Setting, PolicyEntry], preference: Mapping[Setting, str]
) -> PersonSettings:
    """What applies to this person's mail."""
    keeps_text = one_in_force(Setting.KEEP, policy, preference).value in {Keep.TEXT, Keep.NEW_TEXT}
    attachments = one_in_force(Setting.ATTACHMENTS, policy, preference).value
    return PersonSettings(
        logging=Logging(one_in_force(Setting.LOGGING, policy, preference).value),
        bcc_address=one_in_force(Setting.BCC_ADDRESS, policy, preference).value or None,
        keeps_text=keeps_text,
        log_bulk=one_in_force(Setting.LOG_BULK, policy, preference).value == "yes",
        keeps_files=keeps_text and attachments == Attachments.FILES,
    )


def syncs_tasks(policy: Mapping[Setting, PolicyEntry], preference: Mapping[Setting, str]) -> bool:
    """Whether this person's tasks are kept the same here and in Salesforce."""
    return one_in_force(Setting.TASK_SYNC, policy, preference).value == TaskSyncMode.BOTH_WAYS


def time_zone(
    policy: Mapping[Setting, PolicyEntry], preference: Mapping[Setting, str], in_salesforce: str | None
) -> zoneinfo.ZoneInfo | None:
    """The person's zone: as the policy fixes it, else as the person has chosen here, else in Salesforce, else
    the organisation's. None: the server's."""
    entry = policy.get(Setting.TIME_ZONE, PolicyEntry())
    of_all = _from_policy(Setting.TIME_ZONE, entry).value
    name = of_all if entry.locked else preference.get(Setting.TIME_ZONE) or in_salesforce or of_all
    return zoneinfo.ZoneInfo(name) if name else None


def rules(policy: Mapping[Setting, PolicyEntry], preference: Mapping[Setting, str]) -> Rules:
    """How this person's mail is logged through the API."""
    return Rules(**_values(Rules, in_force(policy, preference)))


def policy_settings(policy: Mapping[Setting, PolicyEntry]) -> PolicySettings:
    """What applies to everybody's mail."""
    return PolicySettings(**_values(PolicySettings, policy_in_force(policy)))


def _values(into: type[Any], settings: Mapping[Setting, InForce]) -> dict[str, Any]:
    """The values of the fields that are named like settings, read by the settings' own kinds."""
    wanted = {field.name for field in fields(into)}
    return {
        setting.attribute: setting.definition.kind.read(one.value)
        for setting, one in settings.items()
        if setting.attribute in wanted
    }


def _from_policy(setting: Setting, entry: PolicyEntry) -> InForce:
    if entry.value is None:
        return InForce(setting, setting.definition.default, Source.DEFAULT, entry.locked)
    return InForce(setting, entry.value, Source.POLICY, entry.locked)

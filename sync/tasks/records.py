"""Salesforce's task records -> values, and values -> what is written there.

A record that makes no sense is told apart from one that is not there: it changes nothing.

Pure: records in, values out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from core.salesforce.schema import KEY_FIELD
from core.tasks.task import Field, Limits, Related, Status, Values, clean, fitted

_NOT_TO_DO = frozenset({"email", "list email", "listemail", "call"})
"""Subtypes of what was done, mails and calls, not of what is to do (object reference, Task.TaskSubtype)."""
_MAIL_TYPES = frozenset({"email", "sendemail"})
"""An organisation's "Send Email Default" of the task types, without blanks and hyphens."""
_LAST_LINE = "Message-ID: <"
COLUMNS = (
    "Id",
    "Subject",
    "ActivityDate",
    "Status",
    "IsClosed",
    "Priority",
    "Description",
    "IsReminderSet",
    "ReminderDateTime",
    "OwnerId",
    "WhoId",
    "WhatId",
    "Type",
    "TaskSubtype",
    "IsRecurrence",
    "CreatedById",
    "CreatedDate",
    "LastModifiedDate",
    "SystemModstamp",
    "IsDeleted",
)
NAMES = ("Who.Name", "What.Name")
"""Only a query gives these; reading by ids gives fields of the record alone."""


@dataclass(frozen=True)
class Remote:
    """A task as Salesforce has it. `stamp`: when anything, `modified_at`: when a person or a program changed
    it."""

    id: str
    owner_id: str
    values: Values
    related: Related
    is_deleted: bool
    is_to_do: bool
    modified_at: datetime
    stamp: datetime
    created_at: datetime
    created_by: str
    key: str | None = None


@dataclass(frozen=True)
class Nonsense:
    """A record that cannot be read."""

    id: str


def columns(*, has_key: bool, with_names: bool) -> tuple[str, ...]:
    """What is asked for of each task."""
    return (*COLUMNS, *(NAMES if with_names else ()), *((KEY_FIELD,) if has_key else ()))


def read(record: Mapping[str, Any]) -> Remote | Nonsense | None:
    """The record; None where it has not even an id."""
    record_id = record.get("Id")
    if not isinstance(record_id, str) or not record_id.isalnum() or len(record_id) != 18:
        return None
    try:
        return _read(record_id, record)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return Nonsense(record_id)


def read_all(records: Iterable[Mapping[str, Any]]) -> list[Remote | Nonsense]:
    """All that have an id."""
    return [found for record in records if (found := read(record)) is not None]


def written(values: Values, fields: Iterable[Field], limits: Limits) -> dict[str, Any]:
    """What is written of these fields; of the texts as much as Salesforce holds."""
    held = fitted(values, limits)
    made: dict[str, Any] = {}
    for field in fields:
        value = held.of(field)
        if field is Field.REMINDER:
            made["IsReminderSet"] = value is not None
            if value is not None:
                made["ReminderDateTime"] = _iso(value)
        elif field is Field.STATUS:
            made["Status"] = value.name
        elif field is Field.DUE:
            made["ActivityDate"] = None if value is None else value.isoformat()
        else:
            made[_TEXTS[field]] = value or None
    return made


def related(record: Mapping[str, Any]) -> Related:
    """Whom and what a record is about."""
    return Related(
        _id_or_none(record["WhoId"]),
        _id_or_none(record["WhatId"]),
        _name(record.get("Who")),
        _name(record.get("What")),
    )


_TEXTS = {Field.SUBJECT: "Subject", Field.PRIORITY: "Priority", Field.COMMENTS: "Description"}


def _read(record_id: str, record: Mapping[str, Any]) -> Remote:
    subject, comments = _text(record["Subject"]), _text(record["Description"])
    reminder = (
        _time(record["ReminderDateTime"])
        if _flag(record["IsReminderSet"]) and record["ReminderDateTime"]
        else None
    )
    values = Values(
        subject=subject,
        due=None if record["ActivityDate"] is None else date.fromisoformat(record["ActivityDate"]),
        status=Status(_word(record["Status"]), is_open=not _flag(record["IsClosed"])),
        priority=_word(record["Priority"]),
        comments=comments,
        reminder=reminder,
    )
    about = related(record)
    return Remote(
        id=record_id,
        owner_id=_word(record["OwnerId"]),
        values=values,
        related=about,
        is_deleted=_flag(record["IsDeleted"]),
        is_to_do=_is_to_do(record, about, comments),
        modified_at=_time(record["LastModifiedDate"]),
        stamp=_time(record["SystemModstamp"]),
        created_at=_time(record["CreatedDate"]),
        created_by=_word(record["CreatedById"]),
        key=record.get(KEY_FIELD),
    )


def _is_to_do(record: Mapping[str, Any], about: Related, comments: str) -> bool:
    """Whether it is a task that somebody has to do: no mail or call that was logged, none of the unresolved
    items of Email to Salesforce, and no master of a series, which is only the pattern of its tasks."""
    subtype = str(record["TaskSubtype"] or "").casefold()
    kind = str(record["Type"] or "").casefold().replace("-", "").replace(" ", "")
    is_about_nobody = about.who_id is None and about.what_id is None
    is_unresolved = is_about_nobody and kind in _MAIL_TYPES
    is_our_log = comments.rstrip().rpartition("\n")[2].startswith(_LAST_LINE)
    return (
        subtype not in _NOT_TO_DO
        and not is_unresolved
        and not is_our_log
        and not _flag(record["IsRecurrence"])
    )


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return clean(value)


def _word(value: object) -> str:
    """Raises TypeError for what is empty, or no text."""
    if not isinstance(value, str) or not value:
        raise TypeError(value)
    return clean(value)


def _flag(value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise TypeError(value)
    return bool(value)


def _time(value: str) -> datetime:
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(value)
    return time.astimezone(UTC)


def _id_or_none(value: object) -> str | None:
    return None if value is None else _word(value)


def _name(record: object) -> str | None:
    return clean(str(record["Name"]))[:255] if isinstance(record, Mapping) and record.get("Name") else None


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

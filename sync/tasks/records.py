"""Salesforce's task records -> values, and values -> what is written there.

A record that makes no sense is told apart from one that is not there: it changes nothing.

Pure: records in, values out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.salesforce.schema import KEY_FIELD
from core.tasks.fields import REMOTE_NAMES, Field, clean, flag_of, time_of, word_of
from core.tasks.task import Related, TextLimits, Values, fitted

_NOT_TO_DO = frozenset({"email", "list email", "listemail", "call"})
"""Subtypes of what was done, mails and calls, not of what is to do (object reference, Task.TaskSubtype)."""
_MAIL_TYPES = frozenset({"email", "sendemail"})
"""An organisation's "Send Email Default" of the task types, without blanks and hyphens."""
_LAST_LINE = "Message-ID: <"
COLUMNS = (
    "Id",
    *REMOTE_NAMES,
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


def written(values: Values, fields: Iterable[Field], limits: TextLimits) -> dict[str, Any]:
    """What is written of these fields; of the texts as much as Salesforce holds."""
    held = fitted(values, limits)
    return {name: plain for one in fields for name, plain in one.kind.write(held.of(one)).items()}


def related(record: Mapping[str, Any]) -> Related:
    """Whom and what a record is about."""
    return Related(
        _id_or_none(record["WhoId"]),
        _id_or_none(record["WhatId"]),
        _name(record.get("Who")),
        _name(record.get("What")),
    )


def _read(record_id: str, record: Mapping[str, Any]) -> Remote:
    values = Values(**{one.value: one.kind.read(record) for one in Field})
    about = related(record)
    return Remote(
        id=record_id,
        owner_id=word_of(record["OwnerId"]),
        values=values,
        related=about,
        is_deleted=flag_of(record["IsDeleted"]),
        is_to_do=_is_to_do(record, about, values.comments),
        modified_at=time_of(record["LastModifiedDate"]),
        stamp=time_of(record["SystemModstamp"]),
        created_at=time_of(record["CreatedDate"]),
        created_by=word_of(record["CreatedById"]),
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
        and not flag_of(record["IsRecurrence"])
    )


def _id_or_none(value: object) -> str | None:
    return None if value is None else word_of(value)


def _name(record: object) -> str | None:
    return clean(str(record["Name"]))[:255] if isinstance(record, Mapping) and record.get("Name") else None

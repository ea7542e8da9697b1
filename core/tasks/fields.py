"""The synchronised fields of a task: one row for each, with its label, its columns here, its fields in
Salesforce, and how a value is read and written on both sides. Storage, the stored bases, the queries and the
forms are built from these rows.

Pure: values in, values out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, Protocol, Self

from core.translation import N_

_LONGEST_WORD = 255

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Status:
    """A status by its ApiName, and whether tasks in it are open (object reference, TaskStatus.IsClosed)."""

    name: str = "Not Started"
    is_open: bool = True


NOT_STARTED = Status()


class FieldKind(Protocol):
    """How a value stands in our columns, in JSON (the stored bases) and in a record of Salesforce.

    `remote`: the record's fields. `read` raises TypeError, ValueError or KeyError for what makes no sense."""

    @property
    def remote(self) -> tuple[str, ...]: ...

    def to_columns(self, value: Any) -> dict[str, Any]: ...

    def from_columns(self, row: Any) -> Any: ...

    def to_json(self, value: Any) -> dict[str, Any]: ...

    def from_json(self, plain: Record) -> Any: ...

    def read(self, record: Record) -> Any: ...

    def write(self, value: Any) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _PlainKind:
    """A value that stands in one column, and in JSON as it is."""

    column: str
    name: str
    """In Salesforce."""

    @property
    def remote(self) -> tuple[str, ...]:
        return (self.name,)

    def to_columns(self, value: Any) -> dict[str, Any]:
        return {self.column: value}

    def from_columns(self, row: Any) -> Any:
        return getattr(row, self.column)

    def to_json(self, value: Any) -> dict[str, Any]:
        return {self.column: value}

    def from_json(self, plain: Record) -> Any:
        return plain[self.column]

    def write(self, value: Any) -> dict[str, Any]:
        return {self.name: value or None}


@dataclass(frozen=True)
class _TextKind(_PlainKind):
    def read(self, record: Record) -> str:
        return text_of(record[self.name])


@dataclass(frozen=True)
class _WordKind(_PlainKind):
    """A value of a picklist."""

    def to_columns(self, value: Any) -> dict[str, Any]:
        return {self.column: clean(value)[:_LONGEST_WORD]}

    def read(self, record: Record) -> str:
        return word_of(record[self.name])


@dataclass(frozen=True)
class _DayKind(_PlainKind):
    """A day without a zone."""

    def to_json(self, value: date | None) -> dict[str, Any]:
        return {self.column: None if value is None else value.isoformat()}

    def from_json(self, plain: Record) -> date | None:
        found = plain[self.column]
        return None if found is None else date.fromisoformat(found)

    def read(self, record: Record) -> date | None:
        found = record[self.name]
        return None if found is None else date.fromisoformat(found)

    def write(self, value: date | None) -> dict[str, Any]:
        return {self.name: None if value is None else value.isoformat()}


@dataclass(frozen=True)
class _StatusKind:
    """IsClosed follows from Status in Salesforce, and cannot be written."""

    remote: tuple[str, ...] = ("Status", "IsClosed")

    def to_columns(self, value: Status) -> dict[str, Any]:
        return {"status": clean(value.name)[:_LONGEST_WORD], "is_open": value.is_open}

    def from_columns(self, row: Any) -> Status:
        return Status(row.status, row.is_open)

    def to_json(self, value: Status) -> dict[str, Any]:
        return {"status": value.name, "open": value.is_open}

    def from_json(self, plain: Record) -> Status:
        return Status(plain["status"], plain["open"])

    def read(self, record: Record) -> Status:
        return Status(word_of(record["Status"]), is_open=not flag_of(record["IsClosed"]))

    def write(self, value: Status) -> dict[str, Any]:
        return {"Status": value.name}


@dataclass(frozen=True)
class _ReminderKind:
    """A time; where IsReminderSet is false the record may still hold the time of one that was shown."""

    remote: tuple[str, ...] = ("IsReminderSet", "ReminderDateTime")

    def to_columns(self, value: datetime | None) -> dict[str, Any]:
        return {"reminder": value}

    def from_columns(self, row: Any) -> datetime | None:
        found: datetime | None = row.reminder
        return found

    def to_json(self, value: datetime | None) -> dict[str, Any]:
        return {"reminder": None if value is None else value.isoformat()}

    def from_json(self, plain: Record) -> datetime | None:
        found = plain["reminder"]
        return None if found is None else datetime.fromisoformat(found)

    def read(self, record: Record) -> datetime | None:
        is_set, time = flag_of(record["IsReminderSet"]), record["ReminderDateTime"]
        return time_of(time) if is_set and time else None

    def write(self, value: datetime | None) -> dict[str, Any]:
        if value is None:
            return {"IsReminderSet": False}
        time = value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"IsReminderSet": True, "ReminderDateTime": time}


class Field(StrEnum):
    """What is kept the same on both sides; the value of `core.tasks.task.Values` of that name."""

    kind: FieldKind
    label: str

    def __new__(cls, name: str, kind: FieldKind, label: str) -> Self:
        member = str.__new__(cls, name)
        member._value_ = name
        member.kind = kind
        member.label = label
        return member

    SUBJECT = "subject", _TextKind("subject", "Subject"), N_("Subject")
    DUE = "due", _DayKind("due", "ActivityDate"), N_("Due date")
    STATUS = "status", _StatusKind(), N_("Status")
    PRIORITY = "priority", _WordKind("priority", "Priority"), N_("Priority")
    COMMENTS = "comments", _TextKind("comments", "Description"), N_("Comments")
    REMINDER = "reminder", _ReminderKind(), N_("Reminder")


FIELDS_BY_NAME: Mapping[str, Field] = {one.value: one for one in Field}
REMOTE_NAMES: tuple[str, ...] = tuple(name for one in Field for name in one.kind.remote)
"""The fields of a record that hold the synchronised values."""


def clean(text: str) -> str:
    """What every database can hold: no NUL, no lone surrogate."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def text_of(value: object) -> str:
    """A text of a record; null is an empty one. Raises TypeError."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return clean(value)


def word_of(value: object) -> str:
    """A text of a record that is never empty. Raises TypeError."""
    if not isinstance(value, str) or not value:
        raise TypeError(value)
    return clean(value)


def flag_of(value: object) -> bool:
    """A checkbox of a record. Raises TypeError."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(value)
    return bool(value)


def time_of(value: str) -> datetime:
    """A time of a record, which has a zone. Raises ValueError, TypeError."""
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(value)
    return time.astimezone(UTC)

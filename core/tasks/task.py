"""A task: its synchronised values, how they stand in JSON, and what a person may type in.

Pure: values and texts in, values or a reason out."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Any

from core.refusal import Refusal
from core.tasks.fields import NOT_STARTED, Field, Status, clean

LONGEST_SUBJECT = 10_000
LONGEST_COMMENTS = 130_000
_EARLIEST_REMINDER, _LATEST_REMINDER = datetime(1700, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_BYTES_OF_A_CHARACTER = 0.98


class TaskError(Refusal):
    """This cannot be a task's value."""


class TaskState(StrEnum):
    """How a task stands to Salesforce."""

    LOCAL = "local"
    IN_SYNC = "in-sync"
    WAITING = "waiting"
    CONFLICT = "conflict"
    """Settled by the rule, with the loser in the history, until somebody has seen it."""
    FAILED = "failed"
    BIN = "bin"


@dataclass(frozen=True)
class Values:
    """The synchronised values. `due` is a day without a zone, `reminder` a time, None: none."""

    subject: str = ""
    due: date | None = None
    status: Status = NOT_STARTED
    priority: str = "Normal"
    comments: str = ""
    reminder: datetime | None = None

    def of(self, name: Field) -> Any:
        """The value of one field."""
        return getattr(self, name.value)

    def having(self, values: Mapping[Field, Any]) -> "Values":
        """The same with other values in these fields."""
        return replace(self, **{name.value: value for name, value in values.items()})

    def differing(self, other: "Values") -> tuple[Field, ...]:
        """The fields in which the two differ."""
        return tuple(one for one in Field if self.of(one) != other.of(one))


@dataclass(frozen=True)
class Related:
    """Whom and what a task is about, by id and, where it is known, by name."""

    who_id: str | None = None
    what_id: str | None = None
    who_name: str | None = None
    what_name: str | None = None

    def is_about_the_same(self, other: "Related") -> bool:
        """By the ids."""
        return (self.who_id, self.what_id) == (other.who_id, other.what_id)


@dataclass(frozen=True)
class Ours:
    """A task as the worker has it in hand. `base`: the values as both sides had them last; `edited_at`: when
    each field was edited here since; `sent`: what a create was begun with whose end nobody knows, which may
    show until `not_before`."""

    id: int
    person_id: int
    version: int
    values: Values
    salesforce_id: str | None = None
    base: Values | None = None
    edited_at: Mapping[Field, datetime] = field(default_factory=dict)
    related: Related = Related()
    is_wanted: bool = False
    is_waiting: bool = False
    is_by_bytes: bool = False
    key: str = ""
    sent: Values | None = None
    is_keyed: bool = False
    """Whether that create carried the key."""
    not_before: datetime | None = None
    sent_since: datetime | None = None
    """After a restore: from when on the record may have been made; else it was begun shortly before
    `not_before`."""
    binned_at: datetime | None = None
    binned: str | None = None
    bin_stamp: datetime | None = None
    """By Salesforce's clock: what it says of a later moment is newer than why the task is in the bin."""
    is_gone: bool = False
    has_trouble: bool = False
    is_unreadable: bool = False
    """What Salesforce has of it made no sense when it was last read."""

    @property
    def is_deletion_due(self) -> bool:
        """Deleted here, and Salesforce does not know of it yet."""
        return self.binned == "here" and not self.is_gone


@dataclass(frozen=True)
class KnownStatus:
    """One of an organisation's statuses; `order` as it is sorted there."""

    name: str
    label: str
    is_open: bool
    is_default: bool
    order: int

    @property
    def status(self) -> Status:
        return Status(self.name, self.is_open)


@dataclass(frozen=True)
class TextLimits:
    """How much Salesforce holds, in characters. `is_by_bytes`: it turned out to count bytes (KB
    000382141)."""

    subject: int = 255
    comments: int = 32_000
    is_by_bytes: bool = False


@dataclass(frozen=True)
class Choices:
    """What an organisation has: its statuses and priorities in their order, and how long its texts may be."""

    statuses: tuple[KnownStatus, ...] = (
        KnownStatus("Not Started", "Not Started", is_open=True, is_default=True, order=1),
        KnownStatus("Completed", "Completed", is_open=False, is_default=False, order=2),
    )
    priorities: tuple[str, ...] = ("High", "Normal", "Low")
    limits: TextLimits = TextLimits()
    has_key: bool = False
    """Whether it has the unique external-id field on tasks, so that nothing is ever written twice."""

    def known(self, name: str) -> Status | None:
        """The status of this name; None where the organisation has no such one (any more)."""
        return next((one.status for one in self.statuses if one.name == name), None)

    def open_status(self) -> Status:
        """What a task that is open again, or new, has."""
        some = sorted(
            (one for one in self.statuses if one.is_open), key=lambda one: (not one.is_default, one.order)
        )
        return some[0].status if some else Status()

    def closed_status(self, last_used: str | None = None) -> Status:
        """What a task that is completed has: what was used last, else the first by its order."""
        some = sorted((one for one in self.statuses if not one.is_open), key=lambda one: one.order)
        used = next((one.status for one in some if one.name == last_used), None)
        return used or (some[0].status if some else Status("Completed", is_open=False))

    def label(self, name: str) -> str:
        """A status as people call it there."""
        return next((one.label for one in self.statuses if one.name == name), name)

    @property
    def usual_priority(self) -> str:
        """What a task has that nobody has given one: Normal, else the one in the middle."""
        return "Normal" if "Normal" in self.priorities else self.priorities[len(self.priorities) // 2]

    def nearest(self, status: Status) -> Status:
        """The status itself where the organisation has it, else its own word for open or closed."""
        return self.known(status.name) or (self.open_status() if status.is_open else self.closed_status())


def fitted(values: Values, limits: TextLimits) -> Values:
    """What of the values Salesforce can hold: texts are cut between characters, and stay whole here."""
    return replace(
        values,
        subject=_cut(values.subject, limits.subject, by_bytes=limits.is_by_bytes),
        comments=_cut(values.comments, limits.comments, by_bytes=limits.is_by_bytes),
    )


def lacking(values: Values, base: Values, limits: TextLimits) -> tuple[Field, ...]:
    """The fields in which Salesforce, which has `base`, lacks what it could hold; what it has whole is not
    cut."""
    return tuple(name for name in fitted(values, limits).differing(base) if values.of(name) != base.of(name))


def checked_subject(text: str) -> str:
    """One line in which something can be seen. Raises TaskError."""
    subject = clean(
        "".join(" " if unicodedata.category(one) == "Cc" else one for one in " ".join(text.splitlines()))
    ).strip()
    if not any(one.isprintable() and not one.isspace() for one in subject):
        raise TaskError("A task needs a subject")
    if len(subject) > LONGEST_SUBJECT:
        raise TaskError(
            "The subject has %(length)s characters; the most are %(most)s",
            length=len(subject),
            most=LONGEST_SUBJECT,
        )
    return subject


def checked_comments(text: str) -> str:
    """Lines end as everywhere but in forms, and nothing but blanks stands behind the last. Raises
    TaskError."""
    comments = clean(one_newline(text)).rstrip()
    if len(comments) > LONGEST_COMMENTS:
        raise TaskError(
            "The comments have %(length)s characters; the most are %(most)s",
            length=len(comments),
            most=LONGEST_COMMENTS,
        )
    return comments


def checked_due(text: str) -> date | None:
    """A day, None for "". Raises TaskError."""
    value = text.strip()
    if not value:
        return None
    try:
        return date.fromisoformat(value if _DAY.fullmatch(value) else "")
    except ValueError as error:
        raise TaskError("“%(text)s” is not a day; write it like 2026-12-31", text=value) from error


def checked_priority(text: str, choices: Choices, current: str | None = None) -> str:
    """One of the priorities, however it is capitalised, or what the task has; "" is the usual one. Raises
    TaskError."""
    value = text.strip()
    if not value:
        return choices.usual_priority
    known = [*choices.priorities, *([] if current is None or current in choices.priorities else [current])]
    found = next((one for one in known if one.casefold() == value.casefold()), None)
    if found is None:
        raise TaskError(
            "“%(text)s” is not one of the priorities: %(choices)s", text=value, choices=", ".join(known)
        )
    return found


def checked_reminder(time: datetime | None) -> datetime | None:
    """A time with its zone. Raises TaskError."""
    if time is not None and not _EARLIEST_REMINDER <= time <= _LATEST_REMINDER:
        raise TaskError("A reminder in the year %(year)s is not possible", year=time.year)
    return time


def one_newline(text: str) -> str:
    """As browsers send lines they end in CR LF, and as Salesforce gives them in either."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def today_and_tomorrow(now: datetime) -> tuple[date, date]:
    """By the person's clock, in whose zone `now` is."""
    return now.date(), now.date() + timedelta(days=1)


def to_json(values: Values) -> dict[str, Any]:
    """For the database."""
    return {name: plain for one in Field for name, plain in one.kind.to_json(values.of(one)).items()}


def from_json(plain: Mapping[str, Any]) -> Values:
    """What `to_json` gave, this release or an earlier one, which lacks newer fields: they have their
    defaults."""
    known = {**to_json(Values()), **plain}
    return Values(**{one.value: one.kind.from_json(known) for one in Field})


def to_text(name: Field, value: Any) -> str | None:
    """One value for the history."""
    plain = to_json(Values().having({name: value}))
    return None if value is None else str(plain[name.value])


def from_text(name: Field, text: str | None, choices: Choices) -> Any:
    """What `to_text` gave; a status that the organisation has no more becomes an open one."""
    if name is Field.STATUS:
        return choices.known(text or "") or choices.open_status()
    if text is None:
        return None
    return from_json({**to_json(Values()), name.value: text}).of(name)


def _cut(text: str, most: int, *, by_bytes: bool) -> str:
    """What ends in a blank after the cut is cut there too: Salesforce would do so, and it would look like a
    change."""
    if by_bytes:
        room = int(most * _BYTES_OF_A_CHARACTER)
        raw = text.encode()
        return text if len(raw) <= room else raw[:room].decode("utf-8", "ignore").rstrip()
    if len(text) * 2 <= most:
        return text
    raw = text.encode("utf-16-le", "replace")
    return text if len(raw) <= most * 2 else raw[: most * 2].decode("utf-16-le", "ignore").rstrip()

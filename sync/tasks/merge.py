"""Three versions of a task -> one: what was on both sides last, what is here, and what is in Salesforce.

What changed is what differs from the base, never what has a later date; dates decide only between two
changes.

Pure: values in, values out."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from core.tasks.fields import Field
from core.tasks.task import TextLimits, Values, fitted

THE_SAME_MOMENT = timedelta(seconds=2)
"""Within it nobody can say who was later, and Salesforce wins."""


class Side(StrEnum):
    """Where a value was."""

    HERE = "here"
    SALESFORCE = "salesforce"


@dataclass(frozen=True)
class LostValue:
    """A value that gave way to another. `is_conflict`: both sides had changed it."""

    field: Field
    value: Any
    side: Side
    is_conflict: bool


@dataclass(frozen=True)
class Merged:
    """The one version, and what gave way to it."""

    values: Values
    lost: tuple[LostValue, ...] = ()

    @property
    def is_conflict(self) -> bool:
        return any(one.is_conflict for one in self.lost)


@dataclass(frozen=True)
class Times:
    """When each field was edited here, by Salesforce's clock, and when the record was changed there."""

    ours: Mapping[Field, datetime]
    theirs: datetime


def merge(base: Values | None, ours: Values, theirs: Values, times: Times, limits: TextLimits) -> Merged:
    """The version that both sides are to have. Without a base Salesforce's values win: nobody knows who
    changed what.

    `ours` may be longer than Salesforce holds: as far as it holds it, it is the same, and what is here stays
    whole."""
    held = fitted(ours, limits)
    won: dict[Field, Any] = {}
    lost: list[LostValue] = []
    for field in Field:
        there = theirs.of(field)
        was = there if base is None else base.of(field)
        mine = ours.of(field) if ours.of(field) in (was, there) else held.of(field)
        if mine == there:  # the same on both sides, whoever changed it
            continue
        if base is not None and there == was:  # changed here only
            continue
        if base is not None and mine != was and _is_conflict(field, mine, there):  # changed on both sides
            if _is_ours_later(times, field):
                lost.append(LostValue(field, there, Side.SALESFORCE, is_conflict=True))
            else:
                won[field] = there
                lost.append(LostValue(field, ours.of(field), Side.HERE, is_conflict=True))
            continue
        won[field] = there  # changed there only, or both in the same sense
        lost.append(LostValue(field, ours.of(field), Side.HERE, is_conflict=False))
    return Merged(ours.having(won), tuple(lost))


def _is_conflict(field: Field, mine: Any, there: Any) -> bool:
    """Two statuses of one class mean the same; Salesforce's finer word stands."""
    return field is not Field.STATUS or mine.is_open is not there.is_open


def _is_ours_later(times: Times, field: Field) -> bool:
    edited = times.ours.get(field)
    return edited is not None and edited - times.theirs > THE_SAME_MOMENT

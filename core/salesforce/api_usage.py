"""Salesforce organisations: how many of their daily calls are used, and until when all work for them
waits."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database.audit import settings_changed
from core.database.dialect import there
from core.database.heartbeats import database_now
from core.database.models import OrganisationRow
from core.salesforce.client import Usage

_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(minutes=15)
_OLD = timedelta(minutes=5)


@dataclass(frozen=True)
class Organisation:
    """`is_scarce`: no more calls are left than are kept in reserve."""

    id: str
    usage: Usage
    is_scarce: bool
    paused_until: datetime | None
    pause_code: str | None
    seen_at: datetime


def organisation(session: Session, organisation_id: str) -> Organisation | None:
    """What is known; None before its first answer."""
    row = session.get(OrganisationRow, organisation_id)
    if row is None:
        return None
    return Organisation(
        row.id,
        Usage(row.calls_used, row.calls_total),
        row.is_scarce,
        row.paused_until,
        row.pause_code,
        row.seen_at,
    )


def paused(session: Session) -> frozenset[str]:
    """The ids of the organisations for which all waits now."""
    now = database_now(session)
    return frozenset(session.scalars(select(OrganisationRow.id).where(OrganisationRow.paused_until > now)))


def is_news(known: Organisation, usage: Usage, reserve: int, now: datetime) -> bool:
    """Whether it is worth a row that so many calls are used: it changes what may be done, or nobody has
    looked for a while."""
    is_scarce = usage.total > 0 and (usage.total - usage.used) * 100 <= usage.total * reserve
    is_over = known.paused_until is not None and known.paused_until <= now
    return (
        is_scarce
        or is_scarce != known.is_scarce
        or usage.total != known.usage.total
        or is_over
        or now - known.seen_at > _OLD
    )


def note_usage(session: Session, organisation_id: str, usage: Usage | None, reserve: int) -> bool:
    """What the last answer told; whether work may go on. `reserve`: the share that is never touched, in per
    cent."""
    row = _row(session, organisation_id)
    if usage is not None:
        row.calls_used, row.calls_total, row.seen_at = usage.used, usage.total, database_now(session)
    is_scarce = row.calls_total > 0 and (row.calls_total - row.calls_used) * 100 <= row.calls_total * reserve
    if is_scarce != row.is_scarce:
        row.is_scarce = is_scarce
        settings_changed(session)  # the relays fall back to the copy, or stop doing so
    if is_scarce:
        pause(session, organisation_id, "REQUEST_LIMIT_EXCEEDED")
    elif row.paused_until is not None and row.paused_until <= database_now(session) and usage is not None:
        row.paused_until, row.pause_code, row.pauses = None, None, 0
    return not is_scarce


def pause(session: Session, organisation_id: str, code: str) -> None:
    """All work for this organisation waits, each time longer, up to a quarter of an hour."""
    row = _row(session, organisation_id)
    now = database_now(session)
    if row.paused_until is not None and row.paused_until > now:
        return
    row.paused_until = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(row.pauses, 4))
    row.pause_code = code
    row.pauses += 1


def _row(session: Session, organisation_id: str) -> OrganisationRow:
    values = {
        "calls_used": 0,
        "calls_total": 0,
        "seen_at": database_now(session),
        "is_scarce": False,
        "pauses": 0,
    }
    row: OrganisationRow = there(session, OrganisationRow, {"id": organisation_id}, values)
    return row

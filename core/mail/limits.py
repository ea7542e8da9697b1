"""The limits of what one person may send, and how often each person has met one: counted, not a row each."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.models import LimitRefusalRow, MailRow, PersonRow
from core.journal.entries import LimitRefused
from core.mail.row import State
from core.mail.store import first_id

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class LimitRefusals:
    """The mails of one person that a limit kept back, since the first of them; a day without one begins anew.

    `limit`: `minute`, `day` or `blocked-domain`."""

    person: str
    limit: str
    mails: int
    first_seen: datetime
    last_seen: datetime


def count(session: Session, refused: Iterable[LimitRefused]) -> None:
    """Count mails that were refused."""
    for one in sorted(refused, key=lambda one: (one.person, one.limit, one.time)):
        row = session.get(LimitRefusalRow, (one.person, one.limit), with_for_update=True)
        if row is None:
            row = LimitRefusalRow(person_id=one.person, limit_name=one.limit, mails=0, first_seen=one.time)
            session.add(row)
        elif one.time - row.last_seen > ONE_DAY:
            row.mails, row.first_seen = 0, one.time
        row.mails += 1
        row.last_seen = max(one.time, row.last_seen or one.time)


def refusals(session: Session, since: datetime, person_id: int | None = None) -> list[LimitRefusals]:
    """What limits have kept back lately, of this person, or of everybody; the last first."""
    query = (
        select(LimitRefusalRow, PersonRow.email)
        .join(PersonRow, PersonRow.id == LimitRefusalRow.person_id)
        .where(LimitRefusalRow.last_seen >= since)
        .order_by(LimitRefusalRow.last_seen.desc())
    )
    if person_id is not None:
        query = query.where(LimitRefusalRow.person_id == person_id)
    return [
        LimitRefusals(email, row.limit_name, row.mails, row.first_seen, row.last_seen)
        for row, email in session.execute(query)
    ]


def mails_today(session: Session, person_id: int, now: datetime, most: int) -> int:
    """How many mails this person has sent within a day, counted up to `most`; not those that did not go
    out."""
    some = (
        select(MailRow.id)
        .where(
            MailRow.person_id == person_id,
            MailRow.id >= first_id(now - ONE_DAY),
            MailRow.state.not_in([State.REFUSED.value, State.ABORTED.value]),
        )
        .limit(most)
        .subquery()
    )
    return session.scalar(select(func.count()).select_from(some)) or 0

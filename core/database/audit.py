"""Every change of a setting leaves a row, and raises the number that tells the relays to look again."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from core.database.models import AuditRow, RevisionRow

WORKER = "the worker"
"""Stands as the actor where a process made the change."""


@dataclass(frozen=True)
class Change:
    """One change of a setting. `actor`: who made it, None for an operator at the command line; `person`:
    whose setting it is, None for the policy."""

    actor: str | None
    person: str | None
    what: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class NotedChange:
    """A change, and when it was made."""

    time: datetime
    change: Change


def note(session: Session, change: Change) -> None:
    """Write the change down in the transaction that makes it."""
    session.add(
        AuditRow(
            time=datetime.now(UTC),
            actor=change.actor,
            person=change.person,
            what=change.what,
            before=change.before,
            after=change.after,
        ),
    )


def changes(session: Session, limit: int) -> list[NotedChange]:
    """The latest changes, newest first."""
    rows = session.scalars(select(AuditRow).order_by(AuditRow.id.desc()).limit(limit))
    return [
        NotedChange(row.time, Change(row.actor, row.person, row.what, row.before, row.after)) for row in rows
    ]


def settings_changed(session: Session) -> None:
    """Raise the settings revision, so that every relay reads anew within two seconds."""
    session.execute(update(RevisionRow).values(number=RevisionRow.number + 1))


def settings_revision(session: Session) -> int:
    """The number of the settings as they are now."""
    return session.scalars(select(RevisionRow.number)).one()

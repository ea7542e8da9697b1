"""The lists of the Command Center: which tasks are on them, in which order, and what is to be reminded of."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, case, func, select
from sqlalchemy.orm import Session

from core.database.heartbeats import database_now
from core.database.task_models import TaskRow
from core.tasks.store import Task, task_of
from core.tasks.task import Choices, today_and_tomorrow

_SHOWN_REMINDERS = 20


class Which(StrEnum):
    """The lists of the Command Center."""

    NOW = "now"
    """Open, and due today or tomorrow."""
    OVERDUE = "overdue"
    LATER = "later"
    UNDATED = "without-date"
    DONE = "done"
    BIN = "bin"
    ALL = "all"
    """Everything outside the bin."""


def listed(
    session: Session,
    person_id: int,
    which: Which,
    now: datetime,
    known: Choices,
    page: tuple[int, int] | None = None,
) -> list[Task]:
    """One of the lists, by due date, then by the organisation's order of priorities; `now` in the person's
    zone; `page`: from which one on, and how many."""
    query = select(TaskRow).where(TaskRow.person_id == person_id, _condition(which, now))
    if which is Which.BIN:
        query = query.order_by(TaskRow.binned_at.desc(), TaskRow.id.desc())
    elif which is Which.DONE:
        query = query.order_by(TaskRow.id.desc())
    else:
        query = query.order_by(TaskRow.due.is_(None), TaskRow.due, _rank(known), TaskRow.id)
    if page is not None:
        query = query.offset(page[0]).limit(page[1])
    return [task_of(row) for row in session.scalars(query)]


def counts(session: Session, person_id: int, now: datetime) -> dict[Which, int]:
    """How many are on each list."""
    lists = (Which.NOW, Which.OVERDUE, Which.LATER, Which.UNDATED, Which.DONE, Which.BIN)
    columns = [func.count().filter(_condition(which, now)) for which in lists]
    row = session.execute(select(*columns).select_from(TaskRow).where(TaskRow.person_id == person_id)).one()
    return dict(zip(lists, row, strict=True))


def due_reminders(session: Session, person_id: int) -> list[Task]:
    """What the person wanted to be reminded of by now."""
    query = (
        select(TaskRow)
        .where(
            TaskRow.person_id == person_id,
            TaskRow.reminder.is_not(None),
            TaskRow.reminder <= database_now(session),
            TaskRow.is_open,
            TaskRow.binned_at.is_(None),
        )
        .order_by(TaskRow.reminder)
        .limit(_SHOWN_REMINDERS)
    )
    return [task_of(row) for row in session.scalars(query)]


def _rank(choices: Choices) -> ColumnElement[int]:
    """The most urgent first; what nobody knows the rank of stands where the usual one does."""
    ranks = {name: number for number, name in enumerate(choices.priorities)}
    return case(ranks, value=TaskRow.priority, else_=ranks[choices.usual_priority])


def _condition(which: Which, now: datetime) -> ColumnElement[bool]:
    today, tomorrow = today_and_tomorrow(now)
    is_there, is_open = TaskRow.binned_at.is_(None), TaskRow.is_open
    return {
        Which.NOW: and_(is_there, is_open, TaskRow.due >= today, TaskRow.due <= tomorrow),
        Which.OVERDUE: and_(is_there, is_open, TaskRow.due < today),
        Which.LATER: and_(is_there, is_open, TaskRow.due > tomorrow),
        Which.UNDATED: and_(is_there, is_open, TaskRow.due.is_(None)),
        Which.DONE: and_(is_there, ~is_open),
        Which.BIN: TaskRow.binned_at.is_not(None),
        Which.ALL: is_there,
    }[which]

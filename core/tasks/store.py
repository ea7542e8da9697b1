"""Tasks as their person works with them: added, edited, completed, deleted, restored; and how each stands to
Salesforce.

Every value that gives way to another goes to the task's history; what is deleted lies in the bin for 15
days."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from core.database.dialect import fit
from core.database.heartbeats import database_now
from core.database.task_models import TaskHistoryRow, TaskRow, TaskSyncRow
from core.people.store import NotThere
from core.refusal import Refusal
from core.tasks import queue as task_queue
from core.tasks.fields import FIELDS_BY_NAME, Field, Status
from core.tasks.task import Choices, Related, TaskState, TextLimits, Values, fitted, from_text, to_text

DAYS_IN_THE_BIN = 15
HERE = "here"
_ABOUT_NOTHING = frozenset(
    {
        "ENTITY_IS_DELETED",
        "INVALID_CROSS_REFERENCE_KEY",
        "CANNOT_UPDATE_CONVERTED_LEAD",
        "FIELD_INTEGRITY_EXCEPTION",
        "MALFORMED_ID",
    }
)
"""The troubles of a new record because of what it is about."""
_LONGEST_DETAIL = 500


class InTheBin(Refusal):
    """The task was deleted."""


class NotInTheBin(Refusal):
    """There is nothing to restore."""


class NotSyncing(Refusal):
    """There is no sync that could send it."""


class Binned(StrEnum):
    """Why a task is in the bin."""

    HERE = "here"
    SALESFORCE = "salesforce"
    GONE = "gone"
    """Salesforce has no trace of it any more, or shows it to the person no longer."""
    REASSIGNED = "reassigned"
    """It is somebody else's now."""


@dataclass(frozen=True)
class Task:
    """A task as pages and commands show it."""

    id: int
    person_id: int
    salesforce_id: str | None
    values: Values
    state: TaskState
    version: int
    is_wanted: bool
    is_cut: bool
    """Salesforce holds only the beginning of a text."""
    binned_at: datetime | None
    binned: Binned | None
    trouble_code: str | None
    trouble_detail: str
    who: tuple[str, str] | None
    """Id and name of the person that it is about."""
    what: tuple[str, str] | None
    created_at: datetime

    @property
    def about(self) -> tuple[tuple[str, str], ...]:
        """Ids and names of the records that it is about."""
        return tuple(one for one in (self.who, self.what) if one is not None)


@dataclass(frozen=True)
class HistoryEntry:
    """A value that gave way. `side`: here or salesforce; `why`: edited, overwritten, conflict or paired."""

    id: int
    time: datetime
    field: Field
    value: str | None
    side: str
    why: str


def task_of(row: TaskRow) -> Task:
    """The row as a value."""
    values = values_of(row)
    return Task(
        id=row.id,
        person_id=row.person_id,
        salesforce_id=row.salesforce_id,
        values=values,
        state=_state(row),
        version=row.version,
        is_wanted=row.is_wanted,
        is_cut=row.base is not None and _is_cut(row, values),
        binned_at=row.binned_at,
        binned=None if row.bin_reason is None else Binned(row.bin_reason),
        trouble_code=row.trouble_code,
        trouble_detail=row.trouble_detail or "",
        who=None if row.who_id is None else (row.who_id, row.who_name or row.who_id),
        what=None if row.what_id is None else (row.what_id, row.what_name or row.what_id),
        created_at=row.created_at,
    )


def values_of(row: TaskRow) -> Values:
    """The values as they are here."""
    return Values(**{one.value: one.kind.from_columns(row) for one in Field})


def columns_of(values: Values) -> dict[str, Any]:
    """The row's columns that hold them."""
    return {name: plain for one in Field for name, plain in one.kind.to_columns(values.of(one)).items()}


def put(row: TaskRow, values: Values) -> None:
    """The values as they are here from now on."""
    for name, plain in columns_of(values).items():
        setattr(row, name, plain)


def add_to_history(session: Session, row: TaskRow, field: Field, value: Any, *, side: str, why: str) -> None:
    """A value goes to the history."""
    session.add(
        TaskHistoryRow(
            task_id=row.id,
            time=database_now(session),
            field=field.value,
            value=to_text(field, value),
            side=side,
            why=why,
        )
    )


def add(
    session: Session, person_id: int, values: Values, *, is_wanted: bool, related: Related | None = None
) -> int:
    """A new task, about these records; `is_wanted`: it is to be in Salesforce too. Its id."""
    row = TaskRow(
        person_id=person_id,
        uid=str(uuid.uuid4()),
        edited_at={},
        version=1,
        is_wanted=is_wanted,
        is_waiting=is_wanted,
        sends=0,
        is_by_bytes=False,
        is_gone=False,
        created_at=database_now(session),
    )
    put(row, values)
    if related is not None:
        row.who_id, row.who_name, row.what_id, row.what_name = (
            related.who_id,
            related.who_name,
            related.what_id,
            related.what_name,
        )
    session.add(row)
    session.flush()
    task_queue.changed(session, person_id)
    return row.id


def edit(session: Session, person_id: int, task_id: int, changes: Mapping[Field, Any]) -> None:
    """Change what differs. Raises NotThere, InTheBin."""
    row = _locked(session, person_id, task_id)
    before = values_of(row)
    after = before.having(changes)
    if not (fields := before.differing(after)):
        row.conflict_at = None
        return
    now = database_now(session)
    for field in fields:
        add_to_history(session, row, field, before.of(field), side=HERE, why="edited")
    if Field.STATUS in fields:
        _note_status(session, row, before.status, after.status)
    put(row, after)
    row.edited_at = {**row.edited_at, **{field.value: now.isoformat() for field in fields}}
    _note_change(session, row)


def complete(session: Session, person_id: int, task_id: int, choices: Choices) -> None:
    """Raises NotThere, InTheBin."""
    row = _locked(session, person_id, task_id)
    if row.is_open:
        sync = session.get(TaskSyncRow, person_id)
        status = choices.closed_status(None if sync is None else sync.last_closed_status)
        edit(session, person_id, task_id, {Field.STATUS: status})


def reopen(session: Session, person_id: int, task_id: int, choices: Choices) -> None:
    """To the status that it had before, where the organisation still has it. Raises NotThere, InTheBin."""
    row = _locked(session, person_id, task_id)
    if not row.is_open:
        before = choices.known(row.open_status or "")
        status = before if before is not None and before.is_open else choices.open_status()
        edit(session, person_id, task_id, {Field.STATUS: status})


def remove(session: Session, person_id: int, task_id: int) -> None:
    """Into the bin; in Salesforce too. Raises NotThere, InTheBin."""
    row = _locked(session, person_id, task_id)
    bin_it(session, row, Binned.HERE)
    is_there = row.salesforce_id is not None or row.sent is not None
    row.is_waiting = is_there and not _is_of_another_organisation(session, row)
    _note_change(session, row, is_waiting=row.is_waiting)


def bin_it(session: Session, row: TaskRow, why: Binned, stamp: datetime | None = None) -> None:
    """For 15 days. `stamp`: by Salesforce's clock, when it came to that there."""
    row.bin_stamp = stamp
    row.binned_at, row.bin_reason, row.is_gone = (
        database_now(session),
        why.value,
        why in {Binned.SALESFORCE, Binned.GONE},
    )
    row.conflict_at = row.trouble_code = row.trouble_detail = None


def restore(session: Session, person_id: int, task_id: int, *, is_wanted: bool) -> None:
    """Out of the bin: as it was where Salesforce has it still, else as a new task. Raises NotThere,
    NotInTheBin."""
    row = _locked(session, person_id, task_id, in_bin=True)
    if row.binned_at is None:
        raise NotInTheBin("This task is not in the bin")
    is_still_there = row.bin_reason == Binned.HERE and not row.is_gone
    row.binned_at = row.bin_reason = row.bin_stamp = None
    task_queue.reconsider(session, person_id)
    if not is_still_there:
        start_anew(row)
        row.is_wanted = is_wanted
    _note_change(session, row)


def restore_undone(session: Session, person_id: int) -> int:
    """Take back every deletion that Salesforce does not know of yet. How many."""
    query = select(TaskRow.id).where(
        TaskRow.person_id == person_id,
        TaskRow.is_waiting,
        TaskRow.bin_reason == Binned.HERE.value,
        TaskRow.is_gone.is_(False),
    )
    ids = list(session.scalars(query))
    for task_id in ids:
        restore(session, person_id, task_id, is_wanted=True)
    return len(ids)


def start_anew(row: TaskRow) -> None:
    """From now on it has no record in Salesforce; the next is another."""
    row.organisation_id = row.salesforce_id = row.base = row.sent = row.not_before = None
    row.is_gone, row.sends, row.edited_at = False, row.sends + 1, {}


def send(session: Session, person_id: int, task_id: int, *, is_syncing: bool) -> None:
    """Have it in Salesforce too; where that failed, once more. Raises NotThere, InTheBin, NotSyncing."""
    row = _locked(session, person_id, task_id)
    if not is_syncing:
        raise NotSyncing("Task sync is switched off, so nothing can be sent; switch it on first")
    if _is_of_another_organisation(session, row):
        start_anew(row)
    if row.salesforce_id is None and row.trouble_code in _ABOUT_NOTHING:
        row.who_id = row.who_name = row.what_id = row.what_name = None  # what it was about is there no more
    row.is_wanted = True
    _note_change(session, row)


def acknowledge(session: Session, person_id: int, task_id: int) -> None:
    """The person has seen how a conflict was settled. Raises NotThere, InTheBin."""
    _locked(session, person_id, task_id).conflict_at = None


def restore_value(session: Session, person_id: int, task_id: int, entry_id: int, choices: Choices) -> None:
    """Have again what a field was. Raises NotThere, InTheBin."""
    _locked(session, person_id, task_id)
    entry = session.get(TaskHistoryRow, entry_id)
    if entry is None or entry.task_id != task_id:
        raise NotThere("There is no such entry in the task's history")
    field = FIELDS_BY_NAME[entry.field]
    edit(session, person_id, task_id, {field: from_text(field, entry.value, choices)})


def task(session: Session, person_id: int, task_id: int) -> Task:
    """Raises NotThere."""
    return task_of(_locked(session, person_id, task_id, in_bin=True, is_locked=False))


def history(session: Session, task_id: int) -> list[HistoryEntry]:
    """What gave way, the latest first."""
    query = select(TaskHistoryRow).where(TaskHistoryRow.task_id == task_id).order_by(TaskHistoryRow.id.desc())
    return [
        HistoryEntry(row.id, row.time, FIELDS_BY_NAME[row.field], row.value, row.side, row.why)
        for row in session.scalars(query)
    ]


def tidy(session: Session) -> None:
    """What was in the bin long enough goes, unless Salesforce is still to hear of it."""
    long_ago = database_now(session) - timedelta(days=DAYS_IN_THE_BIN)
    syncing = select(TaskSyncRow.person_id).where(TaskSyncRow.is_on)
    is_over = or_(TaskRow.is_waiting.is_(False), TaskRow.person_id.not_in(syncing))
    session.execute(delete(TaskRow).where(TaskRow.binned_at < long_ago, is_over))


def note_trouble(row: TaskRow, code: str, detail: str) -> None:
    """What stands in the task's way."""
    row.trouble_code, row.trouble_detail = code, fit(detail, _LONGEST_DETAIL)


def _locked(
    session: Session, person_id: int, task_id: int, *, in_bin: bool = False, is_locked: bool = True
) -> TaskRow:
    """Raises NotThere, InTheBin. The sync's row is locked first, as the worker does it, so that neither waits
    for the other."""
    if is_locked:
        session.get(TaskSyncRow, person_id, with_for_update=True)
    row = session.get(TaskRow, task_id, with_for_update=is_locked or None, populate_existing=is_locked)
    if row is None or row.person_id != person_id:
        raise NotThere("There is no task %(id)s", id=task_id)
    if row.binned_at is not None and not in_bin:
        raise InTheBin("This task was deleted and is in the bin; restore it first")
    return row


def _note_change(session: Session, row: TaskRow, *, is_waiting: bool | None = None) -> None:
    """A new version of the task, which waits for the worker if it is to be in Salesforce."""
    row.version += 1
    row.conflict_at = row.trouble_code = row.trouble_detail = None
    row.is_waiting = _is_to_be_told(session, row) if is_waiting is None else is_waiting
    task_queue.changed(session, row.person_id)


def _is_to_be_told(session: Session, row: TaskRow) -> bool:
    """Whether Salesforce is to know of it: not of what is linked to an organisation that the person is in no
    more."""
    if row.salesforce_id is None:
        return row.is_wanted
    return not _is_of_another_organisation(session, row)


def _is_of_another_organisation(session: Session, row: TaskRow) -> bool:
    sync = session.get(TaskSyncRow, row.person_id)
    known = {None, row.organisation_id}
    return row.organisation_id is not None and sync is not None and sync.organisation_id not in known


def _note_status(session: Session, row: TaskRow, before: Status, after: Status) -> None:
    if before.is_open and not after.is_open:
        row.open_status = before.name
    if not after.is_open:
        sync = session.get(TaskSyncRow, row.person_id)
        if sync is not None:
            sync.last_closed_status = after.name


def _state(row: TaskRow) -> TaskState:
    if row.binned_at is not None:
        return TaskState.BIN
    if row.trouble_code is not None and not row.is_waiting:
        return TaskState.FAILED
    if row.is_waiting:
        return TaskState.WAITING
    if row.conflict_at is not None:
        return TaskState.CONFLICT
    return TaskState.LOCAL if row.salesforce_id is None else TaskState.IN_SYNC


def _is_cut(row: TaskRow, values: Values) -> bool:
    return fitted(values, TextLimits(is_by_bytes=row.is_by_bytes)) != values

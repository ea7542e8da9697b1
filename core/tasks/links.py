"""The worker's side of the tasks: which are linked to what in Salesforce, which wait, and what becomes of
them.

Everything here is done within one transaction of the worker that holds the person's claim."""

import hashlib
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from core.batches import batches
from core.database.dialect import fit, insert
from core.database.heartbeats import database_now
from core.database.task_models import OwnTaskRow, TaskRow
from core.salesforce.ids import id_key
from core.tasks.fields import FIELDS_BY_NAME, Field
from core.tasks.store import (
    Binned,
    add_to_history,
    bin_it,
    columns_of,
    note_trouble,
    put,
    start_anew,
    values_of,
)
from core.tasks.task import Ours, Related, TextLimits, Values, from_json, lacking, to_json

_AT_ONCE = 500
_LONGEST_NAME = 255
_KEYED = "keyed"
_SINCE = "since"
UNREADABLE = "unreadable_record"
"""The trouble of a task whose record makes no sense."""


def key_of(uid: str, sends: int) -> str:
    """What a task's record is known by, whoever writes it and however often: 64 hexadecimal digits."""
    return hashlib.sha256(f"{uid}:{sends}".encode()).hexdigest()


def of_records(
    session: Session, organisation_id: str, ids: Collection[str], *, is_locked: bool
) -> dict[str, Ours]:
    """The linked tasks of these records, whosever they are, by the first fifteen characters of the record's
    id."""
    found = {}
    for some in batches(sorted(ids), _AT_ONCE):
        query = select(TaskRow).where(
            TaskRow.organisation_id == organisation_id, TaskRow.salesforce_id.in_(some)
        )
        for row in session.scalars(query.with_for_update() if is_locked else query):
            found[id_key(str(row.salesforce_id))] = _ours_of(row)
            if is_locked:
                _locked(session)[row.id] = row
    return found


def own_logs(session: Session, ids: Collection[str]) -> frozenset[str]:
    """Which of these records are logs of mails, by the first fifteen characters."""
    found: set[str] = set()
    for some in batches(sorted(id_key(one) for one in ids), _AT_ONCE):
        found |= set(
            session.scalars(select(OwnTaskRow.salesforce_id).where(OwnTaskRow.salesforce_id.in_(some)))
        )
    return frozenset(found)


def unsettled(session: Session, person_id: int, organisation_id: str) -> list[Ours]:
    """The person's tasks whose create was begun, and nobody knows its end."""
    query = (
        select(TaskRow)
        .where(
            TaskRow.person_id == person_id,
            _may_be_in(organisation_id),
            TaskRow.salesforce_id.is_(None),
            TaskRow.not_before.is_not(None),
        )
        .order_by(TaskRow.id)
    )
    return [_ours_of(row) for row in session.scalars(query)]


def waiting(session: Session, person_id: int, organisation_id: str, *, after: int, most: int) -> list[Ours]:
    """The person's tasks that wait for the worker and are not another organisation's, by their ids."""
    query = (
        select(TaskRow)
        .where(
            TaskRow.person_id == person_id,
            TaskRow.is_waiting,
            TaskRow.id > after,
            _may_be_in(organisation_id),
        )
        .order_by(TaskRow.id)
        .limit(most)
    )
    return [_ours_of(row) for row in session.scalars(query)]


def waiting_number(session: Session, person_id: int, organisation_id: str) -> int:
    """How many wait to be written, changed or deleted in Salesforce."""
    query = select(func.count()).where(
        TaskRow.person_id == person_id,
        TaskRow.is_waiting,
        _may_be_in(organisation_id),
    )
    return session.scalar(query) or 0


def deletions_due(session: Session, person_id: int, organisation_id: str) -> int:
    """How many were deleted here and wait to be deleted there."""
    query = select(func.count()).where(
        TaskRow.person_id == person_id,
        TaskRow.is_waiting,
        _may_be_in(organisation_id),
        TaskRow.salesforce_id.is_not(None),
        TaskRow.bin_reason == Binned.HERE.value,
    )
    return session.scalar(query) or 0


def linked(session: Session, person_id: int, organisation_id: str) -> int:
    """How many of the person's tasks are linked and not in the bin."""
    query = select(func.count()).where(
        TaskRow.person_id == person_id,
        TaskRow.organisation_id == organisation_id,
        TaskRow.salesforce_id.is_not(None),
        TaskRow.binned_at.is_(None),
    )
    return session.scalar(query) or 0


def linked_after(
    session: Session, person_id: int, organisation_id: str, *, after: int, most: int, with_reassigned: bool
) -> list[Ours]:
    """The linked tasks in the order of their ids, from one on; `with_reassigned`: those too that are in the
    bin because they were somebody else's when last seen."""
    is_meant: ColumnElement[bool] = TaskRow.binned_at.is_(None)
    if with_reassigned:
        is_meant = or_(is_meant, TaskRow.bin_reason == Binned.REASSIGNED.value)
    query = (
        select(TaskRow)
        .where(
            TaskRow.person_id == person_id,
            TaskRow.organisation_id == organisation_id,
            TaskRow.id > after,
            TaskRow.salesforce_id.is_not(None),
            is_meant,
        )
        .order_by(TaskRow.id)
        .limit(most)
    )
    return [_ours_of(row) for row in session.scalars(query)]


def unlinked_open(session: Session, person_id: int) -> list[Ours]:
    """The person's open tasks that have no record."""
    query = select(TaskRow).where(
        TaskRow.person_id == person_id,
        TaskRow.salesforce_id.is_(None),
        TaskRow.is_open,
        TaskRow.binned_at.is_(None),
        TaskRow.not_before.is_(None),
    )
    return [_ours_of(row) for row in session.scalars(query)]


def bring_in(
    session: Session,
    person_id: int,
    organisation_id: str,
    brought: Iterable[tuple[str, Values, Related, datetime]],
) -> int:
    """New tasks here: record id, values, whom they are about, when they were made. How many were not here
    yet."""
    rows = [
        {
            "person_id": person_id,
            "uid": str(uuid.uuid4()),
            "organisation_id": organisation_id,
            "salesforce_id": record_id,
            **columns_of(values),
            **_related(related),
            "base": to_json(values),
            "edited_at": {},
            "version": 1,
            "is_wanted": True,
            "is_waiting": False,
            "sends": 0,
            "is_by_bytes": False,
            "is_gone": False,
            "created_at": made_at,
        }
        for record_id, values, related, made_at in brought
    ]
    if not rows:
        return 0
    session.execute(insert(session.get_bind().dialect, TaskRow).on_conflict_do_nothing(), rows)
    return len(rows)


def link(session: Session, ours: Ours, organisation_id: str, record_id: str) -> None:
    """This record is the task's from now on."""
    row = _row(session, ours)
    row.organisation_id, row.salesforce_id, row.is_wanted = organisation_id, record_id, True
    row.sent = row.not_before = None


def take(
    session: Session,
    ours: Ours,
    *,
    values: Values,
    base: Values,
    related: Related,
    person_id: int,
    limits: TextLimits,
) -> None:
    """The values that the task has from now on, and those that Salesforce has."""
    row = _row(session, ours)
    if values != ours.values:
        row.version += 1
    put(row, values)
    row.base, row.person_id = to_json(base), person_id
    for name, value in _related(related).items():
        is_unknown_name = name.endswith("_name") and value is None and ours.related.is_about_the_same(related)
        if not is_unknown_name:
            setattr(row, name, value)
    differing = lacking(values, base, limits)
    row.edited_at = {name: time for name, time in row.edited_at.items() if FIELDS_BY_NAME[name] in differing}
    row.is_waiting = bool(differing) or (row.bin_reason == Binned.HERE and not row.is_gone)
    row.trouble_code = row.trouble_detail = None


def take_out_of_bin(session: Session, ours: Ours) -> None:
    """It is alive again."""
    row = _row(session, ours)
    row.binned_at = row.bin_reason = row.bin_stamp = None
    row.is_gone = False


def remember(session: Session, ours: Ours, field: Field, value: Any, *, side: str, why: str) -> None:
    """A value that gave way goes to the history; a conflict is shown until it is seen."""
    row = _row(session, ours)
    add_to_history(session, row, field, value, side=side, why=why)
    if why == "conflict":
        row.conflict_at = database_now(session)


def remove(session: Session, ours: Ours, why: str, stamp: datetime | None) -> None:
    """Into the bin, as it came to that in Salesforce."""
    row = _row(session, ours)
    was_binned = row.binned_at
    bin_it(session, row, Binned(why), stamp)
    row.binned_at = was_binned or row.binned_at
    row.is_waiting, row.sent, row.not_before = False, None, None


def complain(session: Session, ours: Ours, code: str, detail: str, *, is_final: bool) -> None:
    """What stands in the task's way; `is_final`: until it is edited, or sent again."""
    row = _row(session, ours)
    note_trouble(row, code, detail)
    if is_final and row.version == ours.version:
        row.is_waiting = False


def intend(
    session: Session, ours: Ours, organisation_id: str, sent: Values, not_before: datetime, *, is_keyed: bool
) -> bool:
    """Note what is about to be created; False where it is not to be any more.

    Where the organisation knows our key and takes one only, what the first try was begun with stays noted: if
    that made the record, it has those values; if this one does, what it has is here."""
    row = _row(session, ours)
    if row.salesforce_id is not None or row.binned_at is not None or not row.is_wanted:
        return False
    row.organisation_id, row.not_before = organisation_id, not_before
    if not (is_keyed and ours.is_keyed and row.sent is not None):
        row.sent = {**to_json(sent), _KEYED: is_keyed}
    return True


def never_sent(session: Session, ours: Ours, sent: Values | None, not_before: datetime | None) -> None:
    """The create was refused: nothing was written by it. What an earlier one may have written stays to be
    seen."""
    row = _row(session, ours)
    row.sent, row.not_before = None if sent is None else {**to_json(sent), _KEYED: ours.is_keyed}, not_before
    if sent is None and row.salesforce_id is None:
        row.organisation_id = None
        row.is_waiting = row.is_wanted and row.binned_at is None


def created(
    session: Session, ours: Ours, organisation_id: str, record_id: str, sent: Values, limits: TextLimits
) -> None:
    """The record is there, with these values."""
    link(session, ours, organisation_id, record_id)
    updated(session, ours, sent, limits)


def updated(session: Session, ours: Ours, base: Values, limits: TextLimits) -> None:
    """Salesforce has these values; what was edited meanwhile waits on."""
    row = _row(session, ours)
    differing = lacking(values_of(row), base, limits)
    row.base = to_json(base)
    row.edited_at = {name: time for name, time in row.edited_at.items() if FIELDS_BY_NAME[name] in differing}
    row.is_waiting = bool(differing) or (row.bin_reason == Binned.HERE and not row.is_gone)
    row.trouble_code = row.trouble_detail = None


def deleted(session: Session, ours: Ours, stamp: datetime) -> None:
    """Salesforce has deleted it; who took it out of the bin meanwhile gets a new record."""
    row = _row(session, ours)
    if row.binned_at is None:
        start_anew(row)
        row.is_wanted = row.is_waiting = True
        return
    row.is_gone, row.is_waiting, row.bin_stamp = True, False, stamp
    row.trouble_code = row.trouble_detail = None


def not_deleted(session: Session, ours: Ours, code: str, detail: str) -> None:
    """Salesforce refuses to delete it: it is back, and says so."""
    row = _row(session, ours)
    row.binned_at = row.bin_reason = row.bin_stamp = None
    row.is_waiting = ours.base is not None and ours.values != ours.base
    row.version += 1
    note_trouble(row, code, detail)


def respell(session: Session, ours: Ours, values: Values) -> Ours:
    """The organisation does not have a word of the task's any more: its own stands here from now on."""
    if values == ours.values:
        return ours
    row = _row(session, ours)
    for name in ours.values.differing(values):
        add_to_history(session, row, name, ours.values.of(name), side="here", why="overwritten")
    put(row, values)
    row.version += 1
    session.flush()
    return _ours_of(row)


def cut_by_bytes(session: Session, ours: Ours) -> None:
    """Salesforce counts bytes: less of the texts is sent from now on."""
    _row(session, ours).is_by_bytes = True


def settled(session: Session, ours: Ours) -> None:
    """There is nothing to do about this version."""
    row = _row(session, ours)
    if row.version == ours.version:
        row.is_waiting = False


def lock(session: Session, ours: Sequence[Ours]) -> None:
    """In one go, before something is done to each of them."""
    ours_again(session, ours)


def ours_again(session: Session, ours: Sequence[Ours]) -> list[Ours]:
    """The same tasks as they are now, locked."""
    found: dict[int, Ours] = {}
    for batch in batches(ours, _AT_ONCE):
        ids = [one.id for one in batch]
        for row in session.scalars(select(TaskRow).where(TaskRow.id.in_(ids)).with_for_update()):
            found[row.id] = _ours_of(row)
            _locked(session)[row.id] = row
    return [found[one.id] for one in ours if one.id in found]


def _may_be_in(organisation_id: str) -> ColumnElement[bool]:
    """Not another organisation's. Said so, it is by what waits that SQLite finds the few rows, not by what is
    linked."""
    return or_(TaskRow.organisation_id.is_(None), TaskRow.organisation_id == organisation_id)


def _row(session: Session, ours: Ours) -> TaskRow:
    row = _locked(session).get(ours.id) or session.get(TaskRow, ours.id, with_for_update=True)
    if row is None:
        raise KeyError(ours.id)
    _locked(session)[ours.id] = row
    return row


def _locked(session: Session) -> dict[int, TaskRow]:
    """The rows that this transaction has locked, by id. SQLAlchemy forgets a row that nobody refers to: ten
    thousand changes were read again one by one, and took 2.6 times as long (measured)."""
    held: dict[int, TaskRow] = session.info.setdefault("tasks held", {})
    return held


def _ours_of(row: TaskRow) -> Ours:
    return Ours(
        id=row.id,
        person_id=row.person_id,
        version=row.version,
        values=values_of(row),
        salesforce_id=row.salesforce_id,
        base=None if row.base is None else from_json(row.base),
        edited_at={
            FIELDS_BY_NAME[name]: datetime.fromisoformat(time) for name, time in row.edited_at.items()
        },
        related=Related(row.who_id, row.what_id, row.who_name, row.what_name),
        is_wanted=row.is_wanted,
        is_waiting=row.is_waiting,
        is_by_bytes=row.is_by_bytes,
        key=key_of(row.uid, row.sends),
        sent=None if row.sent is None else from_json(row.sent),
        is_keyed=bool((row.sent or {}).get(_KEYED)),
        not_before=row.not_before,
        sent_since=_sent_since(row),
        binned_at=row.binned_at,
        binned=row.bin_reason,
        bin_stamp=row.bin_stamp,
        is_gone=row.is_gone,
        has_trouble=row.trouble_code is not None,
        is_unreadable=row.trouble_code == UNREADABLE,
    )


def _sent_since(row: TaskRow) -> datetime | None:
    since = (row.sent or {}).get(_SINCE)
    return None if since is None else datetime.fromisoformat(since)


def doubt_after_a_restore(session: Session, shows_by: datetime) -> None:
    """The database was restored from a backup: what waits to be created in Salesforce may have been created
    since the backup. It is looked for like a create whose answer was lost; by its key where the organisation
    has the field."""
    query = select(TaskRow).where(TaskRow.is_waiting, TaskRow.is_wanted, TaskRow.salesforce_id.is_(None))
    for row in session.scalars(query):
        known = row.sent or {
            **to_json(values_of(row)),
            _KEYED: True,
        }  # what was under way at the backup keeps its values
        row.sent = {**known, _SINCE: row.created_at.isoformat()}
        row.not_before = max(shows_by, row.not_before or shows_by)


def _related(related: Related) -> Mapping[str, str | None]:
    return {
        "who_id": related.who_id,
        "who_name": fit(related.who_name, _LONGEST_NAME),
        "what_id": related.what_id,
        "what_name": fit(related.what_name, _LONGEST_NAME),
    }

"""Each person's task sync: switched on and off, due, in one worker's hands at a time, and what waits for the
person's word.

As with mails a claim is a lease that holds while its worker beats; who was thought dead and comes back writes
nothing."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from core.database.dialect import fit, there
from core.database.heartbeats import alive, database_now
from core.database.models import ConnectionRow, PersonRow
from core.database.task_models import TaskSyncRow
from core.refusal import Refusal
from core.salesforce import api_usage
from core.salesforce.ids import id_key
from core.tasks.polling import Budget

_LONGEST_DETAIL = 500
_SEEN_OFTEN_ENOUGH = timedelta(seconds=20)


class Asks(StrEnum):
    """Why a plan waits for the person's word."""

    FIRST = "first"
    """What the first sync would do (`confirm-first-sync`)."""
    LOST_THERE = "lost-there"
    """Salesforce has lost more than half of the tasks: Halt."""
    LOST_HERE = "lost-here"
    """More than half of the tasks were deleted here: Halt."""
    GONE = "gone"
    """Tasks are gone from Salesforce since longer than its bin remembers."""
    RESTORED = "restored"
    """What the sync would do after the database was restored from a backup."""


class NothingToConfirm(Refusal):
    """No plan and no Halt waits."""


class ClaimLost(Exception):
    """The claim is another worker's by now, or the sync was switched off."""


@dataclass(frozen=True)
class SyncPlan:
    """What waits for a word: how many tasks would come in, be paired and be deleted; `of`: how many there
    are."""

    asks: Asks
    bring_in: int = 0
    pair: int = 0
    delete: int = 0
    of: int = 0
    send: int = 0
    """How many changes made here would be sent."""


@dataclass(frozen=True)
class TaskSync:
    """One person's task sync as it stands."""

    person_id: int
    is_on: bool
    enabled_at: datetime
    is_first: bool
    since: datetime | None
    due_at: datetime
    look_at: datetime
    claim: int
    attempts: int
    succeeded_at: datetime | None
    changed_at: datetime | None
    seen_at: datetime | None
    verified_id: int
    verify_at: datetime | None
    links: int
    """How many there were when known links were last verified."""
    progress: int
    is_restored: bool
    """The database was restored since the last look."""
    plan: SyncPlan | None
    confirmed: SyncPlan | None
    trouble_code: str | None
    trouble_detail: str
    organisation_id: str | None
    user_id: str | None
    is_look_due: bool = True

    @property
    def last_active_at(self) -> datetime:
        """When the person last looked, or anything changed."""
        return max(one for one in (self.enabled_at, self.changed_at, self.seen_at) if one is not None)


def task_sync(session: Session, person_id: int) -> TaskSync | None:
    """None where it was never switched on."""
    row = session.get(TaskSyncRow, person_id)
    return None if row is None else _task_sync(row)


def switch(session: Session, person_id: int, *, is_on: bool) -> None:
    """On: what there is of tasks is looked at as at first, from now on; off: both directions stop at once,
    and nothing is deleted."""
    known = session.get(TaskSyncRow, person_id)
    if (known is None and not is_on) or (known is not None and known.is_on == is_on):
        return  # nobody waits for a look
    row = session.get(TaskSyncRow, person_id, with_for_update=True, populate_existing=True)
    now = database_now(session)
    if row is None:
        row = there(session, TaskSyncRow, {"person_id": person_id}, _new_values(now))
    elif row.is_on == is_on:
        return
    row.is_on, row.plan, row.confirmed = is_on, None, None
    row.claim, row.claimed_by = row.claim + 1, None  # whoever has it in hand stops at once
    if is_on:
        row.enabled_at, row.is_first, row.due_at, row.look_at, row.progress, row.attempts = (
            now,
            True,
            now,
            now,
            0,
            0,
        )
        row.trouble_code = row.trouble_detail = None


def changed(session: Session, person_id: int) -> None:
    """Something was changed here: it is due now."""
    now = database_now(session)
    session.execute(
        update(TaskSyncRow).where(TaskSyncRow.person_id == person_id).values(due_at=now, changed_at=now)
    )


def seen(session: Session, person_id: int, pace: timedelta) -> None:
    """The person looks at the tasks: they are looked at in Salesforce at the fastest pace."""
    now = database_now(session)
    row = session.get(TaskSyncRow, person_id, with_for_update=True)
    if row is None or (row.seen_at is not None and now - row.seen_at < _SEEN_OFTEN_ENOUGH):
        return
    soonest = row.due_at if row.attempts else max(now, (row.succeeded_at or row.enabled_at) + pace)
    row.seen_at, row.due_at, row.look_at = now, min(row.due_at, soonest), min(row.look_at, soonest)


def sync_now(session: Session, person_id: int) -> None:
    """As the person asks: whatever the pace, and whatever went wrong before; the next known links are
    verified too, as a query for the person's tasks does not tell which went to somebody else."""
    now = database_now(session)
    session.execute(
        update(TaskSyncRow)
        .where(TaskSyncRow.person_id == person_id)
        .values(due_at=now, look_at=now, verify_at=None, attempts=0)
    )


def confirm(session: Session, person_id: int) -> None:
    """The plan is carried out, or the Halt is over, as far as it was told. Raises NothingToConfirm."""
    row = session.get(TaskSyncRow, person_id, with_for_update=True, populate_existing=True)
    if row is None or row.plan is None:
        raise NothingToConfirm("No plan waits for a word, and nothing is halted")
    row.confirmed, row.plan = row.plan, None
    row.due_at = row.look_at = database_now(session)


def reconsider(session: Session, person_id: int) -> None:
    """What is asked about is not done; how it stands now is looked at anew."""
    row = session.get(TaskSyncRow, person_id, with_for_update=True, populate_existing=True)
    if row is not None and row.plan is not None:
        row.plan = row.confirmed = None
        row.due_at = row.look_at = database_now(session)


def ask_after_a_restore(session: Session) -> None:
    """The database is older than what Salesforce has: each sync is looked at as at first, and asks its person
    before anything is done."""
    now = database_now(session)
    session.execute(
        update(TaskSyncRow)
        .where(TaskSyncRow.is_on)
        .values(
            is_restored=True,
            is_first=True,
            plan=None,
            confirmed=None,
            due_at=now,
            look_at=now,
            attempts=0,
            claim=TaskSyncRow.claim + 1,
            claimed_by=None,
        )
    )


def claim(
    session: Session,
    worker: str,
    among: Select[int],
    *,
    but: Collection[int] = (),
    everything: bool = False,
    most: int | None = None,
) -> list[TaskSync]:
    """Take those of these people that are due, or all of them; what another live worker has is left to it,
    and what waits for a word to the person."""
    now = database_now(session)
    query = (
        select(TaskSyncRow)
        .where(
            TaskSyncRow.is_on,
            TaskSyncRow.plan.is_(None),
            TaskSyncRow.person_id.in_(among),
            TaskSyncRow.person_id.not_in(but),
            *(() if everything else (TaskSyncRow.due_at <= now,)),
            or_(
                TaskSyncRow.claimed_by.is_(None),
                and_(TaskSyncRow.claimed_by != worker, TaskSyncRow.claimed_by.not_in(alive(now))),
            ),
        )
        .order_by(TaskSyncRow.due_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )
    taken = []
    for row in session.scalars(query):
        row.claimed_by, row.claim = worker, row.claim + 1
        taken.append(replace(_task_sync(row), is_look_due=row.look_at <= now))
    session.flush()
    return taken


def in_hand(session: Session, among: Select[int]) -> set[int]:
    """Those of these people whose sync is on and in the hands of some worker that is there."""
    query = select(TaskSyncRow.person_id).where(
        TaskSyncRow.is_on,
        TaskSyncRow.person_id.in_(among),
        TaskSyncRow.claimed_by.in_(alive(database_now(session))),
    )
    return set(session.scalars(query))


def switched_on(session: Session, among: Select[int] | None = None) -> set[int]:
    """The people, of these, whose sync is on and waits for no word."""
    query = select(TaskSyncRow.person_id).where(TaskSyncRow.is_on, TaskSyncRow.plan.is_(None))
    return set(session.scalars(query if among is None else query.where(TaskSyncRow.person_id.in_(among))))


def deletions_done(row: TaskSyncRow, asks: Collection[Asks], number: int) -> None:
    """What was said yes to becomes less, in the transaction in which it is done."""
    confirmed = _plan(row.confirmed)
    if confirmed is not None and confirmed.asks in asks:
        row.confirmed = plan_to_json(replace(confirmed, delete=max(0, confirmed.delete - number)))


def is_any_due(session: Session, among: Select[int]) -> bool:
    """Whether the sync of one of these people is due, at the least cost: it is asked every second."""
    query = select(TaskSyncRow.person_id).where(
        TaskSyncRow.is_on,
        TaskSyncRow.plan.is_(None),
        TaskSyncRow.due_at <= database_now(session),
        TaskSyncRow.person_id.in_(among),
    )
    return session.scalar(query.limit(1)) is not None


def let_go(session: Session, worker: str, but: Collection[int]) -> None:
    """Claims of this worker that it does not know of any more; those of these persons it does."""
    session.execute(
        update(TaskSyncRow)
        .where(TaskSyncRow.claimed_by == worker, TaskSyncRow.person_id.not_in(but))
        .values(claimed_by=None)
    )


def hold(session: Session, held: TaskSync) -> TaskSyncRow:
    """The row, locked, if it is still this claim's. Raises ClaimLost."""
    row = session.get(TaskSyncRow, held.person_id, with_for_update=True, populate_existing=True)
    if row is None or row.claim != held.claim or row.claimed_by is None or not row.is_on:
        raise ClaimLost
    return row


def release(session: Session, held: TaskSync, values: Mapping[str, Any]) -> None:
    """Let go of the claim, with what has become of it; nothing where it is another's by now. Something that
    was changed here since the claim keeps it due."""
    due_at = values.get("due_at", held.due_at)
    row = session.get(TaskSyncRow, held.person_id, with_for_update=True, populate_existing=True)
    if row is None or row.claim != held.claim or row.claimed_by is None:
        return
    was_changed, due_before = row.changed_at != held.changed_at or row.due_at != held.due_at, row.due_at
    look_before = row.look_at if row.look_at != held.look_at else None
    if row.verify_at is None and held.verify_at is not None:
        values = {name: value for name, value in values.items() if name != "verify_at"}
    for name, value in values.items():
        setattr(row, name, fit(value, _LONGEST_DETAIL) if name == "trouble_detail" else value)
    row.due_at = min(due_before, due_at) if was_changed else due_at
    if look_before is not None:  # somebody has asked for it meanwhile
        row.look_at = min(look_before, row.look_at)
        row.due_at = min(row.due_at, row.look_at)
    row.claimed_by = None


def budget(session: Session, organisation_id: str | None, share: int, links: int) -> Budget:
    """What one of the organisation's persons, who has so many known links, may cost."""
    known = None if organisation_id is None else api_usage.organisation(session, organisation_id)
    query = select(func.count()).where(TaskSyncRow.is_on, TaskSyncRow.organisation_id == organisation_id)
    return Budget(0 if known is None else known.usage.total, share, max(1, session.scalar(query) or 0), links)


def asking_for_a_word(session: Session) -> int:
    """How many syncs wait for their person."""
    query = select(func.count()).where(TaskSyncRow.is_on, TaskSyncRow.plan.is_not(None))
    return session.scalar(query) or 0


def by_user(session: Session, organisation_id: str) -> dict[str, int]:
    """The persons whose tasks are synchronised with this organisation, by the first fifteen characters of
    their user's id."""
    query = (
        select(ConnectionRow.user_id, ConnectionRow.person_id)
        .join(TaskSyncRow, TaskSyncRow.person_id == ConnectionRow.person_id)
        .join(PersonRow, PersonRow.id == ConnectionRow.person_id)
        .where(
            TaskSyncRow.is_on,
            PersonRow.is_active,
            ConnectionRow.standing == "connected",
            ConnectionRow.organisation_id == organisation_id,
        )
    )
    return {id_key(user_id): person_id for user_id, person_id in session.execute(query)}


def plan_to_json(plan: SyncPlan) -> dict[str, Any]:
    return {
        "asks": plan.asks.value,
        "bring_in": plan.bring_in,
        "pair": plan.pair,
        "delete": plan.delete,
        "of": plan.of,
        "send": plan.send,
    }


def _task_sync(row: TaskSyncRow) -> TaskSync:
    return TaskSync(
        person_id=row.person_id,
        is_on=row.is_on,
        enabled_at=row.enabled_at,
        is_first=row.is_first,
        since=row.since,
        due_at=row.due_at,
        look_at=row.look_at,
        claim=row.claim,
        attempts=row.attempts,
        succeeded_at=row.succeeded_at,
        changed_at=row.changed_at,
        seen_at=row.seen_at,
        verified_id=row.verified_id,
        verify_at=row.verify_at,
        links=row.links,
        progress=row.progress,
        is_restored=row.is_restored,
        plan=_plan(row.plan),
        confirmed=_plan(row.confirmed),
        trouble_code=row.trouble_code,
        trouble_detail=row.trouble_detail or "",
        organisation_id=row.organisation_id,
        user_id=row.user_id,
    )


def _plan(plain: dict[str, Any] | None) -> SyncPlan | None:
    return None if plain is None else SyncPlan(**{**plain, "asks": Asks(plain["asks"])})


def _new_values(now: datetime) -> dict[str, Any]:
    return {
        "is_on": True,
        "enabled_at": now,
        "is_first": True,
        "due_at": now,
        "look_at": now,
        "claim": 0,
        "attempts": 0,
        "verified_id": 0,
        "links": 0,
        "progress": 0,
    }

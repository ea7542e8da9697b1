"""The worker's side of the logbook: which mails are due, which worker has them for the moment, and how they
end.

A claim is a lease: it holds while its worker beats. Noting an intention and settling need the claim's number,
so a worker that was thought dead and comes back changes nothing.

Noting and settling use one statement for each table, however many mails a batch has. With a statement for
each mail, seven of the nine statements that a mail cost were single ones, and the worker spent two thirds of
its time on them (measured: 501 mails/s on SQLite, 253 on PostgreSQL)."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import ColumnElement, Select, Table, and_, bindparam, func, not_, or_, select, update
from sqlalchemy.orm import Session

from core.database.dialect import fit, insert
from core.database.heartbeats import alive, database_now
from core.database.models import MailLogRow, MailRow
from core.database.task_models import OwnTaskRow
from core.mail import texts as mail_texts
from core.mail.progress import TASK, MailLog, from_json, log_from_json, to_json, trace_to_json
from core.mail.row import KEEPS_TEXT, Row, State
from core.mail.store import row_of
from core.salesforce.ids import id_key

_FOR_THE_WORKER = (State.WAITING.value, State.UNMATCHED.value)
_LONGEST_CODE = 80
_LONGEST_DETAIL = 500
MOST_OF_ONE = 200
"""Mails of one person in a claim: what is written in one call."""
_JUST_ASKED_FOR = timedelta(minutes=10)
_MAIL = cast("Table", MailRow.__table__)
_MAIL_LOG = cast("Table", MailLogRow.__table__)


@dataclass(frozen=True)
class Job:
    """A mail that is due, or that this worker has claimed; `claim` counts who has had it so far."""

    row: Row
    claim: int
    attempts: int
    log: MailLog


@dataclass(frozen=True)
class End:
    """How a job ends, for now: the state, what is known, and when it is due again (None: never by itself).

    `attempts`: how often it was tried by now; None: as often as when it was claimed. `same_as`: the mail
    whose records it shares."""

    job: Job
    state: State
    log: MailLog
    due_at: datetime | None = None
    attempts: int | None = None
    same_as: str | None = None


def make_due(session: Session) -> datetime:
    """Make every waiting mail due now; returns that moment."""
    now = database_now(session)
    session.execute(
        update(MailRow)
        .where(MailRow.due_at > now, MailRow.state.in_(_FOR_THE_WORKER), MailRow.claimed_by.is_(None))
        .values(due_at=now)
    )
    return now


def let_go(session: Session, worker: str) -> None:
    """Release all claims of this worker. To be called only while none of its threads has mails in hand."""
    held = session.scalars(select(MailRow.id).where(MailRow.claimed_by == worker)).all()
    ids = locked_in_order(session, held)
    session.execute(
        update(MailRow).where(MailRow.id.in_(ids), MailRow.claimed_by == worker).values(claimed_by=None)
    )


def people_with_due_mail(
    session: Session, worker: str, people: Select[int], *, most: int, due_by: datetime | None = None
) -> list[int]:
    """Up to `most` of these people who have mail that is due, the longest waiting first. `due_by`: the moment
    by which it is due, None for now.

    One look into an index for each person, whatever lies in the table. Asked for the oldest due mails of all
    people instead, SQLite read every mail of 500 people and sorted them, 6 to 22 seconds at a million rows;
    and one organisation's backlog had to be read through to find what others wait for."""
    now = database_now(session)
    ready = people.subquery()
    [person_id] = ready.columns
    oldest = (
        select(func.min(MailRow.due_at))
        .where(MailRow.person_id == person_id, *_is_due(worker, now, due_by))
        .scalar_subquery()
    )
    waiting = select(person_id.label("person_id"), oldest.label("oldest")).subquery()
    query = (
        select(waiting.c.person_id)
        .where(waiting.c.oldest.is_not(None))
        .order_by(waiting.c.oldest)
        .limit(most)
    )
    return list(session.scalars(query))


def due_jobs(
    session: Session, worker: str, people: Collection[int], *, most: int, due_by: datetime | None = None
) -> list[Job]:
    """Up to `most` mails of these people that are due: the same share of each, MOST_OF_ONE at most, those
    that have waited longest first. They are to be claimed: what is read here takes no lock, as reading a
    thousand rows under the lock of SQLite kept relays waiting for 25 to 100 ms (measured)."""
    now = database_now(session)
    share = max(1, min(MOST_OF_ONE, most // max(1, len(people))))
    rows: list[MailRow] = []
    for person_id in people:
        query = (
            select(MailRow)
            .where(MailRow.person_id == person_id, *_is_due(worker, now, due_by))
            .order_by(MailRow.due_at)
            .limit(share)
        )
        rows += session.scalars(query)
    known = logs_of(session, [row.id for row in rows])
    return [Job(row_of(row), row.claim, row.attempts, known.get(row.id, MailLog())) for row in rows]


def claim(
    session: Session, worker: str, jobs: Sequence[Job], due_by: datetime | None = None
) -> dict[int, list[Job]]:
    """Take these mails; those that another worker has taken, or that have changed, since they were read are
    left out. Person -> jobs."""
    if not jobs:
        return {}
    now = database_now(session)
    ids = locked_in_order(session, [job.row.id for job in jobs])
    statement = (
        update(_MAIL)
        .where(_MAIL.c.id.in_(ids), *_is_due(worker, now, due_by))
        .values(claimed_by=worker, claim=_MAIL.c.claim + 1)
        .returning(_MAIL.c.id, _MAIL.c.claim)
    )
    claims = {row.id: row.claim for row in session.execute(statement)}
    claimed: dict[int, list[Job]] = {}
    for job in jobs:
        # Another worker, or a person who dismissed the mail, can have come in between: then the number has
        # moved on, and what was read of the row is old.
        if claims.get(job.row.id) == job.claim + 1:
            claimed.setdefault(job.row.person, []).append(replace(job, claim=job.claim + 1))
    return claimed


def _is_due(worker: str, now: datetime, due_by: datetime | None) -> tuple[ColumnElement[bool], ...]:
    """Due, and in no living worker's hands."""
    is_free = or_(
        MailRow.claimed_by.is_(None),
        and_(MailRow.claimed_by != worker, MailRow.claimed_by.not_in(alive(now))),
    )
    return MailRow.due_at <= (due_by or now), is_free


def intend(session: Session, intentions: Sequence[tuple[Job, MailLog]]) -> frozenset[str]:
    """Note what is about to be written; the ids of the mails that are still this worker's to write."""
    ours = _still_ours(session, [job for job, _ in intentions])
    keep_logs(session, {job.row.id: log for job, log in intentions if job.row.id in ours})
    # One that was unmatched has a record that may be there: no other part may take its place.
    begun = [
        job.row.id
        for job, log in intentions
        if job.row.id in ours and job.row.state is State.UNMATCHED and log.uncertain
    ]
    if begun:
        session.execute(update(MailRow).where(MailRow.id.in_(begun)).values(state=State.WAITING.value))
    return ours


def as_they_are(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """The jobs that this worker still holds, with their logs read anew."""
    ours, known = _still_ours(session, jobs), logs_of(session, [job.row.id for job in jobs])
    return [replace(job, log=known.get(job.row.id, MailLog())) for job in jobs if job.row.id in ours]


def settle(session: Session, ends: Sequence[End]) -> None:
    """Store how the jobs end; what was claimed by another worker meanwhile is left alone. The stored text is
    deleted once the new state no longer needs it."""
    ours = _still_ours(session, [end.job for end in ends])
    ended = {end.job.row.id: end for end in ends if end.job.row.id in ours}
    if not ended:
        return
    keep_logs(session, {mail_id: end.log for mail_id, end in ended.items()})
    statement = (
        update(_MAIL)
        .where(_MAIL.c.id == bindparam("mail_id"))
        .values(
            state=bindparam("new_state"),
            due_at=bindparam("new_due_at"),
            attempts=bindparam("new_attempts"),
            same_as=bindparam("new_same_as"),
            logged_by=bindparam("new_logged_by"),
            claimed_by=None,
        )
    )
    values = [
        {
            "mail_id": mail_id,
            "new_state": end.state.value,
            "new_due_at": end.due_at,
            "new_attempts": end.job.attempts if end.attempts is None else end.attempts,
            "new_same_as": end.same_as or end.job.row.same_as,
            "new_logged_by": fit(next((one.by for one in end.log.trace.others), None), _LONGEST_CODE),
        }
        for mail_id, end in sorted(ended.items())  # rows are locked in one order, whoever locks them
    ]
    session.connection().execute(statement, values)
    needless = [mail_id for mail_id, end in ended.items() if end.state not in KEEPS_TEXT]
    mail_texts.erase(session, needless)


def put_off(session: Session, job: Job, due_at: datetime) -> None:
    """Release a job that has no result yet; it is due again at `due_at`."""
    session.execute(
        update(MailRow)
        .where(MailRow.id == job.row.id, MailRow.claim == job.claim, MailRow.claimed_by.is_not(None))
        .values(claimed_by=None, due_at=due_at, attempts=MailRow.attempts + 1)
    )


def is_anything_waiting(session: Session) -> bool:
    """Whether a mail waits for the worker."""
    query = (
        select(MailRow.id).where(MailRow.state == State.WAITING.value, MailRow.due_at.is_not(None)).limit(1)
    )
    return session.scalar(query) is not None


def oldest_waiting(session: Session) -> datetime | None:
    """When the mail was accepted that has been waiting for the worker the longest; None: none waits. An old
    one that a person has just asked to be logged again does not count."""
    is_new = and_(MailRow.attempts == 0, MailRow.due_at > database_now(session) - _JUST_ASKED_FOR)
    oldest = session.scalar(
        select(func.min(MailRow.id)).where(MailRow.state == State.WAITING.value, not_(is_new))
    )
    return None if oldest is None else session.scalar(select(MailRow.time).where(MailRow.id == oldest))


def is_anything_due(session: Session) -> bool:
    """Whether a mail is due for the worker: to be logged, matched, or looked for in Salesforce."""
    query = select(MailRow.id).where(MailRow.due_at <= database_now(session)).limit(1)
    return session.scalar(query) is not None


def log_of(session: Session, mail_id: str) -> MailLog:
    """What the worker did with a mail."""
    return logs_of(session, [mail_id]).get(mail_id, MailLog())


def logs_of(session: Session, ids: Collection[str]) -> dict[str, MailLog]:
    """What the worker did with each of these mails; without those that it has not had in hand yet."""
    found = session.execute(select(_MAIL_LOG).where(_MAIL_LOG.c.mail_id.in_(ids)))
    return {
        row.mail_id: replace(
            log_from_json(row.trace),
            targets=from_json(row.targets, (row.trace or {}).get("with_files", ())),
            not_before=row.not_before,
            trouble_code=row.trouble_code,
            trouble_detail=row.trouble_detail or "",
        )
        for row in found
    }


def keep_logs(session: Session, logs: Mapping[str, MailLog]) -> None:
    """What is known of each mail by now, in place of what was known before."""
    if not logs:
        return
    # One upsert for all: a row was there only if the mail had been in a worker's hands before.
    dialect = session.get_bind().dialect
    statement = insert(dialect, _MAIL_LOG)
    changed = {
        column.name: statement.excluded[column.name] for column in _MAIL_LOG.c if not column.primary_key
    }
    values = [
        {
            "mail_id": mail_id,
            "targets": to_json(log.targets),
            "trace": trace_to_json(log),
            "not_before": log.not_before,
            "trouble_code": fit(log.trouble_code, _LONGEST_CODE),
            "trouble_detail": fit(log.trouble_detail, _LONGEST_DETAIL),
        }
        for mail_id, log in sorted(logs.items())
    ]
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=["mail_id"], set_=changed), values
    )
    # a task that we wrote for a mail must not come into anybody's task list
    own_tasks = {
        id_key(target.id)
        for log in logs.values()
        for target in log.written
        if target.kind == TASK and target.id is not None and target.id.startswith("00T")
    }
    if own_tasks:
        session.connection().execute(
            insert(dialect, OwnTaskRow.__table__).on_conflict_do_nothing(),
            [{"salesforce_id": one} for one in sorted(own_tasks)],
        )


def locked_in_order(session: Session, ids: Collection[str]) -> Sequence[str]:
    """Those of these mails that are there. An UPDATE locks rows as it comes by them; two that come by the
    same ones in another order would wait for each other."""
    return session.scalars(
        select(_MAIL.c.id).where(_MAIL.c.id.in_(ids)).order_by(_MAIL.c.id).with_for_update()
    ).all()


def _still_ours(session: Session, jobs: Sequence[Job]) -> frozenset[str]:
    query = (
        select(_MAIL.c.id, _MAIL.c.claim)
        .where(_MAIL.c.id.in_([job.row.id for job in jobs]), _MAIL.c.claimed_by.is_not(None))
        .order_by(_MAIL.c.id)
        .with_for_update()
    )
    claims = {row.id: row.claim for row in session.execute(query)}
    return frozenset(job.row.id for job in jobs if claims.get(job.row.id) == job.claim)

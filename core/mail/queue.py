"""The worker's side of the logbook: which mails are due, whose they are for the moment, and how they end.

A claim is a lease: it holds while its worker beats. Settling needs the claim's number, so who was thought
dead and comes back settles nothing."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy import and_, delete, func, not_, or_, select, update
from sqlalchemy.orm import Session

from core import logs
from core.batches import batches
from core.database import sealed
from core.database.dialect import fit, insert
from core.database.engine import Database
from core.database.heartbeats import alive, database_now
from core.database.models import IgnoredRow, MailLogRow, MailRow, MailTextRow
from core.database.task_models import OwnTaskRow
from core.mail.progress import TASK, MailLog, from_json, log_from_json, to_json, trace_to_json
from core.mail.row import KEEPS_TEXT, Row, State
from core.mail.store import entry, first_id, row_of
from core.refusal import Refusal
from core.salesforce.ids import id_key
from core.secrets import Undecryptable

_FOR_THE_WORKER = (State.WAITING.value, State.UNMATCHED.value)
_LONGEST_DETAIL = 500
_AT_ONCE = 1_000
_PORTIONS = 5
_A_FEW = 100
_JUST_ASKED_FOR = timedelta(minutes=10)


class NothingToLogBy(Refusal):
    """There is no way by which this mail could be logged."""


@dataclass(frozen=True)
class Job:
    """A mail that this worker has claimed."""

    row: Row
    claim: int
    attempts: int
    log: MailLog


@dataclass(frozen=True)
class End:
    """How a job ends, for now: the state, what is known, and when it is due again (None: never by itself)."""

    job: Job
    state: State
    log: MailLog
    due_at: datetime | None = None
    attempts: int | None = None


def make_due(session: Session) -> datetime:
    """Whatever waits is due now; the moment by which it is."""
    now = database_now(session)
    session.execute(
        update(MailRow)
        .where(MailRow.due_at > now, MailRow.state.in_(_FOR_THE_WORKER), MailRow.claimed_by.is_(None))
        .values(due_at=now)
    )
    return now


def let_go(session: Session, worker: str) -> None:
    """Claims of this worker that it does not know of any more."""
    session.execute(update(MailRow).where(MailRow.claimed_by == worker).values(claimed_by=None))


def claim(
    session: Session, worker: str, *, most: int, only: Collection[int], due_by: datetime | None = None
) -> dict[int, list[Job]]:
    """Take up to `most` mails of these persons that are due, the longest waiting first, yet of nobody so many
    that the others get none."""
    now = database_now(session)
    found: dict[int, list[Job]] = {}
    for _ in range(_PORTIONS):
        full = [person for person, jobs in found.items() if len(jobs) >= most // _PORTIONS]
        query = (
            select(MailRow)
            .where(
                MailRow.due_at <= (due_by or now),
                MailRow.person_id.in_(only),
                MailRow.person_id.not_in(full),
                or_(
                    MailRow.claimed_by.is_(None),
                    and_(MailRow.claimed_by != worker, MailRow.claimed_by.not_in(alive(now))),
                ),
            )
            .order_by(MailRow.due_at)
            .limit(most // _PORTIONS)
            .with_for_update(skip_locked=True)
        )
        rows = session.scalars(query).all()
        logs_of = _logs(session, [row.id for row in rows])
        for row in rows:
            row.claimed_by, row.claim = worker, row.claim + 1
            job = Job(row_of(row), row.claim, row.attempts, logs_of.get(row.id, MailLog()))
            found.setdefault(row.person_id, []).append(job)
        if len(rows) < most // _PORTIONS:
            break
        session.flush()
    return found


def text(session: Session, mail_id: str) -> bytes | None:
    """What is kept of a mail's bytes; None where nothing is, or no key fits."""
    row = session.get(MailTextRow, mail_id)
    if row is None:
        return None
    try:
        return sealed.box(session).opened(row.content)
    except Undecryptable:
        logs.undecryptable("a mail's text")
        return None


def intend(session: Session, intentions: Sequence[tuple[Job, MailLog]]) -> frozenset[str]:
    """Note what is about to be written; the ids of the mails that are still this worker's to write."""
    ours = _still_ours(session, [job for job, _ in intentions])
    for job, log in intentions:
        if job.row.id in ours:
            _keep(session, job.row.id, log)
    return ours


def as_they_are(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """Those that are still this worker's, with what has been noted of them since they were claimed."""
    ours, known = _still_ours(session, jobs), _logs(session, [job.row.id for job in jobs])
    return [replace(job, log=known.get(job.row.id, MailLog())) for job in jobs if job.row.id in ours]


def settle(session: Session, ends: Sequence[End]) -> None:
    """How the jobs end; what was claimed by another meanwhile is left alone. A text goes with the last state
    that could need it."""
    ours = _still_ours(session, [end.job for end in ends])
    for end in ends:
        if end.job.row.id not in ours:
            continue
        _keep(session, end.job.row.id, end.log)
        values: dict[str, object] = {"state": end.state.value, "due_at": end.due_at, "claimed_by": None}
        if end.attempts is not None:
            values["attempts"] = end.attempts
        session.execute(update(MailRow).where(MailRow.id == end.job.row.id).values(**values))
        if end.state not in KEEPS_TEXT:
            session.execute(delete(MailTextRow).where(MailTextRow.mail_id == end.job.row.id))


def put_off(session: Session, job: Job, due_at: datetime) -> None:
    """Let go of a job that came to no end, until later."""
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
    one that somebody has just asked to be logged again does not count."""
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
    return _logs(session, [mail_id]).get(mail_id, MailLog())


def logs_of(session: Session, ids: Sequence[str]) -> dict[str, MailLog]:
    """The same of several."""
    return _logs(session, ids)


def can_log_again(row: Row) -> bool:
    """Whether the worker can try this mail once more: one that failed, or whose fate is unknown."""
    is_unconfirmed = row.state is State.COPIED and row.due_at is None
    is_open = row.state in {State.FAILED, State.UNKNOWN, State.COPY_REFUSED, State.UNMATCHED}
    return row.decision.may_log and (is_open or is_unconfirmed)


def log_again(session: Session, mail_id: str) -> None:
    """Have the worker try once more. Raises NotThere, NothingToLogBy."""
    _lock(session, mail_id)
    row = entry(session, mail_id).row
    if not can_log_again(row):
        raise NothingToLogBy(
            "This mail is “%(state)s” and was not to be logged through the API, so it cannot be logged "
            "again; send it once more",
            state=row.state,
        )
    known = log_of(session, mail_id)
    _keep(session, mail_id, replace(known, trouble_code=None, trouble_detail=""))
    session.execute(
        update(MailRow)
        .where(MailRow.id == mail_id)
        .values(
            state=State.WAITING.value,
            due_at=database_now(session),
            attempts=0,
            claimed_by=None,
            claim=MailRow.claim + 1,
        )
    )


def pick(session: Session, mail_id: str, ids: Sequence[str]) -> None:
    """Log this unmatched mail on the records that a person chose; what it stands on already stays.

    Raises NotThere, NothingToLogBy."""
    _lock(session, mail_id)
    row = entry(session, mail_id).row
    if row.state is not State.UNMATCHED:
        raise NothingToLogBy("This mail is “%(state)s”, so no record can be chosen for it", state=row.state)
    log_again(session, mail_id)
    known = log_of(session, mail_id)
    chosen = list({id_key(one): one for one in ids}.values())
    _keep(session, mail_id, replace(known, picked=tuple(chosen), needs_match=True))


def _lock(session: Session, mail_id: str) -> None:
    """A person and a worker at one mail wait for each other."""
    session.get(MailRow, mail_id, with_for_update=True, populate_existing=True)


def each(database: Database, ids: Sequence[str], what: Callable[[Session, str], None]) -> int:
    """Do something with each mail, a few at a time; those that are in another state by now are left alone.
    How many."""
    done = 0
    for batch in batches(ids, _A_FEW):
        with database.writing() as session:
            for mail_id in batch:
                with contextlib.suppress(Refusal):
                    what(session, mail_id)
                    done += 1
    return done


def ids_in_trouble(session: Session, person_id: int | None, code: str) -> list[str]:
    """The failed mails of one kind of trouble."""
    query = (
        select(MailRow.id)
        .join(MailLogRow, MailLogRow.mail_id == MailRow.id)
        .where(MailRow.state == State.FAILED.value, MailLogRow.trouble_code == code)
    )
    if person_id is not None:
        query = query.where(MailRow.person_id == person_id)
    return list(session.scalars(query))


def kinds_of_trouble(session: Session, person_id: int | None) -> dict[str, int]:
    """How many mails have failed for each kind of trouble; of everybody's for None."""
    query = (
        select(MailLogRow.trouble_code, func.count())
        .join(MailRow, MailRow.id == MailLogRow.mail_id)
        .where(MailRow.state == State.FAILED.value, MailLogRow.trouble_code.is_not(None))
        .group_by(MailLogRow.trouble_code)
        .order_by(func.count().desc())
    )
    if person_id is not None:
        query = query.where(MailRow.person_id == person_id)
    return {code: number for code, number in session.execute(query) if code is not None}


def ignored(session: Session, person_id: int) -> frozenset[str]:
    """The addresses and domains whose mails this person does not want to be asked about."""
    return frozenset(session.scalars(select(IgnoredRow.pattern).where(IgnoredRow.person_id == person_id)))


def ignore(session: Session, person_id: int, pattern: str) -> None:
    """From now on; mails that wait for a match are looked at again."""
    if session.get(IgnoredRow, (person_id, pattern)) is None:
        session.add(IgnoredRow(person_id=person_id, pattern=pattern))
    session.execute(
        update(MailRow)
        .where(MailRow.person_id == person_id, MailRow.state == State.UNMATCHED.value)
        .values(due_at=database_now(session))
    )


def stop_ignoring(session: Session, person_id: int, pattern: str) -> None:
    """From now on; what was dismissed meanwhile stays so."""
    session.execute(
        delete(IgnoredRow).where(IgnoredRow.person_id == person_id, IgnoredRow.pattern == pattern)
    )


def tidy(session: Session, retention: timedelta, unmatched: timedelta) -> None:
    """What is kept long enough goes: old rows, what unmatched mails wait for, and texts that nobody needs any
    more."""
    now = database_now(session)
    oldest = first_id(now - retention)
    old = select(MailRow.id).where(MailRow.id < oldest).limit(_AT_ONCE)
    ids = list(session.scalars(old))
    if ids:
        for table in (MailTextRow, MailLogRow):
            session.execute(delete(table).where(table.mail_id.in_(ids)))
        session.execute(delete(MailRow).where(MailRow.id.in_(ids)))
    session.execute(
        update(MailRow)
        .where(
            MailRow.state == State.UNMATCHED.value,
            MailRow.id < first_id(now - unmatched),
            MailRow.due_at.is_not(None),
        )
        .values(due_at=None)
    )
    needless = select(MailRow.id).where(MailRow.state.not_in([state.value for state in KEEPS_TEXT]))
    session.execute(delete(MailTextRow).where(MailTextRow.mail_id.in_(needless)))


def _still_ours(session: Session, jobs: Sequence[Job]) -> frozenset[str]:
    query = (
        select(MailRow.id, MailRow.claim)
        .where(MailRow.id.in_([job.row.id for job in jobs]), MailRow.claimed_by.is_not(None))
        .with_for_update()
    )
    claims = {mail_id: number for mail_id, number in session.execute(query)}  # noqa: C416  rows are tuples to us only
    return frozenset(job.row.id for job in jobs if claims.get(job.row.id) == job.claim)


def _logs(session: Session, ids: Sequence[str]) -> dict[str, MailLog]:
    found = session.scalars(select(MailLogRow).where(MailLogRow.mail_id.in_(ids)))
    return {
        row.mail_id: replace(
            log_from_json(row.trace),
            targets=from_json(row.targets),
            not_before=row.not_before,
            trouble_code=row.trouble_code,
            trouble_detail=row.trouble_detail or "",
        )
        for row in found
    }


def _keep(session: Session, mail_id: str, log: MailLog) -> None:
    row = session.get(MailLogRow, mail_id)
    if row is None:
        row = MailLogRow(mail_id=mail_id)
        session.add(row)
    row.targets = to_json(log.targets)
    for target in log.written:
        if target.kind == TASK and target.id is not None and target.id.startswith("00T"):
            session.execute(
                insert(session.get_bind().dialect, OwnTaskRow)
                .values(salesforce_id=id_key(target.id))
                .on_conflict_do_nothing()
            )
    row.trace = trace_to_json(log)
    row.not_before = log.not_before
    row.trouble_code = log.trouble_code
    row.trouble_detail = fit(log.trouble_detail, _LONGEST_DETAIL)

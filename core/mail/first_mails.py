"""Mails with one identity share one blind copy and one set of records. Here is kept which of them sends the
copy, and which of them writes the records.

One row for each identity and way is inserted by whoever comes first, whatever relay or worker that is: the
primary key lets nobody be first twice."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import case, delete, select, update
from sqlalchemy.orm import Session

from core.database.dialect import insert
from core.database.heartbeats import alive, database_now
from core.database.models import FirstMailRow, MailLogRow, MailRow
from core.mail.row import Copy, State

COPY, RECORDS = "copy", "api"
"""What a mail has or writes for all with its identity: the blind copy, the records in Salesforce."""
_AT_ONCE = 1_000
_NOT_ACCEPTED = frozenset({State.PENDING, State.REFUSED, State.ABORTED, State.UNKNOWN})
_LONGEST_UNDER_WAY = timedelta(hours=1)
"""A mail that has no row by then was in the hands of a relay that was killed, and its journal is lost."""


@dataclass(frozen=True)
class CopyClaim:
    """The mail whose blind copy counts; `is_accepted`: it has gone out with it for certain."""

    mail_id: str
    is_accepted: bool


def claim_copy(session: Session, identity: bytes, mail_id: str) -> CopyClaim:
    """This mail has the copy, unless another one with this identity was accepted with it, or is under way
    with it."""
    earlier = copy_of(session, identity)
    if earlier is not None:
        return CopyClaim(earlier, is_accepted=True)
    first = _first(session, identity, COPY, mail_id)
    if first != mail_id and _has_ended_without_copy(session, identity, first):
        session.execute(
            update(FirstMailRow)
            .where(FirstMailRow.identity == identity, FirstMailRow.way == COPY, FirstMailRow.mail_id == first)
            .values(mail_id=mail_id, time=database_now(session))
        )
        first = _first(session, identity, COPY, mail_id)
    return CopyClaim(first, is_accepted=False)


def copy_of(session: Session, identity: bytes) -> str | None:
    """The id of a mail with this identity that was accepted with its copy; None: there is none."""
    accepted = select(MailRow.id).where(
        MailRow.identity == identity,
        MailRow.bcc == Copy.ACCEPTED.value,
        MailRow.state.not_in([state.value for state in _NOT_ACCEPTED]),
    )
    return session.scalars(accepted.limit(1)).first()


def give_up_copy(session: Session, identity: bytes, mail_id: str) -> None:
    """This mail was not accepted, or its copy was not: the next one with this identity may have it."""
    session.execute(
        delete(FirstMailRow).where(
            FirstMailRow.identity == identity, FirstMailRow.way == COPY, FirstMailRow.mail_id == mail_id
        )
    )


@dataclass(frozen=True)
class Holder:
    """The mail that wrote last for all with its identity, or is to. `is_in_hands`: a living worker has it;
    `shows_by`: when a write of it that was begun shows in Salesforce, if it was made."""

    state: State
    person: int
    is_in_hands: bool
    due_at: datetime | None
    shows_by: datetime | None


def claim_records(session: Session, wanted: Mapping[bytes, str]) -> dict[bytes, str]:
    """Be the one that writes for these identities, identity -> mail; who is, by now. Nobody else claims one
    of them or takes one over before this transaction ends."""
    now = database_now(session)
    session.connection().execute(
        insert(session.get_bind().dialect, FirstMailRow.__table__).on_conflict_do_nothing(),
        [
            {"identity": identity, "way": RECORDS, "mail_id": mail_id, "time": now}
            for identity, mail_id in sorted(wanted.items())
        ],
    )
    found = session.execute(
        select(FirstMailRow.identity, FirstMailRow.mail_id)
        .where(FirstMailRow.way == RECORDS, FirstMailRow.identity.in_(wanted))
        .order_by(FirstMailRow.identity)  # rows are locked in one order, whoever locks them
        .with_for_update()
    )
    return {row.identity: row.mail_id for row in found}


def take_over_records(session: Session, identity: bytes, *, of: str, by: str) -> None:
    """Write in place of a mail that is not going to. Only after `claim_records` and `holders`, in the same
    transaction."""
    session.execute(
        update(FirstMailRow)
        .where(FirstMailRow.identity == identity, FirstMailRow.way == RECORDS)
        .values(mail_id=by, time=database_now(session))
    )
    # A worker that was thought dead and comes back finds that this mail is no longer its own.
    session.execute(update(MailRow).where(MailRow.id == of).values(claimed_by=None, claim=MailRow.claim + 1))


def holders(session: Session, ids: Collection[str]) -> dict[str, Holder]:
    """Where these mails stand; without those whose rows are gone. No worker takes one of them before this
    transaction ends."""
    is_in_hands = case((MailRow.claimed_by.in_(alive(database_now(session))), 1), else_=0)
    query = (
        select(
            MailRow.id,
            MailRow.state,
            MailRow.person_id,
            MailRow.due_at,
            is_in_hands.label("is_in_hands"),
            select(MailLogRow.not_before)
            .where(MailLogRow.mail_id == MailRow.id)
            .scalar_subquery()
            .label("shows_by"),
        )
        .where(MailRow.id.in_(ids))
        .order_by(MailRow.id)  # rows are locked in one order, whoever locks them
        .with_for_update()
    )
    return {
        row.id: Holder(State(row.state), row.person_id, bool(row.is_in_hands), row.due_at, row.shows_by)
        for row in session.execute(query)
    }


def mails_of(session: Session, identities: Collection[bytes]) -> dict[bytes, list[str]]:
    """The ids of all mails with these identities, the oldest first."""
    found: dict[bytes, list[str]] = {}
    query = select(MailRow.identity, MailRow.id).where(MailRow.identity.in_(identities))
    for identity, mail_id in session.execute(query):
        if identity is not None:
            found.setdefault(identity, []).append(mail_id)
    return {identity: sorted(ids) for identity, ids in found.items()}


def forget_old(session: Session, before: timedelta) -> None:
    """Delete some of what is older than that; the mails' own rows tell as long as they are kept."""
    oldest = (
        select(FirstMailRow.time)
        .where(FirstMailRow.time < database_now(session) - before)
        .order_by(FirstMailRow.time)
        .limit(_AT_ONCE)
    )
    times = session.scalars(oldest).all()
    if times:
        session.execute(delete(FirstMailRow).where(FirstMailRow.time <= times[-1]))


def _first(session: Session, identity: bytes, way: str, mail_id: str) -> str:
    values = {"identity": identity, "way": way, "mail_id": mail_id, "time": database_now(session)}
    session.execute(insert(session.get_bind().dialect, FirstMailRow).on_conflict_do_nothing(), values)
    return session.scalars(
        select(FirstMailRow.mail_id).where(FirstMailRow.identity == identity, FirstMailRow.way == way)
    ).one()


def _has_ended_without_copy(session: Session, identity: bytes, mail_id: str) -> bool:
    found = session.execute(select(MailRow.state, MailRow.bcc).where(MailRow.id == mail_id)).first()
    if found is not None:
        is_under_way = found.state == State.PENDING.value
        has_gone = found.bcc == Copy.ACCEPTED.value and found.state not in {
            one.value for one in _NOT_ACCEPTED
        }
        return not is_under_way and not has_gone
    claimed_at = session.scalars(
        select(FirstMailRow.time).where(FirstMailRow.identity == identity, FirstMailRow.way == COPY)
    ).one()
    return claimed_at < database_now(session) - _LONGEST_UNDER_WAY

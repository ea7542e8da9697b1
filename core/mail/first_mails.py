"""Which of the mails with one identity counts for all of them: the one whose blind copy goes out, and the one
that the worker writes records for.

One row for each identity and way is inserted by whoever comes first, whatever relay or worker that is: the
primary key lets nobody be first twice."""

from collections.abc import Collection, Mapping
from datetime import timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from core.database.dialect import insert
from core.database.heartbeats import database_now
from core.database.models import FirstMailRow, MailRow
from core.mail.row import Copy, State

COPY, API, LATE = "copy", "api", "late"
"""Of which way a mail is the first: its blind copy, its records, and what a later part adds to those."""
_AT_ONCE = 1_000
_ENDED_WITHOUT_COPY = frozenset({State.REFUSED, State.ABORTED, State.UNKNOWN, State.COPY_REFUSED})
_LONGEST_UNDER_WAY = timedelta(hours=1)
"""A mail that has no row by then was in the hands of a relay that was killed, and its journal is lost."""


def claim_copy(session: Session, identity: bytes, mail_id: str) -> str:
    """The id of the mail whose blind copy counts: this one's, unless another mail with this identity was
    accepted with its copy, or is under way with it."""
    earlier = copy_of(session, identity)
    if earlier is not None:
        return earlier
    first = _first(session, identity, COPY, mail_id)
    if first != mail_id and _has_ended_without_copy(session, identity, first):
        session.execute(
            update(FirstMailRow)
            .where(FirstMailRow.identity == identity, FirstMailRow.way == COPY, FirstMailRow.mail_id == first)
            .values(mail_id=mail_id, time=database_now(session))
        )
        return _first(session, identity, COPY, mail_id)
    return first


def copy_of(session: Session, identity: bytes) -> str | None:
    """The id of a mail with this identity that was accepted with its copy; None: there is none."""
    accepted = select(MailRow.id).where(
        MailRow.identity == identity,
        MailRow.bcc == Copy.ACCEPTED.value,
        MailRow.state.not_in([state.value for state in (*_ENDED_WITHOUT_COPY, State.PENDING)]),
    )
    return session.scalars(accepted.limit(1)).first()


def give_up_copy(session: Session, identity: bytes, mail_id: str) -> None:
    """This mail was not accepted, or its copy was not: the next one with this identity may have it."""
    session.execute(
        delete(FirstMailRow).where(
            FirstMailRow.identity == identity, FirstMailRow.way == COPY, FirstMailRow.mail_id == mail_id
        )
    )


def claim(session: Session, way: str, wanted: Mapping[bytes, str]) -> dict[bytes, str]:
    """Be the first of this way for these identities, identity -> mail; who is, by now."""
    now = database_now(session)
    session.connection().execute(
        insert(session.get_bind().dialect, FirstMailRow.__table__).on_conflict_do_nothing(),
        [
            {"identity": identity, "way": way, "mail_id": mail_id, "time": now}
            for identity, mail_id in sorted(wanted.items())
        ],
    )
    found = session.execute(
        select(FirstMailRow.identity, FirstMailRow.mail_id).where(
            FirstMailRow.way == way, FirstMailRow.identity.in_(wanted)
        )
    )
    return {row.identity: row.mail_id for row in found}


def take_over(session: Session, way: str, identity: bytes, *, of: str, by: str) -> bool:
    """Be the first in place of a mail that came to nothing; False where somebody else is by now."""
    statement = (
        update(FirstMailRow)
        .where(FirstMailRow.identity == identity, FirstMailRow.way == way, FirstMailRow.mail_id == of)
        .values(mail_id=by, time=database_now(session))
        .returning(FirstMailRow.mail_id)
    )
    return session.execute(statement).first() is not None


def states_of(session: Session, ids: Collection[str]) -> dict[str, State]:
    """Where these mails stand; without those whose rows are gone."""
    found = session.execute(select(MailRow.id, MailRow.state).where(MailRow.id.in_(ids)))
    return {row.id: State(row.state) for row in found}


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
    found = session.execute(select(MailRow.state).where(MailRow.id == mail_id)).first()
    if found is not None:
        return found.state in {state.value for state in _ENDED_WITHOUT_COPY}
    claimed_at = session.scalars(
        select(FirstMailRow.time).where(FirstMailRow.identity == identity, FirstMailRow.way == COPY)
    ).one()
    return claimed_at < database_now(session) - _LONGEST_UNDER_WAY

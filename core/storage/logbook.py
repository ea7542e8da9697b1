"""The logbook: one row per mail of a known person. Writing is idempotent and only moves forward."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import ColumnElement, Select, Table, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from core.mail import DISMISSIBLE, OPEN_STATES, Copy, Decision, Reason, Row, State
from core.refusal import Refusal
from core.storage.beats import alive
from core.storage.models import ADDRESS_LENGTH, MailRow, PersonRow, UnknownSenderRow
from core.storage.people import NotThere

_LONGEST_TEXT = 2000


class NotDismissible(Refusal):
    """The mail is in a state that asks for nobody."""


@dataclass(frozen=True)
class UnknownSender:
    """One mail from an address that is nobody's."""

    key: str
    address: str
    time: datetime


@dataclass(frozen=True)
class UnknownSenderCount:
    """What is known of a sender whom nobody knows."""

    address: str
    mails: int
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True)
class Entry:
    """A row of the logbook with its person's address, as pages and commands show it."""

    row: Row
    person: str


@dataclass(frozen=True)
class Filter:
    """Which rows to show; None: all."""

    person_id: int | None = None
    state: State | None = None
    before: str | None = None


def write(session: Session, rows: Iterable[Row]) -> None:
    """Insert rows, or move rows that are there forward: an open state gives way, a final one stays.

    Of several rows of one id in one call the last counts."""
    values = [_values(row) for row in {row.id: row for row in rows}.values()]
    if not values:
        return
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(cast("Table", MailRow.__table__))
    settled = {
        name: statement.excluded[name]
        for name in values[0]
        if name not in {"id", "time", "process", "person_id"}
    }
    is_open = or_(*(MailRow.state == state.value for state in sorted(OPEN_STATES)))
    brings_more = statement.excluded.state != State.PENDING.value
    session.execute(
        statement.on_conflict_do_update(index_elements=["id"], set_=settled, where=is_open & brings_more),
        values,
    )


def note_lost_reply(session: Session, mail_id: str, fingerprint: bytes) -> None:
    """The client may not have heard the 250 of this mail."""
    session.execute(update(MailRow).where(MailRow.id == mail_id).values(fingerprint=fingerprint))


def lost_replies(
    session: Session, fingerprints: Iterable[bytes], since: datetime
) -> dict[bytes, tuple[str, str]]:
    """Which of these were accepted since then without the client hearing it: fingerprint -> (row id, reply)."""
    wanted = list(fingerprints)
    query = select(MailRow.fingerprint, MailRow.id, MailRow.upstream).where(
        MailRow.fingerprint.in_(wanted), MailRow.time >= since
    )
    return {
        key: (mail_id, upstream or "") for key, mail_id, upstream in session.execute(query) if key is not None
    }


def reply_delivered(session: Session, mail_id: str) -> None:
    """The client has heard the 250 by now; a next mail of the same bytes is meant as such."""
    session.execute(update(MailRow).where(MailRow.id == mail_id).values(fingerprint=None))


def copy_refusals(session: Session, since: datetime) -> frozenset[bytes]:
    """What recognises the mails that were refused at the dot with a copy since then."""
    query = select(MailRow.copy_refusal).where(MailRow.copy_refusal.is_not(None), MailRow.time >= since)
    return frozenset(key for key in session.scalars(query) if key is not None)


def mails_of_others(session: Session, process: str, since: datetime) -> dict[int, int]:
    """How many mails other processes have had in hand since then: person -> number.

    Ids are in the order of time, so the primary key finds the few rows that it takes."""
    first = f"{int(since.timestamp() * 1000):012x}"
    query = (
        select(MailRow.person_id, func.count())
        .where(MailRow.id >= f"{first[:8]}-{first[8:]}", MailRow.process != process)
        .group_by(MailRow.person_id)
    )
    return {person: number for person, number in session.execute(query)}  # noqa: C416  rows are tuples to us only


def count_unknown(session: Session, senders: Iterable[UnknownSender]) -> None:
    """Count mails from addresses that are nobody's."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    for sender in sorted(senders, key=lambda one: one.key):
        statement = insert(UnknownSenderRow).values(
            key=_fit(sender.key, ADDRESS_LENGTH), address=_fit(sender.address, ADDRESS_LENGTH), mails=1,
            first_seen=sender.time, last_seen=sender.time,
        )  # fmt: skip
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["key"],
                set_={"mails": UnknownSenderRow.mails + 1, "last_seen": statement.excluded.last_seen},
            ),
        )


def unknown_senders(session: Session) -> list[UnknownSenderCount]:
    """Senders that nobody knows, those with most mails first."""
    rows = session.scalars(
        select(UnknownSenderRow).order_by(UnknownSenderRow.mails.desc(), UnknownSenderRow.key)
    )
    return [UnknownSenderCount(row.address, row.mails, row.first_seen, row.last_seen) for row in rows]


def close_orphans(session: Session, now: datetime) -> int:
    """Pending rows of processes that are gone become `unknown`; how many."""
    orphans = (
        update(MailRow)
        .where(MailRow.state == State.PENDING, MailRow.process.not_in(alive(now)))
        .values(state=State.UNKNOWN.value)
        .returning(MailRow.id)
    )
    return len(session.execute(orphans, execution_options={"synchronize_session": False}).all())


def entries(session: Session, which: Filter, limit: int) -> list[Entry]:
    """Rows, newest first."""
    query = _joined().where(*_conditions(which)).order_by(MailRow.id.desc()).limit(limit)
    return [Entry(_row(mail), email) for mail, email in session.execute(query)]


def entry(session: Session, mail_id: str) -> Entry:
    """One row. Raises NotThere."""
    found = session.execute(_joined().where(MailRow.id == mail_id)).first()
    if found is None:
        raise NotThere("There is no mail %(id)s in the logbook", id=mail_id)
    return Entry(_row(found[0]), found[1])


def dismiss(session: Session, mail_id: str) -> None:
    """A person says that nothing is to be done. Raises NotThere, NotDismissible."""
    found = entry(session, mail_id)
    if found.row.state not in DISMISSIBLE:
        raise NotDismissible(
            "A mail that is “%(state)s” needs nobody; there is nothing to dismiss", state=found.row.state
        )
    session.execute(update(MailRow).where(MailRow.id == mail_id).values(state=State.DISMISSED.value))


def _joined() -> Select[MailRow, str]:
    return select(MailRow, PersonRow.email).join(PersonRow, PersonRow.id == MailRow.person_id)


def _conditions(which: Filter) -> Sequence[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if which.person_id is not None:
        conditions.append(MailRow.person_id == which.person_id)
    if which.state is not None:
        conditions.append(MailRow.state == which.state.value)
    if which.before is not None:
        conditions.append(MailRow.id < which.before)
    return conditions


def _values(row: Row) -> dict[str, Any]:
    return {
        "id": row.id,
        "time": row.time,
        "process": row.process,
        "person_id": row.person,
        "sender": _fit(row.sender, ADDRESS_LENGTH),
        "recipient_count": row.recipient_count,
        "recipients": None
        if row.recipients is None
        else [_fit(one, ADDRESS_LENGTH) for one in row.recipients],
        "subject": _fit(row.subject, _LONGEST_TEXT),
        "message_id": _fit(row.message_id, _LONGEST_TEXT),
        "mode": row.mode,
        "decision": row.decision.value,
        "reason": row.reason.value,
        "state": row.state.value,
        "upstream": _fit(row.upstream, _LONGEST_TEXT),
        "bcc": row.bcc.value,
        "bcc_reply": _fit(row.bcc_reply, _LONGEST_TEXT),
        "fingerprint": row.fingerprint,
        "copy_refusal": row.copy_refusal,
    }


def _fit(text: str | None, length: int) -> str | None:
    """What every database can hold: no NUL, no lone surrogate, no more than the column."""
    if text is None:
        return None
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:length]


def _row(mail: MailRow) -> Row:
    return Row(
        id=mail.id, time=mail.time, process=mail.process, person=mail.person_id, sender=mail.sender,
        recipient_count=mail.recipient_count,
        recipients=None if mail.recipients is None else tuple(mail.recipients),
        subject=mail.subject, message_id=mail.message_id, mode=mail.mode,
        decision=Decision(mail.decision), reason=Reason(mail.reason), state=State(mail.state),
        upstream=mail.upstream, bcc=Copy(mail.bcc), bcc_reply=mail.bcc_reply,
        fingerprint=mail.fingerprint, copy_refusal=mail.copy_refusal,
    )  # fmt: skip

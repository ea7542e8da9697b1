"""The logbook: one row per mail of a known person; how it is read, and the rarer things that are noted in
it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, func, select, update
from sqlalchemy.orm import Session

from core.batches import batches
from core.database.dialect import fit, insert
from core.database.heartbeats import alive
from core.database.models import ADDRESS_LENGTH, MailLogRow, MailRow, PersonRow, UnknownSenderRow
from core.journal.entries import UnknownSender
from core.mail import texts as mail_texts
from core.mail.progress import from_json
from core.mail.reasons import Reason
from core.mail.row import DISMISSIBLE, Copy, Decision, Row, State
from core.people.store import NotThere
from core.refusal import Refusal


class NotDismissible(Refusal):
    """The mail is in a state that asks for nobody."""


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
    attempts: int = 0
    """How often the worker had it in hand."""


_IDENTITIES_AT_ONCE = 100


@dataclass(frozen=True)
class Filter:
    """Which rows to show; None: all."""

    person_id: int | None = None
    state: State | None = None
    before: str | None = None
    by_others: bool = False
    """Only mails that another tool has logged as well."""


@dataclass(frozen=True)
class Unheard:
    """A mail whose client has gone without hearing the verdict. `reply`: the 250; None while the verdict is
    still out."""

    mail_id: str
    reply: str | None
    time: datetime


def note_lost_reply(session: Session, mail_id: str, fingerprint: bytes) -> None:
    """The client may not have heard the 250 of this mail, or has gone before the verdict."""
    session.execute(update(MailRow).where(MailRow.id == mail_id).values(fingerprint=fingerprint))


def reply_delivered(session: Session, mail_id: str) -> None:
    """The client has heard the 250 by now; a next mail of the same bytes is meant as such."""
    session.execute(update(MailRow).where(MailRow.id == mail_id).values(fingerprint=None))


def remove_pending(session: Session, mail_id: str) -> None:
    """This mail turned out to be an earlier one, sent again: if it was shown as under way, it is no more."""
    session.execute(delete(MailRow).where(MailRow.id == mail_id, MailRow.state == State.PENDING.value))


def lost_replies(session: Session, since: datetime) -> dict[bytes, Unheard]:
    """Mails since then, accepted or still without a verdict, whose clients have not heard it: by their
    fingerprints. What was refused, or ended nobody knows how, is to be tried again."""
    query = select(MailRow.fingerprint, MailRow.id, MailRow.upstream, MailRow.time, MailRow.state).where(
        MailRow.fingerprint.is_not(None), MailRow.time >= since
    )
    return {
        key: Unheard(mail_id, reply, time)
        for key, mail_id, reply, time, state in session.execute(query)
        if key is not None and (state == State.PENDING.value or (reply or "").startswith("2"))
    }


def copy_refusals(session: Session, since: datetime) -> frozenset[bytes]:
    """What recognises the mails that were refused at the dot with a copy since then."""
    query = select(MailRow.copy_refusal).where(MailRow.copy_refusal.is_not(None), MailRow.time >= since)
    return frozenset(key for key in session.scalars(query) if key is not None)


def mails_of_others(session: Session, process: str, since: datetime) -> dict[int, int]:
    """How many mails other processes have had in hand since then: person -> number."""
    # grouped by the column itself, SQLite reads the whole index of persons instead of the last rows of the
    # key
    person_id = MailRow.person_id + 0
    query = (
        select(person_id, func.count())
        .where(MailRow.id >= first_id(since), MailRow.process != process)
        .group_by(person_id)
    )
    return {person: number for person, number in session.execute(query)}  # noqa: C416  rows are tuples to us only


def mails_since(session: Session, since: datetime) -> int:
    """How many rows were made since then."""
    return session.scalar(select(func.count()).where(MailRow.id >= first_id(since))) or 0


MOST_COUNTED = 1_000
"""Of rows that are only counted: whoever reads that there are a thousand needs no exact number, and counting
a hundred times as many took Health half a second to a second (measured at five million rows)."""


def in_need_of_somebody(session: Session) -> dict[State, int]:
    """How many mails are in each state that asks for a person, without states of which there are none;
    MOST_COUNTED stands for so many or more."""
    counts = {}
    for state in DISMISSIBLE:
        some = select(MailRow.id).where(MailRow.state == state.value).limit(MOST_COUNTED).subquery()
        counts[state] = session.scalar(select(func.count()).select_from(some)) or 0
    return {state: number for state, number in counts.items() if number}


def first_id(time: datetime) -> str:
    """Ids are in the order of time (UUIDv7), so the primary key finds the few rows that it takes."""
    first = f"{max(0, int(time.timestamp() * 1000)):012x}"
    return f"{first[:8]}-{first[8:]}"


def count_unknown(session: Session, senders: Iterable[UnknownSender]) -> None:
    """Count mails from addresses that are nobody's."""
    for sender in sorted(senders, key=lambda one: one.key):
        statement = insert(session.get_bind().dialect, UnknownSenderRow).values(
            key=fit(sender.key, ADDRESS_LENGTH),
            address=fit(sender.address, ADDRESS_LENGTH),
            mails=1,
            first_seen=sender.time,
            last_seen=sender.time,
        )
        session.execute(
            statement.on_conflict_do_update(
                index_elements=["key"],
                set_={"mails": UnknownSenderRow.mails + 1, "last_seen": statement.excluded.last_seen},
            ),
        )


def unknown_senders(session: Session) -> list[UnknownSenderCount]:
    """Unknown senders, those with most mails first, MOST_COUNTED of them at most: behind a gateway there can
    be as many as there are spammers."""
    rows = session.scalars(
        select(UnknownSenderRow)
        .order_by(UnknownSenderRow.mails.desc(), UnknownSenderRow.key.desc())  # the index, from its end
        .limit(MOST_COUNTED)
    )
    found = [UnknownSenderCount(row.address, row.mails, row.first_seen, row.last_seen) for row in rows]
    return sorted(found, key=lambda one: (-one.mails, one.address))


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
    return [Entry(row_of(mail), email, mail.attempts) for mail, email in session.execute(query)]


@dataclass(frozen=True)
class LoggedByOthers:
    """How many mails another tool has logged as well; `copied`: how many of them went as a blind copy too,
    and so are in Salesforce twice. MOST_COUNTED at most."""

    mails: int
    copied: int


def logged_by_others(session: Session, since: datetime, person_id: int | None = None) -> LoggedByOthers:
    """Of the mails since then; of everybody's for None."""
    some = select(MailRow.bcc).where(MailRow.logged_by.is_not(None), MailRow.id >= first_id(since))
    if person_id is not None:
        some = some.where(MailRow.person_id == person_id)
    # a mail that is split is one mail
    found = session.scalars(some.where(MailRow.same_as.is_(None)).limit(MOST_COUNTED)).all()
    return LoggedByOthers(len(found), found.count(Copy.ACCEPTED.value))


def deliveries(session: Session, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The other transactions of these mails, the oldest first, by the id of each; without mails that came in
    one."""
    identities = {row.identity for row in rows if row.identity is not None}
    by_identity: dict[bytes | None, list[Row]] = {}
    for batch in batches(sorted(identities), _IDENTITIES_AT_ONCE):
        query = select(MailRow).where(MailRow.identity.in_(batch)).limit(MOST_COUNTED)
        for mail in sorted(session.scalars(query), key=lambda mail: mail.id):
            by_identity.setdefault(mail.identity, []).append(row_of(mail))
    # an address can have been somebody else's; nobody sees another person's mails
    found = {
        row.id: [
            one for one in by_identity.get(row.identity, ()) if one.id != row.id and one.person == row.person
        ]
        for row in rows
    }
    return {mail_id: others for mail_id, others in found.items() if others}


def entry(session: Session, mail_id: str) -> Entry:
    """One row. Raises NotThere."""
    found = session.execute(_joined().where(MailRow.id == mail_id)).first()
    if found is None:
        raise NotThere("There is no mail %(id)s in the logbook", id=mail_id)
    return Entry(row_of(found[0]), found[1], found[0].attempts)


def dismiss(session: Session, mail_id: str) -> None:
    """A person says that nothing is to be done. Raises NotThere, NotDismissible."""
    session.get(MailRow, mail_id, with_for_update=True, populate_existing=True)
    found = entry(session, mail_id)
    if found.row.state not in DISMISSIBLE or _is_being_written(session, mail_id):
        raise NotDismissible(
            "A mail that is “%(state)s” needs nobody; there is nothing to dismiss", state=found.row.state
        )
    session.execute(
        update(MailRow)
        .where(MailRow.id == mail_id)
        .values(state=State.DISMISSED.value, due_at=None, claimed_by=None, claim=MailRow.claim + 1)
    )
    mail_texts.erase(session, [mail_id])


def _is_being_written(session: Session, mail_id: str) -> bool:
    """Whether the worker has begun to write a record of it, and does not know yet what came of it."""
    log = session.get(MailLogRow, mail_id)
    targets = from_json(None if log is None else log.targets) or ()
    return any(target.is_tried and target.id is None for target in targets)


def _joined() -> Select[MailRow, str]:
    return select(MailRow, PersonRow.email).join(PersonRow, PersonRow.id == MailRow.person_id)


def _conditions(which: Filter) -> Sequence[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if which.person_id is not None:
        conditions.append(MailRow.person_id == which.person_id)
    if which.state is not None:
        conditions.append(MailRow.state == which.state.value)
    if which.by_others:
        conditions.append(MailRow.logged_by.is_not(None))
    if which.before is not None:
        conditions.append(MailRow.id < which.before)
    return conditions


def row_of(mail: MailRow) -> Row:
    """For the modules of this package."""
    return Row(
        id=mail.id,
        time=mail.time,
        process=mail.process,
        person=mail.person_id,
        sender=mail.sender,
        recipient_count=mail.recipient_count,
        recipients=None if mail.recipients is None else tuple(mail.recipients),
        subject=mail.subject,
        message_id=mail.message_id,
        mode=mail.mode,
        decision=Decision(mail.decision),
        reason=Reason(mail.reason),
        state=State(mail.state),
        upstream=mail.upstream,
        bcc=Copy(mail.bcc),
        bcc_reply=mail.bcc_reply,
        fingerprint=mail.fingerprint,
        identity=mail.identity,
        same_as=mail.same_as,
        detail=mail.detail,
        copy_refusal=mail.copy_refusal,
        due_at=mail.due_at,
    )

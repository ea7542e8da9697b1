"""What people can request for a mail: log it again, log it on records that they choose, stop being asked
about an address; and which mails have failed."""

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from core.batches import batches
from core.database.engine import Database
from core.database.heartbeats import database_now
from core.database.models import AddressRow, IgnoredRow, MailLogRow, MailRow
from core.mail import queue
from core.mail.reasons import Reason
from core.mail.row import Decision, Row, State
from core.mail.store import entry
from core.people.addresses import address_key
from core.refusal import Refusal
from core.salesforce.connection_store import connected_of
from core.salesforce.ids import id_key
from core.settings import store as settings_store
from core.settings.in_force import person_settings

_A_FEW = 100
_HEALS_FOR = timedelta(days=15)
_MOST_COUNTED = 10_000


class NothingToLogBy(Refusal):
    """There is no way by which this mail could be logged."""


def can_log_again(row: Row) -> bool:
    """Whether the worker can try this mail again: it failed, or its outcome is unknown."""
    is_unconfirmed = row.state is State.COPIED and row.due_at is None
    is_open = row.state in {State.FAILED, State.UNKNOWN, State.COPY_REFUSED, State.UNMATCHED}
    return row.decision.may_log and (is_open or is_unconfirmed)


@dataclass(frozen=True)
class Means:
    """What a person has by now to log mails with."""

    is_connected: bool
    addresses: frozenset[str]
    log_bulk: bool


def means_of(session: Session, persons: Collection[int]) -> dict[int, Means]:
    """Of each of these people."""
    connected = connected_of(session, persons)
    addresses: dict[int, set[str]] = {}
    query = select(AddressRow.person_id, AddressRow.key).where(AddressRow.person_id.in_(persons))
    for person, key in session.execute(query):
        addresses.setdefault(person, set()).add(key)
    policy = settings_store.policy(session)
    return {
        person: Means(
            person in connected,
            frozenset(addresses.get(person, ())),
            person_settings(policy, settings_store.preference(session, person)).log_bulk,
        )
        for person in persons
    }


def can_log_now(row: Row, means: Means) -> bool:
    """Whether a mail that could not be logged when it was sent can be by now, through the API: its cause is
    gone, or a person knows better, as with what a program has called automatic."""
    is_recent = datetime.now(UTC) - row.time <= _HEALS_FOR
    is_mended = {
        Reason.NOT_OWN_ADDRESS: address_key(row.sender or "") in means.addresses,
        Reason.BULK: means.log_bulk,
    }.get(row.reason, row.reason.may_heal)
    has_enough = row.recipients is not None
    return row.state is State.NOT_LOGGED and is_mended and has_enough and means.is_connected and is_recent


def log_again(session: Session, mail_id: str) -> None:
    """Have the worker try once more, or for the first time. Raises NotThere, NothingToLogBy."""
    _lock(session, mail_id)
    row = entry(session, mail_id).row
    is_healed = can_log_now(row, means_of(session, [row.person])[row.person])
    if not can_log_again(row) and not is_healed:
        raise NothingToLogBy(
            "This mail is “%(state)s” and was not to be logged through the API, so it cannot be logged "
            "again; send it once more",
            state=row.state,
        )
    known = queue.log_of(session, mail_id)
    queue.keep_logs(
        session, {mail_id: replace(known, trouble_code=None, trouble_detail="", was_rematched=False)}
    )
    session.execute(
        update(MailRow)
        .where(MailRow.id == mail_id)
        .values(
            state=State.WAITING.value,
            decision=Decision.API.value if is_healed else MailRow.decision,
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
    known = queue.log_of(session, mail_id)
    chosen = list({id_key(one): one for one in ids}.values())
    queue.keep_logs(session, {mail_id: replace(known, picked=tuple(chosen), needs_match=True)})


def _lock(session: Session, mail_id: str) -> None:
    """A person and a worker at one mail wait for each other."""
    session.get(MailRow, mail_id, with_for_update=True, populate_existing=True)


def each(database: Database, ids: Sequence[str], what: Callable[[Session, str], None]) -> int:
    """Do something with each mail, a few at a time; mails that have changed their state meanwhile are
    skipped. Returns how many were done."""
    done = 0
    for batch in batches(sorted(ids), _A_FEW):  # rows are locked in one order, whoever locks them
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
    """How many mails have failed for each kind of trouble, the most first; of everybody's for None. The last
    ten thousand are counted."""
    failed = select(MailRow.id).where(MailRow.state == State.FAILED.value)
    if person_id is not None:
        failed = failed.where(MailRow.person_id == person_id)
    last = failed.order_by(MailRow.id.desc()).limit(_MOST_COUNTED).subquery()
    query = (
        select(MailLogRow.trouble_code, func.count())
        .join(last, last.c.id == MailLogRow.mail_id)
        .where(MailLogRow.trouble_code.is_not(None))
        .group_by(MailLogRow.trouble_code)
        .order_by(func.count().desc())
    )
    return {code: number for code, number in session.execute(query) if code is not None}


def ignored(session: Session, person_id: int) -> frozenset[str]:
    """The addresses and domains whose mails this person does not want to be asked about."""
    return frozenset(session.scalars(select(IgnoredRow.pattern).where(IgnoredRow.person_id == person_id)))


def ignore(session: Session, person_id: int, pattern: str) -> None:
    """From now on; mails that wait for a match are looked at again."""
    if session.get(IgnoredRow, (person_id, pattern)) is None:
        session.add(IgnoredRow(person_id=person_id, pattern=pattern))
    is_unmatched = (MailRow.person_id == person_id, MailRow.state == State.UNMATCHED.value)
    unmatched = session.scalars(select(MailRow.id).where(*is_unmatched)).all()
    for ids in batches(sorted(unmatched), _A_FEW):
        queue.locked_in_order(session, ids)
        session.execute(
            update(MailRow).where(MailRow.id.in_(ids), *is_unmatched).values(due_at=database_now(session))
        )


def stop_ignoring(session: Session, person_id: int, pattern: str) -> None:
    """From now on; what was dismissed meanwhile stays so."""
    session.execute(
        delete(IgnoredRow).where(IgnoredRow.person_id == person_id, IgnoredRow.pattern == pattern)
    )

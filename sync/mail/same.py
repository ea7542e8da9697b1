"""Mails with one identity are one mail in Salesforce, whatever transactions they came in, and whenever.

Parts that are due together are written together, by the first of them (`join`, `share`). A part that comes
later belongs to the records that are there; whom it brings besides is added to them (sync/mail/additions.py).
While another part is to be written a later one waits for it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core.batches import batches
from core.database.engine import Session
from core.mail import first_mails
from core.mail.first_mails import Holder
from core.mail.progress import (
    LoggedByAnother,
    MailLog,
    MatchResult,
    Target,
    Trace,
    Where,
)
from core.mail.queue import logs_of
from core.mail.row import State
from core.people.addresses import address_key
from core.salesforce.troubles import trouble
from sync.mail.outcomes import Outcomes
from sync.mail.waiting import MailSession, WaitingMail

_LEAST_WAIT = timedelta(seconds=5)
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_AT_ONCE = 1_000
Parts = Mapping[str, list[WaitingMail]]
"""The parts that share the outcome of the mail that is written for them, by its id."""


def join(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> Parts:
    """Tell which of these mails are parts of others. A part of an undecided mail in the same batch is set
    aside until that one has its outcome; one of a mail that is written already gets that one's records; one
    of a mail that is to be written waits for it. Raises DatabaseUnavailable."""
    named = {mail.id: mail for mail in mails if mail.job.row.identity is not None}
    if not named:
        return {}
    # What a person has picked for one part goes before what the rules find for another.
    in_order = sorted(named.values(), key=lambda mail: (not mail.log.picked, mail.id))
    wanted: dict[bytes, str] = {}
    for mail in in_order:
        wanted.setdefault(mail.job.row.identity or b"", mail.id)
    with session.database.writing() as in_database:
        writers, due_at = _claim(in_database, wanted, named)
    with session.database.reading() as in_database:
        ours = {identity: mail_id for identity, mail_id in writers.items() if mail_id in named}
        written = _written_by_others(in_database, ours)
    parts: dict[str, list[WaitingMail]] = {}
    for mail in in_order:
        identity = mail.job.row.identity or b""
        writer = writers[identity]
        if writer == mail.id:
            continue
        in_batch = named.get(writer)
        # what a person picks for one part says nothing of the others
        is_alone = mail.log.picked or (in_batch is not None and in_batch.log.picked)
        is_undecided = in_batch is not None and (in_batch.is_to_match or identity in written)
        if is_undecided and not is_alone:
            parts.setdefault(writer, []).append(mail)
            named[writer].parts.append(mail)
            outcomes.set_aside(mail)
        else:
            outcomes.stand_back(mail, max(datetime.now(UTC) + _LEAST_WAIT, due_at.get(writer, _LONG_AGO)))
    for identity, found in written.items():
        _belong_to(named[ours[identity]], outcomes, *found)
    return parts


def _claim(
    in_database: Session, wanted: Mapping[bytes, str], named: Mapping[str, WaitingMail]
) -> tuple[dict[bytes, str], dict[str, datetime]]:
    """Who writes, identity -> mail; and when those of them that are not in this batch are due. `wanted`: who
    is to write of this batch, `named`."""
    writers = first_mails.claim_records(in_database, wanted)
    others = first_mails.holders(in_database, [one for one in writers.values() if one not in named])
    due_at: dict[str, datetime] = {}
    for identity, mail_id in wanted.items():
        writer = writers[identity]
        if writer in named:
            continue
        holder = others.get(writer)
        if holder is not None and _is_to_write(holder, of=named[mail_id]):
            if holder.due_at is not None:
                due_at[writer] = holder.due_at
            continue
        first_mails.take_over_records(in_database, identity, of=writer, by=mail_id)
        writers[identity] = mail_id
    return writers, due_at


def _is_to_write(holder: Holder, *, of: WaitingMail) -> bool:
    """Whether it will write, or has ended, before long. One of somebody else, to whom the author's address
    belonged before, may wait for ever for a connection to Salesforce."""
    is_same_person = holder.person == of.job.row.person
    may_show = holder.shows_by is not None and holder.shows_by > datetime.now(UTC)
    return holder.is_in_hands or (holder.state is State.WAITING and (is_same_person or may_show))


def share(outcomes: Outcomes, parts: Parts, mails: Mapping[str, WaitingMail]) -> None:
    """Give the parts that were set aside the outcomes of the mails that they belong to."""
    for writer, some in parts.items():
        end = outcomes.end_of(mails[writer])
        for part in some:
            outcomes.take_back(part)
            # what is wrong with the first part alone must not keep the others from being logged
            is_its_own = end is not None and end.log.trouble_code in {"lost_text", "unforeseen"}
            if end is None or end.state is State.WAITING or is_its_own:
                outcomes.stand_back(part, datetime.now(UTC) + _LEAST_WAIT)
                continue
            if end.state is State.LOGGED:
                part.same_as = mails[writer].same_as or writer
                known = replace(
                    part.log.trace,
                    result=MatchResult.SAME_MAIL,
                    there=end.log.trace.there,
                    not_added=end.log.trace.not_added,
                )
                part.log = replace(part.log, targets=end.log.targets, trace=known, needs_match=False)
            else:
                known = replace(part.log.trace, result=end.log.trace.result)
                if known.places is None:
                    # its text is erased with this, and then only this tells where its addresses stood
                    places = end.log.trace.places or {}
                    own = {one: places[one] for one in map(address_key, part.recipients) if one in places}
                    known = replace(known, places=own)
                part.log = replace(part.log, trace=known)
            met = end.log.trouble_code
            found = None if met is None else trouble(met, end.log.trouble_detail)
            outcomes.end(part, end.state, found, due_at=end.due_at)


def _belong_to(mail: WaitingMail, outcomes: Outcomes, first: str, log: MailLog) -> None:
    """A later part of a mail that is written: its records are those, and whoever was not looked up for it is
    now."""
    mail.same_as = first
    looked_up = log.trace.places or {}
    for part in (mail, *mail.parts):
        part.recipients = tuple(one for one in part.recipients if address_key(one) not in looked_up)
    mail.log = replace(
        mail.log,
        targets=log.written,
        files=log.files,
        trace=replace(mail.log.trace, result=MatchResult.SAME_MAIL, there=log.trace.there),
        needs_match=bool(mail.log.picked or any(part.recipients for part in (mail, *mail.parts))),
    )
    if not mail.is_to_match:
        outcomes.end(mail, State.LOGGED)


def _written_by_others(
    in_database: Session, writers: Mapping[bytes, str]
) -> dict[bytes, tuple[str, MailLog]]:
    """What the parts of each mail have written so far, and who was looked up for them; with the id of the
    first that has written. Without mails of which no other part than the writer has written anything."""
    mails = {
        identity: some
        for identity, some in first_mails.mails_of(in_database, writers).items()
        if len(some) > 1
    }
    logs: dict[str, MailLog] = {}
    for ids in batches([one for some in mails.values() for one in some], _AT_ONCE):
        logs |= {one: log for one, log in logs_of(in_database, ids).items() if log.written}
    found = {}
    for identity, some in mails.items():
        of_others = [one for one in some if one in logs and one != writers[identity]]
        known = logs.get(writers[identity], MailLog())
        have = {target.id for target in known.written}
        if all(target.id in have for one in of_others for target in logs[one].written):
            continue
        targets: dict[tuple[str | None, tuple[str, ...]], Target] = {}
        places: dict[str, Where] = {}
        there: LoggedByAnother | None = None
        files = next((logs[one].files for one in of_others if logs[one].files), None)
        for one in some:
            log = logs.get(one, MailLog())
            for target in log.written:
                targets.setdefault((target.id, target.on), target)
            # who was looked up for it may not be on any record
            if not log.missing and not log.picked:
                places |= log.trace.places or {}
            there = there or log.trace.there
        trace = Trace(places=places, there=there)
        found[identity] = (of_others[0], MailLog(targets=tuple(targets.values()), trace=trace, files=files))
    return found

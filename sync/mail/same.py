"""Mails with one identity are one mail in Salesforce, whatever transactions they came in, and whenever.

Parts that are due together are written together, by the first of them (`join`, `share`). A part that comes
later belongs to the records that are there: whom it brings besides is added to them (`add`), where Salesforce
lets us. While the first part is under way in other hands a later one waits for it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from core.database.engine import Session
from core.mail import first_mails
from core.mail.progress import EMAIL_MESSAGE, MailLog, MatchResult, Target, Where
from core.mail.queue import logs_of
from core.mail.row import State
from core.people.addresses import address_key
from core.salesforce.client import MOST_RECORDS, Written
from core.salesforce.ids import id_key
from core.salesforce.login import Refused
from core.salesforce.troubles import TroubleKind, trouble
from sync.mail.lookup import in_batches
from sync.mail.outcomes import Outcomes, pause
from sync.mail.waiting import MailSession, WaitingMail

_LEAST_WAIT = timedelta(seconds=5)
_RELATIONS = {Where.TO: "ToAddress", Where.CC: "CcAddress", Where.BCC: "BccAddress"}
_PASSES = frozenset({TroubleKind.TRANSIENT, TroubleKind.LIMIT, TroubleKind.SESSION, TroubleKind.CONNECTION})

Parts = Mapping[str, list[WaitingMail]]
"""The parts that share the outcome of a mail, by its id."""


def join(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> Parts:
    """Tell which of these undecided mails are parts of others. A part of a mail in the same batch is set
    aside until that one has its outcome; one of a mail that is logged already gets that one's records; one of
    a mail in other hands waits. Raises DatabaseUnavailable."""
    named = {mail.id: mail for mail in mails if mail.job.row.identity is not None and not mail.log.picked}
    if not named:
        return {}
    oldest_first = sorted(named.values(), key=lambda mail: mail.id)
    wanted: dict[bytes, str] = {}
    for mail in oldest_first:
        wanted.setdefault(mail.job.row.identity or b"", mail.id)
    with session.database.writing() as in_database:
        first, late = _claim(in_database, wanted, named)
        written = _written_of(in_database, late)
    parts: dict[str, list[WaitingMail]] = {}
    for mail in oldest_first:
        owner = first[mail.job.row.identity or b""]
        if owner == mail.id:
            continue
        if owner in named:
            parts.setdefault(owner, []).append(mail)
            named[owner].recipients = tuple(dict.fromkeys((*named[owner].recipients, *mail.recipients)))
            outcomes.set_aside(mail)
        else:
            outcomes.wait(mail, datetime.now(UTC) + max(_LEAST_WAIT, pause(mail)))
    for identity in late:
        if first[identity] in named:
            _belong_to(named[first[identity]], outcomes, *written[identity])
    return parts


def _claim(
    in_database: Session, wanted: Mapping[bytes, str], named: Collection[str]
) -> tuple[dict[bytes, str], frozenset[bytes]]:
    """Who writes each mail, identity -> mail, and of which mails these parts are late: their records are
    there. `wanted`: the oldest part in this batch; `named`: all that are."""
    first = first_mails.claim(in_database, first_mails.API, wanted)
    states = first_mails.states_of(in_database, [one for one in first.values() if one not in named])
    late: dict[bytes, str] = {}
    for identity, mail_id in sorted(wanted.items()):  # rows are locked in one order, whoever locks them
        owner = first[identity]
        if owner in named or states.get(owner) is State.WAITING:
            continue
        if states.get(owner) is State.LOGGED:
            late[identity] = mail_id
        elif first_mails.take_over(in_database, first_mails.API, identity, of=owner, by=mail_id):
            first[identity] = mail_id  # what it was first for came to nothing
    if not late:
        return first, frozenset()
    # Of late parts in the hands of two workers one goes first, and the other sees what it has added.
    adds = first_mails.claim(in_database, first_mails.LATE, late)
    adding = first_mails.states_of(in_database, adds.values())
    for identity, mail_id in sorted(late.items()):
        owner = adds[identity]
        if owner in named:
            first[identity] = owner
        elif adding.get(owner) is not State.WAITING and first_mails.take_over(
            in_database, first_mails.LATE, identity, of=owner, by=mail_id
        ):
            first[identity] = mail_id
    return first, frozenset(late)


def share(outcomes: Outcomes, parts: Parts, mails: Mapping[str, WaitingMail]) -> None:
    """Give the parts that were set aside the outcomes of the mails that they belong to."""
    for owner, some in parts.items():
        end = outcomes.end_of(mails[owner])
        for part in some:
            outcomes.take_back(part)
            # what is wrong with the first part alone must not keep the others from being logged
            is_its_own = end is not None and end.log.trouble_code in {"lost_text", "unforeseen"}
            if end is None or end.state is State.WAITING or is_its_own:
                outcomes.wait(part, datetime.now(UTC) + max(_LEAST_WAIT, pause(part)))
                continue
            if end.state is State.LOGGED:
                part.same_as = mails[owner].same_as or owner
                known = replace(end.log.trace, result=MatchResult.SAME_MAIL, tries=())
                part.log = replace(part.log, targets=end.log.targets, trace=known, needs_match=False)
            met = end.log.trouble_code
            found = None if met is None else trouble(met, end.log.trouble_detail)
            if end.state is not State.LOGGED:
                # its text is erased with this, and then only this tells where the addresses stood
                places = {**(end.log.trace.places or {}), **(part.log.trace.places or {})}
                part.log = replace(part.log, trace=replace(part.log.trace, places=places or None))
            outcomes.end(part, end.state, found, due_at=end.due_at)


def add(session: MailSession, mails: Sequence[WaitingMail]) -> None:
    """Add to records that are there what later parts bring. What Salesforce does not let be added is left
    out, and named on the activity page. Raises Unavailable, Refused."""
    wanted = [(mail, target) for mail in mails for target in mail.log.missing if target.adds_to is not None]
    if not wanted:
        return
    messages = [one for one in wanted if one[1].kind == EMAIL_MESSAGE and one[1].who]
    _relate(session, messages)
    for mail, target in wanted:
        if target.kind == EMAIL_MESSAGE and target.what is not None:
            change: dict[str, object] = {"Id": target.adds_to, "RelatedToId": target.what}
            _take_in(mail, target, _changed(session, EMAIL_MESSAGE, change))
        elif target.kind != EMAIL_MESSAGE:
            # somebody may have added people in Salesforce: the field holds all of them
            [task] = session.client.retrieve(target.kind, [str(target.adds_to)], ["WhoId", "TaskWhoIds"])
            there = [] if task is None else [*(task.get("TaskWhoIds") or ()), *filter(None, [task["WhoId"]])]
            change = {"Id": target.adds_to, "TaskWhoIds": list(dict.fromkeys((*there, *target.who)))}
            _take_in(mail, target, _changed(session, target.kind, change))


def _relate(session: MailSession, wanted: Sequence[tuple[WaitingMail, Target]]) -> None:
    """A relation for each person, once: who is related already is asked for first, so that a try that is
    repeated adds nobody twice."""
    there: set[tuple[str, str]] = set()
    try:
        for some in in_batches([str(target.adds_to) for _, target in wanted], MOST_RECORDS):
            for one in session.client.query(
                "SELECT EmailMessageId, RelationId FROM EmailMessageRelation WHERE EmailMessageId IN {}", some
            ):
                if one["RelationId"] is not None:
                    there.add((id_key(str(one["EmailMessageId"])), id_key(str(one["RelationId"]))))
    except Refused as refused:
        if refused.trouble.kind in _PASSES:
            raise
        # who may not see who is related must not add anybody a second time
        for mail, target in wanted:
            _take_in(mail, target, Written(None, refused.trouble))
        return
    for mail, target in wanted:
        new = [one for one in target.who if (id_key(str(target.adds_to)), id_key(one)) not in there]
        places = mail.log.trace.record_places
        records = [
            {
                "EmailMessageId": target.adds_to,
                "RelationId": one,
                "RelationType": _RELATIONS[places.get(one, Where.TO)],
            }
            for one in new
        ]
        create = partial(session.client.create, "EmailMessageRelation", records)
        answers = _answered(create, len(records))
        if passing := next((one.trouble for one in answers if _passes(one)), None):
            mail.trouble = mail.trouble or passing  # tried again, and then only for those who are missing
            continue
        left_out = {one for one, answer in zip(new, answers, strict=True) if not _is_there(answer)}
        added = tuple(one for one in target.who if one not in left_out)
        if left_out:
            _name(mail, left_out)
        mail.put(target, replace(target, who=added, id=target.adds_to))


def _changed(session: MailSession, kind: str, change: Mapping[str, object]) -> Written:
    return _answered(partial(session.client.update, kind, [change]), 1)[0]


def _answered(call: Callable[[], list[Written]], number: int) -> list[Written]:
    """What became of each record; a call that is refused as a whole is refused for each. Raises Unavailable,
    Refused where it can pass."""
    try:
        return call()
    except Refused as refused:
        if refused.trouble.kind in _PASSES:
            raise
        return [Written(None, refused.trouble)] * number


def _is_there(answer: Written) -> bool:
    return answer.id is not None or (answer.trouble is not None and answer.trouble.code == "DUPLICATE_VALUE")


def _passes(answer: Written) -> bool:
    """Whether it was refused for a reason that passes, such as a lock on the record."""
    return answer.trouble is not None and answer.trouble.kind in _PASSES


def _take_in(mail: WaitingMail, target: Target, answer: Written) -> None:
    if _passes(answer):
        mail.trouble = mail.trouble or answer.trouble
        return
    if not _is_there(answer):
        _name(mail, target.on)
        target_after = replace(target, who=(), what=None, id=target.adds_to)
    else:
        target_after = replace(target, id=target.adds_to)
    mail.put(target, target_after)


def _name(mail: WaitingMail, left_out: Collection[str]) -> None:
    known = tuple(dict.fromkeys((*mail.log.trace.not_added, *sorted(left_out))))
    mail.log = replace(mail.log, trace=replace(mail.log.trace, not_added=known))


def _belong_to(mail: WaitingMail, outcomes: Outcomes, first: str, log: MailLog) -> None:
    """A later part of a mail that is logged: its records are those, and whoever was not looked up for it is
    now."""
    mail.same_as = first
    looked_up = log.trace.places or {}
    mail.recipients = tuple(one for one in mail.recipients if address_key(one) not in looked_up)
    mail.log = replace(
        mail.log, targets=log.written, trace=replace(mail.log.trace, result=MatchResult.SAME_MAIL)
    )
    if mail.recipients:
        mail.log = replace(mail.log, needs_match=True)
    else:
        outcomes.end(mail, State.LOGGED)


def _written_of(in_database: Session, identities: Collection[bytes]) -> dict[bytes, tuple[str, MailLog]]:
    """What all parts of each mail have written so far, and who was looked up for them; with the first part's
    id."""
    if not identities:
        return {}
    mails = first_mails.mails_of(in_database, identities)
    logs = logs_of(in_database, [one for some in mails.values() for one in some])
    found = {}
    for identity, some in mails.items():
        targets: dict[tuple[str | None, tuple[str, ...]], Target] = {}
        places: dict[str, Where] = {}
        owner = next((one for one in some if logs.get(one, MailLog()).written), some[0])
        for one in some:
            log = logs.get(one, MailLog())
            for target in log.written:
                targets.setdefault((target.id, target.on), target)
            if log.written:
                places |= log.trace.places or {}
        known = MailLog(targets=tuple(targets.values()))
        found[identity] = (owner, replace(known, trace=replace(known.trace, places=places)))
    return found

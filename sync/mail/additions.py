"""What a mail brings to records that are there already, of ours or of another tool: people and what it is
about are added where Salesforce lets us, each once, however often that is tried."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from core.batches import batches
from core.mail.progress import EMAIL_MESSAGE, TASK, Target, Where
from core.salesforce.client import MOST_RECORDS, Record, Written
from core.salesforce.ids import id_key
from core.salesforce.login import Refused
from core.salesforce.troubles import TroubleKind
from sync.mail.lookup import in_batches
from sync.mail.waiting import MailSession, WaitingMail

_RELATIONS = {Where.TO: "ToAddress", Where.CC: "CcAddress", Where.BCC: "BccAddress"}
PASSES = frozenset({TroubleKind.TRANSIENT, TroubleKind.LIMIT, TroubleKind.SESSION, TroubleKind.CONNECTION})


def add(session: MailSession, mails: Sequence[WaitingMail]) -> None:
    """Add to records that are there what later parts bring. What Salesforce does not let be added is left
    out, and named on the activity page. Raises Unavailable, Refused."""
    wanted = [(mail, target) for mail in mails for target in mail.log.missing if target.adds_to is not None]
    messages = [(mail, one) for mail, one in wanted if one.kind == EMAIL_MESSAGE]
    _relate(session, [(mail, one) for mail, one in messages if one.who])
    _change(
        session,
        EMAIL_MESSAGE,
        [
            (mail, one, {"Id": one.adds_to, "RelatedToId": one.what})
            for mail, one in messages
            if one.what is not None
        ],
    )
    tasks = [(mail, one) for mail, one in wanted if one.kind != EMAIL_MESSAGE]
    for some in batches(tasks, MOST_RECORDS):
        # somebody may have added people in Salesforce: the field holds all of them
        there = session.client.retrieve(TASK, [str(one.adds_to) for _, one in some], ["WhoId", "TaskWhoIds"])
        _change(
            session,
            TASK,
            [
                (mail, one, {"Id": one.adds_to, "TaskWhoIds": _with(one.who, task)})
                for (mail, one), task in zip(some, there, strict=True)
            ],
        )


def _with(who: Sequence[str], task: Record | None) -> list[str]:
    """These people besides those whom the task has."""
    there = [] if task is None else [*(task.get("TaskWhoIds") or ()), *filter(None, [task["WhoId"]])]
    return list({id_key(one): one for one in (*there, *who)}.values())


def _relate(session: MailSession, wanted: Sequence[tuple[WaitingMail, Target]]) -> None:
    """A relation for each person, once: who is related already is asked for first, so that a try that is
    repeated adds nobody twice."""
    try:
        there = _related(session, [str(target.adds_to) for _, target in wanted])
    except Refused as refused:
        if refused.trouble.kind in PASSES:
            raise
        # who may not see who is related must not add anybody a second time
        for mail, target in wanted:
            _take_in(mail, target, Written(None, refused.trouble))
        return
    new: list[tuple[WaitingMail, Target, str]] = []
    for mail, target in wanted:
        lacking = [one for one in target.who if (id_key(str(target.adds_to)), id_key(one)) not in there]
        new += [(mail, target, one) for one in lacking]
    refused_for: dict[tuple[str, Target], list[tuple[str, Written]]] = {}
    for some_new in batches(new, MOST_RECORDS):
        records = [
            {
                "EmailMessageId": target.adds_to,
                "RelationId": one,
                "RelationType": _RELATIONS[mail.log.trace.record_places.get(one, Where.TO)],
            }
            for mail, target, one in some_new
        ]
        create = partial(session.client.create, "EmailMessageRelation", records)
        for (mail, target, who), answer in zip(some_new, answered(create, len(records)), strict=True):
            if not _is_there(answer):
                refused_for.setdefault((mail.id, target), []).append((who, answer))
    for mail, target in wanted:
        refused_ones = refused_for.get((mail.id, target), [])
        if passing := next((answer.trouble for _, answer in refused_ones if _passes(answer)), None):
            mail.trouble = mail.trouble or passing  # tried again, and then only for those who are missing
            continue
        left_out = {one for one, _ in refused_ones}
        if left_out:
            _name(mail, left_out)
        added = tuple(one for one in target.who if one not in left_out)
        mail.put(target, replace(target, who=added, id=target.adds_to))


def _related(session: MailSession, messages: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Message and person or other record, by the keys of their ids. Raises Unavailable, Refused."""
    found: set[tuple[str, str]] = set()
    for some in in_batches(messages, MOST_RECORDS):
        for one in session.client.query(
            "SELECT EmailMessageId, RelationId FROM EmailMessageRelation WHERE EmailMessageId IN {}", some
        ):
            if one["RelationId"] is not None:
                found.add((id_key(str(one["EmailMessageId"])), id_key(str(one["RelationId"]))))
    return frozenset(found)


def _change(
    session: MailSession, kind: str, changes: Sequence[tuple[WaitingMail, Target, dict[str, object]]]
) -> None:
    """Records that are there, each by what one mail brings to it. Raises Unavailable, Refused."""
    for some in batches(changes, MOST_RECORDS):
        update = partial(session.client.update, kind, [change for _, _, change in some])
        for (mail, target, _), answer in zip(some, answered(update, len(some)), strict=True):
            _take_in(mail, target, answer)


def answered(call: Callable[[], list[Written]], number: int) -> list[Written]:
    """What became of each record; a call that is refused as a whole is refused for each. Raises Unavailable,
    Refused where it can pass."""
    try:
        return call()
    except Refused as refused:
        if refused.trouble.kind in PASSES:
            raise
        return [Written(None, refused.trouble)] * number


def _is_there(answer: Written) -> bool:
    return answer.id is not None or (answer.trouble is not None and answer.trouble.code == "DUPLICATE_VALUE")


def _passes(answer: Written) -> bool:
    """Whether it was refused for a reason that passes, such as a lock on the record."""
    return answer.trouble is not None and answer.trouble.kind in PASSES


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

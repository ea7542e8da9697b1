"""The records of a batch, written once each; writes whose end is not known are looked for first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from core.database.engine import Session
from core.mail import queue as mail_queue
from core.mail.progress import TASK, Target
from core.salesforce import late_commits
from core.salesforce.client import MOST_RECORDS
from core.salesforce.troubles import trouble
from sync.mail.fields import Author, fields
from sync.mail.outcomes import Outcomes, pause
from sync.mail.uncertain import Sought, look_for
from sync.mail.waiting import MailSession, WaitingMail
from sync.once import Judged, Verdict, judged, write_once

MOST_CHARACTERS = 1_000_000
"""Of the texts of one call, so that large mails need no more memory than small ones."""
_MOST_CUTS = 4
_STALE = frozenset({"ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY", "CANNOT_UPDATE_CONVERTED_LEAD"})
_SCHEMA = frozenset(
    {
        "INVALID_FIELD",
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        "INVALID_TYPE",
        "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
    }
)


@dataclass
class _NewRecord:
    """One record to be written. `was_tried`: an earlier write of it has an end that is not known."""

    mail: WaitingMail
    target: Target
    fields: Mapping[str, object]
    was_tried: bool

    def __post_init__(self) -> None:
        self.size = sum(len(value) for value in self.fields.values() if isinstance(value, str))

    def put(self, target: Target) -> None:
        """It has come on, and so has its mail."""
        self.mail.put(self.target, target)
        self.target = target


def doubt_after_a_restore(session: MailSession, mails: Sequence[WaitingMail]) -> None:
    """The database was restored from a backup: what it thinks is missing of an older mail may have been
    written since the backup, and is looked for like a write whose answer was lost."""
    restored_at = session.sender.restored_at
    for mail in mails:
        if restored_at is None or mail.job.row.time >= restored_at:
            continue
        for target in mail.log.missing:
            mail.put(target, replace(target, is_tried=True, is_sought=True))
        shows_by = restored_at + late_commits.UNTIL_A_WRITE_SHOWS
        mail.log = replace(mail.log, not_before=max(shows_by, mail.log.not_before or shows_by))


def look_for_uncertain(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """Writes that were begun and whose end is not known: what is found is written; what is not found is
    written once it would have shown by now, and waits until then.

    Where the organisation itself refuses a second record, it need not be looked for. Raises Unavailable,
    Refused."""
    uncertain = [
        (mail, target)
        for mail in mails
        for target in mail.log.uncertain
        if target.is_sought
        or mail.needs_match
        or not session.features(needs_task=target.kind == TASK).has_key(target.kind)
    ]
    if not uncertain:
        return
    restored_at = session.sender.restored_at
    sought = [
        Sought(
            mail.job.row,
            target,
            None if restored_at is not None and mail.job.row.time < restored_at else mail.log.not_before,
        )
        for mail, target in uncertain
    ]
    found = look_for(session.client, session.salesforce.user_id, sought)
    for (mail, target), record_id in zip(uncertain, found, strict=True):
        not_before = mail.log.not_before
        if record_id is not None:
            mail.put(target, replace(target, id=record_id))
        elif not_before is None or datetime.now(UTC) >= not_before:
            mail.put(target, replace(target, is_tried=False, is_sought=False))
        elif outcomes.is_open(mail):
            outcomes.wait(mail, min(not_before, datetime.now(UTC) + pause(mail)))


def write(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """What is missing, as many records of one kind in a call as may be. Raises Unavailable, Refused,
    DatabaseUnavailable."""
    zone = ZoneInfo(session.sender.time_zone) if session.sender.time_zone else None
    calls: dict[str, list[_NewRecord]] = {}
    for mail, content in session.contents(mails):
        author = Author(session.salesforce.user_id, mail.job.row.time.astimezone(zone).date().isoformat())
        for target in mail.log.missing:
            features = session.features(needs_task=target.kind == TASK)
            made = fields(
                mail.job.row,
                content,
                target,
                session.sender.rules,
                features,
                author,
                mail.log.trace.record_places,
            )
            waiting = calls.setdefault(target.kind, [])
            if len(waiting) == MOST_RECORDS or sum(one.size for one in waiting) > MOST_CHARACTERS:
                _write_call(session, outcomes, waiting)
                waiting.clear()
            waiting.append(_NewRecord(mail, target, made, target.is_tried))
    for waiting in calls.values():
        if waiting:
            _write_call(session, outcomes, waiting)


def _write_call(session: MailSession, outcomes: Outcomes, records: Sequence[_NewRecord]) -> None:
    """Records of one kind, in one call: noted as tried, written, and each answer is taken in."""
    kind = records[0].target.kind
    has_key = session.features(needs_task=kind == TASK).has_key(kind)
    for record in records:
        record.put(replace(record.target, is_tried=True))

    def note(in_database: Session, not_before: datetime) -> list[_NewRecord]:
        for record in records:
            record.mail.log = replace(record.mail.log, not_before=not_before)
        mails = {record.mail.id: record.mail for record in records}
        ours = mail_queue.intend(in_database, [(mail.job, mail.log) for mail in mails.values()])
        return [record for record in records if record.mail.id in ours]

    def take_back(begun: list[_NewRecord]) -> None:
        for record in begun:
            record.put(replace(record.target, is_tried=record.was_tried))

    with write_once(session.database, note, take_back) as begun:
        left = {record.mail.id for record in begun}
        for record in records:
            if record.mail.id not in left:  # the worker that has it by now knows nothing of this call
                outcomes.drop(record.mail)
        answers = session.client.create(kind, [record.fields for record in begun])
    for record, answer in zip(begun, answers, strict=True):
        _take_in(session, record, judged(answer, has_key=has_key, was_tried=record.was_tried))


def _take_in(session: MailSession, record: _NewRecord, answer: Judged) -> None:
    """What became of one record. A refusal is mended where we can; the rest is the mail's trouble."""
    mail, target = record.mail, record.target
    if answer.verdict is Verdict.WRITTEN:
        record.put(replace(target, id=answer.id))
        return
    if answer.verdict is Verdict.ALREADY_THERE:
        record.put(replace(target, id=answer.id or "there"))
        return
    if answer.verdict is Verdict.UNCERTAIN:
        record.put(replace(target, is_sought=True))
        mail.trouble = mail.trouble or trouble("SERVER_UNAVAILABLE")
        return
    code = "" if answer.trouble is None else answer.trouble.code
    untried = replace(target, is_tried=False)
    if code == "STRING_TOO_LONG" and target.cuts < _MOST_CUTS:
        record.put(replace(untried, cuts=target.cuts + 1))
    elif code in _SCHEMA and not target.is_asked_anew:
        record.put(replace(untried, is_asked_anew=True))
        session.ask_for_features_again()
    elif code in _STALE and not mail.log.was_rematched:
        # a record is gone since it was found: the recipients are looked up once more, for what is not written
        # yet
        record.put(untried)
        session.directory.forget(mail.log.trace.places or {})
        mail.log = replace(mail.log, was_rematched=True, picked=(), needs_match=True)
    else:
        record.put(untried)
        mail.trouble = mail.trouble or answer.trouble

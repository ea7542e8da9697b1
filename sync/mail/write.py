"""The records of a batch, written once each; writes whose end is not known are looked for first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from core.database.engine import Session
from core.mail import queue as mail_queue
from core.mail.progress import EMAIL_MESSAGE, ID_NOT_TOLD, TASK, Target
from core.mail.row import State
from core.salesforce import late_commits
from core.salesforce.client import MOST_RECORDS
from core.salesforce.troubles import trouble
from sync.mail.fields import Author, Draft, Made, fields
from sync.mail.outcomes import Outcomes, pause
from sync.mail.uncertain import Sought, look_for
from sync.mail.waiting import MailSession, WaitingMail
from sync.once import WROTE_NOTHING, Judged, Verdict, judged, noted

MOST_BYTES = 1_000_000
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
    """One record to be written. `before`: its target as it was before this try."""

    mail: WaitingMail
    target: Target
    made: Made
    before: Target

    @property
    def fields(self) -> Mapping[str, object]:
        return self.made.values

    def put(self, target: Target) -> None:
        """Replace the target by its new state, here and in its mail."""
        self.mail.put(self.target, target)
        self.target = target


def look_for_written(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """Look for records that may be there: those whose write was begun and whose end is not known, and, where
    the database was restored from a backup, those of older mails that were written since the backup.

    A record that is found counts as written. One that is not found is written again, but not before its first
    write would have become visible; until then its mail waits. Where the organisation itself refuses a second
    record, it need not be looked for. Raises Unavailable, Refused."""
    restored_at = session.sender.restored_at
    sought: list[tuple[WaitingMail, Sought]] = []
    for mail in mails:
        # What was written between the backup and the restore stands in Salesforce and not here.
        is_doubted = session.is_doubted(mail)
        if restored_at is not None and is_doubted:
            for target in mail.log.missing:
                mail.put(target, replace(target, is_tried=True, is_sought=True))
            shows_by = restored_at + late_commits.UNTIL_A_WRITE_SHOWS
            mail.log = replace(mail.log, not_before=max(shows_by, mail.log.not_before or shows_by))
        for target in mail.log.uncertain:
            has_key = session.features(needs_task=target.kind == TASK).has_key(target.kind)
            if target.is_sought or mail.is_to_match or not has_key:
                not_before = None if is_doubted else mail.log.not_before
                sought.append((mail, Sought(mail.job.row, target, not_before)))
    if not sought:
        return
    found = look_for(session.client, session.salesforce.user_id, [one for _, one in sought])
    waiting: dict[str, tuple[WaitingMail, datetime]] = {}
    for (mail, one), record_id in zip(sought, found, strict=True):
        not_before = mail.log.not_before
        if record_id is not None:
            # an e-mail message has had its files from the beginning
            has_files = one.target.has_files or one.target.kind == EMAIL_MESSAGE
            mail.put(one.target, replace(one.target, id=record_id, has_files=has_files))
        elif not_before is None or datetime.now(UTC) >= not_before:
            mail.put(one.target, replace(one.target, is_tried=False, is_sought=False, has_files=False))
        else:
            waiting[mail.id] = (mail, not_before)
    for mail, not_before in waiting.values():
        outcomes.wait(mail, min(not_before, datetime.now(UTC) + pause(mail)))


def write(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """What is missing, as many records of one kind in a call as may be. Raises Unavailable, Refused,
    DatabaseUnavailable."""
    calls: dict[str, list[_NewRecord]] = {}
    for mail, content in session.contents(mails):
        if content.is_unreadable:
            outcomes.end(mail, State.FAILED, trouble("lost_text"))
            continue
        author = Author(
            session.salesforce.user_id,
            mail.job.row.time.astimezone(session.sender.time_zone).date().isoformat(),
        )
        for target in mail.log.missing:
            if target.adds_to is not None:
                continue
            features = session.features(needs_task=target.kind == TASK)
            made = fields(
                Draft(
                    mail.job.row,
                    content,
                    target,
                    session.sender.rules,
                    features,
                    author,
                    mail.log.trace,
                    mail.log.files or (),
                )
            )
            if made.cut:
                cut = tuple(sorted({*mail.log.trace.cut, *made.cut}))
                mail.log = replace(mail.log, trace=replace(mail.log.trace, cut=cut))
            # A collection holds records of one kind only, and 200 of them (REST guide, "Create Multiple
            # Records").
            waiting = calls.setdefault(target.kind, [])
            if len(waiting) == MOST_RECORDS or sum(one.made.bytes for one in waiting) > MOST_BYTES:
                _write_call(session, outcomes, waiting)
                waiting.clear()
            waiting.append(_NewRecord(mail, target, made, before=target))
    for waiting in calls.values():
        if waiting:
            _write_call(session, outcomes, waiting)


def _write_call(session: MailSession, outcomes: Outcomes, records: Sequence[_NewRecord]) -> None:
    """Records of one kind, in one call: noted as tried, written, and each answer is taken in."""
    kind = records[0].target.kind
    has_key = session.features(needs_task=kind == TASK).has_key(kind)
    for record in records:
        # one that is written without a key is looked for before it is repeated, even if there is a key by
        # then
        is_sought = record.before.is_sought or not has_key
        has_files = "ContentDocumentIds" in record.fields
        record.put(replace(record.before, is_tried=True, is_sought=is_sought, has_files=has_files))
    mails = {record.mail.id: record.mail for record in records}

    def note(in_database: Session, not_before: datetime) -> list[_NewRecord]:
        for mail in mails.values():
            mail.log = replace(mail.log, not_before=not_before)
        ours = mail_queue.intend(in_database, [(mail.job, mail.log) for mail in mails.values()])
        return [record for record in records if record.mail.id in ours]

    begun = noted(session.database, note)
    for mail_id in mails.keys() - {record.mail.id for record in begun}:
        outcomes.drop(mails[mail_id])  # the worker that has it by now knows nothing of this call
    try:
        answers = session.client.create(kind, [record.fields for record in begun])
    except WROTE_NOTHING:
        for record in begun:
            record.put(record.before)
        raise
    for record, answer in zip(begun, answers, strict=True):
        if answer.id is not None:
            outcomes.written.records += 1
            outcomes.written.bytes += record.made.bytes
            outcomes.written.whole += record.made.bytes + record.made.left_out
        _take_in(session, record, judged(answer, has_key=has_key, was_tried=record.before.is_tried))


def _take_in(session: MailSession, record: _NewRecord, answer: Judged) -> None:
    """What became of one record. A refusal is mended where we can; the rest is the mail's trouble."""
    mail, target = record.mail, record.target
    if answer.verdict is Verdict.WRITTEN:
        record.put(replace(target, id=answer.id))
        return
    if answer.verdict is Verdict.ALREADY_THERE:
        record.put(replace(target, id=answer.id or ID_NOT_TOLD))
        return
    if answer.verdict is Verdict.UNCERTAIN:
        record.put(replace(target, is_sought=True))
        mail.trouble = mail.trouble or trouble("SERVER_UNAVAILABLE")
        return
    code = "" if answer.trouble is None else answer.trouble.code
    # An answer to the record itself is certain: this write has made nothing.
    untried = replace(target, is_tried=False, is_sought=False, has_files=False)
    if code == "STRING_TOO_LONG" and target.cuts < _MOST_CUTS:
        record.put(replace(untried, cuts=target.cuts + 1))
    elif code in _SCHEMA and not target.is_asked_anew:
        record.put(replace(untried, is_asked_anew=True))
        session.ask_for_features_again()
    elif code in _STALE and target.has_files and not target.is_asked_anew:
        # a file can have been deleted before the record was there
        record.put(replace(untried, is_asked_anew=True))
        mail.log = replace(mail.log, files=tuple(replace(one, document=None) for one in mail.log.files or ()))
    elif code in _STALE and not mail.log.was_rematched:
        # a record is gone since it was found: the recipients are looked up once more, for what is not written
        # yet
        record.put(untried)
        session.directory.forget(mail.log.trace.places or {})
        mail.log = replace(mail.log, was_rematched=True, picked=(), needs_match=True)
    else:
        record.put(untried)
        mail.trouble = mail.trouble or answer.trouble

"""The files of mails, brought to Salesforce once each, before the records that they are attached to.

A file is a ContentVersion; its document is named when the e-mail message is created (ContentDocumentIds,
which a message that is client-managed may have), or linked to the task (ContentDocumentLink). What is noted
and looked for is as with records (sync/once.py); a file is found again by its path, which holds a key of
ours."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import PurePosixPath

from core.batches import batches
from core.database.engine import Session
from core.mail import queue as mail_queue
from core.mail import texts as mail_texts
from core.mail.kept import Left
from core.mail.progress import FileState, MailFile, Target
from core.mail.row import Row
from core.mail.texts import FileLost
from core.salesforce.client import MOST_RECORDS
from core.salesforce.login import NeverSent, Refused
from core.salesforce.troubles import TroubleKind
from core.settings.catalogue import Attachments, Keep
from sync.mail.additions import PASSES, answered
from sync.mail.attached import Attachment, decoded
from sync.mail.content import Content
from sync.mail.lookup import in_batches
from sync.mail.outcomes import Outcomes, pause
from sync.mail.waiting import MailSession, WaitingMail
from sync.once import noted

_BEFORE = timedelta(minutes=5)
"""Our clock may be ahead of Salesforce's by so much."""
_MOST_TRIES = 12
"""Over half a day; a file that gets no answer each time is given up then, and the mail is logged with its
name."""
_NO_ANSWER = "NO_ANSWER"
_LONGEST_AGO = timedelta(days=30)
"""That another part of a mail, or a worker before a restore, can have written a file."""
_AT_ONCE = 50
_UNTIL_CALLS_ARE_LOOKED_AT = timedelta(minutes=1)
_LONGEST = timedelta(minutes=20)
"""More than lies between the beginning of a write and the time from which it may be repeated."""
_OF_THE_FILE = frozenset({"STORAGE_LIMIT_EXCEEDED", "EXCEEDED_QUOTA", "LIMIT_EXCEEDED"})
"""Refusals by which the organisation means files, though they stand for more where records are written."""
_STATES = {
    Left.FILE: FileState.FILE,
    Left.NOT_WANTED: FileState.NOT_WANTED,
    Left.TOO_LARGE: FileState.TOO_LARGE,
    Left.NO_ROOM: FileState.NO_ROOM,
    Left.PACKED: FileState.PACKED,
}


def bring(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """The files of mails whose records are to be written. A mail whose file cannot be written now, or may
    have been, is put off. Raises Unavailable, Refused, DatabaseUnavailable."""
    for mail, content in session.contents([mail for mail in mails if mail.log.files is None]):
        # It may be there: another part of the mail, a worker of the release before, or one before a
        # restore can have written it, and a look costs one call for a whole batch.
        files = tuple(replace(one, is_tried=one.is_to_write) for one in _files_of(content, session))
        mail.log = replace(mail.log, files=files)
    uncertain = [mail for mail in mails if _has(mail, "is_uncertain")]
    _or_without_files(uncertain, lambda: _look_for_written(session, outcomes, uncertain))
    for mail in mails:
        for file in mail.log.files or ():
            if file.is_to_write and file.version is None and outcomes.is_open(mail) and mail.trouble is None:
                # a batch with many files takes as many calls
                if session.salesforce.is_at_the_reserve:
                    outcomes.stand_back(mail, datetime.now(UTC) + _UNTIL_CALLS_ARE_LOOKED_AT)
                else:
                    _write(session, outcomes, mail, file)
    still_open = [mail for mail in mails if outcomes.is_open(mail)]
    _or_without_files(still_open, lambda: _ask_for_documents(session, still_open))


def _or_without_files(mails: Sequence[WaitingMail], ask: Callable[[], None]) -> None:
    """Where Salesforce refuses for good to tell of files at all, these mails are logged without theirs."""
    try:
        ask()
    except Refused as refused:
        if refused.trouble.kind is not TroubleKind.PERMANENT:
            raise
        for mail in mails:
            for file in mail.log.files or ():
                if file.is_to_write:
                    _put(mail, file, replace(file, state=FileState.REFUSED, code=refused.trouble.code))


def note_names(session: MailSession, mails: Sequence[WaitingMail]) -> None:
    """Note what is attached to mails whose text is about to be erased. Raises DatabaseUnavailable."""
    for mail, content in session.contents([mail for mail in mails if mail.log.files is None]):
        files = (
            replace(one, state=FileState.LOST, number=None) if one.is_to_write else one
            for one in _files_of(content, session)
        )
        mail.log = replace(mail.log, files=tuple(files))


def _files_of(content: Content, session: MailSession) -> tuple[MailFile, ...]:
    rules = session.sender.rules
    if rules.attachments is Attachments.NONE or rules.keep not in {Keep.TEXT, Keep.NEW_TEXT}:
        return ()
    is_wanted = rules.attachments is Attachments.FILES
    return tuple(_file_of(one, is_wanted=is_wanted) for one in content.attachments)


def _file_of(one: Attachment, *, is_wanted: bool) -> MailFile:
    state = _STATES.get(one.left, FileState.NOT_WANTED) if is_wanted else FileState.NOT_WANTED
    return MailFile(one.name, one.size, state, one.file if state is FileState.FILE else None)


def _has(mail: WaitingMail, what: str) -> bool:
    return any(getattr(file, what) for file in mail.log.files or ())


def _put(mail: WaitingMail, old: MailFile, new: MailFile) -> None:
    files = tuple(new if one is old else one for one in mail.log.files or ())
    mail.log = replace(mail.log, files=files)


# -- one file


def _write(session: MailSession, outcomes: Outcomes, mail: WaitingMail, file: MailFile) -> None:
    """One file in one call: noted as tried, written, and the answer taken in."""
    row = mail.job.row
    if file.tries >= _MOST_TRIES:
        _put(mail, file, replace(file, state=FileState.REFUSED, code=_NO_ANSWER))
        return
    try:
        data = _read(session, mail, file)
    except FileLost:
        _put(mail, file, replace(file, state=FileState.LOST))
        return
    values = {"Title": file.name, "PathOnClient": _path(row, file), "VersionData": data}
    tried = replace(file, is_tried=True, tries=file.tries + 1)
    _put(mail, file, tried)

    def note(in_database: Session, not_before: datetime) -> list[WaitingMail]:
        mail.log = replace(mail.log, not_before=not_before)
        ours = mail_queue.intend(in_database, [(mail.job, mail.log)])
        return [mail] if mail.id in ours else []

    if not noted(session.database, note):
        outcomes.drop(mail)  # the worker that has it by now knows nothing of this call
        return
    try:
        version = session.client.create_one("ContentVersion", values)
    except NeverSent:
        _put(mail, tried, file)
        raise
    except Refused as refused:
        met = refused.trouble
        if met.kind is TroubleKind.PERMANENT or met.code in _OF_THE_FILE:
            _put(mail, tried, replace(file, state=FileState.REFUSED, code=met.code))
            return
        if met.kind is not TroubleKind.TRANSIENT:
            _put(mail, tried, file)
            raise
        _put(mail, tried, replace(file, tries=tried.tries))
        mail.trouble = mail.trouble or met  # of this file, whatever becomes of the others
        return
    outcomes.written.file_bytes += len(data) * 3 // 4
    _put(mail, tried, replace(tried, version=version))


def _read(session: MailSession, mail: WaitingMail, file: MailFile) -> str:
    """The file in base64, as the API takes it. Raises FileLost."""
    [(_, content)] = session.contents([mail])
    kept = next((one for one in content.attachments if one.file == file.number), None)
    if kept is None or kept.file is None:
        raise FileLost
    with session.database.reading() as in_database:
        pieces = mail_texts.file(in_database, mail.id, kept.file, kept.pieces)
        data = b"".join(decoded(pieces, kept.encoding))
    return base64.b64encode(data).decode("ascii")


def _path(row: Row, file: MailFile) -> str:
    """By which it is found again; the end says what kind of file it is."""
    identity = row.id if row.identity is None else row.identity.hex()
    key = hashlib.sha256(f"{identity}:file:{file.number}".encode()).hexdigest()[:40]
    return str(PurePosixPath("blindcopy") / key / file.name)


# -- those that may be there


def _look_for_written(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """Files whose write was begun and whose end is not known. Raises Unavailable, Refused."""
    if not mails:
        return
    there: dict[str, str] = {}
    titles = sorted({file.name for mail in mails for file in mail.log.files or () if file.is_uncertain})
    for some in in_batches(titles, _AT_ONCE):
        for one in session.client.query(
            "SELECT Id, PathOnClient FROM ContentVersion WHERE OwnerId = {} AND CreatedDate >= {} AND "
            "Title IN {}",
            session.salesforce.user_id,
            min(_begun(mail) for mail in mails) - _BEFORE,
            some,
        ):
            there[str(one["PathOnClient"])] = str(one["Id"])
    now = datetime.now(UTC)
    for mail in mails:
        not_before = mail.log.not_before
        for file in mail.log.files or ():
            if not file.is_uncertain:
                continue
            version = there.get(_path(mail.job.row, file))
            if version is not None:
                _put(mail, file, replace(file, version=version))
            elif not_before is None or now >= not_before:
                _put(mail, file, replace(file, is_tried=False))
        if not_before is not None and _has(mail, "is_uncertain"):
            outcomes.wait(mail, min(not_before, now + pause(mail)))


def _begun(mail: WaitingMail) -> datetime:
    """When its files can have been written at the earliest."""
    is_first_look = not any(file.tries for file in mail.log.files or ())
    if is_first_look or mail.log.not_before is None:
        return mail.job.row.time - _LONGEST_AGO
    return mail.log.not_before - _LONGEST


def _ask_for_documents(session: MailSession, mails: Sequence[WaitingMail]) -> None:
    """A version's document has its id only once it is there. Raises Unavailable, Refused."""
    asked = [
        (mail, file)
        for mail in mails
        for file in mail.log.files or ()
        if file.version is not None and file.document is None
    ]
    documents: dict[str, str] = {}
    for some in in_batches([str(file.version) for _, file in asked], MOST_RECORDS):
        for one in session.client.query(
            "SELECT Id, ContentDocumentId FROM ContentVersion WHERE Id IN {}", some
        ):
            documents[str(one["Id"])] = str(one["ContentDocumentId"])
    for mail, file in asked:
        document = documents.get(str(file.version))
        # one that somebody has deleted meanwhile is not written again
        _put(
            mail,
            file,
            replace(file, document=document)
            if document is not None
            else replace(file, state=FileState.REFUSED, code="ENTITY_IS_DELETED"),
        )


# -- records that cannot name their files when they are created


def link(session: MailSession, mails: Sequence[WaitingMail]) -> None:
    """Attach the files to the records that are there. What is linked already is refused as a duplicate, so
    this may be done twice. Raises Unavailable, Refused."""
    wanted = [
        (mail, target, file)
        for mail in mails
        for target in mail.log.without_files
        for file in mail.log.files or ()
        if file.document is not None
    ]
    refused: dict[tuple[str, Target], str] = {}
    passing: set[tuple[str, Target]] = set()
    for some in batches(wanted, MOST_RECORDS):
        links = [
            {"ContentDocumentId": file.document, "LinkedEntityId": target.id, "ShareType": "V"}
            for _, target, file in some
        ]
        create = partial(session.client.create, "ContentDocumentLink", links)
        for (mail, target, _), answer in zip(some, answered(create, len(links)), strict=True):
            met = answer.trouble
            if met is None or met.code == "DUPLICATE_VALUE":
                continue
            if met.kind in PASSES:
                mail.trouble = mail.trouble or met
                passing.add((mail.id, target))
            else:
                refused[mail.id, target] = met.code
    for mail in mails:
        for target in mail.log.without_files:
            if (mail.id, target) in passing:
                continue
            if code := refused.get((mail.id, target)):
                files = [
                    replace(one, state=FileState.REFUSED, code=code) if one.document is not None else one
                    for one in mail.log.files or ()
                ]
                mail.log = replace(mail.log, files=tuple(files))
            mail.put(target, replace(target, has_files=True))

"""A mail and the records that it is logged on -> the targets to write, and the fields of each.

A task stands on one lead or on contacts, never on both, and on one other record; with a lead on none (object
reference, Task; facts: TaskRelation). The same shape is kept for e-mail messages, whose own task follows
these rules.

Pure: values in, values out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from core.batches import batches
from core.cuts import ELLIPSIS, cut, length
from core.mail.progress import (
    EMAIL_MESSAGE,
    ID_NOT_TOLD,
    TASK,
    FileState,
    MailFile,
    Target,
    Trace,
    Where,
)
from core.mail.row import Row
from core.mail.subject import task_subject
from core.salesforce.schema import KEY_FIELD
from core.settings.catalogue import Keep, RecordType
from core.settings.in_force import Rules
from sync.mail.attached import readable_size
from sync.mail.choose import Choice
from sync.mail.content import Content, clean
from sync.mail.new_text import new_text

MOST_CONTACTS = 50
"""On one record (object reference, TaskRelation)."""
_SENT = "3"
_NOT_KEPT_FURTHER = "…\n\n[The mail goes on; no more of it was kept]"
_CUT_HERE = "…\n\n[Cut here: Salesforce takes no more]"
_MOST_OF_ADDRESSES = 4_000
"""In each of ToAddress, CcAddress and BccAddress (facts: EmailMessage, sizes)."""
_MOST_IN_COMMENTS = 1_000
_MARGIN = 0.98
_WITH_TEXT = frozenset({Keep.TEXT, Keep.NEW_TEXT})
_MOST_FILES_NAMED = 20
_NOT_THERE = {
    FileState.TOO_LARGE: "only named: too large",
    FileState.NO_ROOM: "only named: there was no room to keep it",
    FileState.LOST: "only named: it could not be kept",
}
_REFUSED_BECAUSE = {
    "FILE_EXTENSION_NOT_ALLOWED": "only named: the organisation takes no files of this type",
    "HTML_FILE_UPLOAD_NOT_ALLOWED": "only named: the organisation takes no HTML files",
    "STORAGE_LIMIT_EXCEEDED": "only named: the organisation's file storage is full",
    "EXCEEDED_QUOTA": "only named: the organisation's file storage is full",
    "NO_ANSWER": "only named: Salesforce gave no answer to it",
}
NOT_KEPT, NO_SUBJECT = "(not kept)", "(no subject)"


@dataclass(frozen=True)
class Features:
    """What an organisation has, and what of it the user may write: field -> how many characters it takes (0:
    no text)."""

    has_email_messages: bool
    task_fields: Mapping[str, int]
    email_fields: Mapping[str, int]
    task_types: frozenset[str] = frozenset()
    task_subtypes: frozenset[str] = frozenset()
    closed_status: str | None = None
    has_task_key: bool = False
    has_email_key: bool = False

    @property
    def shares_activities(self) -> bool:
        return "TaskWhoIds" in self.task_fields

    def has_key(self, kind: str) -> bool:
        """Whether a record of this kind is never written twice."""
        return self.has_email_key if kind == EMAIL_MESSAGE else self.has_task_key

    def kind(self, wanted: RecordType) -> str:
        """As what mails are logged."""
        return EMAIL_MESSAGE if wanted is not RecordType.TASK and self.has_email_messages else TASK


@dataclass(frozen=True)
class Author:
    """The Salesforce user who sent the mail, and the day by that person's clock."""

    user_id: str
    day: str


def targets(choice: Choice, kind: str, *, shares_activities: bool) -> tuple[Target, ...]:
    """The records to write, so that the mail stands on each chosen one exactly once."""
    at_once = MOST_CONTACTS if kind == EMAIL_MESSAGE or shares_activities else 1
    ids = [contact.id for contact in choice.contacts]
    groups = list(batches(ids, at_once))
    what_of: list[str | None] = [None] * len(groups)
    alone = []
    for related in choice.related:
        free = [
            number
            for number, group in enumerate(groups)
            if what_of[number] is None and related.contact in group
        ]
        if free:
            what_of[free[0]] = related.id
        else:
            alone.append(related.id)
    return (
        *(Target(kind, tuple(group), what) for group, what in zip(groups, what_of, strict=True)),
        *(Target(kind, (), what) for what in alone),
        *(Target(kind, (lead.id,), None) for lead in choice.leads),
    )


def added_where_possible(
    made: Sequence[Target], written: Sequence[Target], *, shares_activities: bool, is_ours: bool
) -> tuple[Target, ...]:
    """The same, but contacts, and what the mail is about, join the record that another part of the mail has
    written: an e-mail message takes any number of contacts and one other record, a task up to fifty contacts
    where the organisation shares activities. Leads stand on records of their own, as always; on a record that
    is not ours they stand too, as there must not be a second one."""
    result = []
    main = next(
        (
            one
            for one in written
            if one.adds_to is None and one.id != ID_NOT_TOLD and not (is_ours and one.is_of_a_lead)
        ),
        None,
    )
    has_room = main is not None and main.kind == EMAIL_MESSAGE and all(one.what is None for one in written)
    people_there = 0 if main is None else sum(len(one.who) for one in written if one.id == main.id)
    for target in made:
        takes_people = target.kind == EMAIL_MESSAGE or (
            shares_activities and people_there + len(target.who) <= MOST_CONTACTS
        )
        stands_alone = target.is_of_a_lead and is_ours
        if main is None or target.kind != main.kind or stands_alone or not takes_people:
            result.append(target)
            continue
        people_there += len(target.who)
        if target.who:
            result.append(Target(target.kind, target.who, None, adds_to=main.id))
        if target.what is not None:
            result.append(Target(target.kind, (), target.what, adds_to=main.id if has_room else None))
            has_room = False
    return tuple(result)


@dataclass(frozen=True)
class Made:
    """The fields of one record; `cut`: what did not fit: `subject`, `text`, `recipients`; and what the rules
    leave out of the text: `earlier`, `signature`. `left_out`: bytes of that."""

    values: Mapping[str, Any]
    cut: frozenset[str]
    left_out: int = 0

    @property
    def bytes(self) -> int:
        """Of its texts, in UTF-8."""
        return sum(len(value.encode()) for value in self.values.values() if isinstance(value, str))


@dataclass(frozen=True)
class Draft:
    """All that a record is made of. `trace`: where the addresses stand."""

    row: Row
    content: Content
    target: Target
    rules: Rules
    features: Features
    author: Author
    trace: Trace
    files: tuple[MailFile, ...] = ()


def fields(draft: Draft) -> Made:
    """The fields of one record."""
    target, features = draft.target, draft.features
    make = _email_message if target.kind == EMAIL_MESSAGE else _task
    known = features.email_fields if target.kind == EMAIL_MESSAGE else features.task_fields
    fitting = _Fitting(known, target.cuts)
    made = make(draft, fitting)
    if features.has_key(target.kind):
        row = draft.row
        made[KEY_FIELD] = target.key(row.id if row.identity is None else row.identity.hex())
    values = {name: value for name, value in made.items() if name in known and value is not None}
    return Made(values, frozenset(fitting.cut), _left_out(draft))


class _Fitting:
    """Texts in the room that their fields have. Salesforce counts units of UTF-16; where it has refused a
    record as too long, bytes, and less of them with each try."""

    def __init__(self, lengths: Mapping[str, int], cuts: int) -> None:
        self._lengths = lengths
        self._in_bytes = cuts > 0
        self._halved = max(0, cuts - 1)
        self.cut: set[str] = set()

    def room(self, field: str) -> int:
        length = self._lengths.get(field, 0)
        return int(length * _MARGIN) >> self._halved if self._in_bytes and length > 255 else length

    def has_room(self, field: str, text: str) -> bool:
        return length(text, in_bytes=self._in_bytes) <= self.room(field)

    def text(self, field: str, text: str | None, *, below: str = "", goes_on: bool = False) -> str | None:
        """A text, and below it what must be whole. `goes_on`: no more of it was kept."""
        if goes_on:
            self.cut.add("text")
            text = f"{text or ''}{_NOT_KEPT_FURTHER}".strip()
        if text is None and not below:
            return None
        tail = f"\n\n{below}" if below and text else below
        room = self.room(field) - length(tail, in_bytes=self._in_bytes)
        return self._cut("text", text or "", room, end=_CUT_HERE) + tail

    def line(self, field: str, text: str, what: str = "subject") -> str:
        return self._cut(what, text, self.room(field), end=ELLIPSIS)

    def addresses(self, addresses: Sequence[str], room: int) -> str:
        """As many whole ones as there is room for, and how many more there are."""
        text = "; ".join(addresses)
        if length(text, in_bytes=self._in_bytes) <= room:
            return text
        self.cut.add("recipients")
        left, shown = room - len(" and 123456 more"), 0
        for address in addresses:
            left -= length(address, in_bytes=self._in_bytes) + len("; ")
            if left < 0:
                break
            shown += 1
        if shown == 0:
            return ""
        return f"{'; '.join(addresses[:shown])} and {len(addresses) - shown} more"

    def _cut(self, what: str, text: str, most: int, *, end: str) -> str:
        fitted = cut(text, most, end=end, in_bytes=self._in_bytes)
        if fitted != text:
            self.cut.add(what)
        return fitted


def identifier(row: Row) -> str:
    """By which the mail is found again: its Message-ID, or one made of our own id."""
    return (
        row.message_id
        if row.message_id and len(row.message_id.encode("utf-8", "replace")) <= 255
        else f"<{row.id}@blindcopy.invalid>"
    )


def last_line(row: Row) -> str:
    """The last line of a task's comments, by which it is found again."""
    return f"Message-ID: {identifier(row)}"


def _task(draft: Draft, fitting: _Fitting) -> dict[str, Any]:
    row, target, rules, features = draft.row, draft.target, draft.rules, draft.features
    subject = "" if rules.keep is Keep.ENVELOPE else clean(row.subject or "")
    is_for_nobody = not target.on
    subject = task_subject(rules.subject_template, subject) or task_subject("{{activity_type}}", "")
    return {
        "Subject": fitting.line("Subject", subject),
        "Description": fitting.text(
            "Description",
            _comments(draft, fitting),
            below="\n\n".join(filter(None, [_files(draft), last_line(row)])),
            goes_on=_goes_on(draft),
        ),
        "Status": None if is_for_nobody else features.closed_status,
        "ActivityDate": draft.author.day,
        "TaskSubtype": "Email" if "Email" in features.task_subtypes else None,
        "Type": "Email" if "Email" in features.task_types else None,
        "OwnerId": draft.author.user_id,
        "WhoId": target.who[0] if target.who else None,
        "TaskWhoIds": list(target.who) if len(target.who) > 1 else None,
        "WhatId": target.what,
    }


def _comments(draft: Draft, fitting: _Fitting) -> str:
    """To whom the mail went, and its text."""
    head = [
        f"{name}: {fitting.addresses(addresses, _MOST_IN_COMMENTS)}"
        for name, where in (("To", Where.TO), ("Cc", Where.CC), ("Bcc", Where.BCC))
        if (addresses := _addresses(draft.trace, where))
    ]
    return "\n\n".join(filter(None, ("\n".join(head), _text(draft, fitting))))


def _addresses(trace: Trace, where: Where, *, without: Collection[str] = ()) -> list[str]:
    return [
        one
        for one, place in trace.record_places.items()
        if "@" in one and place is where and one not in without
    ]


def _email_message(draft: Draft, fitting: _Fitting) -> dict[str, Any]:
    row, content, target, rules, trace = draft.row, draft.content, draft.target, draft.rules, draft.trace
    # An address beside the id of its person would relate that one twice.
    related = {trace.addresses[one] for one in target.who if one in trace.addresses}

    def ids(where: Where) -> list[str] | None:
        return [one for one in target.who if trace.record_places.get(one, Where.TO) is where] or None

    def others(field: str, where: Where) -> str | None:
        room = min(fitting.room(field), _MOST_OF_ADDRESSES)
        return fitting.addresses(_addresses(trace, where, without=related), room) or None

    html = _page(draft) if rules.keep is Keep.TEXT else None
    documents = [one.document for one in draft.files if one.document is not None]
    is_whole = html is not None and not target.cuts and fitting.has_room("HtmlBody", html)
    subject = NOT_KEPT if rules.keep is Keep.ENVELOPE else clean(row.subject or "") or NO_SUBJECT
    return {
        "Status": _SENT,
        "Incoming": False,
        "IsClientManaged": True,
        "MessageDate": iso(row.time),
        "Subject": fitting.line("Subject", subject),
        "TextBody": fitting.text(
            "TextBody", _text(draft, fitting), below=_files(draft), goes_on=_goes_on(draft)
        ),
        "HtmlBody": html if is_whole else None,
        "FromAddress": row.sender,
        "FromName": fitting.line("FromName", content.name, "sender") or None,
        "FromId": draft.author.user_id,
        "ToIds": ids(Where.TO),
        "CcIds": ids(Where.CC),
        "BccIds": ids(Where.BCC),
        "ToAddress": others("ToAddress", Where.TO),
        "CcAddress": others("CcAddress", Where.CC),
        "BccAddress": others("BccAddress", Where.BCC),
        "MessageIdentifier": identifier(row),
        "RelatedToId": target.what,
        "HasAttachment": True if draft.files else None,
        "ContentDocumentIds": documents or None,
    }


def iso(time: datetime) -> str:
    """A time as the REST API takes it, in whole seconds of UTC."""
    return f"{time:%Y-%m-%dT%H:%M:%S}.000Z"


def _goes_on(draft: Draft) -> bool:
    return draft.content.is_cut and draft.rules.keep in _WITH_TEXT


def _text(draft: Draft, fitting: _Fitting) -> str | None:
    content = draft.content
    if draft.rules.keep is Keep.TEXT:
        return "\n\n".join(filter(None, [content.text, content.forwarded])) or None
    if draft.rules.keep is not Keep.NEW_TEXT:
        return None
    new = new_text(content.text or "")
    fitting.cut |= new.left_out
    return "\n\n".join(filter(None, [new.text, content.forwarded])) or None


def _left_out(draft: Draft) -> int:
    """How many bytes more the whole text has."""
    content = draft.content
    if draft.rules.keep is not Keep.NEW_TEXT or content.text is None:
        return 0
    whole = len(content.text.encode()) + len((content.html or "").encode())
    return max(0, whole - len(new_text(content.text).text.encode()))


def _page(draft: Draft) -> str | None:
    files = _files(draft)
    if draft.content.html is None or not files:
        return draft.content.html
    return f"{draft.content.html}<p>{escape(files).replace(chr(10), '<br>')}</p>"


def _files(draft: Draft) -> str:
    """What was attached, a line for each."""
    some = draft.files[:_MOST_FILES_NAMED]
    lines = [_file(one) for one in some]
    if len(draft.files) > len(some):
        lines.append(f"and {len(draft.files) - len(some)} more")
    return "\n".join(["[Attachments]", *lines]) if lines else ""


def _file(file: MailFile) -> str:
    size = "" if file.size is None else readable_size(file.size)
    why = _NOT_THERE.get(file.state, "")
    if file.state is FileState.REFUSED:
        why = _REFUSED_BECAUSE.get(file.code, f"Salesforce does not take it: {file.code}")
    told = "; ".join(filter(None, [size, why]))
    return f"{file.name} ({told})" if told else file.name

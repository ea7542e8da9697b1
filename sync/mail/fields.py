"""A mail and the records that it is logged on -> the targets to write, and the fields of each.

A task stands on one lead or on contacts, never on both, and on one other record; with a lead on none (object
reference, Task; facts: TaskRelation). The same shape is kept for e-mail messages, whose own task follows
these rules.

Pure: values in, values out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from core.batches import batches
from core.mail.progress import EMAIL_MESSAGE, ID_NOT_TOLD, TASK, Target, Where
from core.mail.row import Row
from core.mail.subject import task_subject
from core.salesforce.schema import KEY_FIELD
from core.settings.catalogue import Keep, RecordType
from core.settings.in_force import Rules
from sync.mail.choose import Choice
from sync.mail.content import Content, clean, fitting

MOST_CONTACTS = 50
"""On one record (object reference, TaskRelation)."""
_SENT = "3"
_MARGIN = 0.98
_NOT_KEPT = "(not kept)"


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


def fields(
    row: Row,
    content: Content,
    target: Target,
    rules: Rules,
    features: Features,
    author: Author,
    places: Mapping[str, Where],
) -> dict[str, Any]:
    """The fields of one record; `places`: where the address of each id, and of each address without one,
    stands."""
    make = _email_message if target.kind == EMAIL_MESSAGE else _task
    made = make(row, content, target, rules, features, author, places)
    known = features.email_fields if target.kind == EMAIL_MESSAGE else features.task_fields
    if features.has_key(target.kind):
        made[KEY_FIELD] = target.key(row.id if row.identity is None else row.identity.hex())
    return {
        name: _cut(value, known[name], target.cuts)
        for name, value in made.items()
        if name in known and value is not None
    }


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


def _task(
    row: Row,
    content: Content,
    target: Target,
    rules: Rules,
    features: Features,
    author: Author,
    places: Mapping[str, Where],
) -> dict[str, Any]:
    subject = "" if rules.keep is Keep.ENVELOPE else clean(row.subject or "")
    line = last_line(row)
    room = int(features.task_fields.get("Description", 0) * _MARGIN) >> target.cuts
    text = fitting(_text(content, rules) or "", room - len(line.encode()) - 2)
    is_for_nobody = not target.on
    return {
        "Subject": task_subject(rules.subject_template, subject) or task_subject("{{activity_type}}", ""),
        "Description": f"{text}\n\n{line}" if text else line,
        "Status": None if is_for_nobody else features.closed_status,
        "ActivityDate": author.day,
        "TaskSubtype": "Email" if "Email" in features.task_subtypes else None,
        "Type": "Email" if "Email" in features.task_types else None,
        "OwnerId": author.user_id,
        "WhoId": target.who[0] if target.who else None,
        "TaskWhoIds": list(target.who) if len(target.who) > 1 else None,
        "WhatId": target.what,
    }


def _email_message(
    row: Row,
    content: Content,
    target: Target,
    rules: Rules,
    features: Features,
    author: Author,
    places: Mapping[str, Where],
) -> dict[str, Any]:
    def ids(where: Where) -> list[str] | None:
        return [one for one in target.who if places.get(one, Where.TO) is where] or None

    def others(where: Where) -> str | None:
        """As many whole addresses as fit; the three fields have room for the same."""
        text = ""
        for one, place in places.items():
            longer = f"{text}; {one}" if text else one
            is_other = "@" in one and place is where
            if is_other and len(longer.encode()) <= features.email_fields.get("ToAddress", 0) * _MARGIN:
                text = longer
        return text or None

    html = content.html if rules.keep is Keep.TEXT else None
    is_whole = (
        html is not None
        and len(html.encode("utf-8", "replace")) <= features.email_fields.get("HtmlBody", 0) * _MARGIN
    )
    return {
        "Status": _SENT,
        "Incoming": False,
        "IsClientManaged": True,
        "MessageDate": iso(row.time),
        "Subject": _NOT_KEPT if rules.keep is Keep.ENVELOPE else clean(row.subject or "") or "(no subject)",
        "TextBody": _text(content, rules),
        "HtmlBody": html if is_whole and not target.cuts else None,
        "FromAddress": row.sender,
        "FromName": content.name or None,
        "FromId": author.user_id,
        "ToIds": ids(Where.TO),
        "CcIds": ids(Where.CC),
        "BccIds": ids(Where.BCC),
        "ToAddress": others(Where.TO),
        "CcAddress": others(Where.CC),
        "BccAddress": others(Where.BCC),
        "MessageIdentifier": identifier(row),
        "RelatedToId": target.what,
    }


def iso(time: datetime) -> str:
    """A time as the REST API takes it, in whole seconds of UTC."""
    return f"{time:%Y-%m-%dT%H:%M:%S}.000Z"


def _text(content: Content, rules: Rules) -> str | None:
    return content.text if rules.keep is Keep.TEXT else None


def _cut(value: Any, length: int, cuts: int) -> Any:
    """A text in the room that its field has; what must be whole is short."""
    if not isinstance(value, str) or not length:
        return value
    return fitting(value, length if length <= 255 else int(length * _MARGIN) >> cuts)

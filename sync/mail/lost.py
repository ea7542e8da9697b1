"""Records whose write was begun and whose end nobody knows: looked for in Salesforce."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

from core.mail import Row
from core.mail_log import EMAIL_MESSAGE, Target
from core.salesforce.client import Client, Record
from sync.mail.activity import identifier, iso, last_line

_AT_ONCE = 50
_BEFORE = timedelta(minutes=5)
"""Our clock may be behind Salesforce's by so much."""

Sought = tuple[Row, Target]


def look_for(client: Client, user_id: str, sought: Sequence[Sought]) -> list[str | None]:
    """The id of each record that is there, None for one that is not. Raises Unavailable, Refused."""
    mails = [one for one in sought if one[1].kind == EMAIL_MESSAGE]
    tasks = [one for one in sought if one[1].kind != EMAIL_MESSAGE]
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    for some in _batches(mails):
        found |= _email_messages(client, some)
    if tasks:
        found |= _tasks(client, user_id, tasks)
    return [found.get((row.id, target.on)) for row, target in sought]


def _email_messages(client: Client, sought: Sequence[Sought]) -> dict[tuple[str, tuple[str, ...]], str]:
    """By message identifier and time, and by all whom it stands on."""
    identifiers = list(dict.fromkeys(identifier(row) for row, _ in sought))
    there = client.query(
        "SELECT Id, MessageIdentifier, MessageDate, RelatedToId FROM EmailMessage WHERE MessageIdentifier IN {}",
        identifiers,
    )
    if not there:
        return {}
    people: dict[str, set[str]] = {}
    for some in _slices([str(one["Id"]) for one in there]):
        for relation in client.query(
            "SELECT EmailMessageId, RelationId, RelationType FROM EmailMessageRelation WHERE EmailMessageId IN {}",
            some,
        ):
            if relation["RelationId"] is not None and relation["RelationType"] != "FromAddress":
                people.setdefault(str(relation["EmailMessageId"]), set()).add(
                    str(relation["RelationId"])[:15]
                )
    found = {}
    for row, target in sought:
        for one in there:
            on = people.get(str(one["Id"]), set()) | (
                {str(one["RelatedToId"])[:15]} if one["RelatedToId"] else set()
            )
            is_it = (
                one["MessageIdentifier"] == identifier(row)
                and str(one["MessageDate"])[:19] == iso(row.time)[:19]
                and on == {each[:15] for each in target.on}
            )
            if is_it:
                found[row.id, target.on] = str(one["Id"])
    return found


def _tasks(client: Client, user_id: str, sought: Sequence[Sought]) -> dict[tuple[str, tuple[str, ...]], str]:
    """By owner, subtype and time, and by the last line of the comments, which no query can ask for."""
    since = min(row.time for row, _ in sought) - _BEFORE
    there = client.query(
        "SELECT Id, WhoId, WhatId, Description FROM Task WHERE OwnerId = {} AND TaskSubtype = 'Email' AND CreatedDate >= {}",
        user_id, since,
    )  # fmt: skip
    by_line: dict[str, list[Record]] = {}
    for one in there:
        lines = str(one["Description"] or "").rstrip().rsplit("\n", 1)
        by_line.setdefault(lines[-1].strip(), []).append(one)
    found = {}
    for row, target in sought:
        for one in by_line.get(last_line(row), ()):
            who = {str(one["WhoId"])[:15]} if one["WhoId"] else set()
            what = str(one["WhatId"])[:15] if one["WhatId"] else None
            is_it = who <= {each[:15] for each in target.who} and bool(who) == bool(target.who)
            if is_it and what == (target.what[:15] if target.what else None):
                found[row.id, target.on] = str(one["Id"])
    return found


def _batches(sought: Sequence[Sought]) -> Iterator[Sequence[Sought]]:
    for start in range(0, len(sought), _AT_ONCE):
        yield sought[start : start + _AT_ONCE]


def _slices(ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ids), 400):
        yield ids[start : start + 400]

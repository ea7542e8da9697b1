"""Records whose write was begun and whose end is not known: looked for in Salesforce."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.mail.progress import EMAIL_MESSAGE, Target
from core.mail.row import Row
from core.salesforce.client import Client, Record
from core.salesforce.ids import id_key
from sync.mail.fields import identifier, iso, last_line
from sync.mail.lookup import in_batches

_AT_ONCE = 50
_BEFORE = timedelta(minutes=5)
"""Our clock may be ahead of Salesforce's by so much."""
_LONGEST = timedelta(minutes=20)
"""More than lies between the beginning of a write and the time from which it may be repeated."""


@dataclass(frozen=True)
class Sought:
    """A record that may be there. `not_before`: until when its write may still show; it was begun well
    before."""

    row: Row
    target: Target
    not_before: datetime | None

    @property
    def begun(self) -> datetime:
        """When the write can have been begun at the earliest."""
        return self.row.time if self.not_before is None else max(self.row.time, self.not_before - _LONGEST)


def look_for(client: Client, user_id: str, sought: Sequence[Sought]) -> list[str | None]:
    """The id of each record that is there, None for one that is not. Raises Unavailable, Refused."""
    mails = [one for one in sought if one.target.kind == EMAIL_MESSAGE]
    tasks = [one for one in sought if one.target.kind != EMAIL_MESSAGE]
    found: dict[tuple[str, tuple[str, ...]], str] = {}
    if mails:
        found |= _email_messages(client, mails)
    if tasks:
        found |= _tasks(client, user_id, tasks)
    return [found.get((one.row.id, one.target.on)) for one in sought]


def _email_messages(client: Client, sought: Sequence[Sought]) -> dict[tuple[str, tuple[str, ...]], str]:
    """By message identifier and time, and by all whom it stands on."""
    there: list[Record] = []
    for some in in_batches([identifier(one.row) for one in sought], _AT_ONCE):
        there += client.query(
            "SELECT Id, MessageIdentifier, MessageDate, RelatedToId FROM EmailMessage WHERE "
            "MessageIdentifier IN {}",
            some,
        )
    if not there:
        return {}
    people: dict[str, set[str]] = {}
    for some in in_batches([str(one["Id"]) for one in there], 400):
        for relation in client.query(
            "SELECT EmailMessageId, RelationId, RelationType FROM EmailMessageRelation WHERE "
            "EmailMessageId IN {}",
            some,
        ):
            if relation["RelationId"] is not None and relation["RelationType"] != "FromAddress":
                people.setdefault(str(relation["EmailMessageId"]), set()).add(
                    id_key(str(relation["RelationId"]))
                )
    found = {}
    for each in sought:
        row, target = each.row, each.target
        for one in there:
            on = people.get(str(one["Id"]), set()) | (
                {id_key(str(one["RelatedToId"]))} if one["RelatedToId"] else set()
            )
            is_it = (
                one["MessageIdentifier"] == identifier(row)
                and str(one["MessageDate"])[:19] == iso(row.time)[:19]
                # a later part may have been added to it since; no two records of a mail have one in common
                and (on >= {id_key(record) for record in target.on} if target.on else not on)
            )
            if is_it:
                found[row.id, target.on] = str(one["Id"])
    return found


def _tasks(client: Client, user_id: str, sought: Sequence[Sought]) -> dict[tuple[str, tuple[str, ...]], str]:
    """By owner and time, and by the last line of the comments, which no query can ask for."""
    since = min(one.begun for one in sought) - _BEFORE
    there = client.query(
        "SELECT Id, WhoId, WhatId, Description FROM Task WHERE OwnerId = {} AND CreatedDate >= {}",
        user_id,
        since,
    )
    by_line: dict[str, list[Record]] = {}
    for one in there:
        lines = str(one["Description"] or "").rstrip().rsplit("\n", 1)
        by_line.setdefault(lines[-1].strip(), []).append(one)
    found = {}
    for each in sought:
        row, target = each.row, each.target
        for one in by_line.get(last_line(row), ()):
            who = {id_key(str(one["WhoId"]))} if one["WhoId"] else set()
            what = id_key(str(one["WhatId"])) if one["WhatId"] else None
            is_it = who <= {id_key(record) for record in target.who} and bool(who) == bool(target.who)
            if is_it and what == (id_key(target.what) if target.what else None):
                found[row.id, target.on] = str(one["Id"])
    return found

"""Salesforce's tasks, read: what has changed, what is known, what is left of what is not found, and names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from urllib.parse import quote

from core.batches import batches
from core.salesforce.client import MOST_IDS, Client
from core.salesforce.ids import id_key
from core.tasks.task import Related
from sync.tasks.records import Nonsense, Remote, columns, read_all, related

_IDS_OF_A_QUERY = 400
_BYTES_OF_A_QUERY = 8_000
"""A query's address may have 16,384 (REST guide, "Status Codes")."""


class TaskQuery:
    """One person's view. Every call raises Unavailable or Refused."""

    def __init__(self, client: Client, user_id: str, *, has_key: bool) -> None:
        self._client = client
        self._user_id = user_id
        self._columns = columns(has_key=has_key, with_names=True)
        self._plain_columns = columns(has_key=has_key, with_names=False)

    def changes(self, since: datetime) -> Iterator[list[Remote | Nonsense]]:
        """The person's tasks that anything has changed since then, deleted and archived ones too, page by
        page."""
        for page in self._client.pages(
            f"SELECT {', '.join(self._columns)} FROM Task WHERE OwnerId = {{}} "
            "AND SystemModstamp >= {} ORDER BY SystemModstamp, Id",
            self._user_id,
            since,
        ):
            yield read_all(page)

    def made_by_the_person(self, since: datetime) -> Iterator[list[Remote | Nonsense]]:
        """What the person's user has made since then, whosever it is by now."""
        for page in self._client.pages(
            f"SELECT {', '.join(self._columns)} FROM Task WHERE CreatedById = {{}} AND CreatedDate >= {{}}",
            self._user_id,
            since,
        ):
            yield read_all(page)

    def known(self, ids: Sequence[str]) -> tuple[list[Remote | Nonsense], list[str]]:
        """The records of these ids, MOST_IDS a call; and the ids of those that are not found."""
        found: list[Remote | Nonsense] = []
        missing: list[str] = []
        for some in batches(ids, MOST_IDS):
            answers = self._client.retrieve("Task", some, self._plain_columns)
            there = [one for one in answers if one is not None]
            found += read_all(there)
            seen = {id_key(str(one.get("Id"))) for one in there}
            missing += [one for one in some if id_key(one) not in seen]
        return found, missing

    def traces(self, ids: Sequence[str]) -> list[Remote | Nonsense]:
        """What a query shows of records that cannot be read by their ids: those that lie in the bin, or are
        archived."""
        found: list[Remote | Nonsense] = []
        for some in batches(ids, _IDS_OF_A_QUERY):
            for page in self._client.pages(
                f"SELECT {', '.join(self._columns)} FROM Task WHERE Id IN {{}}",
                some,
            ):
                found += read_all(page)
        return found

    def named(
        self, remotes: Sequence[Remote | Nonsense], known: dict[str, Related]
    ) -> list[Remote | Nonsense]:
        """The same, with the names of whom they are about asked for where that is new."""
        new = [
            one.id
            for one in remotes
            if isinstance(one, Remote)
            and not one.related.is_about_the_same(known.get(id_key(one.id), Related()))
        ]
        names: dict[str, Related] = {}
        for some in batches(new, _IDS_OF_A_QUERY):
            for page in self._client.pages(
                "SELECT Id, WhoId, WhatId, Who.Name, What.Name FROM Task WHERE Id IN {}",
                some,
            ):
                names |= {id_key(str(record["Id"])): related(record) for record in page}
        return [
            replace(one, related=names[id_key(one.id)])
            if isinstance(one, Remote) and id_key(one.id) in names
            else one
            for one in remotes
        ]

    def open_tasks(self, subjects: Iterable[str]) -> list[Remote]:
        """The person's open tasks with one of these subjects."""
        found: list[Remote] = []
        for some in _by_length(sorted(set(subjects))):
            for page in self._client.pages(
                f"SELECT {', '.join(self._columns)} FROM Task WHERE OwnerId = {{}} "
                "AND IsClosed = FALSE AND Subject IN {}",
                self._user_id,
                some,
            ):
                found += [
                    one
                    for one in read_all(page)
                    if isinstance(one, Remote) and one.is_to_do and not one.is_deleted
                ]
        return found


def _by_length(texts: Sequence[str]) -> Iterator[list[str]]:
    """In groups that fit into a query's address."""
    some: list[str] = []
    size = 0
    for text in texts:
        length = len(quote(text)) + 12
        if some and size + length > _BYTES_OF_A_QUERY:
            yield some
            some, size = [], 0
        some.append(text)
        size += length
    if some:
        yield some

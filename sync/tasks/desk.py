"""One person's tasks as the worker has them in hand, and what it has learnt of organisations from cycle to cycle."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from core.database.engine import Database, Session
from core.diagnostics import is_key
from core.mail.writes import KEY_FIELD
from core.salesforce.client import Client, Record
from core.salesforce.connection_store import Connection, Identity
from core.salesforce.connections import Connections
from core.settings.in_force import PolicySettings
from core.tasks import links as task_links
from core.tasks import picklists
from core.tasks import queue as task_queue
from core.tasks.queue import TaskSync
from core.tasks.task import Choices, KnownStatus, Limits
from sync.tasks.plan import View

_SECONDS_GOOD = 3_600.0
_NOTHING = timedelta(seconds=3)
"""The Date header says whole seconds, and is some milliseconds old."""


class Book:
    """What organisations have of statuses, priorities and room; for several threads."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, Choices]] = {}
        self.offsets: dict[str, timedelta] = {}
        """How far the organisations' clocks are ahead of ours, as they last told."""

    def choices(
        self, client: Client, database: Database, organisation_id: str, *, anew: bool = False
    ) -> Choices:
        """Asked once in a while, and kept for the pages. Raises Unavailable, Refused."""
        good_until, known = self._known.get(organisation_id, (0.0, None))
        if known is not None and not anew and good_until > time.monotonic():
            return known
        found = _choices(client.fields("Task"), client.query(
            "SELECT ApiName, MasterLabel, IsClosed, IsDefault, SortOrder FROM TaskStatus ORDER BY SortOrder"
        ))  # fmt: skip
        with database.writing() as session:
            picklists.keep(session, organisation_id, found)
        self._known[organisation_id] = (time.monotonic() + _SECONDS_GOOD, found)
        return found

    def forget(self, organisation_id: str) -> None:
        """The organisation has refused a field, or used a status that it did not tell of."""
        self._known.pop(organisation_id, None)


@dataclass
class Desk:
    """One person's sync, in this worker's hands. `everything`: every known link is to be verified now."""

    connections: Connections
    connection: Connection
    held: TaskSync
    policy: PolicySettings
    client: Client
    book: Book
    everything: bool
    stop: threading.Event
    choices: Choices = field(default_factory=Choices)

    @property
    def database(self) -> Database:
        return self.connections.database

    @property
    def identity(self) -> Identity:
        return self.connection.identity

    @property
    def organisation_id(self) -> str:
        return self.identity.organisation_id

    @property
    def offset(self) -> timedelta:
        """How far Salesforce's clock is ahead of ours."""
        told = self.client.offset
        if told is not None:
            self.book.offsets[self.organisation_id] = told
        offset = self.book.offsets.get(self.organisation_id, timedelta(0))
        return timedelta(0) if abs(offset) < _NOTHING else offset

    @property
    def now_there(self) -> datetime:
        """By Salesforce's clock."""
        return datetime.now(UTC) + self.offset

    @property
    def enabled_at(self) -> datetime:
        """When it was switched on and could begin."""
        return (
            max(self.held.enabled_at, self.connection.connected_at)
            if self.held.since is None
            else self.held.enabled_at
        )

    @property
    def bring_in_since(self) -> datetime:
        """A task that is not here comes in if it was changed at that moment or later, by Salesforce's clock."""
        since = self.enabled_at + self.offset - timedelta(hours=self.policy.first_sync_hours)
        return since.replace(microsecond=0)  # records tell less of their times than we keep of ours

    def limits(self, *, is_by_bytes: bool) -> Limits:
        """How much Salesforce holds of a task's texts."""
        return Limits(self.choices.limits.subject, self.choices.limits.comments, is_by_bytes=is_by_bytes)

    def view(self, session: Session, ids: list[str]) -> View:
        """By what records of these ids are looked at."""
        return View(
            self.held.person_id, self.identity.user_id, self.bring_in_since, self.offset,
            task_queue.by_user(session, self.organisation_id), task_links.own_logs(session, ids), self.choices.limits,
            self.choices.has_key,
        )  # fmt: skip


def _choices(fields: Mapping[str, Record], statuses: list[Record]) -> Choices:
    priorities = fields.get("Priority", {}).get("picklistValues") or ()
    known = tuple(
        KnownStatus(str(one["ApiName"]), str(one["MasterLabel"] or one["ApiName"]), is_open=not one["IsClosed"],
                    is_default=bool(one["IsDefault"]), order=int(one["SortOrder"] or 0))
        for one in statuses
    )  # fmt: skip
    return Choices(
        known or Choices().statuses,
        tuple(str(one["value"]) for one in priorities if one.get("active", True)) or Choices().priorities,
        Limits(_length(fields, "Subject", 255), _length(fields, "Description", 32_000)),
        has_key=KEY_FIELD in fields and is_key(fields),
    )  # fmt: skip


def _length(fields: Mapping[str, Record], name: str, usual: int) -> int:
    length = fields.get(name, {}).get("length")
    return length if isinstance(length, int) and length > 0 else usual

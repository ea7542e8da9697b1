"""One person's mails as the worker has them in hand, and what is looked at on the way."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from core.database.engine import Database
from core.mail import queue as mail_queue
from core.mail.queue import Job
from core.mail.row import State
from core.mail.writes import TASK, MailLog, Target
from core.people.store import Account
from core.salesforce.client import Client
from core.salesforce.connection_store import Connection, Identity
from core.salesforce.connections import Connections
from core.salesforce.troubles import Trouble
from core.settings.in_force import PolicySettings, Rules
from sync.mail.content import Content, read_content
from sync.mail.features import FeatureBook
from sync.mail.fields import Author, Features
from sync.mail.lookup import Directory

_SMALL = 16 * 1024


@dataclass(frozen=True)
class Person:
    """Whose mails they are, and by which rules they are logged."""

    account: Account
    connection: Connection
    rules: Rules
    policy: PolicySettings
    ignored: frozenset[str]
    time_zone: str
    restored_at: datetime | None = None
    """When the database was restored from a backup: of what is older Salesforce may have more than we know."""


@dataclass
class Mail:
    """A job as it is worked on."""

    job: Job
    log: MailLog
    content: Content | None = None
    trouble: Trouble | None = None
    needs_match: bool = False

    def __post_init__(self) -> None:
        self.needs_match = self.log.targets is None or bool(self.log.trace.get("needs_match"))

    @property
    def is_copy(self) -> bool:
        """Whether only its receipt is looked for."""
        return self.job.row.state is State.COPIED

    @property
    def missing(self) -> tuple[Target, ...]:
        return self.log.missing

    def put(self, old: Target, new: Target) -> None:
        """A target has come on."""
        self.log = replace(
            self.log, targets=tuple(new if one == old else one for one in self.log.targets or ())
        )

    def drop_missing(self) -> None:
        """What is not written is decided anew."""
        self.log = replace(self.log, targets=self.log.written)

    def note(self, **steps: Any) -> None:
        """What the activity page will tell."""
        self.log = replace(self.log, trace={**self.log.trace, **steps})


@dataclass
class Knowledge:
    """What the worker has learnt of organisations and persons, from batch to batch."""

    connections: Connections
    features: FeatureBook = field(default_factory=FeatureBook)
    directories: dict[str, Directory] = field(default_factory=dict)


class Desk:
    """One person's Salesforce, open."""

    def __init__(self, knowledge: Knowledge, person: Person, client: Client) -> None:
        self.person = person
        self.client = client
        self._knowledge = knowledge

    @property
    def database(self) -> Database:
        return self._knowledge.connections.database

    @property
    def identity(self) -> Identity:
        """Who the person is in Salesforce."""
        return self.person.connection.identity

    @property
    def directory(self) -> Directory:
        """What this user can see of persons."""
        key = f"{self.identity.organisation_id}{self.identity.user_id}"
        return self._knowledge.directories.setdefault(key, Directory())

    def features(self, *, needs_task: bool = False) -> Features:
        """What the organisation has. Raises Unavailable, Refused."""
        return self._knowledge.features.of(
            self.client, self.identity.organisation_id, self.person.rules.record, needs_task=needs_task
        )

    def features_of(self, target: Target) -> Features:
        """The same, as far as this record needs it."""
        return self.features(needs_task=target.kind == TASK)

    def ask_for_features_anew(self) -> None:
        """The organisation has refused what it was believed to have."""
        self._knowledge.features.forget(self.identity.organisation_id)

    def author(self, mail: Mail) -> Author:
        """The user, and the day by that person's clock."""
        zone = ZoneInfo(self.person.time_zone) if self.person.time_zone else None
        return Author(self.identity.user_id, mail.job.row.time.astimezone(zone).date().isoformat())

    def content(self, mail: Mail) -> Content:
        """Read anew each time where it is large, so that a batch of them needs no more memory than one."""
        if mail.content is not None:
            return mail.content
        with self.database.reading() as session:
            raw = mail_queue.text(session, mail.job.row.id)
        content = read_content(raw) if raw is not None else Content(is_there=False)
        if raw is None or len(raw) < _SMALL:
            mail.content = content
        return content

"""A mail as the worker has it in hand, whose it is, and what the worker works on it with."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from core.mail import texts as mail_texts
from core.mail.progress import FailedTry, MailLog, MatchResult, Target
from core.mail.queue import Job
from core.mail.row import State
from core.salesforce.connection_store import Connection
from core.salesforce.troubles import Trouble
from core.settings.in_force import PolicySettings, Rules
from sync.mail.content import Content, read_content
from sync.mail.fields import Features
from sync.mail.lookup import Directory
from sync.mail.schema import SECONDS_GOOD, features_of
from sync.session import Clocks, Remembered, SalesforceSession

_SMALL = 24 * 1024
"""Bytes of an encrypted text; a text of a few pages has fewer."""
_SECONDS_UNUSED = 300.0
_MOST_TRIES_TOLD = 10


@dataclass(frozen=True)
class Sender:
    """Whose mails they are, and by which rules they are logged. `ignored`: patterns of addresses that this
    person does not want to be asked about; `restored_at`: when the database was restored from a backup, so
    that Salesforce may have more of older mails than we know."""

    connection: Connection
    rules: Rules
    policy: PolicySettings
    ignored: frozenset[str]
    time_zone: ZoneInfo | None
    restored_at: datetime | None = None


@dataclass
class Learnt:
    """What the worker has learnt of organisations and users, from batch to batch."""

    clocks: Clocks = field(default_factory=Clocks)
    features: Remembered[Features] = field(default_factory=lambda: Remembered(SECONDS_GOOD))
    _directories: dict[str, tuple[float, Directory]] = field(default_factory=dict)

    def directory(self, user: str) -> Directory:
        """What this user can see of people; what no batch has asked for lately is forgotten."""
        now = time.monotonic()
        for key, (used_at, _) in list(self._directories.items()):
            if used_at < now - _SECONDS_UNUSED:
                self._directories.pop(key, None)
        _, directory = self._directories.get(user, (now, Directory()))
        self._directories[user] = (now, directory)
        return directory


@dataclass
class WaitingMail:
    """A claimed mail as it is worked on. `log` is what the database will know of it; `trouble` the first that
    it met. `recipients`: who of its mail is to be looked up; `parts`: others of the same mail, that are
    logged with it; `same_as`: the mail whose records it shares."""

    job: Job
    log: MailLog
    content: Content | None = None
    trouble: Trouble | None = None
    same_as: str | None = None
    recipients: tuple[str, ...] = ()
    parts: list["WaitingMail"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recipients = self.job.row.recipients or ()
        self.same_as = self.job.row.same_as

    @property
    def id(self) -> str:
        return self.job.row.id

    @property
    def is_copy(self) -> bool:
        """Whether only the receipt of its blind copy is looked for."""
        return self.job.row.state is State.COPIED

    @property
    def is_to_match(self) -> bool:
        """Whether it is still to be found out whom and what it is logged on."""
        return self.log.targets is None or self.log.needs_match

    @property
    def makes_records(self) -> bool:
        """Whether records of its own are to be written, and not only something to be added to others."""
        return any(target.adds_to is None for target in self.log.missing)

    def put(self, old: Target, new: Target) -> None:
        """Replace a target by its new state."""
        targets = tuple(new if one == old else one for one in self.log.targets or ())
        self.log = replace(self.log, targets=targets)

    def note_result(self, result: MatchResult) -> None:
        """How looking for its records, or for the receipt of its copy, came out."""
        self.log = replace(self.log, trace=replace(self.log.trace, result=result))

    def note_try(self, trouble: Trouble) -> None:
        """A try failed; the last ten are told."""
        tried = FailedTry(datetime.now(UTC).isoformat(timespec="seconds"), trouble.code)
        tries = (*self.log.trace.tries, tried)[-_MOST_TRIES_TOLD:]
        self.log = replace(self.log, trace=replace(self.log.trace, tries=tries))


class MailSession:
    """One sender's mails and the Salesforce that they go to."""

    def __init__(self, sender: Sender, salesforce: SalesforceSession, learnt: Learnt) -> None:
        self.sender = sender
        self.salesforce = salesforce
        self.client = salesforce.client
        self.database = salesforce.database
        self._learnt = learnt

    @property
    def directory(self) -> Directory:
        """What this user can see of people."""
        return self._learnt.directory(self.salesforce.user_key)

    def features(self, *, needs_task: bool = False) -> Features:
        """What the organisation has for the records that this sender's mails are logged as; with `needs_task`
        for tasks too. Raises Unavailable, Refused."""
        return features_of(
            self._learnt.features,
            self.client,
            self.salesforce.user_key,
            self.sender.rules.record,
            needs_task=needs_task,
        )

    def ask_for_features_again(self) -> None:
        """The organisation has refused what this user was believed to have."""
        self._learnt.features.forget(self.salesforce.user_key)

    def is_doubted(self, mail: WaitingMail) -> bool:
        """Whether Salesforce may have more of it than is known here: the database was restored since."""
        restored_at = self.sender.restored_at
        return restored_at is not None and mail.job.row.time < restored_at

    def contents(self, mails: Iterable[WaitingMail]) -> Iterator[tuple[WaitingMail, Content]]:
        """Each mail with what its text says. Small texts are read all together, and kept; a large one is read
        when its turn comes, each time anew, so that a batch of them needs no more memory than one."""
        mails = list(mails)
        unread = [mail.id for mail in mails if mail.content is None]
        with self.database.reading() as session:
            small = mail_texts.read(session, unread, longest=_SMALL)
        for mail in mails:
            if text := small.get(mail.id):
                mail.content = read_content(text)
            if mail.content is not None:
                yield mail, mail.content
                continue
            with self.database.reading() as session:
                found = mail_texts.read(session, [mail.id])
            text = found.get(mail.id)
            if text is None:
                yield mail, Content(is_there=False, is_unreadable=mail.id in found)
            else:
                yield mail, read_content(text)

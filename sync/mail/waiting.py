"""A mail as the worker has it in hand, whose it is, and what the worker works on it with."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from core.mail import queue as mail_queue
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

_SMALL = 16 * 1024
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
    time_zone: str
    restored_at: datetime | None = None


@dataclass
class Learnt:
    """What the worker has learnt of organisations and users, from batch to batch."""

    clocks: Clocks = field(default_factory=Clocks)
    features: Remembered[Features] = field(default_factory=lambda: Remembered(SECONDS_GOOD))
    directories: dict[str, Directory] = field(default_factory=dict)


@dataclass
class WaitingMail:
    """A claimed mail as it is worked on. `log` is what the database will know of it; `trouble` the first that
    it met."""

    job: Job
    log: MailLog
    content: Content | None = None
    trouble: Trouble | None = None

    @property
    def id(self) -> str:
        return self.job.row.id

    @property
    def is_copy(self) -> bool:
        """Whether only the receipt of its blind copy is looked for."""
        return self.job.row.state is State.COPIED

    @property
    def needs_match(self) -> bool:
        """Whether it is to be found out whom and what it is logged on."""
        return self.log.targets is None or self.log.needs_match

    def put(self, old: Target, new: Target) -> None:
        """A target has come on."""
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
        key = f"{self.salesforce.organisation_id}{self.salesforce.user_id}"
        return self._learnt.directories.setdefault(key, Directory())

    def features(self, *, needs_task: bool = False) -> Features:
        """What the organisation has for the records that this sender's mails are logged as; with `needs_task`
        for tasks too. Raises Unavailable, Refused."""
        return features_of(
            self._learnt.features,
            self.client,
            self.salesforce.organisation_id,
            self.sender.rules.record,
            needs_task=needs_task,
        )

    def ask_for_features_again(self) -> None:
        """The organisation has refused what it was believed to have."""
        self._learnt.features.forget(self.salesforce.organisation_id)

    def contents(self, mails: Iterable[WaitingMail]) -> Iterator[tuple[WaitingMail, Content]]:
        """Each mail with what its text says. Small texts are read all together, and kept; a large one is read
        when its turn comes, each time anew, so that a batch of them needs no more memory than one."""
        mails = list(mails)
        unread = [mail.id for mail in mails if mail.content is None]
        with self.database.reading() as session:
            small = mail_queue.texts(session, unread, longest=_SMALL)
        for mail in mails:
            if mail.id in small:
                mail.content = read_content(small[mail.id])
            if mail.content is not None:
                yield mail, mail.content
                continue
            with self.database.reading() as session:
                large = mail_queue.texts(session, [mail.id])
            yield mail, read_content(large[mail.id]) if large else Content(is_there=False)

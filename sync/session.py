"""An open Salesforce session of one person: the client, the identity, the clock's offset, the calls that are
left, and what an error means for the person and the organisation. Mails and tasks use the same session."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from core.database.engine import Database
from core.salesforce import api_usage, connection_store
from core.salesforce.client import Client
from core.salesforce.connection_store import Connection
from core.salesforce.connections import Connections
from core.salesforce.login import Identity
from core.salesforce.troubles import Trouble, TroubleKind

FOR_GOOD = frozenset({TroubleKind.PERMANENT, TroubleKind.NO_API, TroubleKind.CONNECTION})
"""Troubles of a single record that no further try mends."""
_SMALLEST_OFFSET = timedelta(seconds=3)
"""The Date header says whole seconds, and is some milliseconds old."""

T = TypeVar("T")


class Remembered(Generic[T]):
    """What was asked of organisations or of users, kept for a while; safe with several threads."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[float, T]] = {}
        self._forgotten: dict[str, int] = {}

    def of(self, key: str, ask: Callable[[T | None], T]) -> T:
        """Call `ask` with what is known (None where nothing is, or it is too old), and remember its result,
        for as long as what was known is good. The result is not kept if it was told to forget meanwhile.
        Raises what `ask` raises."""
        forgotten = self._forgotten.get(key, 0)
        good_until, known = self._known.get(key, (0.0, None))
        if good_until <= time.monotonic():
            good_until, known = time.monotonic() + self._seconds, None
        value = ask(known)
        if self._forgotten.get(key, 0) == forgotten:
            self._known[key] = (good_until, value)
        return value

    def forget(self, key: str) -> None:
        """Something that it was believed to have was refused."""
        self._forgotten[key] = self._forgotten.get(key, 0) + 1
        self._known.pop(key, None)


class Clocks:
    """How far the organisations' clocks are ahead of ours, as they last told; for several threads."""

    def __init__(self) -> None:
        self._offsets: dict[str, timedelta] = {}
        self._lock = threading.Lock()

    def offset(self, organisation_id: str, told: timedelta | None) -> timedelta:
        """`told`: by the last answer of this session, if there was one."""
        with self._lock:
            if told is not None:
                self._offsets[organisation_id] = told
            offset = self._offsets.get(organisation_id, timedelta(0))
        return timedelta(0) if abs(offset) < _SMALLEST_OFFSET else offset


class SalesforceSession:
    """One person's, for one batch of mails or one cycle of tasks."""

    def __init__(
        self, connections: Connections, connection: Connection, *, api_reserve: int, clocks: Clocks
    ) -> None:
        """`api_reserve`: the share of the organisation's daily calls that is never used, in per cent.

        Raises Unavailable, Refused where the connection cannot be used."""
        self.connection = connection
        self.database: Database = connections.database
        self._api_reserve = api_reserve
        self._clocks = clocks
        self.client: Client = connections.client(connection)

    @property
    def identity(self) -> Identity:
        """Who the person is in Salesforce."""
        return self.connection.identity

    @property
    def organisation_id(self) -> str:
        return self.identity.organisation_id

    @property
    def user_id(self) -> str:
        return self.identity.user_id

    @property
    def user_key(self) -> str:
        """Stands for this user in all organisations: what a user may see differs from user to user."""
        return f"{self.organisation_id}{self.user_id}"

    @property
    def offset(self) -> timedelta:
        """How far Salesforce's clock is ahead of ours."""
        return self._clocks.offset(self.organisation_id, self.client.offset)

    @property
    def now_there(self) -> datetime:
        """By Salesforce's clock."""
        return datetime.now(UTC) + self.offset

    def has_calls_left(self) -> bool:
        """Whether work may go on. Where calls were scarce when last seen, one call, the cheapest, tells
        whether they still are.

        Raises Unavailable, Refused."""
        with self.database.reading() as session:
            known = api_usage.organisation(session, self.organisation_id)
        if known is None or not known.is_scarce:
            return True
        self.client.query("SELECT Id FROM User WHERE Id = {}", self.user_id)
        with self.database.writing() as session:
            return api_usage.note_usage(session, self.organisation_id, self.client.usage, self._api_reserve)

    @property
    def is_at_the_reserve(self) -> bool:
        """Whether the last answer told that only calls are left that are never used."""
        usage = self.client.usage
        return usage is not None and (usage.total - usage.used) * 100 <= usage.total * self._api_reserve

    def note_usage(self) -> None:
        """What the last answer told of the organisation's calls, where that is news. Raises
        DatabaseUnavailable."""
        usage = self.client.usage
        if usage is None:
            return
        with self.database.reading() as session:
            known = api_usage.organisation(session, self.organisation_id)
        if known is None or api_usage.is_news(known, usage, self._api_reserve, datetime.now(UTC)):
            with self.database.writing() as session:
                api_usage.note_usage(session, self.organisation_id, usage, self._api_reserve)

    def met(self, trouble: Trouble) -> None:
        """A call met this trouble. Raises DatabaseUnavailable."""
        note_trouble(self.database, self.connection, trouble)


def note_trouble(database: Database, connection: Connection, trouble: Trouble) -> None:
    """What a trouble means beyond the batch or cycle that met it: a user without API access is noted as such,
    and a limit, be it met by a single record, makes all work for the organisation wait. Raises
    DatabaseUnavailable."""
    if trouble.kind is TroubleKind.NO_API:
        with database.writing() as session:
            connection_store.lost_api(session, connection.person_id, trouble)
    if trouble.kind is TroubleKind.LIMIT:
        with database.writing() as session:
            api_usage.pause(session, connection.identity.organisation_id, trouble.code)

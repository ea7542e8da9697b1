"""Transactions that carry one mail: its blind copy goes out with the first of them only, and a mail that goes
in circles is stopped.

Within a relay this is exact at once. Where other relays may have had the mail, the database is asked; it is
waited for a quarter of a second, and where it does not answer the copy goes out: a mail that is in Salesforce
twice can be deleted there, one that is missing nobody misses."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

from core import logs
from core.background import off_loop
from core.database.engine import Database, DatabaseUnavailable
from core.mail import first_mails
from core.mail.first_mails import CopyClaim

SECONDS_TO_ASK = 0.25
SECONDS_FOR_THE_FIRST = 20.0
"""As long as a part waits for the first one's verdict before it has a copy of its own."""
_MOST_REMEMBERED = 100_000
_MOST_DELIVERIES = 3
SECONDS_OF_A_LOOP = 600.0


class SameMails:
    """What this relay has had of each mail. `has_company`: whether other relays may have had one."""

    def __init__(self, database: Database, has_company: Callable[[], bool]) -> None:
        self._database = database
        self._has_company = has_company
        self._knows_since = datetime.now(UTC)
        self._copies: OrderedDict[bytes, str] = OrderedDict()
        """The mail that has the copy, by identity."""
        self._under_way: dict[bytes, asyncio.Future[None]] = {}
        """Those of them that are not accepted yet."""
        self._deliveries: OrderedDict[bytes, deque[float]] = OrderedDict()
        self._tasks: set[asyncio.Future[None]] = set()

    async def claim_copy(
        self, identity: bytes, mail_id: str, date: str, *, is_gateway: bool
    ) -> CopyClaim | None:
        """The mail that has the copy already; None: this one is to have it, which is then known to all."""
        while (known := self._copies.get(identity)) is not None:
            fate = self._under_way.get(identity)
            if fate is None:
                return CopyClaim(known, is_accepted=True)
            # Whether that one is accepted is known soon; if it is not, this one is to have the copy.
            await asyncio.ensure_future(_for_a_while(fate))
            if not fate.done():
                return None
        self._remember(identity, mail_id)
        self._under_way[identity] = asyncio.get_running_loop().create_future()
        # A person's client sends a mail once, over one connection; a server in front may use several relays.
        is_shared = is_gateway and self._has_company()
        if not (is_shared or self._may_be_from_before(date)):
            return None
        first = await asyncio.ensure_future(self._ask(identity, mail_id, is_shared=is_shared))
        if first is None or first.mail_id == mail_id:
            return None
        # not remembered: that one may not have been accepted yet
        self._end(identity, mail_id, has_gone=False)
        return first

    def settle_copy(self, identity: bytes, mail_id: str, *, has_gone: bool) -> None:
        """Whether the mail was accepted with its copy; if not, the next transaction may have it."""
        self._end(identity, mail_id, has_gone=has_gone)
        if has_gone:
            return
        task = asyncio.ensure_future(self._give_up_in_database(identity, mail_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end(self, identity: bytes, mail_id: str, *, has_gone: bool) -> None:
        if self._copies.get(identity) != mail_id:
            return
        if not has_gone:
            del self._copies[identity]
        fate = self._under_way.pop(identity, None)
        if fate is not None:
            fate.set_result(None)

    def is_loop(self, delivery: bytes, now: float) -> bool:
        """Whether this delivery was accepted three times within ten minutes."""
        return len(self._recent(delivery, now)) >= _MOST_DELIVERIES

    def note_delivery(self, delivery: bytes, now: float) -> None:
        """The upstream has accepted it."""
        recent = self._recent(delivery, now)
        recent.append(now)
        self._deliveries[delivery] = recent
        self._deliveries.move_to_end(delivery)
        if len(self._deliveries) > _MOST_REMEMBERED:
            self._deliveries.popitem(last=False)

    def _recent(self, delivery: bytes, now: float) -> deque[float]:
        times = self._deliveries.get(delivery) or deque(maxlen=_MOST_DELIVERIES)
        while times and now - times[0] > SECONDS_OF_A_LOOP:
            times.popleft()
        return times

    def _remember(self, identity: bytes, mail_id: str) -> None:
        self._copies[identity] = mail_id
        self._copies.move_to_end(identity)
        if len(self._copies) > _MOST_REMEMBERED:
            # What was forgotten is asked for; a mail that is older than this counts as from before.
            self._copies.popitem(last=False)
            self._knows_since = datetime.now(UTC)

    def _may_be_from_before(self, date: str) -> bool:
        """Whether this mail was written before all that this relay remembers."""
        try:
            written = parsedate_to_datetime(date)
        except (ValueError, TypeError, OverflowError):
            return True
        aware = written if written.tzinfo is not None else written.replace(tzinfo=UTC)
        return aware < self._knows_since

    async def _ask(self, identity: bytes, mail_id: str, *, is_shared: bool) -> CopyClaim | None:
        """Which mail has the copy, by the database; None where it does not say so in time."""
        try:
            async with asyncio.timeout(SECONDS_TO_ASK):
                look = self._claim_in_database if is_shared else self._look_in_database
                return await off_loop(partial(look, identity, mail_id))
        except (TimeoutError, DatabaseUnavailable):
            return None
        except Exception:  # noqa: BLE001  whatever the database has met, the mail goes on
            logs.failed_unexpectedly("asking whether a mail's copy has gone out")
            return None

    def _look_in_database(self, identity: bytes, _: str) -> CopyClaim | None:
        """Without a claim, which would wait for the lock of SQLite: nobody else is there to be told."""
        with self._database.reading() as session:
            earlier = first_mails.copy_of(session, identity)
        return None if earlier is None else CopyClaim(earlier, is_accepted=True)

    def _claim_in_database(self, identity: bytes, mail_id: str) -> CopyClaim:
        with self._database.writing() as session:
            return first_mails.claim_copy(session, identity, mail_id)

    async def _give_up_in_database(self, identity: bytes, mail_id: str) -> None:
        def give_up() -> None:
            with self._database.writing() as session:
                first_mails.give_up_copy(session, identity, mail_id)

        try:
            await off_loop(give_up)
        except DatabaseUnavailable:
            return  # its row says how it ended
        except Exception:  # noqa: BLE001  a claim that stays is taken over once its mail's row shows its end
            logs.failed_unexpectedly("giving up a mail's copy")


async def _for_a_while(fate: "asyncio.Future[None]") -> None:
    await asyncio.wait([fate], timeout=SECONDS_FOR_THE_FIRST)

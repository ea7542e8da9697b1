"""How many mails each person has sent today: counted here, and now and then in the logbook, which knows of
all relays. Nobody waits for that: what the logbook says counts from when it is known."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from core import logs
from core.background import off_loop
from core.database.engine import Database, DatabaseUnavailable
from core.mail.limits import mails_today

_SECONDS_GOOD = 60.0
_MOST_KNOWN = 20_000
_SECONDS_OF_A_DAY = 86_400.0
_SECONDS_BETWEEN_ALARMS = 3600.0


@dataclass
class _Day:
    counted: int = 0
    since: int = 0
    """Mails that were begun here after that."""
    looked_at: float = float("-inf")
    said_at: float = float("-inf")
    began_at: float = field(default_factory=time.monotonic)


class DailyMails:
    """Of everybody who sends through this relay."""

    def __init__(self, database: Database | None = None) -> None:
        """Without a database only what is sent through this relay counts."""
        self._database = database
        self._days: dict[int, _Day] = {}
        self._errands: set[asyncio.Task[None]] = set()

    def is_over(self, person: int, most: int) -> bool:
        """Whether this person has sent so many within a day; else the mail that is begun now counts too."""
        day = self._days.get(person)
        if day is None:
            # Forgetting is harmless: the logbook knows, and is asked within a minute.
            if len(self._days) >= _MOST_KNOWN:
                self._days.clear()
            day = self._days[person] = _Day()
        now = time.monotonic()
        if now - day.began_at > _SECONDS_OF_A_DAY:  # with the database away for so long
            day.since, day.began_at = 0, now
        if now - day.looked_at > _SECONDS_GOOD:
            day.looked_at = now
            errand = asyncio.ensure_future(self._look(person, most, day))
            self._errands.add(errand)
            errand.add_done_callback(self._errands.discard)
        if day.counted + day.since >= most:
            if now - day.said_at > _SECONDS_BETWEEN_ALARMS:
                day.said_at = now
                logs.daily_limit_met(person, most)
            return True
        day.since += 1
        return False

    async def _look(self, person: int, most: int, day: _Day) -> None:
        since = day.since
        if self._database is None:
            return
        try:
            day.counted = await off_loop(partial(_in_the_logbook, self._database, person, most))
        except DatabaseUnavailable:
            return  # what is known here still counts
        day.since -= since
        day.began_at = time.monotonic()


def _in_the_logbook(database: Database, person: int, most: int) -> int:
    """Raises DatabaseUnavailable."""
    with database.reading() as session:
        return mails_today(session, person, datetime.now(UTC), most)

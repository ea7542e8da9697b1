"""This process says that it is alive, and closes the rows of those that are not."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from core import logs
from core.background import off_loop
from core.database.engine import Database, DatabaseUnavailable
from core.database.heartbeats import Beat, Condition, beat, database_now, farewell
from core.mail.store import close_orphans
from relay.snapshot import Snapshot

SECONDS_BETWEEN_BEATS = 5.0
_MOST_SECONDS = 3.0


class Pulse:
    """The signs of life of one relay process."""

    def __init__(
        self,
        database: Database,
        snapshot: Snapshot,
        process_id: str,
        condition: Callable[[], Condition] = Condition,
    ) -> None:
        self._condition = condition
        self._database = database
        self._snapshot = snapshot
        self._beat = Beat(process_id, "relay", datetime.now(UTC), 0)

    async def start(self, listeners: tuple[str, ...] = ()) -> None:
        """The first beat, before the first mail; a database that is away hears of us later."""
        self._beat = replace(self._beat, listeners=listeners)
        await self._within_bounds(self._say)

    async def go_on(self) -> None:
        """Beat for ever."""
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_BEATS)
            await off_loop(self._say)

    async def stop(self) -> None:
        """Say goodbye, so that nobody waits for our silence to end."""
        await self._within_bounds(self._say_goodbye)

    async def _within_bounds(self, work: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                await off_loop(work)
        except TimeoutError:
            logs.database_unavailable("no answer in time")

    def _say(self) -> None:
        people = self._snapshot.people
        try:
            self._database.migrate()
            with self._database.writing() as session:
                beat(
                    session,
                    replace(
                        self._beat,
                        settings_revision=people.revision if people is not None else 0,
                        condition=self._condition(),
                    ),
                )
                close_orphans(session, database_now(session))
                marker = self._database.installation.advance(session)
            self._database.installation.keep(marker)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
        except Exception:  # noqa: BLE001  the next beat may fare better
            logs.failed_unexpectedly("a beat")

    def _say_goodbye(self) -> None:
        try:
            with self._database.writing() as session:
                farewell(session, self._beat.id)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))

"""The worker's loop: who is due, carry on, beat, sleep."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from core import logs
from core.config import Config
from core.connections import Connections
from core.storage.audit import settings_revision
from core.storage.beats import Beat, beat, farewell
from core.storage.database import Database, DatabaseUnavailable
from sync.addresses import look_up_addresses
from sync.mail.record import Recorder
from sync.mails import Mails

_SECONDS_BETWEEN_CYCLES = 2.0
_SECONDS_BETWEEN_BEATS = 5.0
_SECONDS_BETWEEN_TIDYINGS = 60.0


class Worker:
    """All that is done with Salesforce, cycle by cycle. Any number of workers may share a database."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._connections = (
            Connections(database, config.salesforce) if config.salesforce is not None else None
        )
        self._process_id = str(uuid.uuid4())
        self._started_at = datetime.now(UTC)
        self._stop = threading.Event()
        self._mails = Mails(
            Recorder(self._connections) if self._connections else None, database, self._process_id
        )
        self._tidied_at = float("-inf")

    def once(self) -> bool:
        """One cycle in which everything is due; whether nothing is left to be retried."""
        self._beat()
        stop = threading.Event()
        beating = threading.Thread(target=self._beat_until, args=(stop,), name="beat", daemon=True)
        beating.start()
        try:
            return self._cycle(everything=True)
        finally:
            stop.set()
            beating.join()
            self._say_farewell()

    def go_on(self, stop: threading.Event) -> None:
        """Cycle after cycle until the event is set; what is under way then comes to its end."""
        self._stop = stop
        self._at_the_edge(self._beat)  # what is claimed is ours as long as we are known to live
        logs.worker_started()
        beating = threading.Thread(target=self._beat_until, args=(stop,), name="beat", daemon=True)
        beating.start()
        while not stop.is_set():
            self._at_the_edge(lambda: self._cycle(everything=False))
            stop.wait(_SECONDS_BETWEEN_CYCLES)
        beating.join()
        self._say_farewell()
        logs.worker_stopped()

    def _cycle(self, *, everything: bool) -> bool:
        self._database.migrate()
        if everything or time.monotonic() - self._tidied_at > _SECONDS_BETWEEN_TIDYINGS:
            self._mails.tidy()
            self._tidied_at = time.monotonic()
        if self._connections is None:
            return True
        is_all_found = look_up_addresses(self._connections, self._stop, everything=everything)
        if everything:
            return self._mails.log_everything(self._stop) and is_all_found
        self._mails.log_due(self._stop)
        return True

    def _say_farewell(self) -> None:
        with suppress(DatabaseUnavailable), self._database.writing() as session:
            farewell(session, self._process_id)

    def _beat_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._at_the_edge(self._beat)
            stop.wait(_SECONDS_BETWEEN_BEATS)

    def _beat(self) -> None:
        self._database.migrate()
        with self._database.writing() as session:
            revision = settings_revision(session)
            beat(session, Beat(self._process_id, "worker", self._started_at, revision))

    def _at_the_edge(self, work: Callable[[], object]) -> None:
        """The worker outlives whatever a cycle meets."""
        try:
            work()
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
        except Exception:  # noqa: BLE001  the edge of a cycle
            logs.failed_unexpectedly("a cycle")

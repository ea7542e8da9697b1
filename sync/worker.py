"""The worker's loop: who is due, carry on, beat, sleep."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from core import logs
from core.config import Config
from core.database.audit import settings_revision
from core.database.engine import Database, DatabaseUnavailable
from core.database.heartbeats import Beat, beat, bury, farewell
from core.journal.loading import Orphans
from core.mail.retention import Retention
from core.salesforce.connections import Connections
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.in_force import policy_settings
from sync.bcc_addresses import look_up_addresses
from sync.health import WorkerHealth
from sync.mail.batch import MailLogger
from sync.mail.queue import Mails
from sync.tasks.queue import TaskSyncs

_SECONDS_BETWEEN_CYCLES = 2.0
_SECONDS_BETWEEN_TASK_CYCLES = 1.0
_SECONDS_BETWEEN_BEATS = 5.0
_SECONDS_BETWEEN_TIDYINGS = 60.0


class Worker:
    """All that is done with Salesforce, cycle by cycle. Any number of workers may share a database."""

    def __init__(self, database: Database, config: Config) -> None:
        self._database = database
        self._connections = (
            Connections(database, config.salesforce) if config.salesforce is not None else None
        )
        self.process_id = str(uuid.uuid4())
        self._started_at = datetime.now(UTC)
        self._stop = threading.Event()
        self.health = WorkerHealth(config, database)
        self._orphans = Orphans(database, config.state_dir, Box(config.secret_keys), logs.row_lost)
        self.mails = (
            Mails(MailLogger(self._connections, self.health.mail_settled), database, self.process_id)
            if self._connections
            else None
        )
        self.tasks = (
            TaskSyncs(self._connections, database, self.process_id, self.health.tasks_changed)
            if self._connections
            else None
        )
        self._retention = Retention(database)
        self._tidied_at = self._tasks_tidied_at = float("-inf")

    def once(self) -> bool:
        """One cycle in which everything is due, what relays that are gone have left in their journals too;
        whether nothing is left to be retried."""
        self.beat()
        self._bury_dead_processes()
        self._orphans.load()
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
        self._at_the_edge(self.beat)  # what is claimed is ours as long as we are known to live
        self._at_the_edge(self._bury_dead_processes)
        # What was claimed by workers that were killed on this machine need not wait for 30 s of silence.
        logs.worker_started()
        beating = threading.Thread(target=self._beat_until, args=(stop,), name="beat", daemon=True)
        beating.start()
        synchronising = threading.Thread(target=self._sync_until, args=(stop,), name="tasks", daemon=True)
        synchronising.start()
        loading = threading.Thread(target=self._load_until, args=(stop,), name="journals", daemon=True)
        loading.start()
        while not stop.is_set():
            began = time.monotonic()
            is_all_done = self._at_the_edge(lambda: self._cycle(everything=False))
            self.health.cycle_done(time.monotonic() - began)
            if is_all_done:
                stop.wait(_SECONDS_BETWEEN_CYCLES)
        synchronising.join()
        loading.join()
        beating.join()
        self._say_farewell()
        logs.worker_stopped()

    def _sync_until(self, stop: threading.Event) -> None:
        """Tasks wait for no mails."""
        if self.tasks is None:
            return
        while not stop.is_set():
            self._at_the_edge(self.sync_tasks)
            stop.wait(_SECONDS_BETWEEN_TASK_CYCLES)
        self.tasks.finish()

    def sync_tasks(self) -> None:
        self._database.migrate()
        if self.tasks is None:
            return
        if time.monotonic() - self._tasks_tidied_at > _SECONDS_BETWEEN_TIDYINGS:
            self.tasks.let_go()
            self.tasks.tidy()
            self._tasks_tidied_at = time.monotonic()
        self.tasks.sync_due(self._stop)

    def _cycle(self, *, everything: bool) -> bool:
        self._database.migrate()
        if everything or time.monotonic() - self._tidied_at > _SECONDS_BETWEEN_TIDYINGS:
            self._tidy_mails()
            self._tidied_at = time.monotonic()
        if self._connections is None or self.mails is None:
            return True
        is_all_found = look_up_addresses(self._connections, self._stop, everything=everything)
        if everything:
            are_all_logged = self.mails.log_everything(self._stop)
            return self._sync_all_tasks() and are_all_logged and is_all_found
        return not self.mails.log_some(self._stop)

    def _tidy_mails(self) -> None:
        with self._database.reading() as session:
            policy = policy_settings(settings_store.policy(session))
        self._retention.tidy(
            timedelta(days=policy.retention_days), timedelta(days=policy.unmatched_days), self._stop.is_set
        )

    def _sync_all_tasks(self) -> bool:
        if self.tasks is None:
            return True
        self.tasks.tidy()
        return self.tasks.sync_everything(self._stop)

    def _bury_dead_processes(self) -> None:
        with self._database.writing() as session:
            bury(session)

    def _say_farewell(self) -> None:
        with suppress(DatabaseUnavailable), self._database.writing() as session:
            farewell(session, self.process_id)

    def _beat_until(self, stop: threading.Event) -> None:
        """Nothing else is done here: a worker that does not beat for half a minute loses what it has
        claimed."""
        while not stop.is_set():
            self.health.is_alive()
            self._at_the_edge(self.beat)
            stop.wait(_SECONDS_BETWEEN_BEATS)

    def _load_until(self, stop: threading.Event) -> None:
        """Load the journals of relays that are gone, however long they are."""
        while not stop.is_set():
            self._at_the_edge(self._orphans.load)
            stop.wait(_SECONDS_BETWEEN_BEATS)

    def beat(self) -> None:
        self._database.migrate()
        with self._database.writing() as session:
            revision = settings_revision(session)
            beat(session, Beat(self.process_id, "worker", self._started_at, revision))
            marker = self._database.installation.advance(session)
        self._database.installation.keep(marker)

    def _at_the_edge(self, work: Callable[[], object]) -> bool:
        """What the work says, True if it fails: the worker outlives whatever a cycle meets."""
        try:
            return bool(work())
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
        except Exception:  # noqa: BLE001  the edge of a cycle
            logs.failed_unexpectedly("a cycle")
        return True

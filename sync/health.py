"""What is seen of a worker from outside: what it has done, whether it is alive, and whether all is well."""

import time
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from core.config import Config
from core.database.engine import Database
from core.findings import Finding, Light, facts
from core.health import Watch, look_at_installation, look_at_machine
from core.mail.row import State
from core.monitor import Monitor

_CYCLE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)
_LONGEST_SILENCE = 60.0


class WorkerHealth:
    """What one worker counts, and what it answers to operators' tools."""

    def __init__(self, config: Config, database: Database) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # not annotated in prometheus_client
        self._config = config
        self._registry = CollectorRegistry()
        self._mails = Counter(
            "blindcopy_worker_mails",
            "Mails that the worker has had in hand, by the state that it left them in.",
            ["state"],
            registry=self._registry,
        )
        self._task_changes = Counter(
            "blindcopy_worker_task_changes",
            "Changes of tasks that were taken in or sent.",
            registry=self._registry,
        )
        self._cycles = Histogram(
            "blindcopy_worker_cycle_seconds",
            "How long a cycle over the waiting mails took.",
            buckets=_CYCLE_SECONDS,
            registry=self._registry,
        )
        self._seen_at = time.monotonic()
        Gauge(
            "blindcopy_worker_silent_seconds",
            "How long ago the worker last said that it is alive.",
            registry=self._registry,
        ).set_function(self._silent_seconds)
        self._watch = Watch(lambda: look_at_installation(database))

    def mail_settled(self, state: State) -> None:
        self._mails.labels(state.value).inc()

    def tasks_changed(self, number: int) -> None:
        self._task_changes.inc(number)

    def cycle_done(self, seconds: float) -> None:
        self._cycles.observe(seconds)

    def is_alive(self) -> None:
        """The worker goes on, whether or not the database answers."""
        self._seen_at = time.monotonic()

    def monitor(self) -> Monitor:
        """Its answers over HTTP, not started yet."""
        return Monitor(lambda: generate_latest(self._registry), self._look_at_worker, self._is_ready)

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._seen_at

    def _look_at_worker(self) -> Sequence[Finding]:
        if self._silent_seconds() < _LONGEST_SILENCE:
            return [facts(Light.GREEN, "worker", "ok")]
        return [facts(Light.RED, "worker", "stands still", "restart it")]

    def _is_ready(self) -> Sequence[Finding]:
        return [
            *self._look_at_worker(),
            *self._watch.findings(),
            *look_at_machine(self._config, uses_state=True),
        ]

"""What the relay counts, for Prometheus; of all relays of this machine together, whichever of them is asked.

A mail only leaves a note in a list; the notes are counted once a second and before every answer, off the
event loop. Each relay writes its figures to a file in the state directory that it keeps locked: a file whose
lock can be had is that of a relay that is gone, and its counts are added to those of all that are gone."""

import errno
import fcntl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from core import logs
from relay.figures import counters_only, summed

_OF_ALL_THAT_ARE_GONE = "metrics-gone.prom"
_SECONDS_TO_WAIT = 2.0
_SECONDS_BETWEEN_TIDYINGS = 60.0
_ADDED_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_COMMIT_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


@dataclass(frozen=True, slots=True)
class MailSeen:
    """One mail at its end: `verdict` is the class of the final reply ("2xx") or "none"; `added_seconds` is
    what it waited for us, neither for the client nor for the upstream."""

    reason: str
    verdict: str
    copy: str
    added_seconds: float


@dataclass(frozen=True, slots=True)
class CommitSeen:
    """One batch of entries in the journal, on the disk where that was asked for."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RowsLoaded:
    """So many entries of the journal are in the database."""

    entries: int


@dataclass(frozen=True, slots=True)
class RowLost:
    """A mail was passed on, and nothing could write its row down."""


Seen = MailSeen | CommitSeen | RowsLoaded | RowLost


class Meters:
    """The figures of this process, and those of all relays that share its state directory."""

    def __init__(self, directory: Path, process_id: str) -> None:
        self._directory = directory
        self._path = directory / f"metrics-{process_id}.prom"
        self._notes: deque[Seen] = deque()
        self._lock = threading.Lock()
        self._registry = CollectorRegistry()
        self._of_the_machine = CollectorRegistry()
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library annotates it not
        self._mails = Counter(
            "blindcopy_mails",
            "Mails that came to their data, by reason and class of the final reply.",
            ["reason", "verdict"],
            registry=self._registry,
        )
        self._copies = Counter(
            "blindcopy_copies",
            "What the upstream said to the blind copies.",
            ["verdict"],
            registry=self._registry,
        )
        self._added = Histogram(
            "blindcopy_added_seconds",
            "What a mail waited for the relay, neither for its client nor for the upstream.",
            buckets=_ADDED_SECONDS,
            registry=self._registry,
        )
        self._commits = Histogram(
            "blindcopy_commit_seconds",
            "How long a batch took to be in the journal, and on the disk.",
            buckets=_COMMIT_SECONDS,
            registry=self._registry,
        )
        self._loaded = Counter(
            "blindcopy_rows",
            "Entries of the journal that were loaded into the database.",
            registry=self._registry,
        )
        self._lost = Counter(
            "blindcopy_rows_lost", "Mails that were passed on and whose row is lost.", registry=self._registry
        )
        self.alive: IO[bytes] | None = None
        self._tidied_at = float("-inf")

    def gauge_of_the_machine(self, name: str, what: str, value: Callable[[], float]) -> None:
        """The same for what is one thing to all relays: whoever is asked looks at it, and nobody adds it
        up."""
        Gauge(name, what, registry=self._of_the_machine).set_function(value)

    def gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A figure that is taken when it is asked for."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def note(self, seen: Seen) -> None:
        """Count this later; from any thread."""
        self._notes.append(seen)

    def text(self) -> bytes:
        """All figures as Prometheus reads them, summed over the relays of this machine.

        What is said is kept first, so that no later answer of anybody says less. Raises OSError where the
        state directory cannot be used: a part of the figures would look like a restart."""
        with self._shared() as others:
            return summed([self._kept_if_possible(), *others]) + generate_latest(self._of_the_machine)

    def _kept_if_possible(self) -> bytes:
        """On a full disk what we have lost is told all the same, though it is not kept."""
        try:
            return self._keep()
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            with self._lock:
                return self._own_figures()

    def keep(self) -> None:
        """Write our figures where the others find them; called once a second, off the loop. Never raises."""
        try:
            self._keep()
            if time.monotonic() - self._tidied_at > _SECONDS_BETWEEN_TIDYINGS:
                self._tidied_at = time.monotonic()
                with self._shared():
                    # the files of relays that are gone become one, whether or not anybody asks for figures
                    pass
        except OSError as error:
            logs.metrics_not_kept(str(error))

    def _keep(self) -> bytes:
        with self._lock:
            if self.alive is None:
                self.alive = _locked(self._path.with_suffix(".alive"))
            own = self._own_figures()
            _replace(self._path, own)
        return own

    def stop(self) -> None:
        """Leave our last figures; the next who looks takes them over."""
        self.keep()
        if self.alive is not None:
            self.alive.close()
            self.alive = None

    def _own_figures(self) -> bytes:
        while self._notes:
            self._count(self._notes.popleft())
        return generate_latest(self._registry)

    def _count(self, seen: Seen) -> None:
        if isinstance(seen, CommitSeen):
            self._commits.observe(seen.seconds)
            return
        if isinstance(seen, RowsLoaded):
            self._loaded.inc(seen.entries)
            return
        if isinstance(seen, RowLost):
            self._lost.inc()
            return
        self._mails.labels(seen.reason, seen.verdict).inc()
        self._copies.labels(seen.copy).inc()
        self._added.observe(seen.added_seconds)

    @contextmanager
    def _shared(self) -> Iterator[list[bytes]]:
        """The figures of the others, those that are gone taken together first."""
        with _lock_within(self._directory / "metrics.lock", _SECONDS_TO_WAIT):
            gone = self._directory / _OF_ALL_THAT_ARE_GONE
            others = []
            for mark in self._directory.glob(
                "metrics-*.alive"
            ):  # left by a relay that was killed at its start
                if not mark.with_suffix(".prom").exists() and (abandoned := _locked(mark)) is not None:
                    with abandoned:
                        mark.unlink()
            for path in sorted(self._directory.glob("metrics-*.prom")):
                if path in {gone, self._path} or (content := _figures_in(path)) is None:
                    continue
                if (alive := _locked(path.with_suffix(".alive"))) is None:
                    others.append(content)
                    continue
                with alive:
                    _replace(gone, summed([_figures_in(gone) or b"", counters_only(content)]))
                    path.unlink()
                    path.with_suffix(".alive").unlink()
            yield [*others, _figures_in(gone) or b""]


def _locked(path: Path) -> IO[bytes] | None:
    """The file, locked until it is closed; None where somebody else has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _lock_within(path: Path, seconds: float) -> IO[bytes]:
    """The same, after waiting for whoever has it. Raises TimeoutError."""
    ends_at = time.monotonic() + seconds
    while (lock := _locked(path)) is None:
        if time.monotonic() > ends_at:
            raise TimeoutError(f"{path.name} is held by another relay")
        time.sleep(0.01)
    return lock


def _figures_in(path: Path) -> bytes | None:
    """What a file holds; None where there is none, or one that a power cut has spoilt, which is put aside."""
    try:
        content = path.read_bytes()
        summed([content])
    except FileNotFoundError:
        return None
    except ValueError as error:
        logs.metrics_not_kept(f"{path.name} cannot be read and is put aside: {error}")
        path.replace(path.with_suffix(".unreadable"))
        return None
    return content


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    temporary.replace(path)

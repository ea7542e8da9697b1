"""Many small writes, one fsync: items from the event loop are handed to a thread that works off all that wait.

What the work is, is the caller's: a transaction in the database, lines in a journal."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_LARGEST_BATCH = 200
_MOST_WAITING = 20_000
_A_CROWD = 3
_PAUSE = 0.0002
_MOST_PAUSES = 10

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class TooMany(Exception):
    """More is waiting than can be worked off in time."""


@dataclass(slots=True)
class _Waiting(Generic[Item, Answer]):
    item: Item
    answer: asyncio.Future[Answer]
    patience: asyncio.TimerHandle


class Batches(Generic[Item, Answer]):
    """Runs `work` on a thread of its own, each time on everything that came in meanwhile.

    `work`: items -> an answer for each, in order; what it raises is what everyone in the batch gets.
    `meanwhile` runs on the same thread about every second, and must not raise."""

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Answer]],
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self._work = work
        self._meanwhile = meanwhile
        self._queue: queue.SimpleQueue[_Waiting[Item, Answer] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._busy_since: float | None = None
        self._last_size = 0
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item, seconds: float) -> asyncio.Future[Answer]:
        """Hand an item over. The future has its answer, what the work raised, or TimeoutError after so long; the work
        is done all the same. Raises TooMany."""
        if self._queue.qsize() > _MOST_WAITING or self._is_stopping:
            raise TooMany
        future: asyncio.Future[Answer] = self._loop.create_future()
        patience = self._loop.call_later(seconds, _fail_one, future, TimeoutError())
        self._queue.put(_Waiting(item, future, patience))
        return future

    def busy_seconds(self) -> float:
        """For how long the batch in hand has been worked on."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    async def stop(self, seconds: float) -> None:
        """Work off what waits, within the time given."""
        self._is_stopping = True
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, seconds)

    def _run(self) -> None:
        next_pause = time.monotonic() + 1
        while True:
            batch, is_last = self._next_batch(max(0.0, next_pause - time.monotonic()))
            if batch:
                self._do(batch)
            if is_last:
                return
            if time.monotonic() >= next_pause:
                self._do_meanwhile()
                next_pause = time.monotonic() + 1

    def _next_batch(self, patience: float) -> tuple[list[_Waiting[Item, Answer]], bool]:
        batch: list[_Waiting[Item, Answer]] = []
        try:
            waiting = self._queue.get(timeout=patience)
            self._let_others_join()
            while waiting is not None:
                batch.append(waiting)
                if len(batch) >= _LARGEST_BATCH:
                    return batch, False
                waiting = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _let_others_join(self) -> None:
        """While more keeps coming, it is waited for: under load a batch is three times as big, and a mail costs a
        quarter less, as the thread takes the interpreter from the event loop less often (measured). Who comes alone
        waits for nobody."""
        if self._last_size < _A_CROWD:
            return
        seen = self._queue.qsize()
        for _ in range(_MOST_PAUSES):
            time.sleep(_PAUSE)
            size = self._queue.qsize()
            if size == seen:
                return
            seen = size

    def _do(self, batch: Sequence[_Waiting[Item, Answer]]) -> None:
        self._busy_since = time.monotonic()
        self._last_size = len(batch)
        try:
            answers = self._work([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait must hear of it
            self._call_soon(_fail, batch, error)
        else:
            self._call_soon(_resolve, batch, answers)
        finally:
            self._busy_since = None

    def _do_meanwhile(self) -> None:
        if self._meanwhile is None:
            return
        self._busy_since = time.monotonic()
        try:
            self._meanwhile()
        finally:
            self._busy_since = None

    def _call_soon(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more


def _resolve(batch: Sequence[_Waiting[Item, Answer]], answers: Sequence[Answer]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        waiting.patience.cancel()
        if not waiting.answer.done():
            waiting.answer.set_result(answer)


def _fail(batch: Sequence[_Waiting[Item, Answer]], error: Exception) -> None:
    for waiting in batch:
        waiting.patience.cancel()
        _fail_one(waiting.answer, error)


def _fail_one(answer: "asyncio.Future[Any]", error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # not everybody who hands something over stays to hear

"""Runs the relay's conversations: coroutines that wait for what the client, the upstream and the journal say.

A conversation is told in the order in which it happens, as a coroutine, and no I/O is part of it: whoever has
something for it (a transport's protocol, the journal's thread, the pool) puts that into an `Answer`, and the
conversation that waits for this answer goes on at once, in the same turn of the event loop. An asyncio task
would take each answer over a future, a callback of the loop and a timer: 8 to 10 us a wait, eleven waits a
mail, a third of all the time that a mail took (measured). Tests run conversations without any event loop.

Nobody cancels a conversation. It finds out at its next wait that its client or its upstream is gone."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from core import logs

T = TypeVar("T")


class Answer(Generic[T]):
    """Something that one conversation waits for: a value or an error, given once."""

    __slots__ = ("_error", "_value", "_waiter", "is_there")

    def __init__(self) -> None:
        self.is_there = False
        self._value: T | None = None
        self._error: Exception | None = None
        self._waiter: Callable[[], None] | None = None

    def give(self, value: T) -> None:
        """What is waited for; a second answer is ignored."""
        if not self.is_there:
            self.is_there, self._value = True, value
            self._wake()

    def fail(self, error: Exception) -> None:
        """It will never come."""
        if not self.is_there:
            self.is_there, self._error = True, error
            self._wake()

    def result(self) -> T:
        """What was given. Raises what it failed with."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # it is there

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter()

    def call_when_there(self, waiter: Callable[[], None]) -> None:
        """For what runs conversations."""
        self._waiter = waiter

    def __await__(self) -> Generator[Any, None, T]:
        if not self.is_there:
            if _turns.running is not None:
                yield self
            else:  # in a task of asyncio: an errand, or a test
                there = asyncio.get_running_loop().create_future()
                self._waiter = lambda: None if there.done() else there.set_result(None)
                yield from there.__await__()
        return self.result()


class _Turns(threading.local):
    """Whose turn it is in this thread. A conversation that is woken by another one has its turn after it, so
    that a long chain of them is no deep stack."""

    def __init__(self) -> None:
        self.ready: deque[Conversation] = deque()
        self.running: Conversation | None = None


_turns = _Turns()


class Conversation:
    """A coroutine that is under way. It waits for answers; an asyncio future, which a rare step needs, will
    do too."""

    __slots__ = ("_coroutine", "_name", "_on_end")

    def __init__(
        self, coroutine: Coroutine[Any, None, None], name: str, on_end: Callable[[], None] = lambda: None
    ) -> None:
        """Begins at once."""
        self._coroutine = coroutine
        self._name = name
        self._on_end = on_end
        self.go_on()

    def go_on(self) -> None:
        """What it waits for is there."""
        _turns.ready.append(self)
        if _turns.running is not None:
            return
        while _turns.ready:
            _turns.running = _turns.ready.popleft()
            try:
                _turns.running._step()  # noqa: SLF001  its own class
            finally:
                _turns.running = None

    def _step(self) -> None:
        try:
            awaited = self._coroutine.send(None)
        except StopIteration:
            self._on_end()
        except Exception:  # noqa: BLE001  no conversation reaches another one
            logs.failed_unexpectedly(self._name)
            self._on_end()
        except BaseException:
            self._on_end()
            raise
        else:
            self._wait_for(awaited)

    def _wait_for(self, awaited: Any) -> None:
        if isinstance(awaited, Answer):
            awaited.call_when_there(self.go_on)
        elif awaited is None:  # asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(self.go_on)
        else:
            awaited._asyncio_future_blocking = False  # noqa: SLF001  how asyncio's own tasks take a future
            awaited.add_done_callback(lambda _: self.go_on())


class Patience:
    """One timer for all that a connection waits for, one after the other. Most waits end long before, so the
    timer is seldom set: it looks, when it fires, whether there is a later moment by now."""

    __slots__ = ("_at", "_loop", "_on_end", "_timer", "_until")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._until: float | None = None
        self._at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, seconds: float) -> None:
        """What is waited for now must come within so long."""
        self._until = self._loop.time() + seconds
        if self._timer is None or self._until < self._at:
            self._set(self._until)

    def end(self) -> None:
        """It has come."""
        self._until = None

    def close(self) -> None:
        """Nothing is waited for any more."""
        self._until = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = moment
        self._timer = self._loop.call_at(moment, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self._until > self._loop.time():
            self._set(self._until)
        else:
            self._until = None
            self._on_end()

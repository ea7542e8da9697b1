"""Connects to a host that has several addresses: each has its chance, and one that is dead costs a quarter of
a second (RFC 5321 section 5.1, RFC 8305)."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress

_SECONDS_TO_CONNECT = 10.0
_SECONDS_UNTIL_THE_NEXT = 0.25
"""RFC 8305 section 8: the recommended connection attempt delay."""
_SECONDS_DEAD = 300.0

Address = tuple[int, str]
"""Family and numeric address."""
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


async def resolve(host: str, port: int) -> list[Address]:
    """By the system's resolver, in its order. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((int(family), str(place[0])) for family, _, _, _, place in found))


class Dialer:
    """The addresses of one host, and which of them were dead lately."""

    def __init__(self, host: str, port: int, resolve: Resolve = resolve) -> None:
        self._host = host
        self._port = port
        self._resolve = resolve
        self._dead_until: dict[str, float] = {}

    async def connect(self, without: Container[str] = ()) -> socket.socket:
        """A connection to the first address that answers, `without` these. Raises OSError where none does."""
        found = [one for one in await self._resolve(self._host, self._port) if one[1] not in without]
        waiting = self._in_turn(found)
        trying: dict[asyncio.Task[socket.socket], str] = {}
        error: BaseException = OSError(f"{self._host} has no address")
        try:
            while waiting or trying:
                if waiting:
                    family, address = waiting.pop(0)
                    trying[asyncio.ensure_future(self._try(family, address))] = address
                timeout = _SECONDS_UNTIL_THE_NEXT if waiting else None
                done, _ = await asyncio.wait(trying, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    earlier = list(trying.values())[: list(trying).index(attempt)]
                    address = trying.pop(attempt)
                    if (problem := attempt.exception()) is None:
                        self._dead_until.pop(address, None)
                        for slower in earlier:  # each had a quarter of a second more than this one
                            self.note_dead(slower)
                        return attempt.result()
                    error = problem
                    self.note_dead(address)
        finally:
            for attempt in trying:
                attempt.add_done_callback(_close_late)
                attempt.cancel()
        raise error if isinstance(error, OSError) else OSError(str(error)) from error

    def note_dead(self, address: str) -> None:
        """It does not answer, or not as an SMTP server does: for a while the others come first."""
        self._dead_until[address] = time.monotonic() + _SECONDS_DEAD

    def _in_turn(self, addresses: Sequence[Address]) -> list[Address]:
        """The families in turn (RFC 8305 section 4), those that were dead lately last."""
        # The resolver's own order (RFC 6724) says which family comes first.
        first = [one for one in addresses if one[0] == addresses[0][0]]
        others = [one for one in addresses if one[0] != addresses[0][0]]
        turn = [one for pair in zip(first, others, strict=False) for one in pair]
        turn += first[len(others) :] + others[len(first) :]
        now = time.monotonic()
        return sorted(turn, key=lambda one: self._dead_until.get(one[1], 0.0) > now)

    async def _try(self, family: int, address: str) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(_SECONDS_TO_CONNECT):
                await asyncio.get_running_loop().sock_connect(connection, (address, self._port))
        except BaseException:
            connection.close()
            raise
        return connection


def _close_late(attempt: "asyncio.Task[socket.socket]") -> None:
    """One that came too late is not needed."""
    with suppress(asyncio.CancelledError, OSError, TimeoutError):
        attempt.result().close()

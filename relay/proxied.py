"""Behind balancers: a PROXY header, before everything else, says whose connection it is (haproxy,
proxy-protocol.txt, versions 1 and 2). It is parsed by aiosmtpd.

The header is looked at in the socket's queue and taken out of it exactly, so that what follows, a TLS
handshake too, is still there for the event loop. Only networks that the listener names as balancers are asked
for a header; a connection from elsewhere is what it says it is."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiosmtpd.proxy_protocol import V2_CMD, ProxyData, get_proxy

from core import logs
from core.endpoints import Network
from relay.limits import is_trusted

_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = 16
_LONGEST_V1 = 107
"""Bytes (proxy-protocol.txt, section 2.1)."""
_LONGEST = 4096
_SECONDS_FOR_THE_HEADER = 15.0
_SECONDS_BETWEEN_LOOKS = 0.02
_SECONDS_WITHOUT_DESCRIPTORS = 0.1


class NoHeader(Exception):
    """What came is no PROXY header, or none came in time."""


@dataclass
class _InMemory:
    """A header as aiosmtpd's parser reads it; nothing here waits."""

    left: bytes

    async def read(self, number: int = -1) -> bytes:
        taken, self.left = self.left[:number], self.left[number:]
        return taken

    async def readexactly(self, n: int) -> bytes:
        return await self.read(n)

    async def readuntil(self, separator: bytes = b"\n") -> bytes:
        return await self.read(self.left.find(separator) + len(separator))


async def accept_on(
    listening: socket.socket,
    proxies: tuple[Network, ...],
    begin: Callable[[socket.socket, str], Awaitable[None]],
) -> None:
    """For ever: hand over each connection that comes in, with the client's address."""
    loop = asyncio.get_running_loop()
    errands: set[asyncio.Task[None]] = set()
    while True:
        try:
            connection, address = await loop.sock_accept(listening)
        except OSError:  # too many files are open
            await asyncio.sleep(_SECONDS_WITHOUT_DESCRIPTORS)
            continue
        errand = asyncio.ensure_future(_begin(connection, str(address[0]), proxies, begin))
        errands.add(errand)
        errand.add_done_callback(errands.discard)


async def _begin(
    connection: socket.socket,
    source: str,
    proxies: tuple[Network, ...],
    begin: Callable[[socket.socket, str], Awaitable[None]],
) -> None:
    connection.setblocking(False)
    try:
        if is_trusted(source, proxies):
            async with asyncio.timeout(_SECONDS_FOR_THE_HEADER):
                source = _client(await _header(connection), source)
        await begin(connection, source)
    except (NoHeader, TimeoutError) as error:
        logs.proxy_header_refused(source, str(error) or "none came in time")
        connection.close()
    except OSError:  # gone, or its handshake failed
        connection.close()
    except Exception:  # noqa: BLE001  the edge of a connection
        logs.failed_unexpectedly("a connection from a balancer")
        connection.close()


async def _header(connection: socket.socket) -> bytes:
    """The header, taken out of the socket's queue. Raises NoHeader, OSError."""
    while True:
        await _readable(connection)
        # Looked at only: with one byte too many taken out, the TLS handshake behind it would fail.
        seen = connection.recv(_LONGEST, socket.MSG_PEEK)
        if not seen:
            raise NoHeader("the connection was closed before its PROXY header")
        length = _length(seen)
        if length is not None and length <= len(seen):
            return connection.recv(length)
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)  # what was seen stays, and makes the socket readable


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    something: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        loop.remove_reader(connection.fileno())
        if not something.done():
            something.set_result(None)

    loop.add_reader(connection.fileno(), note)
    try:
        await something
    finally:
        loop.remove_reader(connection.fileno())


def _length(seen: bytes) -> int | None:
    """How long the header is; None while that cannot be told. Raises NoHeader."""
    if seen.startswith(_V2_SIGNATURE):
        if len(seen) < _V2_HEAD:
            return None
        length = _V2_HEAD + int.from_bytes(seen[14:16])
        if length > _LONGEST:
            raise NoHeader("the PROXY header is too long")
        return length
    if seen.startswith(b"PROXY "):
        end = seen.find(b"\r\n", 0, _LONGEST_V1)
        if end < 0 and len(seen) >= _LONGEST_V1:
            raise NoHeader("the PROXY header does not end")
        return None if end < 0 else end + 2
    if _V2_SIGNATURE.startswith(seen) or b"PROXY ".startswith(seen):
        return None
    raise NoHeader("it does not begin with a PROXY header")


def _client(header: bytes, source: str) -> str:
    """The client's address; the balancer's own where it speaks for itself, as in its health checks. Raises
    NoHeader."""
    data = _parsed(header)
    if not data.valid:
        raise NoHeader(f"the PROXY header is wrong: {data.error}")
    speaks_for_itself = data.version == 2 and data.command == V2_CMD.LOCAL
    return str(data.src_addr) if data.src_addr and not speaks_for_itself else source


def _parsed(header: bytes) -> ProxyData:
    reading = get_proxy(_InMemory(header))
    try:
        reading.send(None)
    except StopIteration as done:
        found: ProxyData = done.value
        return found
    raise NoHeader("the PROXY header is not whole")

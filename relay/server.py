"""The listeners, and everyone who is connected to them: who has been silent for too long, and how all of it
stops."""

import asyncio
import socket
import time
from collections.abc import Iterable
from dataclasses import replace

from core import logs
from core.endpoints import Listener, ListenerKind
from relay import replies
from relay.connection import SECONDS_FOR_A_HANDSHAKE, ClientConnection
from relay.entrance import Entrance
from relay.process import Relay
from relay.proxied import accept_on
from relay.session import Session

SECONDS_OF_LAG = 2.0
"""More than any queue of ready work here takes; a loop that is later has been held up, or has far too much to
do."""
_BACKLOG = 2048
_SECONDS_TO_FINISH_SENDING = 20.0
_SECONDS_FOR_LAST_VERDICTS = 90.0
"""More than an upstream may take for its verdict: a mail whose dot was sent is always seen through."""


class Server:
    """Listens, keeps the sessions, and stops them in good order."""

    def __init__(self, relay: Relay) -> None:
        self.is_stopping = False
        self.is_overloaded = False
        """The event loop is late: who is here is served, who comes is asked to come again."""
        self._relay = relay
        self.connections: set[ClientConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._accepting: dict[asyncio.Future[None], socket.socket] = {}
        """Of listeners behind balancers."""
        self._none_left = asyncio.Event()
        self._looked_at = time.monotonic()

    @property
    def session_count(self) -> int:
        """How many clients are connected."""
        return len(self.connections)

    def seconds_since_the_last_look(self) -> float:
        """For how long the event loop has not come round; from any thread."""
        return time.monotonic() - self._looked_at

    async def listen(self, entrances: Iterable[Entrance]) -> list[Listener]:
        """Accept clients; the listeners with the ports that they got. Raises OSError."""
        return [await self._listen(entrance) for entrance in entrances]

    async def _listen(self, entrance: Entrance) -> Listener:
        listener = entrance.listener
        is_implicit_tls = listener.kind is ListenerKind.SUBMISSIONS
        if listener.proxies:
            return self._listen_behind_balancers(entrance, is_implicit_tls=is_implicit_tls)
        server = await asyncio.get_running_loop().create_server(
            lambda: Session(self._relay, entrance, self),
            listener.host,
            listener.port,
            backlog=_BACKLOG,
            reuse_port=True,
            ssl=entrance.tls if is_implicit_tls else None,
            ssl_handshake_timeout=SECONDS_FOR_A_HANDSHAKE if is_implicit_tls else None,
        )
        self._servers.append(server)
        return replace(listener, port=server.sockets[0].getsockname()[1])

    def _listen_behind_balancers(self, entrance: Entrance, *, is_implicit_tls: bool) -> Listener:
        """Raises OSError."""
        listener, loop = entrance.listener, asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        listening = socket.create_server(
            (listener.host, listener.port), family=family, backlog=_BACKLOG, reuse_port=True
        )
        listening.setblocking(False)

        async def begin(connection: socket.socket, source: str) -> None:
            await loop.connect_accepted_socket(
                lambda: Session(self._relay, entrance, self, source),
                connection,
                ssl=entrance.tls if is_implicit_tls else None,
                ssl_handshake_timeout=SECONDS_FOR_A_HANDSHAKE if is_implicit_tls else None,
            )

        self._accepting[asyncio.ensure_future(accept_on(listening, listener.proxies, begin))] = listening
        return replace(listener, port=listening.getsockname()[1])

    def enter(self, connection: ClientConnection) -> None:
        self.connections.add(connection)

    def leave(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self._none_left.set()

    async def watch(self) -> None:
        """Once a second, for ever: who has been silent for too long is told so and let go, and the loop's lag
        is taken.

        All by the loop's clock, which does not jump when the machine's is set."""
        now, late = asyncio.get_running_loop().time, 0.0
        while True:
            began = now()
            await asyncio.sleep(1)
            late = max(late / 2, now() - began - 1)
            self._looked_at = time.monotonic()
            self._note_lag(late)
            try:
                self._look_at_sessions(now())
            except Exception:  # noqa: BLE001  whatever it was, the next look may fare better
                logs.failed_unexpectedly("looking after the sessions")

    def _look_at_sessions(self, now: float) -> None:
        for session in [one for one in self.connections if one.deadline is not None and one.deadline < now]:
            session.dismiss(replies.IDLE)
        for session in list(self.connections):
            session.release_upstream_if_silent(now)

    def _note_lag(self, seconds: float) -> None:
        was, self.is_overloaded = self.is_overloaded, seconds > SECONDS_OF_LAG
        if self.is_overloaded and not was:
            logs.overloaded(seconds)

    async def stop(self) -> int:
        """No new clients; those between mails are told to come again, mails under way come to their end.

        How many did not, within the bounds."""
        self.is_stopping = True
        for server in self._servers:
            server.close()
        for accepting, listening in self._accepting.items():
            accepting.cancel()
            listening.close()
        for session in [one for one in self.connections if one.is_between_mails]:
            session.dismiss(replies.SHUTTING_DOWN)
        if not await self._all_left_within(_SECONDS_TO_FINISH_SENDING):
            for session in [one for one in self.connections if one.deadline is not None]:
                session.dismiss(replies.SHUTTING_DOWN)
            await self._all_left_within(_SECONDS_FOR_LAST_VERDICTS)
        return len(self.connections)

    async def _all_left_within(self, seconds: float) -> bool:
        if not self.connections:
            return True
        self._none_left.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._none_left.wait()
        except TimeoutError:
            return False
        return True

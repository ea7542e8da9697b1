"""A client's connection: what comes in, what goes out, whose turn it is, encryption, and how it ends.

Nothing here knows a verb. aiosmtpd's class is the protocol that the event loop speaks to. Its constructor
inspects the class anew for each connection (78 us, measured) and is passed by, its stream reader gives way to
`ClientInput`, and its command loop, which cancels a mail when the client hangs up, to `_converse` of the
session."""

import asyncio
import fcntl
import socket
import ssl
import sys
import termios
from abc import abstractmethod
from asyncio.streams import FlowControlMixin
from typing import Any, Protocol

from aiosmtpd.smtp import SMTP

from relay import replies
from relay.buffer import ClientInput
from relay.conversation import Conversation
from relay.replies import Reply

SECONDS_FOR_A_HANDSHAKE = 15.0
SECONDS_FOR_A_CHUNK = 180.0  # RFC 5321 section 4.5.3.2.5
_SECONDS_TO_TAKE_A_LAST_WORD = 10.0


class Registry(Protocol):
    """Where connections say that they are there."""

    is_stopping: bool
    is_overloaded: bool

    def enter(self, connection: "ClientConnection") -> None: ...
    def leave(self, connection: "ClientConnection") -> None: ...


class ClientConnection(SMTP):
    """One client's connection; the session says what is said on it."""

    def __init__(self, registry: Registry, source: str = "") -> None:
        """`source`: the client's address, where a balancer has told it."""
        self._now = asyncio.get_running_loop().time
        FlowControlMixin.__init__(self)
        self.transport: Any = None
        self.deadline: float | None = None
        """When the client has been silent for too long, by the loop's clock; None while it is not its
        turn."""
        self.source = source
        self.is_behind_balancer = bool(source)
        """The client's address."""
        self.is_over = False
        """Whether everything is said."""
        self._registry = registry
        self._is_encrypted = False
        self._is_closing = False
        self._is_gone = False
        self._has_broken = False
        self._is_unsaid = False
        self._received = 0
        self._takes_utf8 = False
        """Whether the client's last mail uses SMTPUTF8, so that it understands replies in UTF-8."""

    @property
    def is_between_mails(self) -> bool:
        """Nothing is under way: the client can be told to come again later."""
        return self.deadline is not None

    def release_upstream_if_silent(self, now: float) -> None:
        """Once a second: what the client leaves unused is for others."""

    @abstractmethod
    async def _converse(self) -> None:
        """The whole session, which nobody cancels."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.source = self.source or str((transport.get_extra_info("peername") or ("",))[0])
        self._is_encrypted = transport.get_extra_info("sslcontext") is not None
        self.buffer = ClientInput(transport)
        self._registry.enter(self)
        Conversation(self._converse(), "a session", self._over)

    def eof_received(self) -> bool:
        """A client that has closed its sending half may still listen (`printf … | nc`)."""
        self.buffer.end()
        return not self._is_encrypted  # TLS has no half-open connections

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        self.buffer.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        """`error` None: we have closed; else the connection broke under us."""
        if self._is_gone:
            return
        # Only noted: a mail whose dot is out is seen through without its client.
        self._is_gone = True
        self._has_broken = error is not None
        self.deadline = None
        self.buffer.end()
        FlowControlMixin.connection_lost(self, error)
        self._leave_if_over()

    def dismiss(self, reply: Reply) -> None:
        """Say a last word to a client whose turn it is, and close; a client that does not take it is cut
        off."""
        if self._is_gone:
            return
        if self._is_closing or self.transport.is_closing():
            self.transport.abort()
            return
        self._is_closing = True
        self.transport.write(reply.wire())
        self._close()

    def _close(self) -> None:
        """Close once everything is sent; who does not take it in time is cut off by the server's watch."""
        if not self._is_gone:
            self.deadline = self._now() + _SECONDS_TO_TAKE_A_LAST_WORD
            self.transport.close()

    def _over(self) -> None:
        self.is_over = True
        self._leave_if_over()

    def _leave_if_over(self) -> None:
        """The session is over when both its conversation and its connection are."""
        if self._is_gone and self.is_over:
            self._registry.leave(self)

    async def _say(self, reply: Reply) -> None:
        """Send a reply; a client that is gone hears nothing, which is no error here."""
        if reply.code == replies.SHUTTING_DOWN.code:
            self._is_closing = True
        if self._is_gone or self.transport.is_closing():
            self._is_unsaid = True
            return
        self.transport.write(reply.wire(in_utf8=self._takes_utf8))
        # Nearly always the kernel takes a reply at once, and nothing waits.
        if self.transport.get_write_buffer_size() == 0:
            return
        self.deadline = self._now() + SECONDS_FOR_A_CHUNK
        try:
            await self._drain_helper()  # type: ignore[attr-defined]  # of FlowControlMixin, which has no stubs
        except OSError:
            self.transport.abort()
        finally:
            self.deadline = None

    def _was_reset(self) -> bool:
        connection = None if self._is_gone else self.transport.get_extra_info("socket")
        if connection is None:
            return False
        try:
            return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)
        except OSError:
            return True

    def _has_been_heard(self) -> bool:
        """Whether all that we said has been acknowledged by the client's machine. Behind a balancer, and
        where the kernel does not tell, nobody knows."""
        connection = None if self._is_gone else self.transport.get_extra_info("socket")
        if connection is None or self.is_behind_balancer:
            return False
        try:
            unacknowledged = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return False
        return int.from_bytes(unacknowledged, sys.byteorder) == 0

    async def _encrypt(self, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport = await loop.start_tls(
                self.transport, self, context, server_side=True, ssl_handshake_timeout=SECONDS_FOR_A_HANDSHAKE
            )
        except (OSError, TimeoutError) as error:
            self._break_off(error)
            raise
        if transport is None:
            gone = ConnectionResetError("gone during the handshake")
            self._break_off(gone)
            raise gone
        self.transport = transport
        self._is_encrypted = True
        self.buffer.goes_on_over(transport)

    def _break_off(self, error: Exception) -> None:
        """A connection that is lost during its handshake is not told so by asyncio, nor by uvloop."""
        # Without this the session would wait for ever for a line that cannot come.
        self.transport.abort()
        self.connection_lost(error)

"""The SMTP verbs, thin: each asks the upstream; DATA hands over to a delivery.

The verdicts that a client hears on MAIL, RCPT and the data are the upstream's. A session's task is never
cancelled, by a client that hangs up, by a timer or by a shutdown: it finds out at its next read, so that what
happens between the final dot and the reply always comes to its end."""

import asyncio
import base64
import binascii
import socket
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Protocol

from aiosmtpd.smtp import SMTP

from core import logs
from core.people import AppPassword, Person
from core.smtp import RefusesUs, Unavailable
from relay import replies
from relay.delivery import ClientGone, Delivered, Delivery, Relay
from relay.envelope import BadCommand, parse_mail, parse_rcpt
from relay.input import ClientInput, LineTooLong
from relay.journal import LostReply
from relay.logbook import ReplyDelivered, Used
from relay.replies import Reply, is_our_fault
from relay.upstream import Transaction, UpstreamBusy, UpstreamLost

SECONDS_IDLE = 300.0  # RFC 5321 section 4.5.3.2.7
SECONDS_FOR_A_CHUNK = 180.0  # RFC 5321 section 4.5.3.2.5
_SECONDS_TO_TAKE_A_LAST_WORD = 10.0
_SECONDS_TO_HEAR_A_RESET = 0.3
_MOST_ERRORS = 20
_COMMANDS_IN_A_ROW = 20
_READ_LIMIT = 128 * 1024
_UPSTREAM_EXTENSIONS = ("8bitmime", "smtputf8", "dsn", "enhancedstatuscodes")


_TROUBLES: Mapping[type[Exception], Reply] = {
    Unavailable: replies.UPSTREAM_UNREACHABLE,
    RefusesUs: replies.MISCONFIGURED,
    UpstreamBusy: replies.UPSTREAM_BUSY,
    UpstreamLost: replies.UPSTREAM_LOST,
}
"""What the client hears of a trouble between us and the upstream."""


class Registry(Protocol):
    """Where sessions say that they are there."""

    is_stopping: bool

    def enter(self, session: "Session") -> None: ...
    def leave(self, session: "Session") -> None: ...


class Session(SMTP):
    """One client's connection.

    Of aiosmtpd's class the protocol is kept. Its constructor inspects the class anew for each connection (78 us,
    measured) and is passed by; its command loop, which cancels a mail when the client hangs up, is replaced."""

    def __init__(self, relay: Relay, registry: Registry) -> None:
        self._now = asyncio.get_running_loop().time
        asyncio.StreamReaderProtocol.__init__(
            self, asyncio.StreamReader(limit=_READ_LIMIT), client_connected_cb=self._connected
        )
        self.transport: Any = None
        self.deadline: float | None = None
        """When the client has been silent for too long, by the loop's clock; None while it is not its turn."""
        self.task: asyncio.Task[None] | None = None
        self._relay = relay
        self._registry = registry
        self._has_said_hello = False
        self._signed_in: tuple[Person, AppPassword] | None = None
        self._transaction: Transaction | None = None
        self._unconfirmed: Delivered | None = None
        self._is_closing = False
        self._is_gone = False
        self._has_broken = False
        self._received = 0
        self._received_before_reply = 0
        self._errors = 0
        self._commands = 0

    # -- the connection

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        asyncio.StreamReaderProtocol.connection_made(self, transport)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._input = ClientInput(reader)
        self._writer = writer
        self._registry.enter(self)
        self.task = asyncio.ensure_future(self._converse())

    def eof_received(self) -> bool:
        """A client that has closed its sending half may still listen (`printf … | nc`)."""
        asyncio.StreamReaderProtocol.eof_received(self)
        return True

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        asyncio.StreamReaderProtocol.data_received(self, data)

    def connection_lost(self, error: Exception | None) -> None:
        """`error` None: we have closed; else the connection broke under us."""
        self._is_gone = True
        self._has_broken = error is not None
        self.deadline = None
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        self._leave_if_over()

    @property
    def is_between_mails(self) -> bool:
        """Nothing is under way: the client can be told to come again later."""
        return self.deadline is not None and self._transaction is None

    def dismiss(self, reply: Reply) -> None:
        """Say a last word to a client whose turn it is, and close; a client that does not take it is cut off."""
        if self._is_gone:
            return
        if self._is_closing or self.transport.is_closing():
            self.transport.abort()
            return
        self._is_closing = True
        self.transport.write(reply.wire())
        self._close()

    async def _converse(self) -> None:
        """The whole session. The edge of a client: nothing that goes wrong here reaches another one."""
        try:
            await self._greet()
            while not self._is_closing and (line := await self._next_line()) is not None:
                self._confirm_if_heard()
                await self._answer(line)
                await self._send_away_if_stopping()
        except Exception:  # noqa: BLE001  said to nobody but our log
            logs.failed_unexpectedly("a session")
        finally:
            await self._end()

    async def _greet(self) -> None:
        await self._say(Reply(220, (f"{self._relay.hostname} ESMTP".encode(),)))
        await self._send_away_if_stopping()

    async def _send_away_if_stopping(self) -> None:
        if self._registry.is_stopping and self._transaction is None and not self._is_closing:
            await self._say(replies.SHUTTING_DOWN)

    async def _end(self) -> None:
        self._give_up()
        await self._note_if_unheard()
        self._close()
        self.task = None
        self._leave_if_over()

    def _close(self) -> None:
        """Close once everything is sent; who does not take it in time is cut off by the server's watch."""
        if not self._is_gone:
            self.deadline = self._now() + _SECONDS_TO_TAKE_A_LAST_WORD
            self.transport.close()

    def _leave_if_over(self) -> None:
        """The session is over when both its task and its connection are."""
        if self._is_gone and self.task is None:
            self._registry.leave(self)

    async def _next_line(self) -> bytes | None:
        self.deadline = self._now() + SECONDS_IDLE
        try:
            return await self._input.line()
        except LineTooLong:
            return b"\0"  # no command begins so; it is answered as what it is
        finally:
            self.deadline = None

    async def _next_chunk(self) -> bytes:
        self.deadline = self._now() + SECONDS_FOR_A_CHUNK
        try:
            return await self._input.chunk()
        finally:
            self.deadline = None

    async def _say(self, reply: Reply) -> None:
        """Send a reply; a client that is gone hears nothing, which is no error here."""
        if reply.code == replies.SHUTTING_DOWN.code:
            self._is_closing = True
        if self._is_gone or self.transport.is_closing():
            return
        self.transport.write(reply.wire())
        if self.transport.get_write_buffer_size() == 0:
            return
        self.deadline = self._now() + SECONDS_FOR_A_CHUNK
        try:
            await self._writer.drain()
        except OSError:
            self.transport.abort()
        finally:
            self.deadline = None

    # -- commands

    async def _answer(self, line: bytes) -> None:
        verb, _, arguments = line.strip().partition(b" ")
        self._commands += 1
        if self._commands % _COMMANDS_IN_A_ROW == 0:
            await asyncio.sleep(0)  # who sends without waiting must not keep the others waiting
        handler = self._VERBS.get(verb.upper())
        try:
            reply = await handler(self, arguments.strip()) if handler is not None else _unknown(line)
        except BadCommand as error:
            reply = error.reply
        except (Unavailable, RefusesUs, UpstreamBusy, UpstreamLost) as trouble:
            reply = _TROUBLES[type(trouble)]
        except ClientGone:
            return
        except Exception:  # noqa: BLE001  the edge of a mail: the client may try again, our log has the detail
            logs.failed_unexpectedly(f"the command {verb[:10]!r}")
            self._give_up()
            reply = replies.INTERNAL
        await self._say(reply)
        if _is_client_error(reply):
            self._errors += 1
            if self._errors >= _MOST_ERRORS:
                await self._say(replies.TOO_MANY_ERRORS)

    async def _ehlo(self, arguments: bytes) -> Reply:
        if not arguments:
            return replies.BAD_ARGUMENTS
        self._give_up()
        self._has_said_hello = True
        offered = self._relay.pool.extensions
        lines = [self._relay.hostname, "PIPELINING"]
        if offered.get("size", "x").isascii() and (offered["size"] or "0").isdigit():
            lines.append(f"SIZE {offered['size']}".strip())
        lines += [name.upper() for name in _UPSTREAM_EXTENSIONS if name in offered]
        lines.append("AUTH PLAIN LOGIN")
        return Reply(250, tuple(line.encode() for line in lines))

    async def _helo(self, arguments: bytes) -> Reply:
        if not arguments:
            return replies.BAD_ARGUMENTS
        self._give_up()
        self._has_said_hello = True
        return Reply(250, (self._relay.hostname.encode(),))

    async def _mail(self, arguments: bytes) -> Reply:
        if not self._has_said_hello:
            return replies.SAY_HELLO_FIRST
        if self._person_in_force() is None:
            return replies.SIGN_IN_FIRST
        if self._transaction is not None:
            return replies.NESTED_MAIL
        transaction = Transaction(self._relay.pool, parse_mail(arguments))
        try:
            reply = await transaction.mail()
        except BaseException:
            transaction.give_up()
            raise
        if reply.is_positive:
            self._transaction = transaction
        else:
            transaction.give_up()
        return self._verdict(reply)

    async def _rcpt(self, arguments: bytes) -> Reply:
        if self._transaction is None:
            return replies.MAIL_FIRST
        path = parse_rcpt(arguments, smtputf8="smtputf8" in self._transaction.sender.extensions)
        return self._verdict(await self._transaction.rcpt(path))

    async def _data(self, arguments: bytes) -> Reply:
        transaction, person, people = self._transaction, self._person_in_force(), self._relay.snapshot.people
        if transaction is None:
            return replies.MAIL_FIRST
        if arguments:
            return replies.BAD_ARGUMENTS
        if not transaction.accepted:
            return replies.NO_RECIPIENTS
        if person is None or people is None:
            return replies.SIGN_IN_FIRST
        await self._say(replies.SEND_DATA)
        delivery = Delivery(self._relay, person, people.policy, transaction, self._next_chunk)
        try:
            delivered = await delivery.run()
        finally:
            self._transaction = None
            self._input.give_back(delivery.rest)
            self._is_closing = self._is_closing or not delivery.has_read_all
        if delivered.reply.is_positive:
            self._unconfirmed = delivered
            self._received_before_reply = self._received
        return delivered.reply

    async def _rset(self, arguments: bytes) -> Reply:
        self._give_up()
        return replies.OK

    async def _noop(self, arguments: bytes) -> Reply:
        return replies.OK

    async def _vrfy(self, arguments: bytes) -> Reply:
        return replies.CANNOT_VERIFY

    async def _quit(self, arguments: bytes) -> Reply:
        self._is_closing = True
        return replies.BYE

    async def _not_offered(self, arguments: bytes) -> Reply:
        return replies.NOT_OFFERED

    def _give_up(self) -> None:
        if self._transaction is not None:
            self._transaction.give_up()
            self._transaction = None

    def _verdict(self, reply: Reply) -> Reply:
        """The upstream's own reply, unless it speaks of us."""
        if not is_our_fault(reply):
            return reply
        logs.upstream_misconfigured(str(self._relay.pool), reply.code)
        return replies.MISCONFIGURED

    # -- whether the client has heard the last 250

    def _confirm_if_heard(self) -> None:
        """A client that speaks on after our 250 has heard it; what it had sent ahead says nothing."""
        if self._unconfirmed is None or self._received == self._received_before_reply:
            return
        if self._unconfirmed.repeats is not None:
            self._relay.logbook.note_if_possible(ReplyDelivered(self._unconfirmed.repeats))
        self._unconfirmed = None

    async def _note_if_unheard(self) -> None:
        """A client that had closed its connection answers our 250 with a reset, within a round trip."""
        if self._unconfirmed is None:
            return
        if not self._is_gone:
            await asyncio.sleep(_SECONDS_TO_HEAR_A_RESET)
        if self._has_broken or self._was_reset():
            self._relay.logbook.note(LostReply(self._unconfirmed.mail_id, self._unconfirmed.fingerprint))
            self._unconfirmed = None

    def _was_reset(self) -> bool:
        connection = None if self._is_gone else self.transport.get_extra_info("socket")
        if connection is None:
            return False
        try:
            return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0)
        except OSError:
            return True

    # -- signing in

    def _person_in_force(self) -> Person | None:
        """The signed-in person as the settings have it now; None where nobody is, or no longer may be."""
        people = self._relay.snapshot.people
        if self._signed_in is None or people is None:
            return None
        person = people.by_id.get(self._signed_in[0].id)
        return person if person is not None and self._signed_in[1] in person.app_passwords else None

    async def _auth(self, arguments: bytes) -> Reply:
        if not self._has_said_hello:
            return replies.SAY_HELLO_FIRST
        if self._signed_in is not None:
            return replies.ALREADY_SIGNED_IN
        if self._transaction is not None:
            return replies.NOT_DURING_MAIL
        mechanism, _, initial = arguments.partition(b" ")
        ask = {b"PLAIN": self._ask_plain, b"LOGIN": self._ask_login}.get(mechanism.upper())
        if ask is None:
            return replies.UNKNOWN_MECHANISM
        login, password = await ask(initial.strip())
        return await self._sign_in(login, password)

    async def _ask_plain(self, initial: bytes) -> tuple[str, str]:
        """RFC 4616: authorisation identity, name and password, between NULs."""
        response = _decoded(initial) if initial else await self._challenge(b"")
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise BadCommand(replies.BAD_BASE64)
        return _text(parts[1]), _text(parts[2])

    async def _ask_login(self, initial: bytes) -> tuple[str, str]:
        login = _decoded(initial) if initial else await self._challenge(b"Username:")
        return _text(login), _text(await self._challenge(b"Password:"))

    async def _challenge(self, question: bytes) -> bytes:
        await self._say(Reply(334, (base64.b64encode(question),)))
        line = await self._next_line()
        if line is None:
            raise ClientGone
        if line.strip() == b"*":
            raise BadCommand(replies.AUTH_CANCELLED)
        return _decoded(line.strip())

    async def _sign_in(self, login: str, password: str) -> Reply:
        """An app password that the snapshot does not know may be seconds old: look once before refusing."""
        snapshot = self._relay.snapshot
        found = self._find(login, password)
        if found is None and not await snapshot.look_at_once():
            return replies.CANNOT_CHECK_SIGN_IN
        found = found or self._find(login, password)
        if found is None:
            logs.sign_in_failed(str((self.transport.get_extra_info("peername") or ("?",))[0]))
            return replies.BAD_CREDENTIALS
        self._signed_in = found
        self._relay.logbook.note_if_possible(Used(found[1].id, datetime.now(UTC)))
        return replies.SIGNED_IN

    def _find(self, login: str, password: str) -> tuple[Person, AppPassword] | None:
        people = self._relay.snapshot.people
        return people.signing_in(login, password, datetime.now(UTC)) if people is not None else None

    _VERBS: ClassVar[Mapping[bytes, Callable[["Session", bytes], Awaitable[Reply]]]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"QUIT": _quit,
        b"AUTH": _auth,
        b"STARTTLS": _not_offered,
        b"BDAT": _not_offered,
        b"EXPN": _not_offered,
        b"HELP": _not_offered,
    }


def _unknown(line: bytes) -> Reply:
    return replies.LINE_TOO_LONG if line == b"\0" else replies.UNKNOWN_COMMAND


def _is_client_error(reply: Reply) -> bool:
    """Replies of ours to what a client should not have said; the upstream's refusals of a recipient are none."""
    return reply in _CLIENT_ERRORS


_CLIENT_ERRORS = frozenset(
    {
        replies.LINE_TOO_LONG,
        replies.UNKNOWN_COMMAND,
        replies.BAD_ARGUMENTS,
        replies.BAD_BASE64,
        replies.NOT_OFFERED,
        replies.SAY_HELLO_FIRST,
        replies.MAIL_FIRST,
        replies.NESTED_MAIL,
        replies.UNKNOWN_MECHANISM,
        replies.SIGN_IN_FIRST,
        replies.BAD_CREDENTIALS,
    },
)


def _decoded(text: bytes) -> bytes:
    if text == b"=":  # RFC 4954 section 4: an empty initial response
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadCommand(replies.BAD_BASE64) from error


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")

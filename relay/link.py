"""One connection to the upstream: our own protocol on a transport that core/smtp connected.

Commands may be sent ahead (RFC 2920), replies come in their order as bytes, a mail's data is streamed no
faster than the upstream takes it."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from relay.conversation import Answer, Patience
from relay.replies import Garbage, Reply, ReplyReader

SECONDS_FOR_A_COMMAND = 300.0
"""RFC 5321 sections 4.5.3.2.2 and 4.5.3.2.3, for MAIL and RCPT."""
_SECONDS_TO_WRITE = 180.0
_SECONDS_IDLE = 20.0
_SECONDS_OF_LIFE = 300.0
_MAILS_PER_LINK = 100


class UpstreamLost(Exception):
    """The connection is gone, silent for too long, or talks nonsense."""


class UpstreamLink(asyncio.Protocol):
    """One connection, greeted and signed in. Commands may be sent ahead; replies come in their order."""

    def __init__(self, transport: asyncio.Transport, extensions: Mapping[str, str], now: float) -> None:
        self.extensions = extensions
        self.born_at = now
        self.idle_since = now
        self.mails = 0
        self.holder: int | None = None
        """Whose mail is on it."""
        self.on_end: Callable[[], None] = lambda: None
        """Called once when the connection is over."""
        self._transport = transport
        self._reader = ReplyReader()
        self._awaited: deque[Answer[Reply]] = deque()
        self._room: Answer[None] | None = None
        """There while the upstream does not take what was written last."""
        self._patience = Patience(asyncio.get_running_loop(), self.abort)
        self.is_lost = False
        self._is_out_of_step = False
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        try:
            said = self._reader.feed(data)
        except Garbage:
            self.abort()
            return
        # known before anybody goes on: a link that says more than it was asked is for no other mail
        self._is_out_of_step = self._reader.is_spoilt or len(said) > len(self._awaited)
        for reply in said:
            self._take_in(reply)
        if self._is_out_of_step:
            self.abort()

    def _take_in(self, reply: Reply) -> None:
        """A reply that nobody waits for is the upstream's farewell: 421 before it closes."""
        # 421 before a server closes an idle connection (RFC 5321 section 3.8); the next mail must not read it
        # as the answer to its MAIL.
        if not self._awaited:
            self.abort()
            return
        self._awaited.popleft().give(reply)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._patience.close()
        on_end, self.on_end = self.on_end, lambda: None
        on_end()
        self.resume_writing()
        while self._awaited:
            self._awaited.popleft().fail(UpstreamLost())

    def pause_writing(self) -> None:
        self._room = Answer()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.give(None)

    def expect(self) -> Answer[Reply]:
        """The next reply that is not spoken for."""
        answer: Answer[Reply] = Answer()
        if self.is_lost:
            answer.fail(UpstreamLost())
        else:
            self._awaited.append(answer)
        return answer

    def send(self, *lines: bytes) -> list[Answer[Reply]]:
        """Commands in one write; what the upstream answers to each."""
        # One write for all of them: each write of its own is a packet and a system call of 10 to 15 us.
        if not self.is_lost:
            self._transport.write(b"\r\n".join([*lines, b""]))
        return [self.expect() for _ in lines]

    async def command(self, line: bytes, seconds: float = SECONDS_FOR_A_COMMAND) -> Reply:
        """One command and its reply. Raises UpstreamLost; the link is then closed."""
        return await self.reply(self.send(line)[0], seconds)

    async def reply(self, answer: Answer[Reply], seconds: float) -> Reply:
        """Wait for a reply. Raises UpstreamLost; the link is then closed."""
        if not answer.is_there:
            self._patience.begin(seconds)
            try:
                return await answer
            finally:
                self._patience.end()
        return answer.result()

    async def write(self, data: bytes) -> None:
        """Pass bytes of a mail on, no faster than the upstream takes them. Raises UpstreamLost."""
        if self.is_lost:
            raise UpstreamLost
        self._transport.write(data)
        if self._room is None:
            return
        self._patience.begin(_SECONDS_TO_WRITE)
        try:
            await self._room
        finally:
            self._patience.end()
        if self.is_lost:
            raise UpstreamLost

    def is_reusable(self, now: float) -> bool:
        """Whether the next mail may use it."""
        return (
            not self.is_lost
            and not self._is_out_of_step
            and not self._awaited
            and self.mails < _MAILS_PER_LINK
            and now - self.idle_since < _SECONDS_IDLE
            and now - self.born_at < _SECONDS_OF_LIFE
        )

    def abort(self) -> None:
        """Close at once, without a word: a mail that is under way is discarded by the upstream."""
        self.is_lost = True
        self._transport.abort()

    def quit(self) -> None:
        """Close in good manners, without waiting for the answer."""
        if not self.is_lost:
            self._transport.write(b"QUIT\r\n")
            self._transport.close()
        self.is_lost = True

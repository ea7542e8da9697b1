"""What a client has sent and we have not read yet: command lines first, then a mail's data in chunks."""

from typing import Protocol

from relay.conversation import Answer

LONGEST_LINE = 12_288  # RFC 4954 section 4: an AUTH line may be this long
_MOST_AHEAD = 32 * 1024


class LineTooLong(Exception):
    """A command line beyond every limit; it has been read to its end and thrown away."""


class Reading(Protocol):
    """What of a transport is needed to keep a client waiting."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class ClientInput:
    """Takes in what the transport hands over; a client that is far ahead of us is not read until we catch up.

    One buffer and one future: a chunk is handed on as it came, where asyncio's StreamReader copies it in and
    out, and is the only one of its mail in memory."""

    __slots__ = ("_held", "_is_paused", "_position", "_transport", "_waiter", "has_ended")

    def __init__(self, transport: Reading) -> None:
        self._transport = transport
        self._held = b""
        self._position = 0
        self._waiter: Answer[None] | None = None
        self.has_ended = False
        self._is_paused = False

    def feed(self, data: bytes) -> None:
        """More has come."""
        self._held = self._held[self._position :] + data if self._held else data
        self._position = 0
        # The client's TCP window fills up, and it waits: memory is bounded without refusing anything.
        if len(self._held) > _MOST_AHEAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def end(self) -> None:
        """Nothing more will come."""
        self.has_ended = True
        self._wake()

    def goes_on_over(self, transport: Reading) -> None:
        """The same conversation, encrypted from here on; what is held by now has come encrypted already."""
        self._transport = transport
        self._is_paused = False

    async def line(self) -> bytes | None:
        """The next command line without its line end, which may be a bare LF here; None at the end of input.

        Raises LineTooLong."""
        too_long = False
        searched = 0
        while True:
            end = self._held.find(b"\n", self._position + searched)
            if end >= 0:
                line = self._held[self._position : end]
                self._position = end + 1
                if too_long or len(line) > LONGEST_LINE:
                    raise LineTooLong
                return line.removesuffix(b"\r")
            searched = len(self._held) - self._position
            if searched > LONGEST_LINE:
                too_long, searched = True, 0
                self._take()
            if not await self._more():
                return None

    def has_more(self) -> bool:
        """Whether the client has sent on without waiting for our answer."""
        return self._position < len(self._held)

    def line_ahead(self, verb: bytes) -> bytes | None:
        """The next command line, if it has come whole and begins with this verb; it is taken then."""
        end = self._held.find(b"\n", self._position, self._position + LONGEST_LINE)
        line = self._held[self._position : end] if end >= 0 else b""
        if line[: len(verb)].upper() != verb:
            return None
        self._position = end + 1
        return line.removesuffix(b"\r")

    async def chunk(self) -> bytes:
        """Whatever is there, at least a byte; b"" at the end of input."""
        if not self.has_more():
            await self._more()
        return self._take()

    def give_back(self, rest: bytes) -> None:
        """What was read beyond the end of a mail is the next command."""
        if rest:
            self._held, self._position = rest + self._take(), 0

    def _take(self) -> bytes:
        rest = self._held[self._position :] if self._position else self._held
        self._held, self._position = b"", 0
        return rest

    async def _more(self) -> bool:
        """Wait until more has come; whether it has."""
        if self.has_ended:
            return False
        if (
            self._is_paused
        ):  # a mail has one chunk in hand: the next is read when the upstream has taken the last
            self._is_paused = False
            self._transport.resume_reading()
        self._waiter = Answer()
        await self._waiter
        return self.has_more()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.give(None)

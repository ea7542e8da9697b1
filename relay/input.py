"""What a client has sent and we have not read yet: command lines first, then a mail's data in chunks."""

import asyncio

LONGEST_LINE = 12_288  # RFC 4954 section 4: an AUTH line may be this long
_CHUNK = 64 * 1024


class LineTooLong(Exception):
    """A command line beyond every limit; it has been read to its end and thrown away."""


class ClientInput:
    """Reads ahead no more than a chunk, so that a client cannot fill our memory."""

    __slots__ = ("_held", "_reader")

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._held = b""

    @property
    def has_more(self) -> bool:
        """Whether the client has sent on without waiting for our answer (pipelining)."""
        return bool(self._held)

    async def line(self) -> bytes | None:
        """The next command line without its line end, which may be a bare LF here; None at the end of input.

        Raises LineTooLong."""
        too_long = False
        while True:
            line, found, rest = self._held.partition(b"\n")
            if found:
                self._held = rest
                if too_long or len(line) > LONGEST_LINE:
                    raise LineTooLong
                return line.removesuffix(b"\r")
            if len(self._held) > LONGEST_LINE:
                too_long, self._held = True, b""
            more = await self._read()
            if not more:
                return None
            self._held += more

    async def chunk(self) -> bytes:
        """Whatever is there, at least a byte; b"" at the end of input."""
        if self._held:
            chunk, self._held = self._held, b""
            return chunk
        return await self._read()

    def give_back(self, rest: bytes) -> None:
        """What was read beyond the end of a mail is the next command."""
        self._held = rest + self._held

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(_CHUNK)
        except ConnectionError:
            return b""

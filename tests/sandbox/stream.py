"""What a client has sent to the sink: lines and chunks of one stream."""

import asyncio

LONGEST_LINE = 12_288  # RFC 4954 section 4: an AUTH line may be this long
_CHUNK = 64 * 1024


class LineTooLong(Exception):
    """A command line beyond every limit; it has been read to its end and thrown away."""


class Stream:
    """Reads ahead no more than a chunk, so that a client cannot fill our memory."""

    __slots__ = ("_held", "_position", "_reader")

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._held = b""
        self._position = 0

    async def line(self) -> bytes | None:
        """The next command line without its line end, which may be a bare LF here; None at the end of input.

        Raises LineTooLong."""
        too_long = False
        while True:
            end = self._held.find(b"\n", self._position)
            if end >= 0:
                line, self._position = self._held[self._position : end], end + 1
                if too_long or len(line) > LONGEST_LINE:
                    raise LineTooLong
                return line.removesuffix(b"\r")
            rest = self._take_rest()
            if len(rest) > LONGEST_LINE:
                too_long, rest = True, b""
            more = await self._read()
            if not more:
                return None
            self._held = rest + more

    async def chunk(self) -> bytes:
        """Whatever is there, at least a byte; b"" at the end of input."""
        return self._take_rest() or await self._read()

    def give_back(self, rest: bytes) -> None:
        """What was read beyond the end of a mail is the next command."""
        self._held = rest + self._take_rest()

    def _take_rest(self) -> bytes:
        rest = self._held[self._position :]
        self._held, self._position = b"", 0
        return rest

    async def _read(self) -> bytes:
        """A connection that is broken, in whatever way, has ended."""
        try:
            return await self._reader.read(_CHUNK)
        except OSError:
            return b""

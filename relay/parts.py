"""The parts of a mail, told apart while they pass through: texts are kept as far as there is room, files
where they are wanted, and of everything else what it was.

What is kept is a mail again (core/mail/kept.py). The bytes are taken as they come, dots stuffed.

Pure: chunks in, chunks out; never raises, whatever the bytes."""

import re
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from enum import Enum

from core.mail.kept import (
    FILE_CHUNK,
    MOST_OF_A_TEXT,
    MOST_OF_TEXTS,
    Left,
    LeftOut,
    parts_field,
    without_ours,
)

_MOST_PARTS = 500
_DEEPEST = 30
_LONGEST_HEADER = 64 * 1024
_MOST_OF_HEADERS = 256 * 1024
_LONGEST_BOUNDARY = 200
"""RFC 2046 section 5.1.1 allows 70."""
_LARGEST_INLINE = 64 * 1024
"""Of a picture that is part of the text, as logos in signatures are; a screenshot is larger."""
_SOME_ENCODED = 1.5
"""A file in base64 is 1.37 times as long."""

_HYPHENS = re.compile(rb"\r\n--([^\r\n]{1,%d})(?=\r\n)" % (_LONGEST_BOUNDARY + 20))
_LINE_GOES_ON = re.compile(rb"\r\n(?=[ \t])")
_FIELD = re.compile(
    rb"\r\ncontent-(type|disposition|transfer-encoding|id)[ \t]*:((?:[^\r\n]|\r\n[ \t]|\r(?!\n))*)"
)
_FIELDS_BEGIN = b"\r\ncontent-"
_BOUNDARY = re.compile(rb";\s*boundary\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))", re.IGNORECASE)
_NAMED = re.compile(rb";\s*name\*?[0-9*]*\s*=", re.IGNORECASE)
_TEXTS = frozenset({b"text/plain", b"text/html", b"text/calendar"})
_MAILS = frozenset({b"message/rfc822", b"message/global"})
_AS_IT_IS = frozenset({b"", b"7bit", b"8bit", b"binary"})


class _Kind(Enum):
    CONTAINER = "container"
    MAIL = "mail"
    TEXT = "text"
    TNEF = "tnef"
    FILE = "file"


_KEPT_HERE = frozenset({_Kind.TEXT, _Kind.TNEF, _Kind.CONTAINER})
"""A container whose boundary nobody can tell is none."""


@dataclass(frozen=True, slots=True)
class FilePiece:
    """`file`: which of the mail's files; `number`: which piece of it."""

    file: int
    number: int
    data: bytes


@dataclass(slots=True)
class _PartInHand:
    """The part that is read just now, and what is kept of it."""

    header: bytes
    kind: _Kind
    is_base64: bool = False
    is_of_the_text: bool = False
    """A picture that the text shows, if it is small."""
    room: int = 0
    file: int | None = None
    """Its number among the files, where it is to be one."""
    left: Left = Left.NOT_WANTED
    kept: bytearray = field(default_factory=bytearray)
    pieces: int = 0
    bytes: int = 0
    line_ends: int = 0
    padding: int = 0

    @property
    def size(self) -> int:
        """Decoded, near enough."""
        if not self.is_base64:
            return self.bytes
        return max(0, (self.bytes - 2 * self.line_ends) * 3 // 4 - self.padding)


class Parts:
    """The parts of one mail. `most_of_files`: bytes of files that may be kept."""

    def __init__(self, header: bytes, most_of_files: int = 0, without_files: Left = Left.NOT_WANTED) -> None:
        """`without_files`: why there may be none."""
        self._kept: list[bytes] = []
        self._header_room = _MOST_OF_HEADERS
        self._text_room = MOST_OF_TEXTS
        self._file_room = most_of_files
        self._piece_room = int(most_of_files * _SOME_ENCODED)
        self._why_no_file = Left.TOO_LARGE if most_of_files else without_files
        self._files = 0
        self._number = 0
        self._are_more = False
        self._has_text = False
        self._containers: list[tuple[bytes, bool]] = []
        """Boundary, and whether the parts belong together (RFC 2387)."""
        self._levels: dict[bytes, list[int]] = {}
        """At which levels a boundary is in use."""
        self._part: _PartInHand | None = None
        self._is_in_header = False
        self._blank_line = 0
        """Bytes that still belong to the empty line after a header."""
        self._rest = b""
        self._new: list[FilePiece] = []
        self._open(header)

    def feed(self, piece: bytes) -> list[FilePiece]:
        """More of the body, which begins with the empty line; the pieces of files that are to be kept."""
        self._rest = self._rest + piece if self._rest else piece
        while self._header_goes_on() if self._is_in_header else self._body_goes_on():
            pass
        new, self._new = self._new, []
        return new

    def give_up_files(self) -> None:
        """There is no room for them: of this one and those that follow only the names are kept."""
        self._file_room, self._why_no_file = 0, Left.NO_ROOM
        if self._part is not None and self._part.file is not None:
            self._let_go_of_file(self._part)

    def end(self) -> tuple[bytes, list[FilePiece]]:
        """The mail as it is kept, and the last pieces of its last file."""
        if self._is_in_header:
            self._open(self._rest[2:])
        else:
            self._take(self._rest)
        self._rest = b""
        self._close()
        first, *others = self._kept
        known = parts_field(self._number, are_more=self._are_more)
        new, self._new = self._new, []
        return b"".join([known, first, *others]), new

    # -- telling apart

    def _header_goes_on(self) -> bool:
        """Read a part's header; whether that is done. What comes before it is the end of a line."""
        data = self._rest
        if len(data) < 4:
            return False
        end = 0 if data.startswith(b"\r\n", 2) else data.find(b"\r\n\r\n", 2, _LONGEST_HEADER)
        # a part can break off in its header; the end of its line must be seen, too
        found = self._delimiter_in(data, end + 4 if end >= 0 else min(len(data), _LONGEST_HEADER))
        if found is not None:
            end = found[0]
        elif end < 0:
            if len(data) < _LONGEST_HEADER:
                return False
            end = _LONGEST_HEADER - 2
        self._rest = data[max(end, 0) + 2 if found is None else end :]
        self._open(data[2 : end + 2])
        return True

    def _body_goes_on(self) -> bool:
        """Read of a body what is there of it; whether it has ended."""
        data = self._rest
        if not self._containers:
            self._rest = b""
            self._take(data)
            return False
        found = self._delimiter_in(data)
        if found is None:
            held = _beginning_of_delimiter(data)
            self._rest = data[len(data) - held :]
            self._take(data[: len(data) - held])
            return False
        begin, end, level, closes = found
        self._take(data[:begin])
        self._close()
        self._rest = data[end:]
        self._leave(level if closes else level + 1)
        self._kept.append(data[begin:end] + (b"" if closes else b"\r\n"))
        self._is_in_header = not closes
        return True

    def _delimiter_in(self, data: bytes, end: int | None = None) -> tuple[int, int, int, bool] | None:
        """Where the next delimiter begins and ends, of which container, and whether it closes that (RFC 2046
        section 5.1.1: two hyphens and a boundary at the beginning of a line, and the end of that line)."""
        if not self._containers or b"\r\n--" not in data:
            return None
        for line in _HYPHENS.finditer(data, 0, len(data) if end is None else end):
            name = line.group(1).rstrip(b" \t")
            for boundary, closes in ((name, False), (name[:-2] if name.endswith(b"--") else b"", True)):
                levels = self._levels.get(boundary)
                if levels:
                    return line.start(), line.end(), levels[-1], closes
        return None

    def _enter(self, boundary: bytes, *, is_related: bool) -> None:
        self._levels.setdefault(boundary, []).append(len(self._containers))
        self._containers.append((boundary, is_related))

    def _leave(self, level: int) -> None:
        """The containers from this level on."""
        for boundary, _ in self._containers[level:]:
            self._levels[boundary].pop()
        del self._containers[level:]

    # -- a part

    def _open(self, header: bytes) -> None:
        self._is_in_header = False
        self._blank_line = 2
        self._number += 1
        if self._number > 1:  # the mail's own is bounded by whoever has read it
            self._header_room -= len(header)
        known = _content_fields(header)
        kind = _kind(known)
        if kind is _Kind.TEXT and self._has_text and _NAMED.search(known[b"type"]):
            kind = _Kind.FILE
        self._has_text = self._has_text or kind is _Kind.TEXT
        is_too_much = self._number > _MOST_PARTS or self._header_room < 0
        if is_too_much:  # nothing is told apart any more
            self._leave(0)
        if kind is _Kind.CONTAINER and (boundary := _boundary(known, header)) and not is_too_much:
            if len(self._containers) < _DEEPEST:
                self._enter(boundary, is_related=known[b"type"].startswith(b"multipart/related"))
                self._kept.append(without_ours(header))
                return
            is_too_much = True
        if kind is _Kind.MAIL and not is_too_much:
            self._kept.append(without_ours(header) + b"\r\n")
            self._is_in_header = True
            return
        self._are_more = self._are_more or is_too_much
        self._part = None if is_too_much else self._begun(header, kind, known)

    def _begun(self, header: bytes, kind: _Kind, known: dict[bytes, bytes]) -> _PartInHand:
        part = _PartInHand(header, kind, is_base64=known.get(b"transfer-encoding", b"") == b"base64")
        if kind in _KEPT_HERE:
            part.room = min(MOST_OF_A_TEXT, self._text_room)
            return part
        is_related = bool(self._containers) and self._containers[-1][1]
        part.is_of_the_text = (
            known.get(b"type", b"").startswith(b"image/")
            and b"id" in known
            and (is_related or not known.get(b"disposition", b"").startswith(b"attachment"))
        )
        part.left = self._why_no_file
        if self._file_room > 0 and self._piece_room > 0:
            part.file = self._files
            self._files += 1
        return part

    def _take(self, data: bytes) -> None:
        if self._blank_line:
            dropped = min(self._blank_line, len(data))
            data, self._blank_line = data[dropped:], self._blank_line - dropped
        part = self._part
        if part is None or not data:
            return
        part.bytes += len(data)
        part.line_ends += data.count(b"\r\n")
        if last := data[-8:].translate(None, b"\r\n"):
            part.padding = last[-2:].count(b"=")
        if part.room:
            kept = data[: part.room]
            part.kept += kept
            part.room -= len(kept)
            self._text_room -= len(kept)
        elif part.file is not None:
            part.kept += data
            if part.size > self._file_room or part.bytes > self._piece_room:
                self._let_go_of_file(part)
                return
            while len(part.kept) >= FILE_CHUNK:
                self._put_out(part, FILE_CHUNK)

    def _put_out(self, part: _PartInHand, length: int) -> None:
        if part.file is not None:
            self._new.append(FilePiece(part.file, part.pieces, bytes(part.kept[:length])))
            self._piece_room -= length
            part.pieces += 1
            del part.kept[:length]

    def _let_go_of_file(self, part: _PartInHand) -> None:
        """What has gone out of it is of no use, and is erased with the mail's text."""
        part.file, part.left = None, self._why_no_file
        part.kept.clear()

    def _close(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        note = b""
        if part.kind in _KEPT_HERE:
            if part.bytes > len(part.kept):
                note = LeftOut(part.size, Left.CUT).field()
        else:
            note = self._ended(part).field()
            part.kept.clear()
        self._kept.append(b"".join([without_ours(part.header), note, b"\r\n", part.kept]))

    def _ended(self, part: _PartInHand) -> LeftOut:
        if part.is_of_the_text and part.size <= _LARGEST_INLINE:
            return LeftOut(part.size, Left.INLINE)
        if part.file is None:
            return LeftOut(part.size, part.left)
        self._put_out(part, len(part.kept))
        self._file_room -= part.size
        return LeftOut(part.size, Left.FILE, part.file, part.pieces)


def _content_fields(header: bytes) -> dict[bytes, bytes]:
    """What the header says of the content (RFC 2045, RFC 2183), names and values in lower case but for the
    type's, which may hold a boundary."""
    found: dict[bytes, bytes] = {}
    header = b"\r\n" + header
    lowered = header.lower()
    at = lowered.find(_FIELDS_BEGIN)
    while at >= 0:
        if match := _FIELD.match(lowered, at):
            name = match.group(1)
            value = (header if name == b"type" else lowered)[match.start(2) : match.end(2)]
            found.setdefault(name, _LINE_GOES_ON.sub(b"", value).strip())
        at = lowered.find(_FIELDS_BEGIN, at + 1)
    kind, semicolon, parameters = found.get(b"type", b"").partition(b";")
    found[b"type"] = kind.strip().lower() + semicolon + parameters
    return found


def _kind(known: dict[bytes, bytes]) -> _Kind:
    kind = known[b"type"].partition(b";")[0] or b"text/plain"
    encoding = known.get(b"transfer-encoding", b"")
    disposition = known.get(b"disposition", b"")
    if kind.startswith(b"multipart/"):
        return _Kind.CONTAINER
    if kind in _MAILS and encoding in _AS_IT_IS:
        return _Kind.MAIL
    if kind == b"application/ms-tnef" or b"winmail.dat" in disposition:
        return _Kind.TNEF
    is_attached = disposition.startswith(b"attachment") or b"filename" in disposition
    is_text = kind == b"text/calendar" or (kind in _TEXTS and not is_attached) or b"/" not in kind
    return _Kind.TEXT if is_text else _Kind.FILE


def _boundary(known: dict[bytes, bytes], header: bytes) -> bytes:
    """b"" where there is none."""
    value = known[b"type"]
    if b"boundary*" in value.lower():  # RFC 2231
        try:
            found = (BytesHeaderParser().parsebytes(header).get_boundary() or "").encode("latin-1", "replace")
        except Exception:  # noqa: BLE001  the email package raises whatever odd bytes make it raise
            return b""
    else:
        match = _BOUNDARY.search(value)
        quoted, plain = match.groups() if match else (None, b"")
        found = re.sub(rb"\\(.)", rb"\1", quoted) if quoted is not None else plain
    found = found.rstrip()
    return found if len(found) <= _LONGEST_BOUNDARY else b""


def _beginning_of_delimiter(data: bytes) -> int:
    """How many of the last bytes could be the beginning of a delimiter."""
    at = data.rfind(b"\r\n", max(0, len(data) - 2 * _LONGEST_BOUNDARY))
    if at < 0:
        return 0
    return len(data) - at if b"\r\n--".startswith(data[at : at + 4]) else 0

"""How a mail is kept until it is logged: as a mail again, with whole texts and without what was attached.

The relay leaves out what nobody will read and writes what it left out into a field of that part; the worker
reads it there. A client's own fields of these names are dropped.

Pure: values, and their shape in a header."""

import re
from dataclasses import dataclass
from enum import StrEnum

PART_FIELD = "X-Blindcopy-Part"
"""In the header of each part that is not there as it came."""
PARTS_FIELD = "X-Blindcopy-Parts"
"""In the mail's header: how many parts were told apart, and `more` where there are others."""

MOST_OF_A_TEXT = 256 * 1024
"""Bytes of one text as it came, encoded; Salesforce takes 32,000 characters (object reference,
EmailMessage)."""
MOST_OF_TEXTS = 2 * MOST_OF_A_TEXT
"""Of all texts of a mail."""
FILE_CHUNK = 256 * 1024
"""Bytes of a file that are in hand at once."""

_OURS = re.compile(rb"^x-blindcopy-parts?[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)
_WORDS = re.compile(r"(\d+) ([a-z-]+)(?: (\d+) (\d+))?")


class Left(StrEnum):
    """What is there of a part that was not kept as it came."""

    CUT = "cut"
    """The beginning of a text."""
    FILE = "file"
    """Nothing here; it waits as a file of this mail."""
    INLINE = "inline"
    """Nothing: a small picture of the text, such as a signature's logo."""
    NOT_WANTED = "not-wanted"
    TOO_LARGE = "too-large"
    """For a file, by the policy's `attachments-mb`."""
    PACKED = "packed"
    """Within Outlook's winmail.dat."""
    NO_ROOM = "no-room"
    """Files of other mails have all the room that there is for them (`attachments-waiting-mb`), or the
    relay's disk is too slow."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """`size`: bytes of the part, decoded, near enough; `file`: its number among the mail's files, and of how
    many `pieces` that is."""

    size: int
    what: Left
    file: int | None = None
    pieces: int = 0

    def field(self) -> bytes:
        """As a line of the part's header."""
        where = "" if self.file is None else f" {self.file} {self.pieces}"
        return f"{PART_FIELD}: {self.size} {self.what}{where}\r\n".encode()


def left_out(value: str | None) -> LeftOut | None:
    """What the field of a part says; None for a part that is there as it came."""
    found = _WORDS.fullmatch((value or "").strip())
    if found is None or found.group(2) not in set(Left):
        return None
    size, what, number, pieces = found.groups()
    where = () if number is None else (int(number), int(pieces))
    return LeftOut(int(size), Left(what), *where)


def parts_field(number: int, *, are_more: bool) -> bytes:
    """As a line of the mail's header."""
    return f"{PARTS_FIELD}: {number}{' more' if are_more else ''}\r\n".encode()


def without_ours(header: bytes) -> bytes:
    """A header without fields of these names."""
    return _OURS.sub(b"", header) if b"x-blindcopy-part" in header.lower() else header


@dataclass(frozen=True, slots=True)
class FileChunk:
    """A piece of a file of a mail, as it came over SMTP: encoded, dots stuffed. `file`: its number among the
    mail's files; `number`: which piece of it."""

    mail_id: str
    file: int
    number: int
    data: bytes

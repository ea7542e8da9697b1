"""What Outlook and Exchange pack into `winmail.dat`: the text of a mail, and the names of its files
(MS-OXTNEF; properties by MS-OXPROPS).

The libraries for this believe every count that they read, and loop for hours on a file that was made to let
them; here each step goes forward in the file.

Pure: bytes in, a value out; never raises."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from compressed_rtf import decompress
from striprtf.striprtf import rtf_to_text

_SIGNATURE = 0x223E9F78
_HEAD = 6
_BODY, _CODE_PAGE, _PROPERTIES = 0x800C, 0x9007, 0x9003
_FILE_BEGINS, _FILE_TITLE, _FILE_PROPERTIES = 0x9002, 0x8010, 0x9005
_TEXT_OF_MAIL, _PAGE_OF_MAIL, _RTF_OF_MAIL, _INTERNET_CODE_PAGE = 0x1000, 0x1013, 0x1009, 0x3FDE
_LONG_NAME = 0x3707
_MANY_VALUES = 0x1000
_NAMED = 0x8000
_FIXED = {0x02: 4, 0x03: 4, 0x04: 4, 0x05: 8, 0x06: 8, 0x07: 8, 0x0A: 4, 0x0B: 4, 0x14: 8, 0x40: 8, 0x48: 16}
"""Bytes of a value of each type, with what fills them up to four."""
_STRING, _UNICODE = 0x1E, 0x1F
_OF_ANY_LENGTH = frozenset({_STRING, _UNICODE, 0x0D, 0x102})
_CODE_PAGES = {20127: "ascii", 20866: "koi8-r", 28591: "iso-8859-1", 28605: "iso-8859-15", 65001: "utf-8"}
_MOST_PACKED = 64 * 1024
_MOST_RTF = 128 * 1024
_MOST_LINKS = 20
"""In a text as RTF; the time that its links take grows with their square."""


@dataclass(frozen=True)
class Tnef:
    """`text`, `html`: None where there is none."""

    text: str | None = None
    html: str | None = None
    files: tuple[str, ...] = ()


def read_tnef(data: bytes) -> Tnef:
    """As far as it can be read: only the beginning of a large one is kept."""
    text: str | None = None
    html: str | None = None
    files: list[str] = []
    code_page = "cp1252"
    try:
        for name, value in _attributes(data):
            if name == _CODE_PAGE and len(value) >= 4:
                code_page = _named(struct.unpack_from("<I", value)[0])
            elif name == _BODY:
                text = text or _decoded(value, code_page)
            elif name == _PROPERTIES:
                found = dict(_properties(value))
                text = _text(found, code_page) or text
                html = _page(found, code_page)
            elif name == _FILE_BEGINS:
                files.append("")
            elif name == _FILE_TITLE and files:
                files[-1] = files[-1] or _decoded(value, code_page)
            elif name == _FILE_PROPERTIES and files:
                long_name = _string(dict(_properties(value)).get(_LONG_NAME), code_page)
                files[-1] = long_name or files[-1]
    except (struct.error, ValueError):
        pass  # what was read by then
    return Tnef(text or None, html or None, tuple(filter(None, files)))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Level (1 byte), name (2), type (2), length (4), value, checksum (2)."""
    if len(data) < _HEAD or struct.unpack_from("<I", data)[0] != _SIGNATURE:
        return
    offset = _HEAD
    while offset + 9 <= len(data):
        name, _type, length = struct.unpack_from("<HHI", data, offset + 1)
        yield name, data[offset + 9 : offset + 9 + length]
        offset += 11 + length


def _properties(data: bytes) -> Iterator[tuple[int, tuple[int, bytes]]]:
    """Name -> type and value, of those that are not named by a word; of several values the first."""
    offset = 4
    while offset + 4 <= len(data):
        kind, name = struct.unpack_from("<HH", data, offset)
        offset += 4
        if name >= _NAMED:
            offset = _after_word(data, offset)
        values = 1
        if kind & _MANY_VALUES:
            kind, offset, values = kind & ~_MANY_VALUES, offset + 4, _number(data, offset)
        if kind in _FIXED:
            yield name, (kind, data[offset : offset + _FIXED[kind]])
            offset += values * _FIXED[kind]
            continue
        if kind not in _OF_ANY_LENGTH:
            return
        if values == 1 and not kind & _MANY_VALUES:
            values, offset = _number(data, offset), offset + 4
        for _ in range(values):
            length = _number(data, offset)  # raises behind the end, so that no count is believed
            yield name, (kind, data[offset + 4 : offset + 4 + length])
            offset += 4 + length + -length % 4


def _after_word(data: bytes, offset: int) -> int:
    """Behind what names a property: a set (16 bytes) and a number or a word in it."""
    is_word = _number(data, offset + 16)
    if not is_word:
        return offset + 24
    length = _number(data, offset + 20)
    return offset + 24 + length + -length % 4


def _number(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0])


def _text(found: dict[int, tuple[int, bytes]], code_page: str) -> str | None:
    plain = _string(found.get(_TEXT_OF_MAIL), code_page)
    packed = found.get(_RTF_OF_MAIL)
    return plain or (None if packed is None else _text_of_rtf(packed[1]))


def _page(found: dict[int, tuple[int, bytes]], code_page: str) -> str | None:
    page = found.get(_PAGE_OF_MAIL)
    if page is None:
        return None
    kind, value = page
    number = found.get(_INTERNET_CODE_PAGE)
    named = _named(_number(number[1], 0)) if number is not None and len(number[1]) >= 4 else code_page
    return _string((kind, value), code_page) if kind in {_STRING, _UNICODE} else _decoded(value, named)


def _text_of_rtf(packed: bytes) -> str | None:
    if len(packed) > _MOST_PACKED:
        return None
    try:
        # the library takes a last byte for the end that may be missing
        rtf = decompress(packed + b"\0").decode("ascii", "replace")[:_MOST_RTF]
        if rtf.count("\\fldinst") > _MOST_LINKS or rtf.count("HYPERLINK") > _MOST_LINKS:
            rtf = rtf.replace("\\fldinst", "").replace("HYPERLINK", "")
        return str(rtf_to_text(rtf, errors="replace")).strip()  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001  both libraries raise whatever odd bytes make them raise
        return None


def _string(found: tuple[int, bytes] | None, code_page: str) -> str:
    if found is None:
        return ""
    kind, value = found
    return _decoded(value, "utf-16-le" if kind == _UNICODE else code_page)


def _decoded(value: bytes, code_page: str) -> str:
    return value.decode(code_page, "replace").rstrip("\0").strip()


def _named(number: int) -> str:
    """The code page of Windows, as Python calls it."""
    name = _CODE_PAGES.get(number, f"cp{number}")
    try:
        "".encode(name)
    except LookupError:
        return "cp1252"
    return name

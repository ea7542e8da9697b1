"""The files of a mail: what they are called, how large they are, and their bytes.

Pure: parts and pieces in, values out."""

import base64
import binascii
import contextlib
import mimetypes
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.header import decode_header
from email.message import Message

from core.mail.kept import PART_FIELD, Left, LeftOut, left_out

_NO_FILES = frozenset(
    {
        "application/pkcs7-signature",
        "application/x-pkcs7-signature",
        "application/pgp-signature",
        "message/delivery-status",
        "message/disposition-notification",
    }
)
_WITH_NAMES = frozenset({"content-disposition", "content-type"})
_RAW_NAME = re.compile(rb"name\s*=\s*(?:\"([^\"]*)\"|([^;\s]+))", re.IGNORECASE)
_LONGEST_NAME = 200
_LARGEST_INLINE = 88 * 1024
"""Bytes in base64."""
_NOT_IN_NAMES = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff/\\:*?\"<>|]+")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]")
_UNITS = ((1024 * 1024, "MB"), (1024, "KB"))


@dataclass(frozen=True)
class Attachment:
    """`size`: bytes, near enough; None: not known. `file`: its number among the mail's files, where it is
    kept in `pieces`."""

    name: str
    size: int | None
    left: Left
    file: int | None = None
    pieces: int = 0
    encoding: str = ""


def attachment(part: Message) -> Attachment | None:
    """What this part of a mail is as a file; None: it is none."""
    kind = part.get_content_type()
    if kind in _NO_FILES or part.get_content_maintype() == "multipart":
        return None
    known = left_out(part.get(PART_FIELD)) or _as_it_came(part)
    if known.what is Left.INLINE:
        return None
    encoding = str(part.get("content-transfer-encoding") or "").strip().lower()
    return Attachment(name_of(part, kind), known.size or None, known.what, known.file, known.pieces, encoding)


def _as_it_came(part: Message) -> LeftOut:
    """One that a relay of the first release has kept, as far as there was room."""
    size = len(str(part.get_payload()))
    is_of_the_text = (
        part.get_content_maintype() == "image"
        and part.get("content-id") is not None
        and not str(part.get("content-disposition") or "").lower().startswith("attachment")
    )
    # how large it is nobody can tell: it may have been cut
    return LeftOut(0, Left.INLINE if is_of_the_text and size <= _LARGEST_INLINE else Left.NOT_WANTED)


def name_of(part: Message, kind: str) -> str:
    """As a file may be called."""
    try:
        name = _unencoded_name(part) or str(part.get_filename() or "")
        if "=?" in name:  # many clients write it as RFC 2047 forbids
            name = "".join(
                part.decode(charset or "utf-8", "replace") if isinstance(part, bytes) else part
                for part, charset in decode_header(name)
            )
    except Exception:  # noqa: BLE001  the email package raises whatever odd bytes make it raise
        name = ""
    name = clean_name(name)
    return name or f"attachment{mimetypes.guess_extension(kind) or ''}"


def _unencoded_name(part: Message) -> str:
    """One that was written as it is, in UTF-8 (RFC 6532) or in an encoding of its country."""
    for field, value in part.raw_items():
        raw = str(value).encode("ascii", "surrogateescape") if _is_raw(str(value)) else b""
        found = _RAW_NAME.search(raw) if field.lower() in _WITH_NAMES else None
        if found is not None:
            for charset in ("utf-8", "gb18030", "latin-1"):
                with contextlib.suppress(UnicodeDecodeError):
                    return (found.group(1) or found.group(2)).decode(charset)
    return ""


def _is_raw(text: str) -> bool:
    return any("\udc80" <= letter <= "\udcff" for letter in text)


def clean_name(name: str) -> str:
    """Without what no file system takes, and its end whole: that says what it is."""
    name = " ".join(_NOT_IN_NAMES.sub("_", name).split()).strip("._ ")
    if len(name) <= _LONGEST_NAME:
        return name
    stem, dot, extension = name.rpartition(".")
    if not dot or len(extension) > 20:
        return name[:_LONGEST_NAME]
    return f"{stem[: _LONGEST_NAME - len(extension) - 1]}.{extension}"


def readable_size(size: int) -> str:
    """In the largest unit of which there is one."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}" if size < 10 * unit else f"{size / unit:.0f} {name}"
    return f"{size} bytes"


def decoded(pieces: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """The bytes of a file, from pieces as they came over SMTP: dots stuffed, line ends CRLF."""
    pieces = _unstuffed(pieces)
    if encoding == "base64":
        return _from_base64(pieces)
    if encoding == "quoted-printable":
        return _from_quoted_printable(pieces)
    return pieces


def _unstuffed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """RFC 5321 section 4.5.2; what may be the beginning of a stuffed line is held back."""
    held, is_first = b"", True
    for piece in pieces:
        data = held + piece
        if is_first and len(data) < 2:
            held = data
            continue
        if is_first:
            data, is_first = (data[1:] if data.startswith(b"..") else data), False
        keep = next((n for n in (3, 2, 1) if data.endswith(b"\r\n.."[:n])), 0)
        held = data[len(data) - keep :]
        yield data[: len(data) - keep].replace(b"\r\n..", b"\r\n.")
    yield held


def _from_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        digits = held + _NOT_BASE64.sub(b"", piece)
        whole = len(digits) // 4 * 4
        held = digits[whole:]
        yield binascii.a2b_base64(digits[:whole])
    if len(held) > 1:
        yield base64.b64decode(held + b"=" * (-len(held) % 4))


def _from_quoted_printable(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        lines, end, held = (held + piece).rpartition(b"\r\n")
        yield binascii.a2b_qp(lines + end)
    yield binascii.a2b_qp(held)

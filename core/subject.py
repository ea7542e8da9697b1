"""A subject as people read it.

Pure: header bytes in, text out; never raises."""

from email.errors import HeaderParseError
from email.header import decode_header

_LONGEST = 998  # RFC 5322 section 2.1.1: more cannot stand on one line


def readable_subject(raw: bytes) -> str:
    """The text of a Subject field's value: unfolded, RFC 2047 words decoded, control characters gone."""
    text = " ".join(raw.decode("utf-8", "replace").split())
    if "=?" in text:
        text = _decoded(text) or text
    if not text.isprintable():
        text = "".join(character for character in text if character.isprintable())
    return text[:_LONGEST].strip()


def _decoded(text: str) -> str:
    try:
        return "".join(_part(content, charset) for content, charset in decode_header(text))
    except (HeaderParseError, ValueError):
        return text


def _part(content: bytes | str, charset: str | None) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode(charset or "ascii", "replace")
    except LookupError:
        return content.decode("utf-8", "replace")

"""Texts cut to the room that a field has.

Salesforce says how many characters a field takes and means units of UTF-16; some organisations count bytes,
and say so with STRING_TOO_LONG (facts: EmailMessage, sizes).

Pure: text in, text out."""

import regex

ELLIPSIS = "…"
_GRAPHEME = regex.compile(r"\X")
_LONGEST_GRAPHEME = 200
"""Characters; what is longer is no writing, and is cut anywhere."""


def length(text: str, *, in_bytes: bool = False) -> int:
    """In units of UTF-16, or in bytes of UTF-8."""
    if text.isascii():
        return len(text)
    return len(text.encode("utf-8", "replace")) if in_bytes else len(text.encode("utf-16-le", "replace")) // 2


def cut(text: str, most: int, *, end: str = ELLIPSIS, in_bytes: bool = False) -> str:
    """The text, or its beginning with `end` behind it; never longer than `most` units of UTF-16, or bytes of
    UTF-8, and no letter is parted from its accent, no family from its children."""
    if length(text, in_bytes=in_bytes) <= most:
        return text
    room = most - length(end, in_bytes=in_bytes)
    if room <= 0:
        return ""
    if in_bytes:
        head = text.encode("utf-8", "replace")[:room].decode("utf-8", "ignore")
    else:
        head = text.encode("utf-16-le", "replace")[: 2 * room].decode("utf-16-le", "ignore")
    return _without_broken_grapheme(head, text).rstrip() + end


def _without_broken_grapheme(head: str, text: str) -> str:
    """Without the last grapheme, where the text goes on within it."""
    start = max(0, len(head) - _LONGEST_GRAPHEME)
    ends = [start + found.end() for found in _GRAPHEME.finditer(text[start : len(head) + _LONGEST_GRAPHEME])]
    whole = [end for end in ends if end <= len(head)]
    return head[: whole[-1]] if whole else head

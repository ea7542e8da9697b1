"""A read-only view of a mail's header: who wrote it, what it is, how it asks to be treated.

Pure: header bytes in, a value out; never raises, whatever the bytes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from core.people.addresses import address_key

_BULK_PRECEDENCE = frozenset({b"bulk", b"list", b"junk"})
_BULK_FIELDS = {b"list-id": "List-Id", b"list-unsubscribe": "List-Unsubscribe"}
_ANSWER = re.compile(rb"^text/calendar\b.*\bmethod\s*=\s*\"?reply\b", re.IGNORECASE)
_READ_RECEIPT = re.compile(rb"report-type\s*=\s*\"?disposition-notification", re.IGNORECASE)
_LONGEST_FROM = 8 * 1024
_LINE_GOES_ON = re.compile(rb"\r\n(?=[ \t])")
_FIELD = re.compile(
    rb"^(from|subject|date|message-id|auto-submitted|precedence|list-id|list-unsubscribe|content-type"
    rb"|x-autoreply|x-autorespond|x-blindcopy|received|x-sfdc-[!-9;-~]*)"
    rb"[ \t]*:([^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
"""The fields that say something here; one search over all of a header, as it is at work on every mail."""
_PLAIN_AUTHOR = re.compile(rb'(?:"[^"\\<>]*"[ \t]*|[^"<>,;:()@\\]*)<([^\s<>"(),;:@\\]+@[^\s<>"(),;:@\\]+)>')
_PLAIN_ADDRESS = re.compile(rb'[^\s<>"(),;:@\\]+@[^\s<>"(),;:@\\]+')


@dataclass(frozen=True, slots=True)
class Message:
    """What the header says. `author` is the one address in From, None where there is not exactly one."""

    author: str | None = None
    message_id: str | None = None
    subject: bytes = b""
    date: str = ""
    is_automatic: bool = False
    bulk_field: str | None = None
    """The field that says that it goes to many: a mail merge, a newsletter, a mailing list."""
    is_read_receipt: bool = False
    is_opted_out: bool = False
    is_by_salesforce: bool = False
    hops: int = 0
    """How many servers say that they have had the mail in hand (Received, RFC 5321 section 4.4)."""


def read_message(header: bytes) -> Message:
    """The view of a header block: the fields up to the empty line, CRLF line ends."""
    fields: dict[bytes, list[bytes]] = {}
    by_salesforce = False
    for name, value in _fields(header):
        fields.setdefault(name, []).append(value)
        by_salesforce = by_salesforce or name.startswith(b"x-sfdc-")
    return Message(
        author=_author(fields.get(b"from", [])),
        message_id=_message_id(fields.get(b"message-id", [b""])[0]),
        date=fields.get(b"date", [b""])[0].decode("utf-8", "replace"),
        subject=fields.get(b"subject", [b""])[0],
        is_automatic=_is_automatic(fields),
        bulk_field=_bulk_field(fields),
        is_read_receipt=_is_read_receipt(fields.get(b"content-type", [b""])[0]),
        is_opted_out=any(value.strip().lower() == b"no" for value in fields.get(b"x-blindcopy", [])),
        is_by_salesforce=by_salesforce,
        hops=len(fields.get(b"received", ())),
    )


def _fields(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names in lower case, values unfolded (RFC 5322 section 2.2.3)."""
    for match in _FIELD.finditer(_LINE_GOES_ON.sub(b"", header)):
        yield match.group(1).lower(), match.group(2).strip()


def _message_id(value: bytes) -> str | None:
    text = value.decode("utf-8", "replace").strip()
    return text or None


def _is_automatic(fields: dict[bytes, list[bytes]]) -> bool:
    """Auto-Submitted (RFC 3834 section 5) and what programs write instead, or an answer to an invitation
    (RFC 6047 section 2.4). X-Auto-Response-Suppress is none of them: ordinary mails carry it."""
    submitted = [
        value.split(b";")[0].split(b"(")[0].strip().lower() for value in fields.get(b"auto-submitted", [])
    ]
    precedence = {value.strip().lower() for value in fields.get(b"precedence", [])}
    return (
        any(value != b"no" for value in submitted)
        or b"auto_reply" in precedence
        or b"x-autoreply" in fields
        or b"x-autorespond" in fields
        or any(_ANSWER.match(value) for value in fields.get(b"content-type", []))
    )


def _bulk_field(fields: dict[bytes, list[bytes]]) -> str | None:
    """Precedence, List-Id (RFC 2919) or List-Unsubscribe (RFC 2369 section 3.2)."""
    if any(value.strip().lower() in _BULK_PRECEDENCE for value in fields.get(b"precedence", [])):
        return "Precedence"
    return next((shown for name, shown in _BULK_FIELDS.items() if name in fields), None)


def _is_read_receipt(content_type: bytes) -> bool:
    """RFC 8098 section 3."""
    return content_type.lower().startswith(b"multipart/report") and bool(_READ_RECEIPT.search(content_type))


def _author(values: list[bytes]) -> str | None:
    if len(values) != 1 or len(values[0]) > _LONGEST_FROM:
        return None
    value = values[0]
    plain = _PLAIN_AUTHOR.fullmatch(value)
    if plain is not None:
        return _text(plain.group(1))
    if _PLAIN_ADDRESS.fullmatch(value):
        return _text(value)
    authors = _addresses(value)
    return _text(authors[0]) if len(authors) == 1 else None


def _text(address: bytes) -> str | None:
    try:
        return address.decode()
    except UnicodeDecodeError:
        return None


def _addresses(value: bytes) -> list[bytes]:
    """The addresses of a From value in all its grammar: quoted words, comments, bare and angled addresses.

    A group, or anything else that cannot be told for certain, yields no address."""
    plain, angled = bytearray(), None
    found: list[bytes] = []
    for token in _tokens(value):
        if token in {b":", b";"}:
            return []
        if token == b",":
            found += _mailbox(bytes(plain), angled)
            plain, angled = bytearray(), None
        elif token.startswith(b"<"):
            if angled is not None or not token.endswith(b">"):
                return []
            angled = token[1:-1]
        else:
            plain += token
    return found + _mailbox(bytes(plain), angled)


def _mailbox(plain: bytes, angled: bytes | None) -> list[bytes]:
    if angled is not None:
        address = angled.strip()
    else:
        address = plain.strip()
        if b"@" not in address:
            return []
        if re.search(rb"\s", address):
            return [b"", b""]  # words around an address without angles: nobody can say what is meant
    return [address] if re.fullmatch(rb"\S*[^\s@]@[^\s@]+", address) else [b"", b""]


def _tokens(value: bytes) -> Iterator[bytes]:
    """Quoted strings, angled parts and single bytes; comments are dropped (RFC 5322 section 3.2)."""
    position = 0
    while position < len(value):
        byte = value[position : position + 1]
        if byte == b"(":
            position = _after_comment(value, position)
            continue
        end = position + 1
        if byte == b'"':
            end = _after_quoted(value, position)
        elif byte == b"<":
            end = _after_angled(value, position)
        yield value[position:end]
        position = end


def _after_comment(value: bytes, position: int) -> int:
    depth = 0
    while position < len(value):
        byte = value[position : position + 1]
        position += 2 if byte == b"\\" else 1
        depth += (byte == b"(") - (byte == b")")
        if depth == 0:
            break
    return position


def _after_quoted(value: bytes, position: int) -> int:
    position += 1
    while position < len(value) and value[position : position + 1] != b'"':
        position += 2 if value[position : position + 1] == b"\\" else 1
    return position + 1


def _after_angled(value: bytes, position: int) -> int:
    while position < len(value) and value[position : position + 1] != b">":
        position = _after_quoted(value, position) if value[position : position + 1] == b'"' else position + 1
    return position + 1


def recipient_key(address: bytes) -> str:
    """The key of an envelope address, for comparing with people's lists."""
    return address_key(address.decode("utf-8", "replace"))

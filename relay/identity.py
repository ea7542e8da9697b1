"""Which mail a transaction carries: mail servers in front of us split one mail into several transactions, a
person sends one again, a rule makes one go in circles. A mail is its message, not its transaction.

Pure: values in, digests out."""

import hashlib
import re
from collections.abc import Sequence

from core.people.addresses import address_key
from relay.message import Message

_ANGLED = re.compile(r"<([^<>]*)>")
_YEAR = re.compile(r"\b2\d{3}\b")
"""A clock that was never set begins in 1970; it says the same for every mail."""


def named_identity(message: Message, subject: str) -> bytes | None:
    """SHA-256 over the author, the Message-ID, the Date and the Subject: known as soon as the header is. None
    where these cannot tell one mail from the next; then the body is needed as well.

    The Subject counts because devices give one Message-ID to everything that they send."""
    message_id = _comparable_id(message.message_id or "")
    if message.author is None or not message_id or not _YEAR.search(message.date):
        return None
    return _digest("id", address_key(message.author), message_id, " ".join(message.date.split()), subject)


def identity_with_body(message: Message, subject: str, body: bytes) -> bytes | None:
    """The same for a mail without a Message-ID that tells it: by the digest of its body. None without an
    author, or a Date of a clock that was set: such a device's next mail may have the same body, an empty
    page."""
    if message.author is None or not _YEAR.search(message.date):
        return None
    return _digest("body", address_key(message.author), " ".join(message.date.split()), subject, body.hex())


def delivery_key(identity: bytes, body: bytes, recipients: Sequence[str]) -> bytes:
    """What a delivery of a mail is known by when the mail goes in circles: its identity, the digest of its
    body, and to whom it goes (keys of addresses). Its header grows with every round."""
    return _digest("delivery", identity.hex(), body.hex(), *sorted(recipients))


def _comparable_id(value: str) -> str:
    """What stands in the first angle brackets, else all of it; nothing where it has no `@`: such an id is no
    one's alone."""
    angled = _ANGLED.search(value)
    text = "".join((angled.group(1) if angled else value).split())
    return text if "@" in text else ""


def _digest(*parts: str) -> bytes:
    """Over the lengths too, so that no other parts give the same bytes."""
    plain = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join([len(one).to_bytes(8) + one for one in plain])).digest()

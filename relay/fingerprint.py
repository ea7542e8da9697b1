"""Digests that recognise the next try of a mail, without keeping anything of it.

Pure: values in, digests out."""

import hashlib
from collections.abc import Sequence

from relay.envelope import Path


def mail_fingerprint(person_id: int, sender: Path, recipients: Sequence[Path], content: bytes) -> bytes:
    """SHA-256 over who sent it, the envelope as it came, and the digest of the content: the same mail, sent
    again by the same person."""
    return _digest([*_envelope(person_id, sender, recipients), content])


def copy_refusal_key(
    person_id: int, sender: Path, recipients: Sequence[Path], message_id: str | None
) -> bytes:
    """SHA-256 over the envelope and the Message-ID: the next try of a mail that was refused with its blind
    copy. Its bytes may differ, since clients date each try anew."""
    identity = (message_id or "").encode("utf-8", "replace")
    return _digest([*_envelope(person_id, sender, recipients), identity])


def _envelope(person_id: int, sender: Path, recipients: Sequence[Path]) -> list[bytes]:
    return [str(person_id).encode(), sender.wire, *sorted(path.wire for path in recipients)]


def _digest(parts: list[bytes]) -> bytes:
    """Over the lengths too, so that no other parts give the same bytes."""
    lengths = b"".join([len(part).to_bytes(8) for part in (parts, *parts)])
    return hashlib.sha256(b"".join([lengths, *parts])).digest()

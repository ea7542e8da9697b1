"""What a relay writes down in its journal, as values and as bytes.

An entry is JSON; the text of a mail, or a piece of a file, follows it as it came, so that a quarter of a
megabyte is not written in base64. Fields that a later release adds are left out where they are not known, and
have their defaults where they are missing.

Pure: values in, bytes out, and back."""

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from core.mail.kept import FileChunk
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, Row, State


class EntryKind(IntEnum):
    """The first byte of an entry."""

    BEGUN = 1
    ENDED = 2
    VOID = 3
    LOST_REPLY = 4
    REPLY_HEARD = 5
    UNKNOWN_SENDER = 6
    PASSWORD_USED = 7
    LIMIT_REFUSED = 8
    FILE_CHUNK = 9


@dataclass(frozen=True, slots=True)
class Begun:
    """Written before a mail's final dot goes upstream. The row carries the text for the worker."""

    row: Row


@dataclass(frozen=True, slots=True)
class Ended:
    """A mail as it ended; its text stands here only if it does not stand in its `Begun`."""

    row: Row


@dataclass(frozen=True, slots=True)
class Void:
    """The id of a mail that turned out to be an earlier one sent again: it gets no row."""

    mail_id: str


@dataclass(frozen=True, slots=True)
class LostReply:
    """The client may not have received the 250 of this mail, or closed its connection before the verdict."""

    mail_id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class ReplyHeard:
    """The client has heard the repeated 250 of this mail."""

    mail_id: str


@dataclass(frozen=True, slots=True)
class UnknownSender:
    """One mail from an address that belongs to none of the people here."""

    key: str
    address: str
    time: datetime


@dataclass(frozen=True, slots=True)
class PasswordUsed:
    """An app password was used."""

    app_password_id: int
    time: datetime


@dataclass(frozen=True, slots=True)
class LimitRefused:
    """The policy refused something of this person: a mail above a limit (`minute`, `day`), or a recipient in
    a blocked domain (`blocked-domain`)."""

    person: int
    limit: str
    time: datetime


Entry = (
    Begun | Ended | Void | LostReply | ReplyHeard | UnknownSender | PasswordUsed | LimitRefused | FileChunk
)


def to_bytes(entry: Entry) -> bytes:
    """The entry as a journal keeps it."""
    kind, write = _WRITERS[type(entry)]
    plain, text = write(entry)
    head = json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"".join([bytes([kind]), len(head).to_bytes(4), head, text])


def from_bytes(data: bytes) -> Entry:
    """What `to_bytes` gave. Raises ValueError for anything else."""
    try:
        length = int.from_bytes(data[1:5])
        plain = json.loads(data[5 : 5 + length].decode("utf-8", "surrogatepass"))
        return _READERS[EntryKind(data[0])](plain, data[5 + length :])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"this is no entry: {error}") from error


def is_begun(data: bytes) -> bool:
    """Whether these are the bytes of a `Begun`, without reading all of them."""
    return data[:1] == bytes([EntryKind.BEGUN])


def row_to_plain(row: Row) -> dict[str, Any]:
    """All but the text."""
    # What most rows do not have stands in none of those: a journal is small, and keeps more mails so.
    some = {"identity": _from_digest(row.identity), "same_as": row.same_as, "detail": row.detail}
    return {name: value for name, value in some.items() if value is not None} | {
        "id": row.id,
        "time": row.time.isoformat(),
        "process": row.process,
        "person": row.person,
        "sender": row.sender,
        "recipient_count": row.recipient_count,
        "recipients": row.recipients,
        "subject": row.subject,
        "message_id": row.message_id,
        "mode": row.mode,
        "decision": row.decision.value,
        "reason": row.reason.value,
        "state": row.state.value,
        "upstream": row.upstream,
        "bcc": row.bcc.value,
        "bcc_reply": row.bcc_reply,
        "fingerprint": _from_digest(row.fingerprint),
        "copy_refusal": _from_digest(row.copy_refusal),
        "due_at": None if row.due_at is None else row.due_at.isoformat(),
    }


def row_from_plain(plain: Mapping[str, Any], text: bytes | None = None) -> Row:
    """The journals of the first release hold rows in this shape too, with the text among the fields."""
    recipients, due_at = plain["recipients"], plain.get("due_at")
    return Row(
        id=plain["id"],
        time=datetime.fromisoformat(plain["time"]),
        process=plain["process"],
        person=plain["person"],
        sender=plain["sender"],
        recipient_count=plain["recipient_count"],
        recipients=None if recipients is None else tuple(recipients),
        subject=plain["subject"],
        message_id=plain["message_id"],
        mode=plain["mode"],
        decision=Decision(plain["decision"]),
        reason=Reason(plain["reason"]),
        state=State(plain["state"]),
        upstream=plain.get("upstream"),
        bcc=Copy(plain.get("bcc", Copy.NONE)),
        bcc_reply=plain.get("bcc_reply"),
        fingerprint=to_digest(plain.get("fingerprint")),
        copy_refusal=to_digest(plain.get("copy_refusal")),
        identity=to_digest(plain.get("identity")),
        same_as=plain.get("same_as"),
        detail=plain.get("detail"),
        due_at=None if not due_at else datetime.fromisoformat(due_at),
        text=text,
    )


def to_digest(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _from_digest(digest: bytes | None) -> str | None:
    return None if digest is None else base64.b64encode(digest).decode("ascii")


def _write_row(entry: Begun | Ended) -> tuple[dict[str, Any], bytes]:
    row = entry.row
    return row_to_plain(row) | {"has_text": row.text is not None}, row.text or b""


def _read_row(plain: dict[str, Any], text: bytes) -> Row:
    return row_from_plain(plain, text if plain.get("has_text") else None)


def _time_of(entry: UnknownSender | PasswordUsed | LimitRefused) -> str:
    return entry.time.isoformat()


_Writer = Callable[[Any], tuple[dict[str, Any], bytes]]
_WRITERS: Mapping[type[Entry], tuple[EntryKind, _Writer]] = {
    Begun: (EntryKind.BEGUN, _write_row),
    Ended: (EntryKind.ENDED, _write_row),
    Void: (EntryKind.VOID, lambda one: ({"mail_id": one.mail_id}, b"")),
    LostReply: (EntryKind.LOST_REPLY, lambda one: ({"mail_id": one.mail_id}, one.fingerprint)),
    FileChunk: (
        EntryKind.FILE_CHUNK,
        lambda one: ({"mail_id": one.mail_id, "file": one.file, "number": one.number}, one.data),
    ),
    ReplyHeard: (EntryKind.REPLY_HEARD, lambda one: ({"mail_id": one.mail_id}, b"")),
    UnknownSender: (
        EntryKind.UNKNOWN_SENDER,
        lambda one: ({"key": one.key, "address": one.address, "time": _time_of(one)}, b""),
    ),
    PasswordUsed: (
        EntryKind.PASSWORD_USED,
        lambda one: ({"id": one.app_password_id, "time": _time_of(one)}, b""),
    ),
    LimitRefused: (
        EntryKind.LIMIT_REFUSED,
        lambda one: ({"person": one.person, "limit": one.limit, "time": _time_of(one)}, b""),
    ),
}
_READERS: Mapping[EntryKind, Callable[[dict[str, Any], bytes], Entry]] = {
    EntryKind.BEGUN: lambda plain, text: Begun(_read_row(plain, text)),
    EntryKind.ENDED: lambda plain, text: Ended(_read_row(plain, text)),
    EntryKind.VOID: lambda plain, _: Void(plain["mail_id"]),
    EntryKind.LOST_REPLY: lambda plain, fingerprint: LostReply(plain["mail_id"], fingerprint),
    EntryKind.FILE_CHUNK: lambda plain, data: FileChunk(
        plain["mail_id"], plain["file"], plain["number"], data
    ),
    EntryKind.REPLY_HEARD: lambda plain, _: ReplyHeard(plain["mail_id"]),
    EntryKind.UNKNOWN_SENDER: lambda plain, _: UnknownSender(
        plain["key"], plain["address"], datetime.fromisoformat(plain["time"])
    ),
    EntryKind.PASSWORD_USED: lambda plain, _: PasswordUsed(
        plain["id"], datetime.fromisoformat(plain["time"])
    ),
    EntryKind.LIMIT_REFUSED: lambda plain, _: LimitRefused(
        plain["person"], plain["limit"], datetime.fromisoformat(plain["time"])
    ),
}

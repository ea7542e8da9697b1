"""What the logbook says of one mail: the words for its states, and the row itself.

Pure: values only."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from core.mail.reasons import Reason


class State(StrEnum):
    """Where a mail stands."""

    PENDING = "pending"
    ABORTED = "aborted"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    NOT_LOGGED = "not-logged"
    COPIED = "copied"
    COPY_REFUSED = "copy-refused"
    CONFIRMED = "confirmed"
    WAITING = "waiting"
    LOGGED = "logged"
    UNMATCHED = "unmatched"
    FAILED = "failed"
    DISMISSED = "dismissed"


class Decision(StrEnum):
    """What the relay chose to do for Salesforce."""

    NONE = "none"
    COPY = "copy"
    API = "api"
    COPY_AND_API = "copy+api"

    @property
    def copies(self) -> bool:
        """Whether a blind copy goes out."""
        return self in {Decision.COPY, Decision.COPY_AND_API}

    @property
    def may_log(self) -> bool:
        """Whether the worker may have to log the mail."""
        return self in {Decision.API, Decision.COPY_AND_API}


class Copy(StrEnum):
    """What the upstream said to the blind copy's RCPT."""

    NONE = "none"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNANSWERED = "unanswered"


OPEN_STATES = frozenset({State.PENDING, State.ABORTED, State.UNKNOWN})
"""States that a verdict which comes to light later replaces; all others are final for the relay."""

DISMISSIBLE = frozenset({State.UNKNOWN, State.COPY_REFUSED, State.FAILED, State.UNMATCHED})
"""States that ask for a person, who may say that nothing is to be done."""

KEEPS_TEXT = frozenset(
    {State.PENDING, State.UNKNOWN, State.WAITING, State.COPIED, State.COPY_REFUSED, State.FAILED}
)
"""States in which a mail may still be logged with its text."""


@dataclass(frozen=True, slots=True)
class Row:
    """One mail of a known person.

    `id` is a UUIDv7 made by the relay; `process` names the relay process that had the mail in hand;
    `fingerprint` is set only where the 250 may not have reached the client, `copy_refusal` only where a mail
    with a copy was refused at the dot: both are SHA-256 digests that recognise the client's next try.
    `detail`: what the reason is about, such as a header field.
    `identity`: what all transactions of one mail have in common (relay/identity.py), None where that cannot
    be told; `same_as`: the id of the mail's first row, on its later ones."""

    id: str
    time: datetime
    process: str
    person: int
    sender: str | None
    recipient_count: int
    recipients: tuple[str, ...] | None
    subject: str | None
    message_id: str | None
    mode: str
    decision: Decision
    reason: Reason
    state: State
    upstream: str | None = None
    bcc: Copy = Copy.NONE
    bcc_reply: str | None = None
    fingerprint: bytes | None = field(default=None, repr=False)
    copy_refusal: bytes | None = field(default=None, repr=False)
    identity: bytes | None = field(default=None, repr=False)
    same_as: str | None = None
    detail: str | None = None
    due_at: datetime | None = None
    """When the worker is to see to it."""
    text: bytes | None = field(default=None, repr=False)
    """The header and the beginning of the body as they came, dot-stuffed, of a mail that may be logged
    through the API."""

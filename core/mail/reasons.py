"""Why a mail was logged as it was, or not at all: one row for each reason, with what may be kept of such a
mail.

Pure: values only."""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """The first that applies wins, in this order. A reason that does not say otherwise keeps nothing of the
    mail but time, sender, number of recipients, the reason and the verdict's code."""

    keeps_content: bool
    """Whether recipients, subject, Message-ID, the upstream's words and, for the API, the text may be kept;
    not of a mail that would not be logged anyway, as it is internal, or the sender does not want it."""

    @property
    def may_heal(self) -> bool:
        """Whether the mail could be logged once its cause is gone; enough of it is kept for that."""
        return self in {
            Reason.NO_BCC_ADDRESS,
            Reason.NOT_CONNECTED,
            Reason.NOT_OWN_ADDRESS,
            Reason.AUTOMATIC,
            Reason.BULK,
        }

    def __new__(cls, code: str, keeps_content: bool = False) -> Self:  # noqa: FBT001, FBT002  enum rows are positional
        member = str.__new__(cls, code)
        member._value_ = code
        member.keeps_content = keeps_content
        return member

    UNREADABLE_AUTHOR = "unreadable-author"
    NOT_OWN_ADDRESS = "not-own-address", True
    LOGGING_OFF = "logging-off"
    BY_SALESFORCE = "by-salesforce"
    NULL_SENDER = "null-sender"
    AUTOMATIC = "automatic", True
    BULK = "bulk", True
    READ_RECEIPT = "read-receipt"
    OPTED_OUT = "opted-out"
    INTERNAL_ONLY = "internal-only"
    ALREADY_COPIED = "already-copied", True
    NO_BCC_ADDRESS = "no-bcc-address", True
    NOT_CONNECTED = "not-connected", True
    TOO_LARGE_TO_COPY = "too-large-to-copy", True
    SAME_MAIL = "same-mail", True
    LOOP = "loop"
    COPY = "copy", True
    API = "api", True

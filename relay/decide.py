"""Decide what happens to one outgoing mail, and why.

Pure: values in, values out."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.mail.reasons import Reason
from core.mail.row import Decision
from core.people.addresses import address_key, domain_of, matches
from core.people.person import Person
from core.settings.catalogue import Logging
from core.settings.in_force import PolicySettings
from relay.message import Message

LARGEST_COPY = 25_000_000
"""Bytes; Email to Salesforce takes no mail above 25 MB."""

_SALESFORCE_BOUNCES = ("bnc.salesforce.com", ".bnc.salesforce.com")


@dataclass(frozen=True, slots=True)
class Envelope:
    """Who the mail goes from and to: keys of the addresses, those recipients that the upstream accepted."""

    sender: str
    recipients: Sequence[str]
    declared_size: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with a mail, and the first reason that applied."""

    decision: Decision
    reason: Reason
    bcc: str | None = None
    detail: str | None = None
    """What the reason is about: the name of a header field."""
    is_private: bool = False
    """Nothing of it would be kept without that reason either: logging is off, the mail opted out, or is
    internal."""

    @property
    def keeps_content(self) -> bool:
        """Whether more than that there was a mail may be kept."""
        return self.reason.keeps_content and not self.is_private


def decide(message: Message, envelope: Envelope, person: Person, policy: PolicySettings) -> Plan:
    """The plan for a mail that this signed-in person sends."""
    reason = _reason_to_leave_alone(message, envelope, person, policy)
    if reason is not None:
        detail = message.bulk_field if reason is Reason.BULK else None
        is_private = reason.may_heal and _is_private(message, envelope, person, policy)
        return Plan(Decision.NONE, reason, detail=detail, is_private=is_private)
    bcc = person.settings.bcc_address
    if person.settings.logging is Logging.API and not _falls_back(envelope, person):
        return Plan(Decision.API, Reason.API)
    if person.settings.logging is Logging.BCC_WITH_RECEIPT and person.is_connected:
        return Plan(Decision.COPY_AND_API, Reason.COPY, bcc=bcc)
    return Plan(Decision.COPY, Reason.COPY, bcc=bcc)


def _reason_to_leave_alone(  # noqa: PLR0911  one return per row of the list
    message: Message, envelope: Envelope, person: Person, policy: PolicySettings
) -> Reason | None:
    """The list of reasons, in its order."""
    if message.author is None:
        return Reason.UNREADABLE_AUTHOR
    if address_key(message.author) not in person.addresses:
        return Reason.NOT_OWN_ADDRESS
    if person.settings.logging is Logging.OFF:
        return Reason.LOGGING_OFF
    if _is_by_salesforce(message, envelope):
        return Reason.BY_SALESFORCE
    if not envelope.sender:
        return Reason.NULL_SENDER
    if message.is_automatic:
        return Reason.AUTOMATIC
    if message.bulk_field is not None and not person.settings.log_bulk:
        return Reason.BULK
    if message.is_read_receipt:
        return Reason.READ_RECEIPT
    if message.is_opted_out:
        return Reason.OPTED_OUT
    if _is_all_internal(envelope, policy):
        return Reason.INTERNAL_ONLY
    return _reason_not_to_log(envelope, person)


def _is_private(message: Message, envelope: Envelope, person: Person, policy: PolicySettings) -> bool:
    return (
        person.settings.logging is Logging.OFF
        or message.is_opted_out
        or message.is_read_receipt
        or _is_a_notification(message, envelope)
        or _is_all_internal(envelope, policy)
    )


def _is_a_notification(message: Message, envelope: Envelope) -> bool:
    return not envelope.sender or _is_by_salesforce(message, envelope)


def _is_by_salesforce(message: Message, envelope: Envelope) -> bool:
    return message.is_by_salesforce or matches(envelope.sender, _SALESFORCE_BOUNCES)


def _is_all_internal(envelope: Envelope, policy: PolicySettings) -> bool:
    return all(_is_internal(recipient, policy) for recipient in envelope.recipients)


def _reason_not_to_log(envelope: Envelope, person: Person) -> Reason | None:
    bcc = person.settings.bcc_address
    if bcc is not None and address_key(bcc) in envelope.recipients:
        return Reason.ALREADY_COPIED
    if person.settings.logging is Logging.API and not _falls_back(envelope, person):
        return None if person.is_connected else Reason.NOT_CONNECTED
    if bcc is None:
        return Reason.NO_BCC_ADDRESS
    return Reason.TOO_LARGE_TO_COPY if _is_too_large(envelope) else None


def _falls_back(envelope: Envelope, person: Person) -> bool:
    """Calls are scarce, and a copy can do what the API would."""
    return person.calls_are_scarce and person.settings.bcc_address is not None and not _is_too_large(envelope)


def _is_too_large(envelope: Envelope) -> bool:
    return envelope.declared_size is not None and envelope.declared_size > LARGEST_COPY


def _is_internal(recipient: str, policy: PolicySettings) -> bool:
    """Of our own house, on the never-log list, or a name without a domain, which only our own house can
    have."""
    return (
        not domain_of(recipient)
        or matches(recipient, policy.internal_domains)
        or matches(recipient, policy.never_log)
    )

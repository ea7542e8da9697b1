"""A user's Email to Salesforce address, as Salesforce keeps it (object reference, EmailServicesAddress)."""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from core.people.addresses import AddressError, address_key, checked_bcc_address, domain_of
from core.salesforce.client import Client
from core.salesforce.login import Refused

_NO_RIGHT = ("INVALID_TYPE", "INVALID_FIELD", "INSUFFICIENT_ACCESS", "NOT_FOUND")
_FUNCTION = "EmailToSalesforce"
_SEPARATORS = re.compile(r"[\s,;]+")


class AddressOutcome(StrEnum):
    """What a look-up found."""

    LOOKING = "looking"
    """Nothing yet: it has been asked for, or Salesforce did not answer."""
    FOUND = "found"
    ADDRESS_MISSING = "address-missing"
    """Others have one: the person has not filled in the acceptable addresses in Salesforce."""
    FEATURE_OFF = "feature-off"
    """Nobody has one: the org has not switched Email to Salesforce on."""
    NO_RIGHT = "no-right"
    """The user may not look."""


@dataclass(frozen=True)
class FoundAddress:
    """An address, and the senders that Salesforce takes mail from: addresses and domains; empty: from
    everybody."""

    outcome: AddressOutcome
    address: str | None = field(default=None, repr=False)
    senders: tuple[str, ...] | None = None


def look_up(client: Client, user_id: str) -> FoundAddress:
    """The address of this user. Raises Unavailable, and Refused for what does not concern the address."""
    try:
        mine = client.query(
            "SELECT LocalPart, EmailDomainName, AuthorizedSenders FROM EmailServicesAddress "
            "WHERE Function.FunctionName = {} AND RunAsUserId = {} AND IsActive = true ORDER BY Id",
            _FUNCTION,
            user_id,
        )
        for row in mine:
            address = _address(f"{row['LocalPart']}@{row['EmailDomainName']}")
            if address is not None:
                return FoundAddress(AddressOutcome.FOUND, address, _senders(row["AuthorizedSenders"]))
        anybody = client.query(
            "SELECT Id FROM EmailServicesAddress WHERE Function.FunctionName = {} AND IsActive = true "
            "LIMIT 1",
            _FUNCTION,
        )
    except Refused as refused:
        if not refused.trouble.code.startswith(_NO_RIGHT):
            raise
        return FoundAddress(AddressOutcome.NO_RIGHT)
    return FoundAddress(AddressOutcome.ADDRESS_MISSING if anybody else AddressOutcome.FEATURE_OFF)


def senders_that_salesforce_lacks(addresses: tuple[str, ...], senders: tuple[str, ...]) -> tuple[str, ...]:
    """Which of these addresses Salesforce would drop mail from; an empty list of senders lets everybody
    in."""
    known = {entry.removeprefix("@") for entry in senders}
    return tuple(
        one
        for one in addresses
        if senders and address_key(one) not in known and domain_of(address_key(one)) not in known
    )


def senders_to_propose(addresses: tuple[str, ...], senders: tuple[str, ...]) -> tuple[str, ...]:
    """The senders that Salesforce takes and that are none of these addresses; domains are nobody's
    address."""
    known = {address_key(one) for one in addresses}
    return tuple(one for one in senders if domain_of(one) and not one.startswith("@") and one not in known)


def _address(text: str) -> str | None:
    try:
        return checked_bcc_address(text)
    except AddressError:
        return None


def _senders(text: object) -> tuple[str, ...]:
    entries = _SEPARATORS.split(str(text or ""))
    return tuple(dict.fromkeys(address_key(entry) for entry in entries if entry))

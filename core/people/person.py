"""Everybody whose mail the relay may pass on, as one value that it holds in memory.

Pure: values and look-ups."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from core.people.addresses import address_key
from core.settings.in_force import PersonSettings, PolicySettings


@dataclass(frozen=True)
class AppPassword:
    """What is known of an app password: its id and SHA-256, never the password."""

    id: int
    digest: bytes = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Person:
    """One person; `addresses` are the keys of the acceptable addresses, the sign-in name among the names."""

    id: int
    email: str
    addresses: frozenset[str]
    app_passwords: tuple[AppPassword, ...]
    settings: PersonSettings
    is_connected: bool = False
    """Whether this person has ever connected Salesforce, and has not ended that."""
    calls_are_scarce: bool = False
    """Whether the person's organisation has no more API calls left than are kept in reserve."""


@dataclass(frozen=True)
class People:
    """The settings of everyone at one revision."""

    revision: int
    policy: PolicySettings
    persons: tuple[Person, ...]
    by_address: Mapping[str, Person] = field(init=False, repr=False, compare=False)
    by_login: Mapping[str, Person] = field(init=False, repr=False, compare=False)
    by_id: Mapping[int, Person] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "by_address", {key: person for person in self.persons for key in person.addresses}
        )
        object.__setattr__(self, "by_login", {address_key(person.email): person for person in self.persons})
        object.__setattr__(self, "by_id", {person.id: person for person in self.persons})

    def signing_in(self, login: str, password: str, now: datetime) -> tuple[Person, AppPassword] | None:
        """The person of this name and app password, compared in constant time; None where they do not match.

        The name is the person's e-mail address or any of the acceptable ones."""
        key = address_key(login)
        person = self.by_login.get(key) or self.by_address.get(key)
        digest = app_password_digest(password)
        if person is None:
            return None
        matching = [known for known in person.app_passwords if hmac.compare_digest(known.digest, digest)]
        valid = [known for known in matching if known.expires_at is None or known.expires_at > now]
        return (person, valid[0]) if valid else None


def app_password_digest(password: str) -> bytes:
    """SHA-256 of an app password, however it was grouped or capitalised when it was typed.

    A fast hash is enough: the password holds 160 random bits."""
    plain = password.lower().replace("-", "").replace(" ", "")
    return hashlib.sha256(plain.encode("utf-8", "surrogateescape")).digest()

"""Page passwords: argon2id, and what a new one must be like."""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core.refusal import Refusal

SHORTEST = 10
_HASHER = PasswordHasher()
_NOBODYS = _HASHER.hash("nobody has this password")


class PasswordRefused(Refusal):
    """The password would be guessed."""


def hashed(password: str) -> str:
    """The argon2id hash of a new password. Raises PasswordRefused where it is too short."""
    if len(password) < SHORTEST:
        raise PasswordRefused("A password has at least %(length)s characters", length=SHORTEST)
    return _HASHER.hash(password)


def is_right(password: str, stored: str | None) -> bool:
    """Whether this is the password. Takes as long for an unknown person (stored: None)."""
    try:
        return _HASHER.verify(stored or _NOBODYS, password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


def wants_rehash(stored: str) -> bool:
    """Whether the hash was made with parameters weaker than today's."""
    return _HASHER.check_needs_rehash(stored)

"""Secrets at rest: what is encrypted with keys derived from BLINDCOPY_SECRET_KEY, and the passwords we make.

The first key encrypts, every key decrypts: so keys are rotated."""

import base64
import secrets
from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_APP_PASSWORD_BYTES = 20


class Undecryptable(Exception):
    """Encrypted with a key that is not among those configured."""


class Box:
    """Encrypts and decrypts with the configured keys (Fernet: AES-128-CBC with HMAC-SHA-256)."""

    def __init__(self, keys: Iterable[str]) -> None:
        fernets = [Fernet(_derived(key)) for key in keys]
        self._first = fernets[0]
        self._fernet = MultiFernet(fernets)

    def closed(self, plain: bytes) -> bytes:
        """The text encrypted, as one line of ASCII."""
        return self._fernet.encrypt(plain)

    def opened(self, sealed: bytes) -> bytes:
        """The plain text. Raises Undecryptable."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken as error:
            raise Undecryptable from error

    def renewed(self, sealed: bytes) -> bytes | None:
        """The same under the first key; None where it is so already. Raises Undecryptable."""
        try:
            self._first.decrypt(sealed)
        except InvalidToken:
            return self.closed(self.opened(sealed))
        return None


def new_app_password() -> str:
    """160 random bits in base32: 32 characters that survive any keyboard."""
    return base64.b32encode(secrets.token_bytes(_APP_PASSWORD_BYTES)).decode().lower()


def new_password() -> str:
    """A first password for a page sign-in: 120 random bits."""
    return secrets.token_urlsafe(15)


def _derived(key: str) -> bytes:
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"blindcopy encryption at rest")
    return base64.urlsafe_b64encode(derivation.derive(key.encode()))

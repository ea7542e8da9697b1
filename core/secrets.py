"""Secrets at rest: what is encrypted with keys derived from BLINDCOPY_SECRET_KEY, and the passwords we make.

The first key encrypts, every key decrypts: so keys are rotated."""

import base64
import os
import secrets
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_APP_PASSWORD_BYTES = 20
_AT_REST = b"blindcopy encryption at rest"
_IN_A_JOURNAL = b"blindcopy journal"


class Undecryptable(Exception):
    """Encrypted with a key that is not among those configured."""


class Box:
    """Encrypts and decrypts with the configured keys (Fernet: AES-128-CBC with HMAC-SHA-256)."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        fernets = [Fernet(base64.urlsafe_b64encode(_derived(key, _AT_REST))) for key in self._keys]
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

    def seal(self, salt: bytes) -> "Seal":
        """Encryption for many short texts that share one salt."""
        return Seal([AESGCM(_derived(key, _IN_A_JOURNAL, salt)) for key in self._keys])


class Seal:
    """Encrypts and decrypts with keys of one salt (AES-256-GCM): a twentieth of what the `Box` costs for a
    short text.

    Nonces are random: under one salt fewer than 2**32 texts may be sealed (NIST SP 800-38D section 8.3)."""

    NONCE = 12

    def __init__(self, ciphers: list[AESGCM]) -> None:
        self._ciphers = ciphers

    def closed(self, plain: bytes) -> bytes:
        nonce = os.urandom(self.NONCE)
        return nonce + self._ciphers[0].encrypt(nonce, plain, None)

    def opened(self, sealed: bytes) -> bytes:
        """The plain text. Raises Undecryptable."""
        nonce, text = sealed[: self.NONCE], sealed[self.NONCE :]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, text, None)
            except (InvalidTag, ValueError):
                continue
        raise Undecryptable


def new_app_password() -> str:
    """160 random bits in base32: 32 characters that survive any keyboard."""
    return base64.b32encode(secrets.token_bytes(_APP_PASSWORD_BYTES)).decode().lower()


def new_password() -> str:
    """A first password for a page sign-in: 120 random bits."""
    return secrets.token_urlsafe(15)


def _derived(key: str, purpose: bytes, salt: bytes | None = None) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=purpose).derive(key.encode())

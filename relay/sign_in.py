"""Signing in: what a client says of itself, and who it then is.

The challenge and response of PLAIN (RFC 4616) and LOGIN, and the two things a name and password are tried
against: the app passwords that we issued, or the upstream itself."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from core import logs
from core.endpoints import SignIn
from core.journal.entries import PasswordUsed
from core.people.addresses import address_key
from core.people.person import AppPassword, People, Person
from core.smtp import Credentials, RefusesUs, UpstreamUnavailable, WrongCredentials
from relay import replies
from relay.envelope import BadCommand
from relay.pool import OwnLink
from relay.process import Relay

Challenge = Callable[[bytes], Awaitable[bytes]]
"""Asks the client (the plain question) and gives its line; raises BadCommand where it cancels."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A client that has said who it is, and the links that its mails go over."""

    login: str
    app_password: AppPassword | None = None
    own_link: OwnLink | None = None

    def person(self, people: People) -> Person | None:
        """The person as the settings have it now; None where there is none of this name."""
        key = address_key(self.login)
        return people.by_login.get(key) or people.by_address.get(key)

    def still_may(self, people: People) -> bool:
        """Whether the sign-in still holds: the person is there, and the app password is not revoked."""
        if self.app_password is None:
            return True
        person, expires_at = self.person(people), self.app_password.expires_at
        is_expired = expires_at is not None and expires_at <= datetime.now(UTC)
        return person is not None and not is_expired and self.app_password in person.app_passwords


async def credentials(mechanism: bytes, initial: bytes, challenge: Challenge) -> Credentials:
    """The name and password that the client gives. Raises BadCommand."""
    if mechanism.upper() == b"PLAIN":
        return _plain(decoded(initial) if initial else decoded(await challenge(b"")))
    if mechanism.upper() == b"LOGIN":
        login = decoded(initial) if initial else decoded(await challenge(b"Username:"))
        return Credentials(_text(login), _text(decoded(await challenge(b"Password:"))))
    raise BadCommand(replies.UNKNOWN_MECHANISM)


async def sign_in(relay: Relay, way: SignIn, source: str, given: Credentials) -> SignedIn:
    """Who the client is, by what it gives; guessing takes time, the more has failed, the longer.

    `source`: the client's address. Raises BadCommand: 535, or 454 where nothing can be said of the
    password."""
    login, now = address_key(given.user), asyncio.get_running_loop().time
    if relay.failed_sign_ins.is_barred(source, login, now()):
        raise BadCommand(replies.TOO_MANY_FAILED_SIGN_INS)
    try:
        signed_in = await (at_upstream if way is SignIn.UPSTREAM else by_app_password)(relay, given)
    except BadCommand as error:
        if error.reply == replies.BAD_CREDENTIALS:
            logs.sign_in_failed(source)
            await asyncio.sleep(relay.failed_sign_ins.note(source, login, now()))
        raise
    relay.failed_sign_ins.forget(source, login, now())
    return signed_in


async def by_app_password(relay: Relay, given: Credentials) -> SignedIn:
    """Whom the app password belongs to. Raises BadCommand: 535, or 454 where we cannot know.

    One that the settings in hand do not have may be seconds old: they are read anew before it is refused."""
    found = _find(relay, given)
    if found is None and not await asyncio.ensure_future(relay.snapshot.look_at_once()):
        raise BadCommand(replies.CANNOT_CHECK_SIGN_IN)
    found = found or _find(relay, given)
    if found is None:
        raise BadCommand(replies.BAD_CREDENTIALS)
    relay.logbook.note(PasswordUsed(found[1].id, datetime.now(UTC)))
    return SignedIn(found[0].email, app_password=found[1])


async def at_upstream(relay: Relay, given: Credentials) -> SignedIn:
    """The client's own password, tried once at the upstream, on a link that is then the client's alone.

    Raises BadCommand: 535 where the upstream refuses it, 454 where it cannot be asked."""
    try:
        link = await relay.pool.sign_in(given)
    except WrongCredentials as error:
        raise BadCommand(replies.BAD_CREDENTIALS) from error
    except (UpstreamUnavailable, RefusesUs) as error:
        raise BadCommand(replies.CANNOT_CHECK_SIGN_IN) from error
    return SignedIn(given.user, own_link=link)


def decoded(text: bytes) -> bytes:
    """Base64 as SASL has it; a lone `=` is an empty response (RFC 4954 section 4). Raises BadCommand."""
    if text == b"=":
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise BadCommand(replies.BAD_BASE64) from error


def _plain(response: bytes) -> Credentials:
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise BadCommand(replies.BAD_BASE64)
    return Credentials(_text(parts[1]), _text(parts[2]))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _find(relay: Relay, given: Credentials) -> tuple[Person, AppPassword] | None:
    people = relay.snapshot.people
    return people.signing_in(given.user, given.password, datetime.now(UTC)) if people is not None else None

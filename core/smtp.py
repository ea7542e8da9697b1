"""The one door to aiosmtplib: connect to an SMTP server, secure it, say hello, sign in; and send a mail of
our own.

A connection that is ready is handed out as its bare transport, for the relay's own protocol to talk on. Every
step has a time-out; each credential is tried once, by the mechanism that we choose."""

import asyncio
import base64
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import aiosmtplib

from core.dialing import Dialer, Resolve, resolve
from core.endpoints import TlsFiles, Upstream, UpstreamTls
from core.upstream_tokens import KeptRefreshToken, TokenRefused, UpstreamToken

_SECONDS_FOR_A_STEP = 35
"""More than a server that lets strangers wait for its greeting takes (postscreen: 6 to 30 seconds)."""
_SECONDS_IN_ALL = 45
"""A client waits at MAIL meanwhile, and gives up after 60 and more."""
_SECONDS_FOR_A_MAIL = 25
_GO_ON, _SIGNED_IN, _NOT_OFFERED, _UNKNOWN_MECHANISM = 334, 235, 502, 504
_MECHANISMS = ("plain", "login", "cram-md5")
_WRONG_CREDENTIALS = frozenset({534, 535})
_REFUSALS_OF_US = frozenset({530, 534, 535, 538})


class UpstreamUnavailable(Exception):
    """The server cannot be reached or does not answer; trying again later can help."""


class UpstreamCrowded(UpstreamUnavailable):
    """The server says that we have too many connections, or are too fast; it can be waited out."""


class RefusesUs(Exception):
    """The server does not take us, or we not its certificate; somebody must mend the configuration."""


class WrongCredentials(RefusesUs):
    """The server does not take this name and password."""


@dataclass(frozen=True)
class Credentials:
    """A name and password for a server."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Connected:
    """A connection ready for MAIL. `extensions`: EHLO keywords in lower case with their parameters."""

    transport: asyncio.Transport
    extensions: Mapping[str, str]
    tls_version: str | None = None
    certificate: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class MailVerdict:
    """What a server said to a mail of ours, on one line; `accepted` is whether it took it."""

    accepted: bool
    text: str


class Route:
    """The way to one upstream: its address, our name, and one TLS context for all connections."""

    def __init__(
        self,
        upstream: Upstream,
        hostname: str,
        resolve: Resolve = resolve,
        kept: KeptRefreshToken | None = None,
    ) -> None:
        self.upstream = upstream
        self._dialer = Dialer(upstream.host, upstream.port, resolve)
        self._hostname = hostname
        self._tls_context = _tls_context(upstream) if upstream.tls is not UpstreamTls.NONE else None
        self._tokens = (
            UpstreamToken(upstream.token, upstream.password or "", upstream.ca_file, kept)
            if upstream.token
            else None
        )

    def __str__(self) -> str:
        return str(self.upstream)

    async def connect(self, credentials: Credentials | None = None) -> Connected:
        """A connection of its own, greeted, secured and signed in: with these credentials, else the
        configured ones. A node of the provider that connects and then does not serve gives way to another
        one.

        Raises UpstreamUnavailable, RefusesUs, WrongCredentials."""
        try:
            async with asyncio.timeout(_SECONDS_IN_ALL):
                tried: dict[str, UpstreamUnavailable] = {}
                while True:
                    try:
                        connection = await self._dialer.connect(without=tried)
                    except OSError as error:
                        raise next(reversed(tried.values()), UpstreamUnavailable(_cause_of(error))) from error
                    address = str(connection.getpeername()[0])
                    try:
                        return await self._connect_over(connection, credentials)
                    except UpstreamCrowded:
                        raise  # of us there is too much; another node would say the same
                    except UpstreamUnavailable as error:
                        self._dialer.note_dead(address)
                        tried[address] = error
        except (TimeoutError, OSError) as error:
            raise UpstreamUnavailable(_cause_of(error)) from error

    async def _connect_over(self, connection: socket.socket, credentials: Credentials | None) -> Connected:
        """The same over this connection, which is ours from now on."""
        upstream = self.upstream
        client = aiosmtplib.SMTP(
            hostname=upstream.host,
            port=None,
            sock=connection,
            local_hostname=self._hostname,
            timeout=_SECONDS_FOR_A_STEP,
            use_tls=upstream.tls is UpstreamTls.IMPLICIT,
            start_tls=False,
            tls_context=self._tls_context,
        )
        try:
            await self._prepare(client, credentials)
        except (
            aiosmtplib.SMTPException,
            TokenRefused,
            OSError,
            TimeoutError,
            ValueError,
            RuntimeError,
        ) as error:
            client.close()
            raise _trouble(error) from error
        except BaseException:
            client.close()
            raise
        return _connected(client)

    async def _prepare(self, client: aiosmtplib.SMTP, credentials: Credentials | None) -> None:
        await client.connect()
        await _say_hello(client)
        if self.upstream.tls is UpstreamTls.STARTTLS:
            await client.starttls(tls_context=self._tls_context)
            await client.ehlo()
        if credentials is not None:
            await _sign_in(client, credentials)
        elif self._tokens is not None:
            token = await self._tokens.token()
            try:
                await _sign_in_by_token(client, self.upstream, token)
            except aiosmtplib.SMTPAuthenticationError:
                self._tokens.forget()
                raise
        elif self.upstream.user is not None:
            await _sign_in(client, Credentials(self.upstream.user, self.upstream.password or ""))


@dataclass(frozen=True)
class SubmissionEndpoint:
    """A submission listener of ours; `certificate` is the one it must show, None where it is in clear on
    loopback."""

    host: str
    port: int
    is_implicit_tls: bool = False
    certificate: Path | None = None


async def send_mail(
    door: SubmissionEndpoint, credentials: Credentials, *, sender: str, recipient: str, content: bytes
) -> MailVerdict:
    """Send one mail through a listener of ours, and say how it was received.

    `content`: the mail with CRLF line ends. Raises UpstreamUnavailable."""
    client = aiosmtplib.SMTP(
        hostname=door.host,
        port=door.port,
        timeout=_SECONDS_FOR_A_MAIL,
        use_tls=door.is_implicit_tls,
        start_tls=door.certificate is not None and not door.is_implicit_tls,
        tls_context=_pinned_context(door.certificate) if door.certificate is not None else None,
    )
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_MAIL):
            await client.connect()
            await client.login(credentials.user, credentials.password)
            _, said = await client.sendmail(sender, [recipient], content)
            await client.quit()
    except aiosmtplib.SMTPRecipientsRefused as error:
        return MailVerdict(accepted=False, text=f"{error.recipients[0].code} {error.recipients[0].message}")
    except aiosmtplib.SMTPResponseException as error:
        return MailVerdict(accepted=False, text=f"{error.code} {error.message}")
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        raise UpstreamUnavailable(_cause_of(error)) from error
    finally:
        client.close()
    return MailVerdict(accepted=True, text=f"250 {said}")


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """What our listeners show; TLS 1.2 or newer. Raises OSError (ssl.SSLError) where the files do not fit."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    return context


def _pinned_context(certificate: Path) -> ssl.SSLContext:
    """Trusts just the certificate that our own listeners show, whatever name it is for."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


async def _say_hello(client: aiosmtplib.SMTP) -> None:
    """EHLO; HELO to a server that knows nothing else (RFC 5321 section 4.1.1.1)."""
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError:
        await client.helo()


async def _sign_in(client: aiosmtplib.SMTP, credentials: Credentials) -> None:
    """By the first of PLAIN, LOGIN and CRAM-MD5 that the server offers and knows: 504 (RFC 4954 section 4)
    says that it does not know the mechanism, whatever it offers, and costs no failed sign-in. The password is
    tried once.

    Name and password go out as the bytes that they came as, whatever they are encoded in."""
    user, password = (
        one.encode("utf-8", "surrogateescape") for one in (credentials.user, credentials.password)
    )
    offered = [name for name in _MECHANISMS if name in client.server_auth_methods]
    refusal = aiosmtplib.SMTPAuthenticationError(
        _NOT_OFFERED, "the server offers neither AUTH PLAIN nor LOGIN nor CRAM-MD5"
    )
    for name in offered:
        try:
            if name == "plain":
                await client.auth_plain(user, password)
            elif name == "login":
                await _sign_in_by_login(client, user, password)
            else:
                await client.auth_crammd5(user, password)
        except aiosmtplib.SMTPAuthenticationError as error:
            refusal = error
            # Anything else is an answer to the password, and a second try could lock the account.
            if error.code != _UNKNOWN_MECHANISM:
                break
        else:
            return
    raise refusal


async def _sign_in_by_login(client: aiosmtplib.SMTP, user: bytes, password: bytes) -> None:
    """A step for each, as some servers take no initial response."""
    said = await client.execute_command(b"AUTH", b"LOGIN")
    for answer in (user, password):
        if said.code != _GO_ON:
            break
        said = await client.execute_command(base64.b64encode(answer))
    if said.code != _SIGNED_IN:
        raise aiosmtplib.SMTPAuthenticationError(said.code, said.message)


async def _sign_in_by_token(client: aiosmtplib.SMTP, upstream: Upstream, token: str) -> None:
    """XOAUTH2, or OAUTHBEARER (RFC 7628) where only that is offered; in two steps, as a long token does not
    fit on the command line (facts of providers: Gmail's 555)."""
    user, offered = upstream.user or "", client.server_auth_methods
    if "oauthbearer" in offered and "xoauth2" not in offered:
        mechanism = b"OAUTHBEARER"
        head = f"n,a={user},\x01host={upstream.host}\x01port={upstream.port}\x01"
    else:
        mechanism, head = b"XOAUTH2", f"user={user}\x01"
    asked = await client.execute_command(b"AUTH", mechanism)
    if asked.code != _GO_ON:
        raise aiosmtplib.SMTPAuthenticationError(asked.code, asked.message)
    reply = await client.execute_command(base64.b64encode(f"{head}auth=Bearer {token}\x01\x01".encode()))
    if reply.code == _GO_ON:  # a challenge that tells why not; an empty answer brings the verdict
        reply = await client.execute_command(b"AQ==" if mechanism == b"OAUTHBEARER" else b"")
    if reply.code != _SIGNED_IN:
        raise aiosmtplib.SMTPAuthenticationError(reply.code, reply.message)


def _connected(client: aiosmtplib.SMTP) -> Connected:
    transport = cast("asyncio.Transport | None", client.transport)  # uvloop's is no subclass of it
    if transport is None or transport.is_closing():
        raise UpstreamUnavailable("the connection was closed right after it was made")
    tls = transport.get_extra_info("ssl_object")
    return Connected(
        transport=transport,
        extensions={name.lower(): value for name, value in client.esmtp_extensions.items()},
        tls_version=tls.version() if tls is not None else None,
        certificate=transport.get_extra_info("peercert") or {},
    )


def _trouble(error: Exception) -> Exception:
    """Whether trying again later can help."""
    if isinstance(error, aiosmtplib.SMTPAuthenticationError) and error.code in _WRONG_CREDENTIALS:
        return WrongCredentials(_cause_of(error))
    if isinstance(error, aiosmtplib.SMTPAuthenticationError) and error.code >= 500:
        return RefusesUs(_cause_of(error))
    is_ours = isinstance(error, aiosmtplib.SMTPResponseException) and error.code in _REFUSALS_OF_US
    is_ours = is_ours or isinstance(error, TokenRefused)
    if is_ours or isinstance(error.__cause__ or error, ssl.SSLCertVerificationError):
        return RefusesUs(_cause_of(error))
    if isinstance(error, aiosmtplib.SMTPResponseException) and asks_for_patience(error.code, error.message):
        return UpstreamCrowded(_cause_of(error))
    return UpstreamUnavailable(_cause_of(error))


_TEXTS_OF_A_CROWD = (
    "too many connections",  # Postfix, Exim, Google
    "too many concurrent",
    "concurrent connection",  # Exchange Online: "432 4.3.2 Concurrent connections limit exceeded"
    "connection limit",
    "too many sessions",
    "thread limit",  # Exchange Online: "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"
    "rate limit",
    "sending rate",
    "throttl",  # Amazon SES: "454 Throttling failure: Maximum sending rate exceeded."
    "too fast",
)
"""What providers say to more connections or mails than they take at once, always with a 4xx code."""


def asks_for_patience(code: int, text: str) -> bool:
    """Whether a reply to a connection or to MAIL says that there is too much of us just now."""
    said = text.lower()
    return 400 <= code < 500 and any(one in said for one in _TEXTS_OF_A_CROWD)


def _cause_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(upstream.ca_file) if upstream.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if (shown := upstream.client_certificate) is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    return context

"""The one door to aiosmtplib: connect to an SMTP server, secure it, say hello, sign in; and send a mail of our own.

A connection that is ready is handed out as its bare transport, for the relay's own protocol to talk on.
Every step has a time-out; each credential is tried once, by the mechanism that we choose."""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import aiosmtplib

from core.config import Upstream, UpstreamTls

_SECONDS_TO_CONNECT = 10
_SECONDS_IN_ALL = 20
_SECONDS_FOR_A_MAIL = 25
_REFUSALS_OF_US = frozenset({530, 534, 535, 538})


class Unavailable(Exception):
    """The server cannot be reached or does not answer; trying again later can help."""


class RefusesUs(Exception):
    """The server does not take our certificate or credentials; somebody must mend the configuration."""


@dataclass(frozen=True)
class Connected:
    """A connection ready for MAIL. `extensions`: EHLO keywords in lower case with their parameters."""

    transport: asyncio.Transport
    extensions: Mapping[str, str]
    tls_version: str | None = None
    certificate: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a server said to a mail of ours, on one line; `accepted` is whether it took it."""

    accepted: bool
    text: str


class Route:
    """The way to one upstream: its address, our name, and one TLS context for all connections."""

    def __init__(self, upstream: Upstream, hostname: str) -> None:
        self.upstream = upstream
        self._hostname = hostname
        self._tls_context = _tls_context(upstream) if upstream.tls is not UpstreamTls.NONE else None

    def __str__(self) -> str:
        return str(self.upstream)

    async def connect(self) -> Connected:
        """A connection of its own, greeted, secured and signed in. Raises Unavailable, RefusesUs."""
        upstream = self.upstream
        client = aiosmtplib.SMTP(
            hostname=upstream.host,
            port=upstream.port,
            local_hostname=self._hostname,
            timeout=_SECONDS_TO_CONNECT,
            use_tls=upstream.tls is UpstreamTls.IMPLICIT,
            start_tls=False,
            tls_context=self._tls_context,
        )
        try:
            async with asyncio.timeout(_SECONDS_IN_ALL):
                await self._prepare(client)
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError, RuntimeError) as error:
            client.close()
            raise _trouble(error) from error
        except asyncio.CancelledError:
            client.close()
            raise
        return _connected(client)

    async def _prepare(self, client: aiosmtplib.SMTP) -> None:
        await client.connect()
        await client.ehlo()
        if self.upstream.tls is UpstreamTls.STARTTLS:
            await client.starttls(tls_context=self._tls_context)
            await client.ehlo()
        if self.upstream.user is not None:
            await _sign_in(client, self.upstream.user, self.upstream.password or "")


async def send_mail(
    *, host: str, port: int, login: str, password: str, sender: str, recipient: str, content: bytes
) -> Verdict:
    """Send one mail through a submission listener on this machine, and say how it was received.

    `content`: the mail with CRLF line ends. Raises Unavailable."""
    client = aiosmtplib.SMTP(
        hostname=host, port=port, timeout=_SECONDS_FOR_A_MAIL, start_tls=False, use_tls=False
    )
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_MAIL):
            await client.connect()
            await client.login(login, password)
            _, said = await client.sendmail(sender, [recipient], content)
            await client.quit()
    except aiosmtplib.SMTPRecipientsRefused as error:
        return Verdict(accepted=False, text=f"{error.recipients[0].code} {error.recipients[0].message}")
    except aiosmtplib.SMTPResponseException as error:
        return Verdict(accepted=False, text=f"{error.code} {error.message}")
    except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
        raise Unavailable(_cause(error)) from error
    finally:
        client.close()
    return Verdict(accepted=True, text=f"250 {said}")


async def _sign_in(client: aiosmtplib.SMTP, user: str, password: str) -> None:
    """PLAIN where it is offered, else LOGIN: one try, so that a wrong password costs one failure."""
    if "plain" in client.supported_auth_methods:
        await client.auth_plain(user, password)
    else:
        await client.auth_login(user, password)


def _connected(client: aiosmtplib.SMTP) -> Connected:
    transport = cast("asyncio.Transport | None", client.transport)  # uvloop's is no subclass of it
    if transport is None or transport.is_closing():
        raise Unavailable("the connection was closed right after it was made")
    tls = transport.get_extra_info("ssl_object")
    return Connected(
        transport=transport,
        extensions={name.lower(): value for name, value in client.esmtp_extensions.items()},
        tls_version=tls.version() if tls is not None else None,
        certificate=transport.get_extra_info("peercert") or {},
    )


def _trouble(error: Exception) -> Exception:
    is_ours = isinstance(error, aiosmtplib.SMTPAuthenticationError) and error.code >= 500
    is_ours = is_ours or (
        isinstance(error, aiosmtplib.SMTPResponseException) and error.code in _REFUSALS_OF_US
    )
    if is_ours or isinstance(error.__cause__ or error, ssl.SSLCertVerificationError):
        return RefusesUs(_cause(error))
    return Unavailable(_cause(error))


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(upstream.ca_file) if upstream.ca_file else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context

"""The ends of our connections: the listeners that clients come in by, the upstream that mail goes to, and
Salesforce.

Values only, as the configuration gives them."""

import ipaddress
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from pathlib import Path


class ListenerKind(StrEnum):
    """Who comes in by a listener, and how."""

    SUBMISSION = "submission"
    SUBMISSIONS = "submissions"
    GATEWAY = "gateway"


class SignIn(StrEnum):
    """Against what a client's name and password are tried."""

    APP_PASSWORD = "app-password"  # noqa: S105  no password but the name of a choice
    UPSTREAM = "upstream"


class UpstreamAuth(StrEnum):
    """How we sign in to the upstream."""

    PASSWORD = "password"  # noqa: S105
    XOAUTH2 = "xoauth2"


class UpstreamTls(Enum):
    """How the connection to the upstream is secured."""

    NONE = "smtp"
    STARTTLS = "smtp+starttls"
    IMPLICIT = "smtps"


@dataclass(frozen=True)
class ListenerLimits:
    """What a listener bears; each is an option of its URL, as in `?size=30000000&recipients=200`."""

    size: int = 157_286_400
    """Bytes of a mail; not below what the mail provider takes."""
    recipients: int = 1000
    """Of one mail."""
    sessions: int = 10_000
    """At once, in one relay process."""
    sessions_per_source: int = 100
    """At once, from one address that is not on loopback."""


@dataclass(frozen=True)
class Listener:
    """Where mail clients (submission, submissions) or mail servers (gateway) connect."""

    kind: ListenerKind
    host: str
    port: int
    limits: ListenerLimits = ListenerLimits()
    trusted: "tuple[Network, ...]" = ()
    """Of a gateway: the networks that may send without signing in."""
    proxies: "tuple[Network, ...]" = ()
    """Networks of balancers. Only a connection from these begins with a PROXY header, which names the
    client."""
    fixes_bare_newlines: bool = False
    """Whether a bare LF becomes CRLF instead of being refused; for old devices and scripts."""

    def __str__(self) -> str:
        return f"{self.kind} {host_and_port(self.host, self.port)}"

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def is_everywhere(self) -> bool:
        """All addresses of this machine."""
        return self.host in {"0.0.0.0", "::"}

    @classmethod
    def parsed(cls, text: str) -> "Listener":
        """The reverse of str()."""
        kind, _, place = text.partition(" ")
        host, _, port = place.rpartition(":")
        return cls(ListenerKind(kind), host.strip("[]"), int(port))


@dataclass(frozen=True)
class TokenSource:
    """Where the upstream's access tokens come from: the client-credentials grant (RFC 6749 section 4.4), or
    the refresh token of a mailbox's owner (section 6)."""

    url: str
    scope: str
    client_id: str
    refresh_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class UpstreamLimits:
    """What the provider bears, as the operator says; None: as far as it lets itself be asked."""

    connections: int | None = None
    """At once, of all relays of this machine."""
    rate: int | None = None
    """Mails a minute."""
    recipients: int | None = None
    """Of one mail, its blind copy included."""


@dataclass(frozen=True)
class Upstream:
    """The company's real mail provider. `password` is the client secret where `token` is set."""

    tls: UpstreamTls
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    token: TokenSource | None = None
    client_certificate: "TlsFiles | None" = None
    """What we show; Exchange Online attributes mail to a connector by it first."""
    limits: UpstreamLimits = UpstreamLimits()

    def __str__(self) -> str:
        login = f"{self.user}:***@" if self.user else ""
        return f"{self.tls.value}://{login}{host_and_port(self.host, self.port)}"


@dataclass(frozen=True)
class HostPort:
    """A host and a port to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


@dataclass(frozen=True)
class TlsFiles:
    """The certificate that listeners show, PEM with its chain, and its private key."""

    certificate: Path
    key: Path


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal means this machine only (RFC 6761 section 6.3)."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_and_port(host: str, port: int) -> str:
    """The place as it is written: an IPv6 address in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


SALESFORCE_LOGIN = "https://login.salesforce.com"
"""Where people of production orgs sign in."""


@dataclass(frozen=True)
class SalesforceApp:
    """The External Client App that we are to Salesforce.

    `login_url` is where people sign in; `client_secret` is empty for an app that has none; `jwt_key_file`
    holds the private key with which a whole team is let in."""

    client_id: str
    client_secret: str = field(repr=False)
    callback_url: str
    login_url: str = SALESFORCE_LOGIN
    ca_file: Path | None = None
    jwt_key_file: Path | None = None

"""The environment read once into a frozen value; nothing else in the house reads it.

Every mistake is found in one go: `ConfigurationError.problems` holds a line for each, with the variable's
name and what would be right."""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

CHECKOUT = Path(__file__).resolve().parent.parent
_SHORTEST_SECRET = 16
_DEFAULT_LISTEN = "submission://127.0.0.1:2587"
_LISTEN_EXAMPLE = f"write it like {_DEFAULT_LISTEN}"
_UPSTREAM_EXAMPLE = (
    "write it like smtp+starttls://user:secret@smtp.example.com:587, smtps://user:secret@smtp.example.com "
    "or smtp://127.0.0.1:2526"
)
_DATABASE_EXAMPLE = "write sqlite:///path/to/file.db or postgresql+psycopg://user:secret@host/database"
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class ConfigurationError(Exception):
    """The configuration has mistakes."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class UpstreamTls(Enum):
    """How the connection to the upstream is secured."""

    NONE = "smtp"
    STARTTLS = "smtp+starttls"
    IMPLICIT = "smtps"


_UPSTREAM_PORTS = {UpstreamTls.NONE: 25, UpstreamTls.STARTTLS: 587, UpstreamTls.IMPLICIT: 465}


@dataclass(frozen=True)
class Listener:
    """Where mail clients connect: a submission listener on a loopback address."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.kind} {_host_and_port(self.host, self.port)}"


@dataclass(frozen=True)
class Upstream:
    """The company's real mail provider."""

    tls: UpstreamTls
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None

    def __str__(self) -> str:
        login = f"{self.user}:***@" if self.user else ""
        return f"{self.tls.value}://{login}{_host_and_port(self.host, self.port)}"


@dataclass(frozen=True)
class Config:
    """What the operator said, checked. Paths are absolute."""

    database_url: str = field(repr=False)
    state_dir: Path
    secret_keys: tuple[str, ...] = field(repr=False)
    hostname: str
    listeners: tuple[Listener, ...]
    upstream: Upstream | None
    public_url: str
    web_host: str
    web_port: int


def read_config(environ: Mapping[str, str] | None = None, *, needs: Iterable[str] = ()) -> Config:
    """The configuration in force.

    `needs`: variables that this process cannot do without. Raises ConfigurationError with all problems."""
    return _Reader(os.environ if environ is None else environ, frozenset(needs)).config()


class _Reader:
    """Reads the variables one by one and collects what is wrong with each."""

    def __init__(self, environ: Mapping[str, str], needs: frozenset[str]) -> None:
        self._environ = environ
        self._needs = needs
        self._problems: list[str] = []

    def config(self) -> Config:
        listeners = self._listeners()
        config = Config(
            database_url=self._database_url(),
            state_dir=self._state_dir(),
            secret_keys=self._secret_keys(),
            hostname=self._hostname(),
            listeners=listeners,
            upstream=self._upstream(listeners),
            public_url=self._public_url(),
            web_host=self._text("BLINDCOPY_WEB_HOST") or "127.0.0.1",
            web_port=self._web_port(),
        )
        if self._problems:
            raise ConfigurationError(sorted(self._problems))
        return config

    def _text(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def _wrong(self, name: str, what: str) -> None:
        self._problems.append(f"{name}: {what}")

    def _database_url(self) -> str:
        text = self._text("DATABASE_URL") or "sqlite:///.blindcopy/blindcopy.db"
        if text.startswith("sqlite:///"):
            path = text.removeprefix("sqlite:///")
            if not path or path == ":memory:":
                self._wrong(
                    "DATABASE_URL",
                    f"several processes share the database, so it needs a file; {_DATABASE_EXAMPLE}",
                )
            return f"sqlite:///{CHECKOUT / path}"
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"} or not rest:
            self._wrong("DATABASE_URL", f"“{scheme}” is not a database that can be used; {_DATABASE_EXAMPLE}")
        return f"postgresql+psycopg://{rest}"

    def _state_dir(self) -> Path:
        return CHECKOUT / (self._text("BLINDCOPY_STATE_DIR") or ".blindcopy")

    def _secret_keys(self) -> tuple[str, ...]:
        name = "BLINDCOPY_SECRET_KEY"
        keys = tuple(key.strip() for key in self._text(name).split(",") if key.strip())
        advice = "set it to 32 or more random characters, e.g. from `openssl rand -hex 32`"
        if not keys and name in self._needs:
            self._wrong(name, f"is not set; {advice}")
        if any(len(key) < _SHORTEST_SECRET for key in keys):
            self._wrong(name, f"a key is shorter than {_SHORTEST_SECRET} characters; {advice}")
        return keys

    def _hostname(self) -> str:
        name = self._text("BLINDCOPY_HOSTNAME") or socket.gethostname()
        if not _HOSTNAME.fullmatch(name):
            self._wrong("BLINDCOPY_HOSTNAME", f"“{name}” is not a host name; write it like relay.example.com")
        return name

    def _listeners(self) -> tuple[Listener, ...]:
        entries = (self._text("BLINDCOPY_LISTEN") or _DEFAULT_LISTEN).split()
        return tuple(listener for entry in entries if (listener := self._listener(entry)) is not None)

    def _listener(self, entry: str) -> Listener | None:
        name = "BLINDCOPY_LISTEN"
        url, port = _split(entry)
        if url is None or port is None or not url.hostname or url.path or url.query:
            self._wrong(name, f"“{entry}” is not a listener; {_LISTEN_EXAMPLE}")
            return None
        if url.scheme != "submission":
            self._wrong(name, f"“{url.scheme}” is not a kind of listener that is offered; {_LISTEN_EXAMPLE}")
            return None
        if not is_loopback(url.hostname):
            self._wrong(
                name,
                f"{url.hostname} is not a loopback address, and passwords would cross the network in clear; {_LISTEN_EXAMPLE}",
            )
            return None
        return Listener(url.scheme, url.hostname, port)

    def _upstream(self, listeners: tuple[Listener, ...]) -> Upstream | None:
        name = "BLINDCOPY_UPSTREAM"
        text = self._text(name)
        if not text:
            if name in self._needs:
                self._wrong(name, f"is not set; name your mail provider: {_UPSTREAM_EXAMPLE}")
            return None
        url, port = _split(text, default_port=0)
        schemes = {tls.value: tls for tls in UpstreamTls}
        if (
            url is None
            or port is None
            or url.scheme not in schemes
            or not url.hostname
            or url.path.strip("/")
        ):
            self._wrong(name, f"“{_masked(text)}” is not an SMTP server; {_UPSTREAM_EXAMPLE}")
            return None
        tls = schemes[url.scheme]
        options = parse_qs(url.query)
        upstream = Upstream(
            tls=tls,
            host=url.hostname,
            port=port or _UPSTREAM_PORTS[tls],
            user=unquote(url.username) if url.username else None,
            password=unquote(url.password or "") if url.username else None,
            ca_file=self._ca_file(),
        )
        if unknown := sorted(set(options) - {"plain"}):
            self._wrong(name, f"“{unknown[0]}” is not an option; plain=yes is the only one")
        if tls is UpstreamTls.NONE and not is_loopback(upstream.host) and options.get("plain") != ["yes"]:
            self._wrong(
                name,
                f"mail to {upstream.host} would travel in clear; write smtp+starttls:// or smtps://, or add ?plain=yes if that is meant",
            )
        if any(_is_same_place(upstream, listener) for listener in listeners):
            self._wrong(
                name,
                f"{_host_and_port(upstream.host, upstream.port)} is one of our own listeners, mail would run in circles; name your mail provider's server",
            )
        return upstream

    def _ca_file(self) -> Path | None:
        name = "BLINDCOPY_UPSTREAM_CA_FILE"
        text = self._text(name)
        if not text:
            return None
        path = CHECKOUT / text
        if not path.is_file():
            self._wrong(name, f"there is no file {path}; name a PEM file with the certificates to trust")
        return path

    def _public_url(self) -> str:
        text = self._text("BLINDCOPY_PUBLIC_URL") or "http://127.0.0.1:8000"
        url, _ = _split(text, default_port=0)
        if url is None or url.scheme not in {"http", "https"} or not url.hostname:
            self._wrong(
                "BLINDCOPY_PUBLIC_URL",
                f"“{text}” is not a web address; write it like https://blindcopy.example.com",
            )
        return text.rstrip("/")

    def _web_port(self) -> int:
        text = self._text("PORT") or "8000"
        if not text.isdecimal() or not 0 < int(text) < 65536:
            self._wrong("PORT", f"“{text}” is not a port; write a number from 1 to 65535")
            return 8000
        return int(text)


def is_loopback(host: str) -> bool:
    """Whether a host name or address literal means this machine only (RFC 6761 section 6.3)."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def masked_url(url: str) -> str:
    """The same address with its password hidden, fit for people's eyes."""
    return _masked(url)


def _is_same_place(upstream: Upstream, listener: Listener) -> bool:
    """Loopback listeners only: any name of loopback with that port is the listener."""
    return is_loopback(upstream.host) and upstream.port == listener.port


def _split(text: str, default_port: int | None = None) -> tuple[SplitResult | None, int | None]:
    try:
        url = urlsplit(text)
        return url, url.port if url.port is not None else default_port
    except ValueError:
        return None, None


def _masked(text: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", text)


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

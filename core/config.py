"""The environment read once into a frozen value; nothing else in the house reads it.

Every mistake is found in one go: `ConfigurationError.problems` holds a line for each, with the variable's
name and what would be right."""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from core.endpoints import (
    SALESFORCE_LOGIN,
    HostPort,
    Listener,
    Network,
    SalesforceApp,
    SignIn,
    TlsFiles,
    Upstream,
)
from core.listen_urls import networks, read_listeners, split_url
from core.upstream_url import UPSTREAM_EXAMPLE, read_upstream

CHECKOUT = Path(__file__).resolve().parent.parent
_SHORTEST_SECRET = 16
_LARGEST_JOURNAL_MB = 65_536
_DATABASE_EXAMPLE = "write sqlite:///path/to/file.db or postgresql+psycopg://user:secret@host/database"
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


class ConfigurationError(Exception):
    """The configuration has mistakes."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Config:
    """What the operator said, checked. Paths are absolute."""

    database_url: str = field(repr=False)
    state_dir: Path
    secret_keys: tuple[str, ...] = field(repr=False)
    hostname: str
    listeners: tuple[Listener, ...]
    tls: TlsFiles | None
    sign_in: SignIn
    trusted: tuple[Network, ...]
    upstream: Upstream | None
    monitor: HostPort | None
    public_url: str
    web_host: str
    web_port: int
    salesforce: SalesforceApp | None = None
    journal_bytes: int = 64 * 1024 * 1024
    worker_monitor: HostPort | None = None


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
        tls = self._tls_files()
        trusted = networks(self._text("BLINDCOPY_TRUSTED"), "BLINDCOPY_TRUSTED", self._note_problem)
        listeners = read_listeners(
            self._text("BLINDCOPY_LISTEN"), trusted, self._note_problem, has_tls=tls is not None
        )
        config = Config(
            database_url=self._database_url(),
            state_dir=self._state_dir(),
            secret_keys=self._secret_keys(),
            hostname=self._hostname(),
            listeners=listeners,
            tls=tls,
            sign_in=self._sign_in(),
            trusted=trusted,
            upstream=self._upstream(listeners),
            monitor=self._monitor("BLINDCOPY_MONITOR", "127.0.0.1:9025"),
            public_url=self._public_url(),
            web_host=self._text("BLINDCOPY_WEB_HOST") or "127.0.0.1",
            web_port=self._web_port(),
            salesforce=self._salesforce(),
            journal_bytes=self._journal_bytes(),
            worker_monitor=self._monitor("BLINDCOPY_WORKER_MONITOR", "127.0.0.1:9026"),
        )
        if self._problems:
            raise ConfigurationError(sorted(self._problems))
        return config

    def _text(self, name: str) -> str:
        return self._environ.get(name, "").strip()

    def _note_problem(self, name: str, what: str) -> None:
        self._problems.append(f"{name}: {what}")

    def _database_url(self) -> str:
        text = self._text("DATABASE_URL") or "sqlite:///.blindcopy/blindcopy.db"
        if text.startswith("sqlite:///"):
            path = text.removeprefix("sqlite:///")
            if not path or path == ":memory:":
                self._note_problem(
                    "DATABASE_URL",
                    f"several processes share the database, so it needs a file; {_DATABASE_EXAMPLE}",
                )
            return f"sqlite:///{CHECKOUT / path}"
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"} or not rest:
            self._note_problem(
                "DATABASE_URL", f"“{scheme}” is not a database that can be used; {_DATABASE_EXAMPLE}"
            )
        if rest and split_url(f"postgresql://{rest}", default_port=0)[1] is None:
            self._note_problem("DATABASE_URL", f"the port is not a number; {_DATABASE_EXAMPLE}")
        return f"postgresql+psycopg://{rest}"

    def _state_dir(self) -> Path:
        path = CHECKOUT / (self._text("BLINDCOPY_STATE_DIR") or ".blindcopy")
        if path.exists() and not path.is_dir():
            self._note_problem(
                "BLINDCOPY_STATE_DIR", f"{path} is not a directory; name one that may be written"
            )
        return path

    def _secret_keys(self) -> tuple[str, ...]:
        name = "BLINDCOPY_SECRET_KEY"
        keys = tuple(key.strip() for key in self._text(name).split(",") if key.strip())
        advice = "set it to 32 or more random characters, e.g. from `openssl rand -hex 32`"
        if not keys and name in self._needs:
            self._note_problem(name, f"is not set; {advice}")
        if any(len(key) < _SHORTEST_SECRET for key in keys):
            self._note_problem(name, f"a key is shorter than {_SHORTEST_SECRET} characters; {advice}")
        return keys

    def _hostname(self) -> str:
        name = self._text("BLINDCOPY_HOSTNAME") or socket.gethostname()
        if not _HOSTNAME.fullmatch(name):
            self._note_problem(
                "BLINDCOPY_HOSTNAME", f"“{name}” is not a host name; write it like relay.example.com"
            )
        return name

    def _tls_files(self) -> TlsFiles | None:
        names = ("BLINDCOPY_TLS_CERT", "BLINDCOPY_TLS_KEY")
        paths = [self._file(name, "PEM file") for name in names]
        for name, path, other in zip(names, paths, reversed(paths), strict=True):
            if path is None and other is not None and not self._text(name):
                self._note_problem(
                    name, "is not set, but its companion is; certificate and key come together"
                )
        certificate, key = paths
        return TlsFiles(certificate, key) if certificate is not None and key is not None else None

    def _file(self, name: str, what: str) -> Path | None:
        text = self._text(name)
        if not text:
            return None
        path = CHECKOUT / text
        if not path.is_file():
            self._note_problem(name, f"there is no file {path}; name a {what}")
            return None
        return path

    def _sign_in(self) -> SignIn:
        text = self._text("BLINDCOPY_AUTH") or SignIn.APP_PASSWORD
        if text not in set(SignIn):
            self._note_problem("BLINDCOPY_AUTH", f"“{text}” is none of: {', '.join(SignIn)}")
            return SignIn.APP_PASSWORD
        return SignIn(text)

    def _upstream(self, listeners: tuple[Listener, ...]) -> Upstream | None:
        text = self._text("BLINDCOPY_UPSTREAM")
        ca_file = self._file("BLINDCOPY_UPSTREAM_CA_FILE", "PEM file with the certificates to trust")
        if text:
            return read_upstream(
                text, self._note_problem, listeners=listeners, ca_file=ca_file, directory=CHECKOUT
            )
        if "BLINDCOPY_UPSTREAM" in self._needs:
            self._note_problem(
                "BLINDCOPY_UPSTREAM", f"is not set; name your mail provider: {UPSTREAM_EXAMPLE}"
            )
        return None

    def _journal_bytes(self) -> int:
        name, usual = "BLINDCOPY_JOURNAL_MB", 64
        text = self._text(name) or str(usual)
        if not text.isdecimal() or not 1 <= int(text) <= _LARGEST_JOURNAL_MB:
            self._note_problem(
                name, f"“{text}” is not a number of megabytes; write one from 1 to {_LARGEST_JOURNAL_MB}"
            )
            return usual << 20
        return int(text) << 20

    def _monitor(self, name: str, usual: str) -> HostPort | None:
        text = self._text(name) or usual
        if text.lower() == "off":
            return None
        url, port = split_url(f"http://{text}")
        is_place = url is not None and not (url.path or url.query or url.fragment or url.username is not None)
        if url is None or port is None or not is_place or not _is_host(url.hostname or ""):
            self._note_problem(name, f"“{text}” is not a place; write it like {usual}, or off")
            return None
        return HostPort(url.hostname or "", port)

    def _public_url(self) -> str:
        text = self._text("BLINDCOPY_PUBLIC_URL") or "http://127.0.0.1:8000"
        url, _ = split_url(text, default_port=0)
        if url is None or url.scheme not in {"http", "https"} or not url.hostname:
            self._note_problem(
                "BLINDCOPY_PUBLIC_URL",
                f"“{text}” is not a web address; write it like https://blindcopy.example.com",
            )
        return text.rstrip("/")

    def _salesforce(self) -> SalesforceApp | None:
        """None where no app is registered: then people type in their Email to Salesforce address
        themselves."""
        client_id = self._text("BLINDCOPY_SALESFORCE_CLIENT_ID")
        app = SalesforceApp(
            client_id=client_id,
            client_secret=self._text("BLINDCOPY_SALESFORCE_CLIENT_SECRET"),
            callback_url=(self._text("BLINDCOPY_PUBLIC_URL") or "http://127.0.0.1:8000").rstrip("/")
            + "/salesforce/callback",
            login_url=self._login_url(),
            ca_file=self._file("BLINDCOPY_SALESFORCE_CA_FILE", "PEM file with the certificates to trust"),
            jwt_key_file=self._file("BLINDCOPY_SALESFORCE_JWT_KEY_FILE", "PEM file with the RSA private key"),
        )
        if not client_id and (app.client_secret or self._text("BLINDCOPY_SALESFORCE_JWT_KEY_FILE")):
            self._note_problem(
                "BLINDCOPY_SALESFORCE_CLIENT_ID",
                "is not set, but its companion is; set it to the consumer key of the External Client App",
            )
        return app if client_id else None

    def _login_url(self) -> str:
        text = self._text("BLINDCOPY_SALESFORCE_LOGIN_URL") or SALESFORCE_LOGIN
        url, port = split_url(text, default_port=0)
        is_plain = url is not None and not (url.path.strip("/") or url.query or url.fragment or url.username)
        if url is None or port is None or url.scheme != "https" or not url.hostname or not is_plain:
            self._note_problem(
                "BLINDCOPY_SALESFORCE_LOGIN_URL",
                f"“{_masked(text)}” is not where people sign in to Salesforce; write {SALESFORCE_LOGIN}, "
                "https://test.salesforce.com or https://acme.my.salesforce.com",
            )
        return text.rstrip("/")

    def _web_port(self) -> int:
        text = self._text("PORT") or "8000"
        if not text.isdecimal() or not 0 < int(text) < 65536:
            self._note_problem("PORT", f"“{text}” is not a port; write a number from 1 to 65535")
            return 8000
        return int(text)


def masked_url(url: str) -> str:
    """The same address with its password hidden, fit for people's eyes."""
    return _masked(url)


def _is_host(text: str) -> bool:
    """A host name, or an address that is one."""
    if ":" in text or text.replace(".", "").isdigit():
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
    return _HOSTNAME.fullmatch(text) is not None


def _masked(text: str) -> str:
    without_password = re.sub(r"(://[^/@:]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)((?:password|secret)=)[^&]*", r"\1***", without_password)

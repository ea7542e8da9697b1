"""Signing in to Salesforce by OAuth: the web server flow with PKCE, refreshing, the JWT bearer flow,
revoking.

Secrets go to the configured login host and to Salesforce's own hosts, and nowhere else (allow-list below).
RFC 6749, RFC 7636, RFC 7523; what Salesforce adds is in its help under "OAuth Authorization Flows"."""

import base64
import hashlib
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode, urlsplit
from zoneinfo import available_timezones

import jwt
import requests
import urllib3
from cryptography.exceptions import UnsupportedAlgorithm

from core.endpoints import SalesforceApp
from core.salesforce.troubles import Trouble, trouble

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5, 20
_SALESFORCE_DOMAINS = (".salesforce.com", ".force.com")
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SECONDS_OF_AN_ASSERTION = 180
_LONGEST_ANSWER = 256 * 1024
SECONDS_FOR_ALL = 60
_CLOCKS_MAY_DIFFER = timedelta(seconds=150)
"""Less than an assertion's life, so that a clock that is off is said to be what it is."""


class Unavailable(Exception):
    """Salesforce cannot be reached or does not answer; trying again later can help."""

    def __init__(self, cause: str, found: Trouble | None = None) -> None:
        self.trouble = found or trouble("SERVER_UNAVAILABLE", cause)
        super().__init__(cause)


class NeverSent(Unavailable):
    """The same, and what was to be said did not leave us: no connection could be made, or no session be
    had."""


class Refused(Exception):
    """Salesforce says no; `trouble` has why, and what to do."""

    def __init__(self, found: Trouble, offset: timedelta | None = None) -> None:
        self.trouble = found
        self.offset = offset
        """How far Salesforce's clock is ahead of ours, where its answer said the time."""
        super().__init__(f"{found.code}: {found.cause}")


class NotSalesforce(Exception):
    """The host is none that a secret may go to."""


@dataclass(frozen=True)
class Issued:
    """Tokens as they were issued; `refresh_token` None: the one in hand stays good, or there is none."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    instance_url: str
    """"" where a renewal did not say it again."""


def _known_zone(name: object) -> str | None:
    return name if isinstance(name, str) and name in available_timezones() else None


@dataclass(frozen=True)
class Identity:
    """Who a person is in Salesforce."""

    organisation_id: str
    user_id: str
    username: str
    time_zone: str | None = None
    """By its name in the IANA database; None where Salesforce has one that is unknown here."""


@dataclass(frozen=True)
class Challenge:
    """What makes an answer ours alone: the state, and PKCE's secret and its hash (RFC 7636 section 4)."""

    state: str
    verifier: str = field(repr=False)

    @property
    def code_challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


def new_challenge() -> Challenge:
    """A challenge for one sign-in."""
    return Challenge(secrets.token_urlsafe(24), secrets.token_urlsafe(48))


def checked_host(url: str, app: SalesforceApp) -> str:
    """The address without its path, if secrets may go there. Raises NotSalesforce."""
    try:
        parts, login = urlsplit(url), urlsplit(app.login_url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        host, port, parts, login = "", None, urlsplit(""), urlsplit("")
    # of what is no plain host name two readers make two hosts: `evil.example\\.salesforce.com`
    is_salesforce = _HOST.fullmatch(host) is not None and host.endswith(_SALESFORCE_DOMAINS)
    is_ours = bool(host) and (is_salesforce or host == (login.hostname or "").lower())
    if parts.scheme != "https" or not is_ours or parts.username is not None:
        raise NotSalesforce(
            f"{host or url!r} is no Salesforce host; a My Domain looks like acme.my.salesforce.com"
        )
    name = f"[{host}]" if ":" in host else host
    return f"https://{name}" if port is None else f"https://{name}:{port}"


def read_in_time(answer: requests.Response, seconds: float | None = None) -> None:
    """Read the whole answer, or as much as comes in time, SECONDS_FOR_ALL where nothing else is said. Raises
    requests.RequestException."""
    deadline = time.monotonic() + (SECONDS_FOR_ALL if seconds is None else seconds)
    parts: list[bytes] = []
    try:
        _read(answer, parts, deadline)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(type(error).__name__) from error
    answer._content = b"".join(parts)  # noqa: SLF001  where requests keeps what it has read
    answer._content_consumed = True  # noqa: SLF001


def _read(answer: requests.Response, parts: list[bytes], deadline: float) -> None:
    while part := answer.raw.read1(65_536, decode_content=True):  # as much as has come, however little
        parts.append(part)
        if time.monotonic() > deadline:
            answer.close()
            raise requests.Timeout


def clock_offset(answer: requests.Response) -> timedelta | None:
    """How far the other side's clock is ahead of ours, by the Date header (whole seconds); None where it says
    none."""
    try:
        return parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)
    except (KeyError, ValueError, TypeError):
        return None


def session(app: SalesforceApp) -> requests.Session:
    """A session that trusts what we are told to trust, and nothing of the environment: its proxies' and
    .netrc's settings would replace our token."""
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = 0
    if app.ca_file is not None:
        made.verify = str(app.ca_file)
    return made


class Login:
    """The ways in. Every call has a time-out, and raises Unavailable, Refused or NotSalesforce."""

    def __init__(self, app: SalesforceApp, login_url: str | None = None) -> None:
        self._app = app
        self._base = checked_host(login_url or app.login_url, app)

    def page(self, challenge: Challenge) -> str:
        """The address at which the person is asked."""
        fields = {
            "response_type": "code",
            "client_id": self._app.client_id,
            "redirect_uri": self._app.callback_url,
            "scope": "api refresh_token",
            "state": challenge.state,
            "code_challenge": challenge.code_challenge,
            "code_challenge_method": "S256",
        }
        return f"{self._base}/services/oauth2/authorize?{urlencode(fields)}"

    def by_code(self, code: str, challenge: Challenge) -> Issued:
        """Tokens for the code that the person came back with."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._app.callback_url,
            "code_verifier": challenge.verifier,
        }
        return self._issued(fields | self._secret())

    def by_refresh_token(self, refresh_token: str) -> Issued:
        """A new session. A new refresh token must be stored before the access token is used: the old one is
        dead."""
        fields = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return self._issued(fields | self._secret(), is_renewal=True)

    def by_assertion(self, username: str, private_key_pem: bytes) -> Issued:
        """A session of a person who needs no click, as the admin has let everybody in. Raises ValueError for
        a key that is none."""
        now = int(time.time())
        claims = {
            "iss": self._app.client_id,
            "sub": username,
            "aud": self._audience(),
            "exp": now + _SECONDS_OF_AN_ASSERTION,
        }
        try:
            return self._issued({"grant_type": _JWT_BEARER, "assertion": _signed(claims, private_key_pem)})
        except Refused as refused:
            offset = refused.offset
            if offset is None or abs(offset) < _CLOCKS_MAY_DIFFER:
                raise
            minutes = round(offset.total_seconds() / 60)
            raise Refused(
                trouble("clock_skew", f"Salesforce's clock says {minutes:+d} minutes"), offset
            ) from None

    def revoke(self, token: str) -> None:
        """The token, and every session that came of it, is worth nothing any more."""
        self._post("revoke", {"token": token})

    def who_is(self, issued: Issued) -> Identity:
        """Whom the tokens belong to."""
        own = checked_host(issued.instance_url, self._app)
        try:
            found = self._userinfo(own, issued)
        except (Refused, Unavailable):
            if own == self._base:
                raise
            found = self._userinfo(self._base, issued)
        try:
            return Identity(
                organisation_id=str(found["organization_id"]),
                user_id=str(found["user_id"]),
                username=str(found["preferred_username"]),
                time_zone=_known_zone(found.get("zoneinfo")),
            )
        except KeyError as error:
            raise Unavailable("the answer names nobody") from error

    def _userinfo(self, host: str, issued: Issued) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {issued.access_token}"}
        return _call(self._app, "GET", f"{host}/services/oauth2/userinfo", headers=headers)

    def _secret(self) -> dict[str, str]:
        """An app may be registered without one; then PKCE stands alone."""
        return {"client_secret": self._app.client_secret} if self._app.client_secret else {}

    def _audience(self) -> str:
        """JWT's `aud` is the login host, a sandbox's for sandboxes, never the My Domain (help: JWT bearer
        flow)."""
        host = urlsplit(self._base).hostname or ""
        if not host.endswith(_SALESFORCE_DOMAINS):
            return self._base
        is_sandbox = host == "test.salesforce.com" or ".sandbox." in host
        return "https://test.salesforce.com" if is_sandbox else "https://login.salesforce.com"

    def _issued(self, fields: dict[str, str], *, is_renewal: bool = False) -> Issued:
        """A renewal has used a token up: whatever else its answer lacks, the new ones are not thrown away."""
        found = self._post("token", {"client_id": self._app.client_id} | fields)
        if not found.get("access_token"):
            raise Unavailable("the answer holds no token")
        try:
            instance_url = checked_host(str(found.get("instance_url", "")), self._app)
        except NotSalesforce:
            if not is_renewal:
                raise
            instance_url = ""
        refresh_token = found.get("refresh_token")
        return Issued(str(found["access_token"]), str(refresh_token) if refresh_token else None, instance_url)

    def _post(self, what: str, fields: dict[str, str]) -> dict[str, Any]:
        return _call(self._app, "POST", f"{self._base}/services/oauth2/{what}", data=fields)


def _call(app: SalesforceApp, method: str, url: str, **more: Any) -> dict[str, Any]:
    """One call and its JSON object; {} where there is none."""
    try:
        with session(app) as made:
            answer = made.request(
                method,
                url,
                timeout=(SECONDS_TO_CONNECT, SECONDS_TO_ANSWER),
                allow_redirects=False,
                stream=True,
                **more,
            )
            read_in_time(answer)
    except requests.RequestException as error:
        raise Unavailable(type(error).__name__) from error
    try:
        body = json.loads(answer.content[:_LONGEST_ANSWER]) if answer.content else {}
    except ValueError:
        body = None
    if answer.status_code >= 500 or (answer.ok and not isinstance(body, dict)):
        raise Unavailable(f"the answer is {answer.status_code} and no object")
    if not answer.ok or answer.is_redirect:
        said = body if isinstance(body, dict) else {}
        found = trouble(
            str(said.get("error", "")), str(said.get("error_description", "")), answer.status_code
        )
        raise Refused(found, clock_offset(answer))
    return body if isinstance(body, dict) else {}


def _signed(claims: dict[str, object], private_key_pem: bytes) -> str:
    """RS256 (RFC 7515). Raises ValueError for a key that is not an RSA private key in PEM."""
    try:
        return jwt.encode(claims, private_key_pem, algorithm="RS256")
    except (TypeError, AttributeError, UnsupportedAlgorithm, jwt.InvalidKeyError) as error:
        # encrypted, of another kind, or a public key, which PyJWT takes and then cannot sign with
        raise ValueError(str(error)) from error

"""Signing in to Salesforce by OAuth: the web server flow with PKCE, refreshing, the JWT bearer flow, revoking.

Secrets go to the configured login host and to Salesforce's own hosts, and nowhere else (allow-list below).
RFC 6749, RFC 7636, RFC 7523; what Salesforce adds is in its help under "OAuth Authorization Flows"."""

import base64
import hashlib
import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from core.salesforce.troubles import Trouble, trouble

SECONDS_TO_CONNECT, SECONDS_TO_ANSWER = 5, 20
_SALESFORCE_DOMAINS = (".salesforce.com", ".force.com")
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SECONDS_OF_AN_ASSERTION = 180
_LONGEST_ANSWER = 256 * 1024


class Unavailable(Exception):
    """Salesforce cannot be reached or does not answer; trying again later can help."""

    def __init__(self, cause: str, found: Trouble | None = None) -> None:
        self.trouble = found or trouble("SERVER_UNAVAILABLE", cause)
        super().__init__(cause)


class Refused(Exception):
    """Salesforce says no; `trouble` has why, and what to do."""

    def __init__(self, found: Trouble) -> None:
        self.trouble = found
        super().__init__(f"{found.code}: {found.cause}")


class NotSalesforce(Exception):
    """The host is none that a secret may go to."""


@dataclass(frozen=True)
class App:
    """The External Client App that we are to Salesforce. `login_url` is where people sign in."""

    client_id: str
    client_secret: str = field(repr=False)
    callback_url: str
    login_url: str = "https://login.salesforce.com"
    ca_file: Path | None = None


@dataclass(frozen=True)
class Issued:
    """Tokens as they were issued; `refresh_token` None: the one in hand stays good, or there is none."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)
    instance_url: str
    user_id: str


@dataclass(frozen=True)
class Identity:
    """Who signed in."""

    user_id: str
    organisation_id: str
    username: str
    name: str
    email: str


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


def checked_host(url: str, app: App) -> str:
    """The address without its path, if secrets may go there. Raises NotSalesforce."""
    parts, login = urlsplit(url), urlsplit(app.login_url)
    host = (parts.hostname or "").lower().rstrip(".")
    is_ours = host == (login.hostname or "").lower() or host.endswith(_SALESFORCE_DOMAINS)
    if parts.scheme != "https" or not is_ours or parts.username is not None:
        raise NotSalesforce(
            f"{host or url!r} is no Salesforce host; a My Domain looks like acme.my.salesforce.com"
        )
    return f"https://{parts.netloc}"


def session(app: App) -> requests.Session:
    """A session that trusts what we are told to trust, and nothing of the environment: its proxies' and .netrc's
    settings would replace our token."""
    made = requests.Session()
    made.trust_env = False
    made.max_redirects = 0
    if app.ca_file is not None:
        made.verify = str(app.ca_file)
    return made


class Login:
    """The ways in. Every call has a time-out, and raises Unavailable, Refused or NotSalesforce."""

    def __init__(self, app: App, login_url: str | None = None) -> None:
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
        return self._issued(
            grant_type="authorization_code", code=code, redirect_uri=self._app.callback_url,
            code_verifier=challenge.verifier, client_secret=self._app.client_secret,
        )  # fmt: skip

    def by_refresh_token(self, refresh_token: str) -> Issued:
        """A new session. A new refresh token must be stored before the access token is used: the old one is dead."""
        return self._issued(
            grant_type="refresh_token", refresh_token=refresh_token, client_secret=self._app.client_secret
        )

    def by_assertion(self, username: str, private_key_pem: bytes) -> Issued:
        """A session of a person who needs no click, as the admin has let everybody in."""
        now = int(time.time())
        claims = {
            "iss": self._app.client_id,
            "sub": username,
            "aud": self._audience(),
            "exp": now + _SECONDS_OF_AN_ASSERTION,
        }
        return self._issued(grant_type=_JWT_BEARER, assertion=_signed(claims, private_key_pem))

    def revoke(self, token: str) -> None:
        """The token, and every session that came of it, is worth nothing any more."""
        self._post("revoke", {"token": token})

    def who_is(self, issued: Issued) -> Identity:
        """Whom the tokens belong to."""
        url = f"{checked_host(issued.instance_url, self._app)}/services/oauth2/userinfo"
        found = _asked(self._app, "GET", url, headers={"Authorization": f"Bearer {issued.access_token}"})
        try:
            return Identity(
                str(found["user_id"]), str(found["organization_id"]), str(found["preferred_username"]),
                str(found["name"]), str(found["email"]),
            )  # fmt: skip
        except KeyError as error:
            raise Unavailable("the answer names nobody") from error

    def _audience(self) -> str:
        """JWT's `aud` is the login host, a sandbox's for sandboxes, never the My Domain (help: JWT bearer flow)."""
        host = urlsplit(self._base).hostname or ""
        if not host.endswith(_SALESFORCE_DOMAINS):
            return self._base
        is_sandbox = host == "test.salesforce.com" or ".sandbox." in host
        return "https://test.salesforce.com" if is_sandbox else "https://login.salesforce.com"

    def _issued(self, **fields: str) -> Issued:
        found = self._post("token", {"client_id": self._app.client_id} | fields)
        try:
            return Issued(
                access_token=str(found["access_token"]),
                refresh_token=found.get("refresh_token"),
                instance_url=checked_host(str(found["instance_url"]), self._app),
                user_id=str(found["id"]).rpartition("/")[2],
            )
        except KeyError as error:
            raise Unavailable("the answer holds no token") from error

    def _post(self, what: str, fields: dict[str, str]) -> dict[str, Any]:
        return _asked(self._app, "POST", f"{self._base}/services/oauth2/{what}", data=fields)


def _asked(app: App, method: str, url: str, **more: Any) -> dict[str, Any]:
    """One call and its JSON object; {} where there is none."""
    try:
        with session(app) as made:
            answer = made.request(
                method, url, timeout=(SECONDS_TO_CONNECT, SECONDS_TO_ANSWER), allow_redirects=False, **more
            )
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
        raise Refused(
            trouble(str(said.get("error", "")), str(said.get("error_description", "")), answer.status_code)
        )
    return body if isinstance(body, dict) else {}


def _signed(claims: dict[str, object], private_key_pem: bytes) -> str:
    """RS256 (RFC 7515). Raises ValueError for a key that is none."""
    key = serialization.load_pem_private_key(private_key_pem, password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError("not an RSA key")  # noqa: TRY004  of what the file holds, as for a key that cannot be read
    signed = f"{_part({'alg': 'RS256'})}.{_part(claims)}"
    return f"{signed}.{_encoded(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _part(value: dict[str, object]) -> str:
    return _encoded(json.dumps(value).encode())


def _encoded(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

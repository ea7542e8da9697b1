"""The org's OAuth: web server flow with PKCE, refresh with rotation, JWT bearer, revoke, userinfo.

RFC 6749, RFC 7636, RFC 7523; the errors are Salesforce's."""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import requests
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from flask import Blueprint, Response, current_app, jsonify, redirect, request

from tests.sandbox.org.records import Org

ORGANISATION = "00D5g0000000001EAA"
_SECONDS_OF_A_CODE = 600
_LONGEST_ASSERTION_LIFE = 300
_VERIFIER_LENGTHS = range(43, 129)
_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

pages = Blueprint("oauth", __name__)


@dataclass
class Client:
    """The External Client App that may ask: its callback, its secret, and the key of its JWT assertions."""

    client_id: str = "blindcopy-client"
    client_secret: str = "blindcopy-secret"
    callbacks: tuple[str, ...] = ("http://127.0.0.1:8000/salesforce/callback",)
    public_key: RSAPublicKey | None = None
    pre_authorised: set[str] = field(default_factory=set)
    """Ids of users whom an admin has let use the app."""


@dataclass
class _Code:
    user: str
    redirect_uri: str
    challenge: str
    good_until: float


@dataclass
class Tokens:
    """Who holds what. A refresh token that was used once more than it may be takes its whole family with it."""

    client: Client
    rotates: bool = True
    has_grace: bool = False
    """Whether a rotated refresh token stays good until what came of it is used."""
    seconds_of_a_session: float = 7200
    codes: dict[str, _Code] = field(default_factory=dict)
    access: dict[str, tuple[str, str, float]] = field(default_factory=dict)
    """token -> user, family, good until (seconds since the epoch)"""
    refresh: dict[str, tuple[str, str]] = field(default_factory=dict)
    """token -> user, family"""
    used_up: dict[str, str] = field(default_factory=dict)
    """rotated token -> family"""
    newest: dict[str, str] = field(default_factory=dict)
    """family -> its last access token"""
    in_grace: dict[str, tuple[str, str]] = field(default_factory=dict)
    """rotated token -> user, family; until one that came of it is used"""

    def user(self, access_token: str) -> str | None:
        """The id of the user of a session that is good."""
        user, family, good_until = self.access.get(access_token, ("", "", 0.0))
        if not user or good_until <= time.time():
            return None
        if self.newest.get(family) == access_token:
            self.end_grace(family)
        return user

    def issue(self, user: str, family: str, *, with_refresh: bool) -> dict[str, str]:
        access = f"{ORGANISATION}!{secrets.token_urlsafe(40)}"
        self.access[access] = (user, family, time.time() + self.seconds_of_a_session)
        self.newest[family] = access
        issued = {"access_token": access}
        if with_refresh:
            issued["refresh_token"] = f"5Aep{secrets.token_urlsafe(40)}"
            self.refresh[issued["refresh_token"]] = (user, family)
        return issued

    def end_grace(self, family: str) -> None:
        """What came of the rotated tokens was received: they are dead now."""
        for token, (_, of_family) in list(self.in_grace.items()):
            if of_family == family:
                self.used_up[token] = family
                del self.in_grace[token]

    def end_family(self, family: str) -> None:
        self.refresh = {token: held for token, held in self.refresh.items() if held[1] != family}
        self.access = {token: held for token, held in self.access.items() if held[1] != family}

    def expire_sessions(self) -> None:
        """Every access token has had its day; refresh tokens live on."""
        self.access = {token: (user, family, 0.0) for token, (user, family, _) in self.access.items()}

    def revoke_all(self) -> None:
        """An admin has revoked the app's access."""
        self.refresh, self.access = {}, {}


@pages.before_request
def _misbehave() -> Response | None:
    return current_app.extensions["faults"].before(request)


@pages.after_request
def _lose(response: Response) -> Response:
    return current_app.extensions["faults"].after(request, response)


def this_org() -> Org:
    return current_app.extensions["org"]


def held_tokens() -> Tokens:
    return current_app.extensions["tokens"]


def _refused(error: str, description: str, status: int = 400) -> Response:
    response = jsonify(error=error, error_description=description)
    response.status_code = status
    return response


@pages.get("/services/oauth2/authorize")
def authorize() -> Response | str:
    asked, client = request.args, held_tokens().client
    if asked.get("client_id") != client.client_id:
        return _refused("invalid_client_id", "client identifier invalid")
    if asked.get("redirect_uri") not in client.callbacks:
        return _refused("redirect_uri_mismatch", "redirect_uri must match configuration")
    if asked.get("response_type") != "code":
        return _back(error="unsupported_response_type", error_description="response type not supported")
    if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge"):
        return _back(error="invalid_request", error_description="missing required code challenge")
    users = "".join(
        f'<option value="{row["Id"]}">{escape(row["Username"])}</option>'
        for row in this_org().rows["user"].values()
        if row["IsActive"]
    )
    return (
        '<!doctype html><html lang="en"><title>Allow access?</title><h1>Allow access?</h1><form method="post">'
        f'<p><label>Signed in as <select name="user">{users}</select></label></p>'
        '<button name="answer" value="allow">Allow</button> <button name="answer" value="deny">Deny</button></form></html>'
    )


@pages.post("/services/oauth2/authorize")
def answer() -> Response:
    if request.form.get("answer") != "allow":
        return _back(error="access_denied", error_description="end-user denied authorization")
    code = f"aPrx{secrets.token_urlsafe(24)}"
    held_tokens().codes[code] = _Code(
        request.form["user"], request.args["redirect_uri"], request.args["code_challenge"],
        time.time() + _SECONDS_OF_A_CODE,
    )  # fmt: skip
    return _back(code=code)


def _back(**fields: str) -> Response:
    if "state" in request.args:
        fields["state"] = request.args["state"]
    return redirect(f"{request.args['redirect_uri']}?{urlencode(fields)}")


@pages.post("/services/oauth2/token")
def token() -> Response:
    grants = {"authorization_code": _by_code, "refresh_token": _by_refresh_token, _JWT_BEARER: _by_assertion}
    grant = grants.get(request.form.get("grant_type", ""))
    if grant is None:
        return _refused("unsupported_grant_type", "grant type not supported")
    with this_org().lock:
        return grant()


def _reason_to_refuse_the_client() -> Response | None:
    client = held_tokens().client
    if request.form.get("client_id") != client.client_id:
        return _refused("invalid_client_id", "client identifier invalid")
    if not hmac.compare_digest(request.form.get("client_secret", ""), client.client_secret):
        return _refused("invalid_client", "invalid client credentials")
    return None


def _by_code() -> Response:
    if (refusal := _reason_to_refuse_the_client()) is not None:
        return refusal
    code = held_tokens().codes.pop(request.form.get("code", ""), None)
    if code is None or code.good_until < time.time():
        return _refused("invalid_grant", "expired authorization code")
    if request.form.get("redirect_uri") != code.redirect_uri:
        return _refused("redirect_uri_mismatch", "redirect_uri must match configuration")
    verifier = request.form.get("code_verifier", "")
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    if len(verifier) not in _VERIFIER_LENGTHS or not hmac.compare_digest(challenge, code.challenge):
        return _refused("invalid_grant", "invalid code verifier")
    return _granted(code.user, secrets.token_hex(8), with_refresh=True)


def _by_refresh_token() -> Response:
    if (refusal := _reason_to_refuse_the_client()) is not None:
        return refusal
    held, given = held_tokens(), request.form.get("refresh_token", "")
    if given in held.used_up:
        held.end_family(held.used_up[given])
        return _refused("invalid_grant", "expired access/refresh token")
    if given not in held.refresh and given not in held.in_grace:
        return _refused("invalid_grant", "expired access/refresh token")
    user, family = held.refresh.get(given) or held.in_grace[given]
    if not (this_org().row(user) or {}).get("IsActive"):
        return _refused("inactive_user", "user is inactive")
    if held.rotates and given in held.refresh:
        if not held.has_grace:
            held.used_up[given] = family
            del held.refresh[given]
        else:
            held.end_grace(family)
            held.in_grace[given] = held.refresh.pop(given)
    return _granted(user, family, with_refresh=held.rotates)


def _by_assertion() -> Response:
    client = held_tokens().client
    try:
        signed, _, signature = request.form.get("assertion", "").rpartition(".")
        header, payload = (json.loads(_unpadded(part)) for part in signed.split("."))
        if client.public_key is None or header.get("alg") != "RS256":
            raise ValueError
        client.public_key.verify(_unpadded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except (ValueError, InvalidSignature, AttributeError):
        return _refused("invalid_grant", "invalid assertion")
    if payload.get("iss") != client.client_id:
        return _refused("invalid_client_id", "client identifier invalid")
    if payload.get("aud") not in current_app.extensions["audiences"]:
        return _refused("invalid_grant", "audience is invalid")
    now = time.time() + current_app.extensions["skew"].total_seconds()
    if not now < float(payload.get("exp", 0)) <= now + _LONGEST_ASSERTION_LIFE:
        return _refused("invalid_grant", "expired authorization code")
    users = [row for row in this_org().rows["user"].values() if row["Username"] == payload.get("sub")]
    if not users or users[0]["Id"] not in client.pre_authorised:
        return _refused("invalid_grant", "user hasn't approved this consumer")
    return _granted(users[0]["Id"], secrets.token_hex(8), with_refresh=False)


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _granted(user: str, family: str, *, with_refresh: bool) -> Response:
    base = request.host_url.rstrip("/")
    issued = held_tokens().issue(user, family, with_refresh=with_refresh)
    return jsonify(
        issued
        | {
            "instance_url": base,
            "id": f"{base}/id/{ORGANISATION}/{user}",
            "issued_at": str(int(time.time() * 1000)),
            "signature": secrets.token_urlsafe(32),
            "scope": "refresh_token api",
            "token_type": "Bearer",
        }
    )


@pages.post("/services/oauth2/revoke")
def revoke() -> Response:
    held, given = held_tokens(), request.form.get("token", "")
    found = held.refresh.get(given) or held.access.get(given)
    if found is None:
        return _refused("unsupported_token_type", "this token is not supported")
    held.end_family(found[1])
    return Response(status=200)


@pages.get("/services/oauth2/userinfo")
def userinfo() -> Response:
    user = held_tokens().user(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if user is None:
        return Response("Bad_OAuth_Token", status=403)
    row = this_org().row(user) or {}
    return jsonify(
        sub=f"{request.host_url}id/{ORGANISATION}/{user}", user_id=user, organization_id=ORGANISATION,
        preferred_username=row["Username"], name=row["Name"], email=row["Email"], active=row["IsActive"],
        zoneinfo=row.get("TimeZoneSidKey"),
    )  # fmt: skip


def allow(org: str, ca_file: Path, callback: str) -> tuple[str, str]:
    """What a person's click on Allow brings, for whoever sets a scene: the user's id and a refresh token."""
    client, verifier = Client(), secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    fields = {"client_id": client.client_id, "redirect_uri": callback}
    with requests.Session() as session:
        session.trust_env, session.verify = False, str(ca_file)
        question = {
            "response_type": "code",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        } | fields
        page = session.get(f"{org}/services/oauth2/authorize", params=question, timeout=10)
        user = re.search(r'option value="(\w+)"', page.text).group(1)
        answer = {"user": user, "answer": "allow"}
        back = session.post(page.url, data=answer, allow_redirects=False, timeout=10).headers["Location"]
        form = {
            "grant_type": "authorization_code", "code": parse_qs(urlsplit(back).query)["code"][0],
            "client_secret": client.client_secret, "code_verifier": verifier,
        } | fields  # fmt: skip
        issued = session.post(f"{org}/services/oauth2/token", data=form, timeout=10).json()
    return user, issued["refresh_token"]

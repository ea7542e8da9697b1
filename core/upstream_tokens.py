"""Access tokens for the upstream, renewed before they expire: by the client-credentials grant (RFC 6749
section 4.4) for an app of its own, or by a refresh token (section 6) for a mailbox whose owner has agreed.

Providers give a new refresh token with each answer, and the former one ends, at once or some day (Microsoft's
after 90 days). So the newest is kept in the state directory, encrypted, and one process of the machine asks
at a time."""

import asyncio
import fcntl
import hashlib
import json
import os
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from core import logs
from core.background import off_loop
from core.endpoints import TokenSource, Upstream
from core.salesforce.login import read_in_time
from core.secrets import Box, Undecryptable

if TYPE_CHECKING:
    from authlib.integrations.requests_client import OAuth2Session

FILE = "upstream-token.json"
_SECONDS_TO_ASK = 10
_SECONDS_FOR_ANOTHER_TO_ASK = 15
_SECONDS_BETWEEN_TRIES = 0.05
_SECONDS_BEFORE_THE_END = 60
_USUAL_LIFE = 300.0
_LONGEST_DESCRIPTION = 200
_LONGEST_LIFE = 7 * 86_400.0
_PASSING_STATUSES = frozenset({408, 425, 429})
_PASSING = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
"""Errors that say: not now (RFC 6749 section 4.1.2.1, RFC 8628 section 3.5)."""


class TokenRefused(Exception):
    """The token endpoint does not give us a token; its answer or our request is wrong."""


class KeptRefreshToken:
    """The newest refresh token that came of the one that the operator gave. Another one that is given takes
    its place."""

    def __init__(self, directory: Path, box: Box, given: str) -> None:
        self._path = directory / FILE
        self._box = box
        self._origin = hashlib.sha256(given.encode()).hexdigest()
        self._newest = given
        self._seen = ""
        """The token as it stood in the file, encrypted, when it was last read or written."""
        self._is_kept = True

    @property
    def is_there(self) -> bool:
        """Whether a process of this machine has signed in by what the operator gave."""
        try:
            return self._stored() is not None
        except OSError:
            return False

    @contextmanager
    def in_hand(self) -> Iterator[str]:
        """The newest token, while no other process of the machine asks. Raises OSError where one asks too
        long, and where what was kept cannot be read: a token that was used before may cost the provider's
        trust in all that came of it, and waiting costs nothing."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            stored = self._stored()
            if stored is not None and stored != self._seen:  # another process has written since
                self._newest, self._seen, self._is_kept = self._opened(stored), stored, True
            if not self._is_kept:
                self._write()
            yield self._newest
        finally:
            os.close(descriptor)

    def keep(self, newest: str) -> None:
        """On the disk before it is used: who is killed after this has lost nothing. A disk that takes nothing
        stops no mail as long as this process runs, and is tried again."""
        if newest != self._newest:
            self._newest = newest
            self._write()

    def _write(self) -> None:
        sealed = self._box.closed(self._newest.encode()).decode()
        temporary = self._path.with_suffix(".new")
        self._is_kept = False
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps({"origin": self._origin, "token": sealed}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            logs.failed_unexpectedly("keeping the new refresh token of the mail provider")
            return
        self._seen, self._is_kept = sealed, True

    def _stored(self) -> str | None:
        """What lies in the file, encrypted; None where there is nothing of this origin. Raises OSError."""
        try:
            plain = json.loads(self._path.read_text("utf-8"))
            return str(plain["token"]) if plain["origin"] == self._origin else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            logs.failed_unexpectedly("reading the refresh token of the mail provider")
            return None

    def _opened(self, sealed: str) -> str:
        try:
            return self._box.opened(sealed.encode()).decode()
        except Undecryptable as error:
            raise OSError("no key opens the refresh token that was kept") from error


class UpstreamToken:
    """The token of one route, shared by all its connections; asked for by one at a time.

    `kept`: where the refresh token lies, for a mailbox whose owner has agreed; None for an app of its own."""

    def __init__(
        self, source: TokenSource, secret: str, ca_file: Path | None, kept: KeptRefreshToken | None
    ) -> None:
        self._source = source
        self._secret = secret
        self._verify = _trusted_certificates(ca_file)
        self._kept = kept
        self._used = ""
        self._lock = asyncio.Lock()
        self._token = ""
        self._good_until = 0.0

    async def token(self) -> str:
        """A token that is good for a minute at least. Raises TokenRefused; OSError where nobody answers."""
        async with self._lock:
            if time.monotonic() >= self._good_until:
                self._token, seconds = await off_loop(self._request_token)
                self._good_until = time.monotonic() + max(0, seconds - _SECONDS_BEFORE_THE_END)
            return self._token

    def forget(self) -> None:
        """The upstream does not take the token: the next one is asked for anew."""
        self._good_until = 0.0

    def _request_token(self) -> tuple[str, float]:
        """A new token and for how many seconds it is good."""
        # Here and not above, as it takes a quarter of a second and 17 MB that most relays have no use for.
        from authlib.integrations.base_client import OAuthError  # noqa: PLC0415
        from authlib.integrations.requests_client import OAuth2Session  # noqa: PLC0415

        with OAuth2Session(
            self._source.client_id,
            self._secret or None,
            token_endpoint_auth_method="client_secret_post" if self._secret else "none",
            scope=self._source.scope or None,
        ) as session:
            session.register_compliance_hook("access_token_response", self._read)
            session.register_compliance_hook("refresh_token_response", self._read)
            try:
                answer = self._ask(session)
                token = answer["access_token"]
                if not isinstance(token, str) or not token:
                    raise TokenRefused("the token endpoint's answer holds no token")
                return token, _seconds(answer.get("expires_in"))
            except OAuthError as error:
                raise self._refusal(str(error.error), str(error.description or "")) from error
            except requests.HTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                if code >= 500 or code in _PASSING_STATUSES:
                    raise OSError(f"the token endpoint answers {code}") from error
                raise TokenRefused(f"the token endpoint answers {code}") from error
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                raise TokenRefused("the token endpoint's answer holds no token") from error

    def _ask(self, session: "OAuth2Session") -> dict[str, Any]:
        # A redirect would take our secrets to wherever it points.
        how = {"timeout": _SECONDS_TO_ASK, "verify": self._verify, "allow_redirects": False, "stream": True}
        if self._kept is None:
            answer: dict[str, Any] = session.fetch_token(
                self._source.url, grant_type="client_credentials", **how
            )
            return answer
        with self._kept.in_hand() as self._used:
            answer = session.refresh_token(self._source.url, self._used, **how)
            return answer  # noqa: RET504  named so that its type is known

    def _read(self, response: requests.Response) -> requests.Response:
        """The whole answer, in time. A new refresh token is kept before anything else is made of the answer,
        however odd the rest of it is. Raises requests.HTTPError for an answer that says to come again."""
        read_in_time(response, _SECONDS_TO_ASK)
        if response.status_code in _PASSING_STATUSES:
            response.raise_for_status()
        if self._kept is not None and response.ok:
            with suppress(ValueError, AttributeError):
                newest = response.json().get("refresh_token")
                if isinstance(newest, str) and newest:
                    self._kept.keep(newest)
        return response

    def _refusal(self, code: str, description: str) -> Exception:
        """In the provider's own words, without what nobody may see."""
        said = " ".join(f"{code}: {description}".split())
        for secret in (self._secret, self._used):
            said = said.replace(secret, "***") if secret else said
        text = f"the token endpoint says {said[:_LONGEST_DESCRIPTION]}"
        return OSError(text) if code in _PASSING else TokenRefused(text)


def kept_refresh_token(upstream: Upstream, directory: Path, keys: Iterable[str]) -> KeptRefreshToken | None:
    """Where the refresh token of this upstream lies; None where it has none. `keys`: BLINDCOPY_SECRET_KEY."""
    if upstream.token is None or upstream.token.refresh_token is None:
        return None
    return KeptRefreshToken(directory, Box(keys), upstream.token.refresh_token)


def _lock(descriptor: int) -> None:
    until = time.monotonic() + _SECONDS_FOR_ANOTHER_TO_ASK
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise OSError("another process has been asking for a token for too long") from error
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            return


def _seconds(expires_in: object) -> float:
    """For how long a token is good, as far as the answer says something sensible."""
    try:
        seconds = float(str(expires_in))
    except ValueError:
        return _USUAL_LIFE
    return seconds if 0 < seconds < _LONGEST_LIFE else _USUAL_LIFE


def _trusted_certificates(ca_file: Path | None) -> str | bool:
    """The operator's, else the system's, as for the mail itself; requests would take a list of its own."""
    if ca_file is not None:
        return str(ca_file)
    return ssl.get_default_verify_paths().cafile or True

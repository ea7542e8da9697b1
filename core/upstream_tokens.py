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
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from core import logs
from core.background import off_loop
from core.endpoints import TokenSource, Upstream
from core.secrets import Box, Undecryptable

if TYPE_CHECKING:
    from authlib.integrations.requests_client import OAuth2Session

FILE = "upstream-token.json"
_SECONDS_TO_ASK = 10
_SECONDS_FOR_ANOTHER_TO_ASK = 15
_SECONDS_BETWEEN_TRIES = 0.05
_SECONDS_BEFORE_THE_END = 60
_USUAL_LIFE = 300
_LONGEST_DESCRIPTION = 200
_TOO_MANY_REQUESTS = 429
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
        self._given = given
        self._origin = hashlib.sha256(given.encode()).hexdigest()
        self._newest = given

    @contextmanager
    def in_hand(self) -> Iterator[str]:
        """The newest token, while no other process of the machine asks. Raises OSError where one asks too
        long."""
        descriptor = os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            self._read()
            yield self._newest
        finally:
            os.close(descriptor)

    def keep(self, newest: str) -> None:
        """On the disk before it is used: who is killed after this has lost nothing. A disk that takes nothing
        stops no mail as long as this process runs."""
        if newest == self._newest:
            return
        self._newest = newest
        sealed = self._box.closed(newest.encode()).decode()
        temporary = self._path.with_suffix(".new")
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(json.dumps({"origin": self._origin, "token": sealed}))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError:
            logs.failed_unexpectedly("keeping the new refresh token of the mail provider")

    def _read(self) -> None:
        """What another process, or this one's forerunner, has kept."""
        try:
            plain = json.loads(self._path.read_text("utf-8"))
            if plain["origin"] == self._origin:
                self._newest = self._box.opened(plain["token"].encode()).decode()
        except FileNotFoundError:
            return
        except Undecryptable:
            logs.undecryptable("the refresh token of the mail provider")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            logs.failed_unexpectedly("reading the refresh token of the mail provider")


class UpstreamToken:
    """The token of one route, shared by all its connections; asked for by one at a time.

    `kept`: where the refresh token lies, for a mailbox whose owner has agreed; None for an app of its own."""

    def __init__(
        self, source: TokenSource, secret: str, ca_file: Path | None, kept: KeptRefreshToken | None
    ) -> None:
        self._source = source
        self._secret = secret
        self._verify = str(ca_file) if ca_file is not None else True
        self._kept = kept
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
            for hook in ("access_token_response", "refresh_token_response"):
                session.register_compliance_hook(hook, _unless_busy)
            try:
                answer = self._ask(session)
                token = answer["access_token"]
                if not isinstance(token, str) or not token:
                    raise TokenRefused("the token endpoint's answer holds no token")
                return token, float(answer.get("expires_in") or _USUAL_LIFE)
            except OAuthError as error:
                said = " ".join(f"{error.error}: {error.description or ''}".split())[:_LONGEST_DESCRIPTION]
                if error.error in _PASSING:
                    raise OSError(f"the token endpoint says {said}") from error
                raise TokenRefused(f"the token endpoint says {said}") from error
            except requests.HTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                if code >= 500 or code == _TOO_MANY_REQUESTS:
                    raise OSError(f"the token endpoint answers {code}") from error
                raise TokenRefused(f"the token endpoint answers {code}") from error
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise TokenRefused("the token endpoint's answer holds no token") from error

    def _ask(self, session: "OAuth2Session") -> dict[str, Any]:
        url, how = self._source.url, {"timeout": _SECONDS_TO_ASK, "verify": self._verify}
        if self._kept is None:
            answer: dict[str, Any] = session.fetch_token(url, grant_type="client_credentials", **how)
            return answer
        with self._kept.in_hand() as newest:
            answer = session.refresh_token(url, newest, **how)
            self._kept.keep(str(answer.get("refresh_token") or newest))
        return answer


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


def _unless_busy(response: requests.Response) -> requests.Response:
    """Raises requests.HTTPError for an answer that says to come again, whatever JSON comes with it."""
    if response.status_code == _TOO_MANY_REQUESTS:
        response.raise_for_status()
    return response

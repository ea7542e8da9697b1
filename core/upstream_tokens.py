"""Access tokens for the upstream by the client-credentials grant (RFC 6749 section 4.4), renewed before they
expire."""

import asyncio
import http.client
import json
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from core.background import off_loop
from core.endpoints import TokenSource

_SECONDS_TO_ASK = 10
_SECONDS_BEFORE_THE_END = 60
_LONGEST_ANSWER = 64 * 1024
_USUAL_LIFE = 300


class TokenRefused(Exception):
    """The token endpoint does not give us a token; its answer or our request is wrong."""


class UpstreamToken:
    """The token of one route, shared by all its connections; asked for by one at a time."""

    def __init__(self, source: TokenSource, secret: str, ca_file: Path | None) -> None:
        self._source = source
        self._secret = secret
        self._context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
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
        fields = {
            "grant_type": "client_credentials",
            "client_id": self._source.client_id,
            "client_secret": self._secret,
            "scope": self._source.scope,
        }
        request = urllib.request.Request(self._source.url, urllib.parse.urlencode(fields).encode())  # noqa: S310  https or loopback, checked in core/config
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS_TO_ASK, context=self._context) as response:  # noqa: S310
                answer = json.loads(response.read(_LONGEST_ANSWER))
            token = answer["access_token"]
            if not isinstance(token, str) or not token:
                raise TokenRefused("the token endpoint's answer holds no token")
            return token, float(answer.get("expires_in", _USUAL_LIFE))
        except urllib.error.HTTPError as error:
            if error.code >= 500:
                raise OSError(f"the token endpoint answers {error.code}") from error
            raise TokenRefused(f"the token endpoint answers {error.code}") from error
        except http.client.HTTPException as error:
            raise OSError(f"the token endpoint talks nonsense: {error!r}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TokenRefused("the token endpoint's answer holds no token") from error

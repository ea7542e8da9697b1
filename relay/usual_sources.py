"""From where each account signs in well: kept in the state directory, so that whoever did within 30 days is
known there after a restart too, and to all relays of the machine.

What is kept are digests under BLINDCOPY_SECRET_KEY: the file tells nobody who was where."""

import asyncio
import fcntl
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from core import logs
from core.background import off_loop

FILE = "usual-sources.json"
_DAYS = 30
_MOST = 50_000
_SECONDS_BETWEEN_WRITES = 60


def _today() -> int:
    """Days since 1970, in UTC."""
    return int(time.time() // 86_400)


class UsualSources:
    """Accounts and the sources that they have signed in from. Files are touched off the event loop only."""

    def __init__(
        self, directory: Path | None, keys: Sequence[str], today: Callable[[], int] = _today
    ) -> None:
        """`directory`: where it is kept; None: nowhere. `keys`: the first makes digests, all are known."""
        self._path = None if directory is None else directory / FILE
        self._keys = tuple(key.encode() for key in keys)
        self._today = today
        self._last_days: dict[str, int] = {}
        self._is_kept = True

    def note(self, source: str, login: str) -> None:
        """This account has just signed in well from there."""
        digest, today = _digest(self._keys[0], source, login), self._today()
        if self._last_days.get(digest) != today:
            self._last_days[digest] = today
            self._is_kept = False

    def has(self, source: str, login: str) -> bool:
        """Whether this account has signed in from there within 30 days."""
        oldest = self._today() - _DAYS
        return any(self._last_days.get(_digest(key, source, login), 0) > oldest for key in self._keys)

    def load(self) -> None:
        """What this relay's forerunner and the others of the machine have kept."""
        if self._path is None:
            return
        try:
            found = json.loads(self._path.read_text("utf-8"))
            days = {digest: day for digest, day in found.items() if isinstance(day, int)}
        except Exception:  # noqa: BLE001  whatever the file holds, it says nothing then, and the next write replaces it
            return
        today = self._today()
        for digest, day in days.items():
            # a clock that was wrong must not make a source usual for ever
            if day <= today:
                self._last_days[digest] = max(day, self._last_days.get(digest, 0))

    async def keep_fresh(self) -> None:
        """Write once a minute what is new, and take in what other relays have written."""
        await off_loop(self.load)
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_WRITES)
            await off_loop(self.keep)

    def keep(self) -> None:
        """Put it together with what other relays have kept, replaced as a whole. While another relay does so
        it is left for the next time."""
        if self._path is None:
            return
        self.load()
        self._drop_old()
        if self._is_kept:
            return
        try:
            with os.fdopen(os.open(self._path.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o600)) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.load()
                self._drop_old()
                self._is_kept = True
                temporary = self._path.with_suffix(".new")
                with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
                    json.dump(self._last_days.copy(), file)
                temporary.replace(self._path)
        except BlockingIOError:
            return
        except OSError:
            self._is_kept = False
            logs.failed_unexpectedly("keeping from where people sign in")

    def _drop_old(self) -> None:
        """Those of more than 30 days ago, and the oldest of too many."""
        oldest = self._today() - _DAYS
        for digest, _ in sorted(self._last_days.copy().items(), key=lambda item: item[1])[:-_MOST]:
            del self._last_days[digest]
        for digest, day in self._last_days.copy().items():
            if not oldest < day <= self._today():
                del self._last_days[digest]


def _digest(key: bytes, source: str, login: str) -> str:
    return hmac.digest(key, f"{source} {login}".encode("utf-8", "surrogateescape"), hashlib.sha256)[:16].hex()

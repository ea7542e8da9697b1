"""The state directory: what a machine keeps beside the database, and who may use it.

In it lie the relays' journals, the settings snapshot, the relays' figures, and the marker: a small file that names the
installation and how far its database has come, so that a restored database, and another installation's directory,
are known for what they are (see `core.storage.installation`)."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

_MARKER = "installation.json"
_IN_USE = "installation.lock"
_LEAST_ROOM = 256 * 1024


@dataclass(frozen=True)
class Marker:
    """What this machine knows of the database: whose it is, and the highest tick that it has seen in which lineage."""

    installation: str
    lineage: str
    tick: int


class StateDirectory:
    """One machine's state directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    def make(self) -> None:
        """Make it, for its owner only, where it is missing. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def trouble(self) -> str | None:
        """What is wrong with it, and what would be right, in one sentence; None where all is well."""
        try:
            found = self.path.stat()
            room = os.statvfs(self.path)
        except FileNotFoundError:
            return f"the state directory {self.path} is gone; make it again and restart the processes of this machine"
        except OSError as error:
            return f"the state directory {self.path} cannot be looked at: {error.strerror}"
        reasons = (
            (not self.path.is_dir(), f"{self.path} is not a directory; name one in BLINDCOPY_STATE_DIR"),
            (
                found.st_uid != os.geteuid(),
                f"the state directory {self.path} belongs to user {found.st_uid}; it must belong to the one that runs Blindcopy",
            ),
            (
                not os.access(self.path, os.W_OK | os.X_OK),
                f"the state directory {self.path} is read-only; make it writable",
            ),
            (
                room.f_bavail * room.f_frsize < _LEAST_ROOM,
                f"the disk of the state directory {self.path} is full; make room",
            ),
        )
        return next((sentence for is_so, sentence in reasons if is_so), None)

    def marker(self) -> Marker | None:
        """None where there is none, or none that can be read."""
        try:
            return Marker(**json.loads((self.path / _MARKER).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def keep_marker(self, marker: Marker) -> None:
        """Replaced as a whole, so that a crash leaves the old one or the new one. Raises OSError."""
        temporary = self.path / f"{_MARKER}.{os.getpid()}"
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            file.write(json.dumps(asdict(marker)))
        temporary.replace(self.path / _MARKER)

    def use(self) -> None:
        """Be known as a user of this directory until the process ends. Raises OSError."""
        if self._lock is None:
            lock = os.fdopen(os.open(self.path / _IN_USE, os.O_CREAT | os.O_RDWR, 0o600), "r+b")
            fcntl.flock(lock, fcntl.LOCK_SH)
            self._lock = lock

    def is_used_by_others(self) -> bool:
        """Whether another process uses this directory too. Raises OSError."""
        self.use()
        if self._lock is None:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
        return False

    def close(self) -> None:
        """Be no user any more."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

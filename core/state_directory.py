"""The state directory: what a machine keeps beside the database, and who may use it.

In it lie the relays' journals, the settings snapshot, the relays' figures, and the marker: a small file that
names the installation and how far its database has come, so that a restored database, and another
installation's directory, are known for what they are (see `core.database.installation`)."""

import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

_MARKER = "installation.json"
_BEING_MARKED = "marker.lock"
_LEAST_ROOM = 256 * 1024


@dataclass(frozen=True)
class Marker:
    """What this machine knows of the database: whose it is, and the highest tick that it has seen in which
    lineage."""

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
            return (
                f"the state directory {self.path} is gone; make it again and restart the processes of "
                f"this machine"
            )
        except OSError as error:
            return f"the state directory {self.path} cannot be looked at: {error.strerror}"
        reasons = (
            (not self.path.is_dir(), f"{self.path} is not a directory; name one in BLINDCOPY_STATE_DIR"),
            (
                found.st_uid != os.geteuid(),
                (
                    f"the state directory {self.path} belongs to user {found.st_uid}; it must belong to the "
                    f"one that runs Blindcopy"
                ),
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
        """Remember this, unless a higher tick of the same lineage is known. Replaced as a whole, so that a
        crash leaves the old one or the new one. Raises OSError."""
        with _lock(self.path / _BEING_MARKED, fcntl.LOCK_EX):
            known = self.marker()
            if known is not None and known.lineage == marker.lineage and known.tick >= marker.tick:
                return
            temporary = self.path / f"{_MARKER}.new"
            with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
                file.write(json.dumps(asdict(marker)))
            temporary.replace(self.path / _MARKER)

    def use(self, installation: str) -> None:
        """Be known as a process of this installation that uses the directory, until it ends. Raises
        OSError."""
        if self._lock is None:
            self._lock = _lock(self._in_use(installation), fcntl.LOCK_SH)

    def is_used_by(self, installation: str) -> bool:
        """Whether a process of that installation uses the directory; where that cannot be told, one may."""
        try:
            _lock(self._in_use(installation), fcntl.LOCK_EX | fcntl.LOCK_NB).close()
        except OSError:
            return True
        return False

    def close(self) -> None:
        """Be no user any more."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _in_use(self, installation: str) -> Path:
        return self.path / f"installation-{installation}.lock"


def _lock(path: Path, how: int) -> IO[bytes]:
    """The file, locked until it is closed. Raises OSError, BlockingIOError where it is not to be waited
    for."""
    file = os.fdopen(os.open(path, os.O_CREAT | os.O_RDWR, 0o600), "r+b")
    try:
        fcntl.flock(file, how)
    except BaseException:
        file.close()
        raise
    return file

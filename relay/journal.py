"""Where the logbook's entries wait while the database is away: files in the state directory.

One file per process, readable by its owner only, its lines encrypted, locked for as long as the process lives:
whoever can lock a journal knows that its owner is gone, and feeds it back in its stead."""

import base64
import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from core import logs
from core.mail import Copy, Decision, Reason, Row, State
from core.secrets import Box, Undecryptable
from core.storage.logbook import UnknownSender

_LARGEST = 64 * 1024 * 1024
"""Bytes of one file; besides the one that is written there is at most one that waits to be fed back."""
_LINES_AT_ONCE = 500


class JournalFull(Exception):
    """The journal has reached its bound, or its disk cannot take more."""


@dataclass(frozen=True, slots=True)
class LostReply:
    """The client may not have heard the 250 of this mail."""

    mail_id: str
    fingerprint: bytes


Entry = Row | LostReply | UnknownSender
"""What may be written later than it happened."""


class Journal:
    """The journal of this process. Used by two threads: one appends, one feeds back."""

    def __init__(self, directory: Path, process_id: str, box: Box) -> None:
        self._directory = directory
        self._process_id = process_id
        self._box = box
        self._number = 0
        self._lock = threading.Lock()  # held while the file is written, or set aside for feeding
        self._file: IO[bytes] | None = None
        self._waiting: IO[bytes] | None = None

    def append(self, entries: Sequence[Entry]) -> Sequence[None]:
        """Keep these until they can be fed back; on disk when this returns. Raises JournalFull."""
        lines = b"".join(self._box.closed(_to_json(entry)) + b"\n" for entry in entries)
        with self._lock:
            self._write(lines)
        logs.journaled(len(entries))
        return [None] * len(entries)

    def feed(self, take: Callable[[Sequence[Entry]], None]) -> None:
        """Hand everything to `take`, ours and that of processes that are gone; what it takes is removed.

        What `take` raises ends the feeding; nothing is lost, and it can be done again."""
        with self._lock:
            if self._waiting is None and self._file is not None and self._file.tell() > 0:
                self._waiting, self._file = self._file, None
        if self._waiting is not None:
            self._feed_one(self._waiting, take)
            self._waiting.close()
            self._waiting = None
        for orphan in self._orphans():
            self._feed_one(orphan, take)

    def length(self) -> int:
        """How many bytes of ours wait to be fed back; from any thread."""
        return sum(_size(file) for file in (self._waiting, self._file) if file is not None)

    def length_of_all(self) -> int:
        """The same of every process that uses the state directory, those that are gone too."""
        total = 0
        for path in self._directory.glob("journal-*.log"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Let go of the files; those with entries are fed back by whoever comes next."""
        for file in (self._waiting, self._file):
            if file is not None:
                file.close()
        self._waiting, self._file = None, None

    def _write(self, lines: bytes) -> None:
        try:
            file = self._open()
            if file.tell() + len(lines) > _LARGEST:
                raise JournalFull
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            raise JournalFull from error

    def _open(self) -> IO[bytes]:
        """The file of this process; one that somebody has taken for an orphan's before we locked it is given up."""
        while self._file is None:
            self._number += 1
            path = self._directory / f"journal-{self._process_id}-{self._number}.log"
            file = open(path, "ab+", opener=_open_private)  # noqa: SIM115  Path.open takes no opener; it stays open
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_still(file, path):
                self._file = file
            else:
                file.close()
        return self._file

    def _orphans(self) -> Iterator[IO[bytes]]:
        """The journals whose owners are gone, locked."""
        for path in sorted(self._directory.glob("journal-*.log")):
            if path.name.startswith(f"journal-{self._process_id}-"):
                continue
            try:
                file = path.open("rb+")
            except FileNotFoundError:
                continue  # somebody else has just fed it back
            with file:
                if _is_ours_now(file) and _is_still(file, path):
                    yield file

    def _feed_one(self, file: IO[bytes], take: Callable[[Sequence[Entry]], None]) -> None:
        path = Path(file.name)
        file.seek(0)
        lines = file.read().split(b"\n")
        entries = [entry for line in lines[:-1] if (entry := self._entry(line)) is not None]
        for start in range(0, len(entries), _LINES_AT_ONCE):
            take(entries[start : start + _LINES_AT_ONCE])
        if entries:
            logs.journal_fed(len(entries))
        if len(entries) < len(lines) - 1:
            logs.journal_unreadable(path.name)
            path.rename(path.with_suffix(".unreadable"))
        else:
            path.unlink(missing_ok=True)

    def _entry(self, line: bytes) -> Entry | None:
        """None for a line of another key, or one that a crash cut off."""
        try:
            return _from_json(self._box.opened(line))
        except (Undecryptable, ValueError, KeyError, TypeError):
            return None


def _size(file: IO[bytes]) -> int:
    try:
        return os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return 0  # it has just been fed back


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _is_ours_now(file: IO[bytes]) -> bool:
    """Whether the lock could be had: its owner is gone."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether the open file is the one of this name, not one that was removed meanwhile."""
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _to_json(entry: Entry) -> bytes:
    return json.dumps({"kind": type(entry).__name__, **asdict(entry)}, default=_plain).encode()


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(value)


def _from_json(text: bytes) -> Entry:
    fields: dict[str, Any] = json.loads(text)
    kind = fields.pop("kind")
    if kind == "LostReply":
        return LostReply(fields["mail_id"], base64.b64decode(fields["fingerprint"]))
    fields["time"] = datetime.fromisoformat(fields["time"])
    if kind == "UnknownSender":
        return UnknownSender(**fields)
    return _row(fields)


def _row(fields: dict[str, Any]) -> Row:
    fields["decision"] = Decision(fields["decision"])
    fields["reason"] = Reason(fields["reason"])
    fields["state"] = State(fields["state"])
    fields["bcc"] = Copy(fields["bcc"])
    fields["due_at"] = datetime.fromisoformat(fields["due_at"]) if fields.get("due_at") else None
    for digest in ("fingerprint", "copy_refusal", "text"):
        fields[digest] = None if fields.get(digest) is None else base64.b64decode(fields[digest])
    if fields["recipients"] is not None:
        fields["recipients"] = tuple(fields["recipients"])
    return Row(**fields)

"""A journal: the file in which a relay keeps every mail until the database has it.

It is allocated at its full size when it is made, so that a disk that fills up later takes nothing from it,
and it is locked for as long as its relay lives: whoever can lock a journal knows that its relay is gone.

page 0     MAGIC, the journal's id, its size (8), CRC-32
half 0, 1  each: a page with a salt, the number of the last entry before it (8), CRC-32; then entries
an entry   mark (8 bytes, made of the salt), number (8), length (4), CRC-32 of these two and the text (4),
           text (encrypted)

Entries go to one half until it is full, then to the other, if all that stands there is in the database by
then; that half gets a new salt, so that what it held before is not taken for entries any more. Numbers rise
for ever, also over a power cut that took the last entries, or a disk that was set back: whoever opens a
journal counts on from the time in nanoseconds. An entry that may be needed until another one has been loaded
is *held* under a name (a mail's id); what is still held when its half is wanted is copied to the other half
first.

A power cut leaves a torn last entry, which its CRC tells; the same in the middle, with whole entries behind
it, or a file that is too short, is damage, and what is whole is read all the same."""

import bisect
import contextlib
import fcntl
import hashlib
import mmap
import os
import sys
import threading
import time
import uuid
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.secrets import Box, Seal, Undecryptable

SUFFIX = ".journal"
_MAGIC = b"Blindcopy journal 1\n"
_PAGE = 4096
_HEAD = 24
_MARK = 8
_SALT = 16
_MOST_SLACK = 64 * 1024
_ENCRYPTED_LONGER = Seal.NONCE + 16
_SHARE_OF_OPTIONAL_ONES = 3
"""They are written while less than one part of so many waits for the database."""


class JournalFull(Exception):
    """The journal has no room for this entry: what it holds is not in the database yet."""


class InUse(Exception):
    """Another process has this journal."""


class NotAJournal(Exception):
    """The file has not the shape of a journal, or no key of ours opens it. The message is a sentence."""


@dataclass(frozen=True, slots=True)
class JournalPlace:
    """Where an entry stands: in which half, from which byte of the file, how many bytes with its head."""

    half: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """One entry as it is read back."""

    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """An entry to be written. `hold`: the name that it is held under until it is `done` with; `reserve`: how
    many bytes must stay free for what follows it, so that whatever was begun can be ended; `ends`: the name
    whose reserve it may use; `is_optional`: it leaves a part of the journal to entries that are not."""

    data: bytes
    hold: str | None = None
    reserve: int = 0
    ends: str | None = None
    is_optional: bool = False


@dataclass(slots=True)
class _Half:
    begins: int
    ends: int
    salt: bytes = b""
    seal: Seal | None = None
    used: int = 0
    """Where the next entry goes."""
    base: int = 0
    """The number of the last entry that was written before this half was begun."""
    numbers: "array[int]" = field(default_factory=lambda: array("Q"))
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: "array[int]" = field(default_factory=lambda: array("Q"))
    holds: int = 0
    """How many of its entries are held."""

    mark: bytes = b""
    """Before each of its entries: made of the salt."""

    def __post_init__(self) -> None:
        self.mark = _mark_of(self.salt)

    @property
    def last(self) -> int:
        """The number of its last entry, or of the last before it."""
        return self.numbers[-1] if self.numbers else self.base

    @property
    def room(self) -> int:
        return self.ends - self.used

    def add(self, number: int, offset: int, length: int) -> None:
        self.numbers.append(number)
        self.offsets.append(offset)
        self.lengths.append(length)
        self.used = offset + length


@dataclass(slots=True)
class _Hold:
    place: JournalPlace
    reserve: int


class Journal:
    """One journal in this process's hands. Its methods may be called by several threads."""

    def __init__(self, path: Path, descriptor: int, box: Box) -> None:
        """Use `made` or `opened`."""
        self.path = path
        self.id = ""
        self.is_damaged = False
        """Something was not whole though entries follow it, or the file is too short."""
        self.is_torn = False
        """The last entry was not written to its end."""
        self._descriptor = descriptor
        self._box = box
        self._lock = threading.RLock()
        self.halves: list[_Half] = []
        self._active = 0
        self._last = 0
        self._loaded = 0
        self._holds: dict[str, _Hold] = {}
        self._reserved = 0

    # -- opening

    @classmethod
    def made(cls, directory: Path, size: int, box: Box) -> "Journal":
        """A new, empty journal of so many bytes, all of them allocated. Raises OSError."""
        path = directory / f"{uuid.uuid4()}{SUFFIX}"
        temporary = path.with_suffix(".making")
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        journal = cls(path, descriptor, box)
        try:
            # Locked before it gets its name, so that no process takes it for a journal without an owner.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _allocate(descriptor, size)
            journal.id = path.stem
            head = _MAGIC + journal.id.encode("ascii") + size.to_bytes(8)
            os.pwrite(descriptor, head + zlib.crc32(head).to_bytes(4), 0)
            journal.halves, journal._last = _halves_of(size), time.time_ns()
            for half in list(journal.halves):
                journal._begin_half(half)
            # Only a journal that is whole has the name by which others look for it; what a killed process
            # leaves under the other name holds nothing and is removed.
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
            raise
        return journal

    @classmethod
    def opened(cls, path: Path, box: Box) -> "Journal":
        """Open a journal whose owner is gone, with all its entries. Raises InUse, NotAJournal,
        OSError."""
        descriptor = os.open(path, os.O_RDWR)
        journal = cls(path, descriptor, box)
        try:
            _lock_or_leave(descriptor, path)
            journal._recover()
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Let go of it; what is not loaded stays for whoever opens it next."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Away with the file, and let go of it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def clear(self) -> None:
        """Forget what it holds, all of which is in the database: so it is found empty when it is opened next.
        Raises OSError."""
        with self._lock:
            for half in list(self.halves):
                self._begin_half(half)

    def put_aside(self) -> Path:
        """Rename the file so that it is not read again, and let go of it; its new path."""
        aside = self.path.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            self.path.rename(aside)
        self.close()
        return aside

    def is_in_place(self) -> bool:
        """Whether the file is still where another process would find it."""
        return _is_still(self._descriptor, self.path)

    # -- writing

    def append(self, entries: Sequence[Append]) -> list[Exception | None]:
        """Write these, in one go as far as may be; for each None, or why it was not written: JournalFull,
        OSError.

        What is written survives the end of this process at once, and a power cut once `sync` has returned."""
        with self._lock:
            return self._append(entries)

    def sync(self) -> None:
        """All that was appended is on the disk when this returns. Raises OSError."""
        getattr(os, "fdatasync", os.fsync)(self._descriptor)

    def _append(self, entries: Sequence[Append]) -> list[Exception | None]:
        results: list[Exception | None] = []
        for entry in entries:
            try:
                self._append_one(entry)
                results.append(None)
            except (JournalFull, OSError) as error:
                results.append(error)
        return results

    def _append_one(self, entry: Append) -> None:
        length = _HEAD + len(entry.data) + _ENCRYPTED_LONGER
        reserve = entry.reserve + _HEAD + _ENCRYPTED_LONGER if entry.hold else 0
        if entry.is_optional and self.waiting_bytes + length > self.size // _SHARE_OF_OPTIONAL_ONES:
            raise JournalFull
        self._carry_over(self.halves[self._active])
        ended = self._holds.get(entry.ends) if entry.ends is not None else None
        if (
            ended is None or not ended.reserve
        ) and self._free_bytes() < length + reserve + self._reserved + self._unusable_end:
            raise JournalFull
        # What a beginning has reserved is for its end: a mail that was begun can be ended on a full journal.
        half = self._half_with_room(length)
        place = self._write(half, entry.data)
        # The end is written, so its reserve is free; the beginning stays held until the database has the
        # mail.
        if ended is not None:
            self._reserved, ended.reserve = self._reserved - ended.reserve, 0
        if entry.hold is not None:
            self._put_hold(entry.hold, _Hold(place, reserve))
            self._reserved += reserve

    @property
    def _unusable_end(self) -> int:
        """Room at the end of a half that an entry may not fit into, though the reserve counts it."""
        return min(_MOST_SLACK, self.size // 16)

    def _free_bytes(self) -> int:
        other = self.halves[1 - self._active]
        free = other.ends - other.begins - _PAGE if self._is_free(other) else 0
        return self.halves[self._active].room + free

    def is_roomy(self) -> bool:
        """Whether a usual mail can be begun."""
        with self._lock:
            return self._free_bytes() - self._reserved - self._unusable_end > self.size // 16

    def _half_with_room(self, length: int) -> _Half:
        """Raises JournalFull, OSError."""
        half = self.halves[self._active]
        if half.room >= length:
            return half
        other = self.halves[1 - self._active]
        if not self._is_free(other) or length > other.ends - other.begins - _PAGE:
            raise JournalFull
        self._begin_half(other)
        self._active = 1 - self._active
        return self.halves[self._active]

    def _is_free(self, half: _Half) -> bool:
        return (not half.numbers or half.last <= self._loaded) and not half.holds

    def _carry_over(self, active: _Half) -> None:
        """Copy what is still held in the other half, once that half is loaded and this one is half full, so
        that a few slow mails never keep the other half from being used again."""
        other = self.halves[1 - self._active]
        is_time = active.used - active.begins > (active.ends - active.begins) // 2
        if not (is_time and other.holds and other.last <= self._loaded):
            return
        for name, hold in list(self._holds.items()):
            if self.halves[hold.place.half] is not other or active.room < hold.place.length:
                continue
            record = self._readable(hold.place)
            if record is None:
                self._drop_hold(name)
                self._reserved -= hold.reserve
            else:
                self._put_hold(name, _Hold(self._write(active, record.data), hold.reserve))

    def _write(self, half: _Half, data: bytes) -> JournalPlace:
        if half.seal is None:
            raise OSError(f"{self.path.name} was not opened")
        text = half.seal.closed(data)
        number = self._last + 1
        head = number.to_bytes(8) + len(text).to_bytes(4)
        checksum = zlib.crc32(text, zlib.crc32(head))
        entry = b"".join([half.mark, head, checksum.to_bytes(4), text])
        _write_all(self._descriptor, entry, half.used)
        place = JournalPlace(self.halves.index(half), half.used, len(entry))
        half.add(number, half.used, len(entry))
        self._last = number
        return place

    def _begin_half(self, half: _Half) -> None:
        """A new salt, on the disk before any entry under it is: what stood there before is no entry any
        more."""
        # Without a new salt, entries of the last round would be taken for entries of this one after a crash.
        salt = os.urandom(_SALT)
        head = salt + self._last.to_bytes(8)
        _write_all(self._descriptor, head + zlib.crc32(head).to_bytes(4), half.begins)
        self.sync()
        fresh = _Half(half.begins, half.ends, salt, self._box.seal(salt), half.begins + _PAGE, self._last)
        self.halves[self.halves.index(half)] = fresh

    # -- reading

    @property
    def loaded(self) -> int:
        return self._loaded

    @property
    def has_more(self) -> bool:
        """Whether an entry stands in it that is not loaded. (A database that was restored may know of fewer
        entries than were ever written; those that it lacks may be gone from here.)"""
        with self._lock:
            return any(half.numbers and half.last > self._loaded for half in self.halves)

    @property
    def number_of_entries(self) -> int:
        """How many stand in it, loaded or not."""
        return sum(len(half.numbers) for half in self.halves)

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of it are not in the database yet."""
        with self._lock:
            waiting = 0
            for half in self.halves:
                first = bisect.bisect_right(half.numbers, self._loaded)
                waiting += half.used - half.offsets[first] if first < len(half.numbers) else 0
            return waiting

    @property
    def last(self) -> int:
        """The number of the last entry that was written."""
        return self._last

    def after(self, number: int, most: int = sys.maxsize) -> Iterator[JournalRecord]:
        """Up to `most` entries with a higher number than this, in their order, as far as they are written
        now. One that cannot be read back, or that no key opens, is left out, and the journal is then
        damaged."""
        places: list[JournalPlace] = []
        with self._lock:
            for index, half in sorted(enumerate(self.halves), key=lambda pair: pair[1].base):
                begin = bisect.bisect_right(half.numbers, number)
                places += [
                    JournalPlace(index, half.offsets[at], half.lengths[at])
                    for at in range(begin, min(len(half.numbers), begin + most - len(places)))
                ]
        for place in places:
            record = self._readable(place)
            if record is not None:
                yield record

    def is_held(self, name: str) -> bool:
        return name in self._holds

    def held(self, name: str) -> bytes | None:
        """The entry that is held under this name; None where there is none."""
        with self._lock:
            hold = self._holds.get(name)
            record = None if hold is None else self._readable(hold.place)
            return None if record is None else record.data

    def names_held(self) -> list[str]:
        """In the order of their entries."""
        with self._lock:
            return sorted(
                self._holds, key=lambda name: (self._holds[name].place.half, self._holds[name].place.offset)
            )

    def hold(self, name: str, number: int) -> None:
        """Hold an entry that was found when the journal was opened."""
        with self._lock:
            for index, half in enumerate(self.halves):
                at = bisect.bisect_left(half.numbers, number)
                if at < len(half.numbers) and half.numbers[at] == number:
                    place = JournalPlace(index, half.offsets[at], half.lengths[at])
                    self._put_hold(name, _Hold(place, 0))

    def done(self, number: int, released: Iterable[str]) -> None:
        """The database has everything up to this number; these names need not be held any more."""
        with self._lock:
            self._loaded = max(self._loaded, number)
            for name in released:
                if (hold := self._drop_hold(name)) is not None:
                    self._reserved -= hold.reserve

    def _put_hold(self, name: str, hold: _Hold) -> None:
        self._drop_hold(name)
        self._holds[name] = hold
        self.halves[hold.place.half].holds += 1

    def _drop_hold(self, name: str) -> _Hold | None:
        hold = self._holds.pop(name, None)
        if hold is not None:
            self.halves[hold.place.half].holds -= 1
        return hold

    def restart_from(self, number: int) -> None:
        """The database has only what comes up to this number: it was restored while we worked with it."""
        with self._lock:
            self._loaded = number

    def _readable(self, place: JournalPlace) -> JournalRecord | None:
        """The entry at this place; None, and damage, where it cannot be had."""
        try:
            record = self._whole_entry(place)
        except (Undecryptable, OSError):
            record = None
        self.is_damaged = self.is_damaged or record is None
        return record

    def _whole_entry(self, place: JournalPlace) -> JournalRecord | None:
        """The entry at this place; None where it is torn or damaged. Raises Undecryptable."""
        entry = os.pread(self._descriptor, place.length, place.offset)
        # A torn write and a bad sector look alike here; whether whole entries follow tells them apart.
        head, text = entry[_MARK : _MARK + 12], entry[_HEAD:]
        if len(entry) < place.length or zlib.crc32(text, zlib.crc32(head)) != int.from_bytes(entry[20:24]):
            return None
        seal = self.halves[place.half].seal
        return None if seal is None else JournalRecord(int.from_bytes(head[:8]), seal.opened(text))

    # -- recovering

    def _recover(self) -> None:
        """Find the entries of both halves. Raises NotAJournal, OSError."""
        head = os.pread(self._descriptor, _PAGE, 0)
        end = len(_MAGIC) + 36 + 8
        if not head.startswith(_MAGIC) or zlib.crc32(head[:end]) != int.from_bytes(head[end : end + 4]):
            raise NotAJournal(f"{self.path} is no journal, or its first bytes are damaged")
        self.id = head[len(_MAGIC) : end - 8].decode("ascii")
        self.halves = _halves_of(int.from_bytes(head[end - 8 : end]))
        self.is_damaged = self.size < self.halves[1].ends
        with mmap.mmap(self._descriptor, self.size, prot=mmap.PROT_READ) as content:
            for half in self.halves:
                self._find_entries(content, half)
        self._last = max(time.time_ns(), *(half.last for half in self.halves))
        self._active = max((0, 1), key=lambda index: self.halves[index].last)
        self._must_open()

    def _find_entries(self, content: mmap.mmap, half: _Half) -> None:
        """All whole entries of a half, from mark to mark; one that is not whole, with a whole one behind it,
        is damage."""
        head = content[half.begins : half.begins + _SALT + 8]
        half.used = half.begins + _PAGE
        if zlib.crc32(head) != int.from_bytes(content[half.begins + _SALT + 8 : half.begins + _SALT + 12]):
            self.is_damaged = True
            return
        half.salt, half.base = head[:_SALT], int.from_bytes(head[_SALT:])
        half.mark = _mark_of(half.salt)
        half.seal = self._box.seal(half.salt)
        offset, is_torn = half.used, False
        while 0 <= (found := content.find(half.mark, offset, half.ends)) < half.ends - _HEAD:
            length = int.from_bytes(content[found + 16 : found + 20])
            end = found + _HEAD + length
            checksum = zlib.crc32(
                content[found + _HEAD : end], zlib.crc32(content[found + _MARK : found + 20])
            )
            if end > len(content) or checksum != int.from_bytes(content[found + 20 : found + _HEAD]):
                is_torn, offset = True, found + 1
                continue
            self.is_damaged = self.is_damaged or is_torn or found != half.used
            half.add(int.from_bytes(content[found + 8 : found + 16]), found, _HEAD + length)
            offset, is_torn = end, False
        self.is_torn = self.is_torn or is_torn

    def _must_open(self) -> None:
        """Raises NotAJournal: whole entries that no key opens are not lost, they wait for their key."""
        try:
            for index, half in enumerate(self.halves):
                for at in (0, -1) if half.numbers else ():
                    self._whole_entry(JournalPlace(index, half.offsets[at], half.lengths[at]))
        except Undecryptable as error:
            raise NotAJournal(
                f"{self.path} was written with a key that BLINDCOPY_SECRET_KEY does not hold; add that "
                f"key, and it is loaded"
            ) from error


def _lock_or_leave(descriptor: int, path: Path) -> None:
    """Raises InUse: by its relay, or by a process that has loaded and removed it just now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(path.name) from error
    if not _is_still(descriptor, path):
        raise InUse(path.name)


def journals(directory: Path) -> list[Path]:
    """The journals of a state directory."""
    return sorted(directory.glob(f"*{SUFFIX}"))


def remove_unfinished(directory: Path) -> None:
    """What a process that was killed while it made a journal has left; nothing was written to it yet."""
    for path in directory.glob("*.making"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def may_hold_mails(path: Path) -> bool:
    """Whether entries stand in a journal, for whichever key; one that cannot be looked at may hold some."""
    try:
        journal = Journal.opened(path, Box(["no key is needed to see that"]))
    except (InUse, NotAJournal, OSError):
        return True
    is_empty = not journal.number_of_entries
    journal.close()
    return not is_empty


def _mark_of(salt: bytes) -> bytes:
    return hashlib.sha256(b"entry" + salt).digest()[:_MARK]


def _halves_of(size: int) -> list[_Half]:
    half = (size - _PAGE) // 2 // _PAGE * _PAGE
    return [_Half(_PAGE, _PAGE + half), _Half(_PAGE + half, _PAGE + 2 * half)]


def _allocate(descriptor: int, size: int) -> None:
    """The disk's promise that so many bytes can be written. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    for offset in range(0, size, 1 << 20):
        _write_all(descriptor, bytes(min(1 << 20, size - offset)), offset)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Raises OSError."""
    written = os.pwrite(descriptor, data, offset)
    while written < len(data):
        written += os.pwrite(descriptor, data[written:], offset + written)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    here = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (here.st_dev, here.st_ino)

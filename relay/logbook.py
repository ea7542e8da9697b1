"""The relay's record of its mails: journal first, off the event loop, within bounds that no mail waits longer
than.

Entries are written to this relay's journal by one thread, all that wait in one go, with one sync for all that
ask for it; another thread loads them into the database. What was begun is on the disk before its dot is sent,
what ended is written, and so survives the end of this process, before the client hears of it. A slow disk
makes entries late, not lost: a mail waits for it 250 ms at most. A row is lost only if the journal takes
nothing, and each is counted and named."""

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core import logs
from core.config import ConfigurationError
from core.database.engine import Database, DatabaseUnavailable
from core.journal.entries import Begun, Ended, Entry, Void, to_bytes
from core.journal.file import Append, InUse, Journal, JournalFull, NotAJournal, journals, remove_unfinished
from core.journal.loading import Loader, Orphans, finish
from core.mail.kept import FileChunk
from core.mail.row import Row
from core.secrets import Box
from relay.conversation import Answer
from relay.meters import CommitSeen, RowLost, RowsLoaded

SECONDS_FOR_THE_JOURNAL = 0.25
_SECONDS_TO_GATHER = 0.0001
_MOST_SECONDS_TO_GATHER = 0.002
"""So long, for each mail that is open, the writer lets entries come together. A lone mail is never delayed.
Each round has its sync and its two switches of threads: with twenty sessions the writer costs half as much,
and the relay is 1.4 times as fast (measured)."""
_SECONDS_TO_GATHER_TO_LOAD = 0.25
"""So long the loader lets finished mails come together, once there is one: a transaction costs as much as two
hundred rows (measured)."""
_SECONDS_BETWEEN_LOADS = 1.0
_SECONDS_BETWEEN_LOOKS = 5.0
_SECONDS_UNTIL_SYNCED = 0.1
_SECONDS_TO_LOAD_AT_THE_END = 10.0
_LARGEST_BATCH = 500
MOST_WAITING = 20_000
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_AN_END = 2048
"""Bytes that the end of a mail may add to what its beginning holds: the upstream's replies, most of them
under 100."""

Count = Callable[[CommitSeen | RowLost | RowsLoaded], None]
Written = Answer[None]


def _count_nothing(seen: CommitSeen | RowLost | RowsLoaded) -> None:
    """For a logbook that nothing measures."""


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    is_durable: bool
    answer: Written | None

    @property
    def text_bytes(self) -> int:
        if isinstance(self.entry, FileChunk):
            return len(self.entry.data)
        return len(self.entry.row.text or b"") if isinstance(self.entry, Begun | Ended) else 0


@dataclass(frozen=True)
class JournalOptions:
    """Where journals lie, and how large a new one is made."""

    directory: Path
    size: int
    box: Box


class Logbook:
    """Writes down what happens to each mail, and sees to it that the database has it soon."""

    def __init__(self, database: Database, options: JournalOptions, count: Count = _count_nothing) -> None:
        self._database = database
        self._options = options
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._journal: Journal | None = None
        self._loaders: list[tuple[Journal, Loader]] = []
        """The journal in use, behind those that were in use before and are not loaded yet."""
        self._unheard: dict[str, bytes] = {}
        self._direct: deque[Row] = deque(maxlen=MOST_WAITING)
        """Ends that the journal did not take, of mails whose beginning stands in it."""
        self._loading_trouble: str | None = None
        self._orphans = Orphans(database, options.directory, options.box, self._note_lost)
        self._trouble: str | None = None
        self._is_full = False
        self._text_bytes = 0
        """Of the entries that wait to be written; changed by two threads, so it is near enough and never far
        off for long."""
        self._lost = 0
        self._patience: deque[tuple[float, Written]] = deque()
        """The answers that are waited for, with the moment until which; for the event loop only."""
        self._open = 0
        """How many mails have begun and not ended."""
        self._busy_since: float | None = None
        self._has_news = threading.Event()
        self._is_stopping = threading.Event()
        self._writer = threading.Thread(target=self._write_on, name="journal", daemon=True)
        self._loader = threading.Thread(target=self._load_on, name="loader", daemon=True)
        self._writer.start()
        self._loader.start()

    # -- for the event loop

    def begin(self, row: Row) -> Written | None:
        """Begin to write down a mail whose dot is about to be sent; `wait` for it before the dot. None: it is
        not to be had."""
        self._open += 1
        return self._submit(Begun(row), is_durable=True)

    async def end(self, row: Row) -> None:
        """The mail came to this end: written when this returns, or late, or lost and counted."""
        self._open = max(0, self._open - 1)  # a few end that have not begun, which is near enough
        await self.wait(self._submit(Ended(row), is_durable=False))

    async def wait(self, written: Written | None) -> bool:
        """Whether it was written in time; what is late is written all the same."""
        if written is None:
            return False
        try:
            await written
        except (TimeoutError, JournalFull, OSError):
            return False
        return True

    def note(self, entry: Entry) -> None:
        """Write this down, with nothing waiting for it."""
        if isinstance(entry, Ended | Void):
            self._open = max(0, self._open - 1)
        if self._queue.qsize() < 2 * MOST_WAITING:  # small, and some of them end what was begun
            self._queue.put(_Waiting(entry, is_durable=False, answer=None))

    def keep_file(self, chunk: FileChunk) -> Written | None:
        """Begin to write down a piece of a file; `wait` for it before too much of the file is in memory.
        None: the disk is too slow."""
        if self._text_bytes > _MOST_WAITING_BYTES // 4:
            return None
        return self._submit(chunk, is_durable=False)

    @property
    def is_behind(self) -> bool:
        """Whether the journal's disk is so much slower than the mails that no new session is to come in: half
        of what memory is to hold waits for it."""
        return self._queue.qsize() > MOST_WAITING // 2 or self._text_bytes > _MOST_WAITING_BYTES // 2

    @property
    def trouble(self) -> str | None:
        """Why rows are lost just now, in one sentence; None: they are not."""
        return self._trouble

    @property
    def loading_trouble(self) -> str | None:
        """Why the journal does not come into the database, though that answers; None: it does."""
        return self._loading_trouble

    @property
    def unreadable(self) -> tuple[str, ...]:
        """A sentence for each journal of a relay that is gone which cannot be read."""
        return self._orphans.unreadable

    @property
    def rows_lost(self) -> int:
        """Since this relay was started."""
        return self._lost

    def waiting_bytes(self) -> int:
        """How much the database does not have yet; from any thread."""
        return sum(journal.waiting_bytes for journal, _ in list(self._loaders))

    async def stop(self) -> None:
        """Write what waits, load what can be loaded in ten seconds; the rest stays for the next start."""
        # The writer is last: what ends while the relay stops is still written.
        self._queue.put(None)
        await asyncio.to_thread(self._writer.join, _SECONDS_TO_LOAD_AT_THE_END)
        self._is_stopping.set()
        self._has_news.set()
        await asyncio.to_thread(self._loader.join, _SECONDS_TO_LOAD_AT_THE_END + 1)

    def _submit(self, entry: Entry, *, is_durable: bool) -> Written | None:
        if self._is_too_much():
            if not (isinstance(entry, Ended) and self._queue.qsize() < 2 * MOST_WAITING):
                self._lose(entry, "too much waits for the journal's disk")
                return None
            # its beginning may still wait in the queue, and would be held for ever; the text is what is large
            entry = Ended(replace(entry.row, text=None))
        answer: Written = Answer()
        since = self._busy_since
        is_stuck = since is not None and time.monotonic() - since > SECONDS_FOR_THE_JOURNAL
        self._be_patient(answer, 0 if is_stuck else SECONDS_FOR_THE_JOURNAL)
        waiting = _Waiting(entry, is_durable, answer)
        self._text_bytes += waiting.text_bytes
        self._queue.put(waiting)
        return answer

    def _be_patient(self, answer: Written, seconds: float) -> None:
        """The mail goes on without the answer after so long. One timer for all: a timer for each took a tenth
        of what an entry costs."""
        if not self._patience:
            self._loop.call_later(seconds, self._give_up_late)
        self._patience.append((self._loop.time() + seconds, answer))

    def _give_up_late(self) -> None:
        now = self._loop.time()
        while self._patience and (self._patience[0][0] <= now or self._patience[0][1].is_there):
            self._patience.popleft()[1].fail(TimeoutError())
        if self._patience:
            self._loop.call_later(max(0.01, self._patience[0][0] - now), self._give_up_late)

    def _is_too_much(self) -> bool:
        """Whether a disk that stands still has let more come together than memory is to hold."""
        if self._queue.empty():
            self._text_bytes = 0
        return self._queue.qsize() >= MOST_WAITING or self._text_bytes > _MOST_WAITING_BYTES

    # -- the writer's thread

    def _write_on(self) -> None:
        is_unsynced, looked_at = False, float("-inf")
        while True:
            if time.monotonic() - looked_at > _SECONDS_BETWEEN_LOADS:
                looked_at = time.monotonic()
                try:
                    self._have_a_journal()
                except Exception as error:  # noqa: BLE001  the next look may fare better
                    logs.failed_unexpectedly("taking a journal")
                    self.note_trouble(f"no journal can be taken: {type(error).__name__}, see the log")
            batch, is_last = self._next_batch(
                _SECONDS_UNTIL_SYNCED if is_unsynced else _SECONDS_BETWEEN_LOADS
            )
            self._text_bytes -= sum(waiting.text_bytes for waiting in batch)
            if batch:
                try:
                    is_unsynced = self._write(batch, is_unsynced=is_unsynced)
                except Exception as error:  # noqa: BLE001  whatever it was, the next mails are to be written down
                    logs.failed_unexpectedly("the journal")
                    for waiting in batch:
                        self._lose(waiting.entry, f"it could not be written down: {type(error).__name__}")
                    self._answer(batch, OSError(str(error)))
            elif is_unsynced:
                self._sync()
                is_unsynced = False
            if is_last:
                self._sync()
                return

    def _next_batch(self, seconds: float) -> tuple[list[_Waiting], bool]:
        batch: list[_Waiting] = []
        try:
            waiting = self._queue.get(timeout=seconds)
            if self._open > 1:
                time.sleep(min(self._open * _SECONDS_TO_GATHER, _MOST_SECONDS_TO_GATHER))
            while waiting is not None:
                batch.append(waiting)
                if len(batch) >= _LARGEST_BATCH:
                    return batch, False
                waiting = self._queue.get_nowait()
        except queue.Empty:
            return batch, False
        return batch, True

    def _write(self, batch: Sequence[_Waiting], *, is_unsynced: bool) -> bool:
        """Write them, then sync for those that ask; whether anything is written by now that is not synced."""
        self._busy_since = began = time.monotonic()
        journal = self._journal
        if journal is None:
            results: list[Exception | None] = [OSError(self._trouble or "there is no journal")] * len(batch)
        else:
            results = journal.append([_to_append(waiting.entry) for waiting in batch])
        for waiting, result in zip(batch, results, strict=True):
            if result is not None:
                self._note_refusal(waiting, result)
        written = [one for one, result in zip(batch, results, strict=True) if result is None]
        # Ends need no sync before the client hears of them: a process that is killed now has them in the
        # kernel's cache, and only a power cut turns the last moment's mails into `unknown`.
        durable = [one for one in written if one.is_durable]
        self._answer([one for one in written if not one.is_durable], None)
        error = self._sync() if durable else None
        self._answer(durable, error)
        self._has_news.set()
        self._busy_since = None
        seconds = time.monotonic() - began
        self._count(CommitSeen(seconds))
        if seconds > SECONDS_FOR_THE_JOURNAL:
            logs.journal_late(seconds)
        if durable and error is None and all(result is None for result in results):
            self.note_well_again()
        return (is_unsynced or None in results) and (not durable or error is not None)

    def _sync(self) -> OSError | None:
        try:
            if self._journal is not None:
                self._journal.sync()
        except OSError as error:
            self.note_trouble(f"the journal's disk cannot be written: {error}")
            return error
        return None

    def _note_refusal(self, waiting: _Waiting, result: Exception) -> None:
        if isinstance(waiting.entry, FileChunk):  # the mail is logged with the name of the file
            self._answer([waiting], result)
            return
        self._is_full = is_full = isinstance(result, JournalFull)
        self.note_trouble(
            "the journal is full: the database has not taken what is in it; look at the database, or set "
            "BLINDCOPY_JOURNAL_MB higher"
            if is_full
            else f"the journal cannot be written: {result}"
        )
        self._lose(waiting.entry, "the journal is full" if is_full else str(result))
        self._answer([waiting], result)

    def _lose(self, entry: Entry, cause: str) -> None:
        """A mail is lost to the record if its end is, unless its beginning stands in the journal: then the
        loader brings the end into the database by itself, and the mail is `unknown` should this process die
        before that. A beginning alone has a second chance with its end."""
        # Void, counts and the like may be lost: the row of their mail tells what happened.
        if not isinstance(entry, Ended):
            return
        if any(journal.is_held(entry.row.id) for journal, _ in self._loaders):
            self._direct.append(entry.row)
        else:
            self._note_lost(entry.row.id, cause)

    def _note_lost(self, mail_id: str, cause: str) -> None:
        self._lost += 1
        self._count(RowLost())
        logs.row_lost(mail_id, cause)

    def note_trouble(self, cause: str) -> None:
        if self._trouble != cause:
            logs.journal_unavailable(cause)
        self._trouble = cause

    def note_well_again(self) -> None:
        if self._trouble is not None:
            self._trouble, self._is_full = None, False
            logs.journal_back()

    def _answer(self, waiting: Sequence[_Waiting], error: Exception | None) -> None:
        """All in one go: waking the loop costs more than an entry."""
        answers = [one.answer for one in waiting if one.answer is not None]
        if answers:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing waits any more
                self._loop.call_soon_threadsafe(_settle, answers, error)

    def _have_a_journal(self) -> None:
        """Take one, or another one in the place of one that was removed under us."""
        if self._journal is not None and self._journal.is_in_place():
            if self._is_full and self._journal.is_roomy():
                self.note_well_again()
            return
        try:
            journal = self._free_journal() or Journal.made(
                self._options.directory, self._options.size, self._options.box
            )
        except OSError as error:
            if self._journal is None:
                self.note_trouble(
                    f"no journal can be made in {self._options.directory}: {error.strerror or error}"
                )
            return
        self._journal = journal
        self._loaders = [
            *self._loaders,
            (journal, Loader(self._database, journal, self._note_lost, self._journals, self._unheard)),
        ]
        self.note_well_again()

    def _journals(self) -> list[Journal]:
        return [journal for journal, _ in self._loaders]

    def _free_journal(self) -> Journal | None:
        """One that a relay which is gone has left, of the size that we want: on a full disk it is the only
        one to be had."""
        self._options.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_unfinished(self._options.directory)
        for path in journals(self._options.directory):
            try:
                journal = Journal.opened(path, self._options.box)
            except (InUse, NotAJournal, OSError):
                continue
            if journal.size == self._options.size and not journal.is_damaged:
                return journal
            if not journal.is_damaged and not journal.number_of_entries:
                journal.remove()  # empty, of a size that is not wanted any more
            else:
                journal.close()
        return None

    # -- the loader's thread

    def _load_on(self) -> None:
        looked_at = shown_at = float("-inf")
        ends_at = None
        while True:
            self._has_news.wait(_SECONDS_BETWEEN_LOADS)
            self._has_news.clear()
            if self._is_stopping.is_set():
                ends_at = ends_at or time.monotonic() + _SECONDS_TO_LOAD_AT_THE_END
            else:
                self._is_stopping.wait(_SECONDS_TO_GATHER_TO_LOAD)
            try:
                # The relay may have started while the database was away; then this is the first time that it
                # answers.
                self._database.migrate()
                self._load(ends_at)
                self._loading_trouble = None
                if ends_at is None and time.monotonic() - shown_at > _SECONDS_BETWEEN_LOADS:
                    shown_at = time.monotonic()
                    for _, loader in self._loaders:
                        loader.show_slow()
                if ends_at is None and time.monotonic() - looked_at > _SECONDS_BETWEEN_LOOKS:
                    self._orphans.load()
                    looked_at = time.monotonic()
            except (DatabaseUnavailable, ConfigurationError) as error:
                logs.database_unavailable(str(error))
                self._is_stopping.wait(_SECONDS_BETWEEN_LOADS)
            except Exception as error:  # noqa: BLE001  an odd entry must not end the loading
                logs.failed_unexpectedly("loading the journal")
                self._loading_trouble = f"{type(error).__name__}, see the relay's log"
                self._is_stopping.wait(_SECONDS_BETWEEN_LOADS)
            if ends_at is not None and (not self.waiting_bytes() or time.monotonic() > ends_at):
                self._let_go()
                return

    def _load(self, ends_at: float | None) -> None:
        for journal, loader in list(self._loaders):
            for row in [row for row in list(self._direct) if journal.is_held(row.id)]:
                loader.load_directly(row)
                self._direct.remove(row)
            while (loaded := loader.load()) and (ends_at is None or time.monotonic() < ends_at):
                self._count(RowsLoaded(loaded))
            if loader.is_done and journal is not self._journal and not journal.names_held():
                self._loaders = [pair for pair in self._loaders if pair[0] is not journal]
                journal.close()

    def _let_go(self) -> None:
        if self._writer.is_alive():  # held up by its disk: what it still writes goes to this file
            return
        for journal, loader in self._loaders:
            try:
                if loader.is_done and journal.is_in_place() and not journal.names_held():
                    finish(journal)
                else:
                    journal.close()
            except OSError as error:
                logs.journal_unreadable(str(error))


def _to_append(entry: Entry) -> Append:
    data = to_bytes(entry)
    if isinstance(entry, Begun):
        return Append(data, hold=entry.row.id, reserve=len(data) - len(entry.row.text or b"") + _AN_END)
    if isinstance(entry, Ended):
        return Append(data, ends=entry.row.id)
    return Append(data, is_optional=isinstance(entry, FileChunk))


def _settle(answers: Sequence[Written], error: Exception | None) -> None:
    for answer in answers:
        if error is None:
            answer.give(None)
        else:
            answer.fail(error)

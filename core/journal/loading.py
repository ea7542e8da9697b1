"""From the journals into the database: the one way by which a mail's row gets there.

A relay loads its own journal all the time; a journal whose relay is gone is loaded by whichever process of
the machine finds it first. Each batch is one transaction together with the number of its last entry, so what
is read twice, after a crash or by another process, is not written twice, counts included. A mail that was
begun by a relay that is gone, and never ended, becomes `unknown`: its dot may have been sent."""

import base64
import contextlib
import fcntl
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import IO

from core import logs
from core.batches import batches
from core.config import Config
from core.database.dialect import there
from core.database.engine import Database, DatabaseUnavailable, Session
from core.database.installation import loaded_up_to
from core.database.models import JournalRow
from core.journal.entries import (
    Begun,
    Ended,
    Entry,
    LimitRefused,
    LostReply,
    PasswordUsed,
    ReplyHeard,
    UnknownSender,
    Void,
    from_bytes,
    is_begun,
    row_from_plain,
    to_digest,
)
from core.journal.file import InUse, Journal, JournalRecord, NotAJournal, journals
from core.mail import bulk_insert
from core.mail import limits as mail_limits
from core.mail import store as mail_store
from core.mail import texts as mail_texts
from core.mail.kept import FileChunk
from core.mail.row import KEEPS_TEXT, Row, State
from core.people.store import app_passwords_used
from core.secrets import Box, Undecryptable

_MOST_ENTRIES = 1_500
"""Of one transaction: their values are fewer than the 32,766 that SQLite takes in one statement."""
_MOST_TRIES = 3
_MOST_TEXT = 4 * 1024 * 1024
"""Bytes of texts in one batch, so that large mails need no more memory than small ones."""

OnLost = Callable[[str, str], None]
"""Told of a row that no database will take: the mail's id, and why."""


class Loader:
    """Brings one journal into the database. Used by one thread."""

    def __init__(
        self,
        database: Database,
        journal: Journal,
        on_lost: OnLost,
        in_hand: Callable[[], Sequence[Journal]] | None = None,
        unheard: dict[str, bytes] | None = None,
    ) -> None:
        """`in_hand`: all journals of this process, where that has more than this one: a mail's beginning may
        stand in the one that was in use before. `unheard`: what their loaders share: the fingerprints of
        mails whose clients have gone, by the mails' ids, until they are shown."""
        self._database = database
        self._journal = journal
        self._on_lost = on_lost
        self._in_hand = in_hand or (lambda: [journal])
        self._lineage: str | None = None
        """Of the database when the journal was looked through: after a restore that is done anew."""
        self._found_up_to = journal.last
        """What was in the journal when we got it was written by a process that is gone."""
        self._abandoned: list[str] = []
        self._under_way: set[str] = set()
        self._shown: set[str] = set()
        self._unheard = {} if unheard is None else unheard
        self._is_prepared = False

    @property
    def is_done(self) -> bool:
        """Whether the database has all that the journal holds."""
        is_prepared = self._is_prepared and self._lineage == self._database.installation.lineage
        return is_prepared and not self._abandoned and not self._journal.has_more

    def load(self) -> int:
        """One batch; how many entries it had, those of mails that have only begun too. Raises
        DatabaseUnavailable."""
        if not self._is_prepared or self._lineage != self._database.installation.lineage:
            self._prepare()
        if self._abandoned:
            return self._load_abandoned()
        # Texts are counted: a batch of large mails is cut where it would take too much memory.
        entries, numbers, last, room, read = [], [], self._journal.loaded, _MOST_TEXT, 0
        for record in self._journal.after(self._journal.loaded, _MOST_ENTRIES):
            read += 1
            entry = self._entry(record)
            if entry is not None:
                entries.append(entry)
                numbers.append(record.number)
                room -= _size(entry)
            last = record.number
            if room <= 0:
                break
        if last == self._journal.loaded:
            return 0
        # the database must never be ahead of the journal: a power cut could take what it has seen
        self._journal.sync()
        try:
            self.write(entries, last)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  one entry that no database takes does not hold up the others
            self._write_one_by_one(entries, numbers, last)
        self._unheard |= {
            entry.mail_id: entry.fingerprint for entry in entries if isinstance(entry, LostReply)
        }
        self._journal.done(last, ())
        self._release(_names_of(entries))
        return read

    def show_slow(self) -> None:
        """Mails that are still under way at the second look in a row get their row now, as `pending`: an
        upstream may take minutes for its verdict, and the activity page shows them meanwhile. One whose
        client has gone gets it at once, with its fingerprint, so that relays of other machines know it.
        Raises DatabaseUnavailable."""
        held = set(self._journal.names_held()) - set(self._abandoned)
        slow = (held & (self._under_way | self._unheard.keys())) - self._shown
        self._under_way, self._shown = held, self._shown & held
        for name in slow:
            data = self._journal.held(name)
            entry = None if data is None else from_bytes(data)
            if isinstance(entry, Begun):
                row = replace(entry.row, text=None, fingerprint=self._unheard.get(name))
                self._write_one_by_one([Ended(row)], [0], None)
            self._shown.add(name)
            self._unheard.pop(name, None)
        everywhere = {name for journal in self._in_hand() for name in journal.names_held()}
        for name in self._unheard.keys() - everywhere:
            del self._unheard[name]

    def load_directly(self, row: Row) -> None:
        """The end of a mail that could not be written to the journal, though its beginning stands there.
        Raises DatabaseUnavailable."""
        self._write_one_by_one([Ended(self._with_text(row))], [0], None)
        self._release([row.id])

    def load_all(self) -> None:
        """Raises DatabaseUnavailable."""
        in_vain = 0
        while not self.is_done:
            # A journal with a bad sector must not be read again and again for ever.
            in_vain = 0 if self.load() else in_vain + 1
            if in_vain == _MOST_TRIES:
                self._journal.is_damaged = True  # what is left cannot be read back, and is kept with the file
                return

    def _prepare(self) -> None:
        """Find out how far the database is, and which mails were begun by a process that is gone and never
        ended."""
        lineage = self._database.installation.lineage
        with self._database.reading() as session:
            loaded = loaded_up_to(session, self._journal.id)
        begun: dict[str, int] = {}
        ended: set[str] = set()
        is_over: set[str] = set()
        """Ended, and the end is in the database. Its beginning may stand behind that, where it was carried
        over."""
        for record in self._journal.after(0):
            if record.number > self._found_up_to:
                break
            try:
                entry = from_bytes(record.data)
            except ValueError:
                continue  # said when it is its turn
            if isinstance(entry, Begun):
                begun[entry.row.id] = record.number
            elif isinstance(entry, Ended | Void):
                name = entry.row.id if isinstance(entry, Ended) else entry.mail_id
                ended.add(name)
                if record.number <= loaded:
                    is_over.add(name)
        for name in begun.keys() - is_over:
            self._journal.hold(name, begun[name])
        self._journal.restart_from(loaded)
        self._abandoned = [name for name in begun if name not in ended]
        self._is_prepared, self._lineage = True, lineage

    def _load_abandoned(self) -> int:
        some = self._abandoned[:_MOST_ENTRIES]
        entries: list[Entry] = []
        room = _MOST_TEXT
        for name in some:
            data = self._journal.held(name)
            entry = None if data is None else from_bytes(data)
            if isinstance(entry, Begun):
                entries.append(Ended(replace(entry.row, state=State.UNKNOWN)))
                room -= len(entry.row.text or b"")
            if room <= 0:
                some = some[: len(entries)]
                break
        try:
            self.write(entries, None)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  as above
            self._write_one_by_one(entries, [0] * len(entries), None)
        self._journal.done(0, some)
        self._abandoned = self._abandoned[len(some) :]
        return len(entries)

    def _entry(self, record: JournalRecord) -> Entry | None:
        """None for what makes no row by itself."""
        if is_begun(record.data):
            return None
        try:
            entry = from_bytes(record.data)
        except ValueError as error:
            logs.journal_entry_unreadable(self._journal.path.name, str(error))
            return None
        if isinstance(entry, Ended) and entry.row.text is None:
            return Ended(self._with_text(entry.row))
        return entry

    def _with_text(self, row: Row) -> Row:
        """With the text that stands in the mail's `Begun`."""
        if not (row.decision.may_log and row.state in KEEPS_TEXT):
            return row
        for journal in self._in_hand():
            data = journal.held(row.id)
            begun = None if data is None else from_bytes(data)
            if isinstance(begun, Begun):
                return replace(row, text=begun.row.text)
        return row

    def _release(self, names: Sequence[str]) -> None:
        for journal in self._in_hand():
            journal.done(0, names)

    def write(self, entries: Sequence[Entry], last: int | None) -> None:
        with self._database.writing() as session:
            # In the same transaction as the rows: counts are exact, however often an entry is read.
            if last is not None and not _note_loaded(session, self._journal.id, last):
                return  # it was committed before, and only the answer was lost
            _apply(session, entries)

    def _write_one_by_one(self, entries: Sequence[Entry], numbers: Sequence[int], last: int | None) -> None:
        for entry, number in zip(entries, numbers, strict=True):
            try:
                self.write([entry], number or None)
            except DatabaseUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  told with its trace, counted, and given up
                logs.failed_unexpectedly("bringing an entry of the journal into the database")
                if isinstance(entry, Ended):
                    self._on_lost(entry.row.id, f"the database refuses it: {type(error).__name__}")
        if last is not None:
            self.write([], last)


class Orphans:
    """Journals that relays have left behind in a state directory, those of the first release included."""

    def __init__(self, database: Database, directory: Path, box: Box, on_lost: OnLost) -> None:
        self._database = database
        self._directory = directory
        self._box = box
        self._on_lost = on_lost
        self._empty: dict[Path, int] = {}
        self._told: set[Path] = set()
        self.unreadable: tuple[str, ...] = ()
        """A sentence for each journal that cannot be opened."""

    def load(self) -> None:
        """Load them all. Raises DatabaseUnavailable."""
        unreadable: list[str] = []
        for path in journals(self._directory):
            try:
                self._load_one(path)
            except (InUse, FileNotFoundError):
                continue
            except (NotAJournal, OSError) as error:
                unreadable.append(str(error))
                if path not in self._told:
                    self._told.add(path)
                    logs.journal_unreadable(str(error))
        self.unreadable = tuple(unreadable)
        _load_first_release(self._database, self._directory, self._box)

    def _load_one(self, path: Path) -> None:
        if self._empty.get(path) == path.stat().st_mtime_ns:
            return  # nothing was written to it since we found it empty
        journal = Journal.opened(path, self._box)
        try:
            loader = Loader(self._database, journal, self._on_lost)
            loader.load_all()
        except BaseException:
            journal.close()
            raise
        finish(journal)
        with contextlib.suppress(FileNotFoundError):
            self._empty[path] = path.stat().st_mtime_ns


def load_left_behind(database: Database, config: Config) -> None:
    """For web process and commands, which show what happened: load the journals of relays that are gone, if
    the state directory is this installation's. Raises DatabaseUnavailable."""
    if config.secret_keys and database.installation.is_state_ours():
        Orphans(database, config.state_dir, Box(config.secret_keys), logs.row_lost).load()


def finish(journal: Journal) -> None:
    """Let go of a journal that is loaded: found empty by the relay that takes it next, or put aside where it
    was damaged."""
    if journal.is_torn:
        logs.journal_torn(journal.path.name)
    if journal.is_damaged:
        logs.journal_damaged(journal.put_aside().name)
        return
    if journal.number_of_entries:
        journal.clear()
    journal.close()


def _size(entry: Entry) -> int:
    """Bytes of what makes an entry large."""
    if isinstance(entry, FileChunk):
        return len(entry.data)
    return len(entry.row.text or b"") if isinstance(entry, Ended) else 0


def _names_of(entries: Iterable[Entry]) -> list[str]:
    """The mails that need not be held any more."""
    return [
        entry.row.id if isinstance(entry, Ended) else entry.mail_id
        for entry in entries
        if isinstance(entry, Ended | Void)
    ]


def _apply(session: Session, entries: Sequence[Entry]) -> None:
    """Everything that these entries say, in the transaction of this session."""
    mail_texts.keep_files(session, [entry for entry in entries if isinstance(entry, FileChunk)])
    bulk_insert.write(session, [entry.row for entry in entries if isinstance(entry, Ended)])
    mail_store.count_unknown(session, [entry for entry in entries if isinstance(entry, UnknownSender)])
    app_passwords_used(
        session, {entry.app_password_id: entry.time for entry in entries if isinstance(entry, PasswordUsed)}
    )
    mail_limits.count(session, [entry for entry in entries if isinstance(entry, LimitRefused)])
    for entry in entries:
        if isinstance(entry, LostReply):
            mail_store.note_lost_reply(session, entry.mail_id, entry.fingerprint)
        elif isinstance(entry, ReplyHeard):
            mail_store.reply_delivered(session, entry.mail_id)
        elif isinstance(entry, Void):
            mail_store.remove_pending(session, entry.mail_id)
            mail_texts.erase(session, [entry.mail_id])


def _note_loaded(session: Session, journal_id: str, number: int) -> bool:
    """False where the database has everything up to this number already."""
    row = there(session, JournalRow, {"id": journal_id}, {"loaded": 0})
    if row.loaded >= number:
        return False
    row.loaded = number
    return True


# -- what relays of the first release have left: files of encrypted lines, locked while their relay lives


def _load_first_release(database: Database, directory: Path, box: Box) -> None:
    """Raises DatabaseUnavailable."""
    for path in sorted(directory.glob("journal-*.log")):
        try:
            file = path.open("rb+")
        except FileNotFoundError:
            continue
        with file:
            if _is_abandoned(file):
                _load_lines(database, path, file, box)


def _is_abandoned(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _load_lines(database: Database, path: Path, file: IO[bytes], box: Box) -> None:
    """Counts may be counted twice by a crash right here, as these files know no numbers; rows are not."""
    entries: list[Entry] = []
    unread = 0
    for line in file:
        try:
            entries.append(_entry_of_the_first_release(box.opened(line)))
        except (Undecryptable, ValueError, KeyError, TypeError):
            unread += 1
    for some in batches(entries, _MOST_ENTRIES):
        try:
            with database.writing() as session:
                _apply(session, some)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  told with its trace; the others go on
            for entry in some:
                _apply_alone(database, entry)
    logs.journal_loaded(len(entries))
    if unread:
        logs.journal_unreadable(f"{path.name} has {unread} lines that cannot be read; it is kept aside")
        path.rename(path.with_suffix(".unreadable"))
    else:
        path.unlink(missing_ok=True)


def _apply_alone(database: Database, entry: Entry) -> None:
    try:
        with database.writing() as session:
            _apply(session, [entry])
    except DatabaseUnavailable:
        raise
    except Exception:  # noqa: BLE001  told with its trace, and given up
        logs.failed_unexpectedly("bringing an entry of an old journal into the database")


def _entry_of_the_first_release(line: bytes) -> Entry:
    plain = json.loads(line)
    kind = plain.pop("kind")
    if kind == "LostReply":
        return LostReply(plain["mail_id"], base64.b64decode(plain["fingerprint"]))
    if kind == "UnknownSender":
        return UnknownSender(plain["key"], plain["address"], datetime.fromisoformat(plain["time"]))
    return Ended(row_from_plain(plain, to_digest(plain.get("text"))))

"""Writes the logbook: rows in group commits, off the event loop, within bounds that no mail waits longer than.

What the database does not take in time goes to the journal, and the mail goes on."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core import logs
from core.mail import Row
from core.storage import logbook as storage
from core.storage import rows
from core.storage.database import Database, DatabaseUnavailable, Session
from core.storage.logbook import UnknownSender
from core.storage.people import app_passwords_used
from relay.batches import Batches, TooMany
from relay.journal import Entry, Journal, JournalFull, LostReply
from relay.meters import CommitSeen

SECONDS_FOR_THE_DATABASE = 0.25
SECONDS_FOR_THE_JOURNAL = 0.25
LOST_REPLIES_COUNT_FOR = timedelta(minutes=15)
_SECONDS_AFTER_A_FAILURE = 1.0
_SECONDS_TO_STOP = 5.0


@dataclass(frozen=True, slots=True)
class Used:
    """An app password was used."""

    app_password_id: int
    time: datetime


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Write this row, unless a mail of this fingerprint was accepted without the client hearing it."""

    row: Row
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class ReplyDelivered:
    """The client has heard the repeated 250."""

    mail_id: str


Errand = Entry | Used | Unanswered | ReplyDelivered


@dataclass(frozen=True, slots=True)
class EarlierAnswer:
    """A mail that was accepted before, and what the upstream said to it."""

    mail_id: str
    reply: str


FutureAnswer = asyncio.Future[EarlierAnswer | None]


@dataclass(slots=True)
class HandedOver:
    """A row on its way to the database; whether it has come there is known when it was waited for."""

    row: Row
    answer: FutureAnswer | None
    is_in_database: bool = False


def _count_nothing(seen: CommitSeen) -> None:
    """For a logbook that nobody measures."""


class Logbook:
    """The logbook as the relay writes it."""

    def __init__(
        self, database: Database, journal: Journal, count: Callable[[CommitSeen], None] = _count_nothing
    ) -> None:
        self._database = database
        self._count = count
        self._journal = journal
        self._in_database: Batches[Errand, EarlierAnswer | None] = Batches(
            "logbook", self._apply, self._feed_back
        )
        self._in_journal: Batches[Entry, None] = Batches("journal", journal.append)
        self._failed_at = float("-inf")
        self._errands: set[asyncio.Task[object]] = set()

    async def write(self, entry: Entry) -> None:
        """The entry is on disk, in the database or the journal, when this returns; or that is alarming and logged."""
        await self._within_bounds(entry, entry)

    async def write_unless_answered(self, row: Row, fingerprint: bytes) -> EarlierAnswer | None:
        """The same for a row, unless this very mail was accepted before and the client has not heard it."""
        return await self.written_unless_answered(self.hand_over(row, fingerprint))

    def hand_over(self, row: Row, fingerprint: bytes) -> HandedOver:
        """Begin with that, while something else is done."""
        return HandedOver(row, self._hand_over(Unanswered(row, fingerprint)))

    async def written_unless_answered(self, handed_over: HandedOver) -> EarlierAnswer | None:
        """Wait for the end of what was begun."""
        earlier = await self._answer(handed_over.answer, handed_over.row)
        answer = handed_over.answer
        handed_over.is_in_database = answer is not None and answer.done() and answer.exception() is None
        return earlier

    def note(self, entry: Entry) -> None:
        """The same, with nobody waiting."""
        self._run(self._within_bounds(entry, entry))

    def note_if_possible(self, errand: Used | ReplyDelivered) -> None:
        """What may be forgotten if the database is away."""
        self._run(self._within_bounds(errand, None))

    async def stop(self) -> None:
        """Write what waits, then let go."""
        if self._errands:
            await asyncio.wait(self._errands, timeout=_SECONDS_TO_STOP)
        await self._in_database.stop(_SECONDS_TO_STOP)
        await self._in_journal.stop(_SECONDS_TO_STOP)
        self._journal.close()

    async def _within_bounds(self, errand: Errand, in_journal: Entry | None) -> EarlierAnswer | None:
        return await self._answer(self._hand_over(errand), in_journal)

    def _hand_over(self, errand: Errand) -> FutureAnswer | None:
        """To the database; None where that would be in vain."""
        if self._is_stalled():
            return None
        try:
            return self._in_database.submit(errand, SECONDS_FOR_THE_DATABASE)
        except TooMany:
            return None

    async def _answer(self, answer: FutureAnswer | None, in_journal: Entry | None) -> EarlierAnswer | None:
        """The database's; what it does not take in time goes to the journal."""
        if answer is not None:
            try:
                return await answer
            except TimeoutError:
                pass
            except DatabaseUnavailable as error:
                self._failed_at = time.monotonic()
                logs.database_unavailable(str(error))
            except Exception:  # noqa: BLE001  whatever the database says to a row, the mail goes on
                logs.failed_unexpectedly("the logbook")
        if in_journal is not None:
            await self._to_journal(in_journal)
        return None

    def _run(self, errand: Coroutine[None, None, object]) -> None:
        task = asyncio.ensure_future(errand)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)

    async def _to_journal(self, entry: Entry) -> None:
        try:
            await self._in_journal.submit(entry, SECONDS_FOR_THE_JOURNAL)
        except (TimeoutError, JournalFull, TooMany):
            logs.journal_full()
        except Exception:  # noqa: BLE001  nor may anything else stop it
            logs.failed_unexpectedly("the journal")

    def _is_stalled(self) -> bool:
        """Whether waiting for the database would be in vain: it hangs, or has just failed."""
        just_failed = time.monotonic() - self._failed_at < _SECONDS_AFTER_A_FAILURE
        return just_failed or self._in_database.busy_seconds() > SECONDS_FOR_THE_DATABASE

    def _apply(self, errands: Sequence[Errand]) -> Sequence[EarlierAnswer | None]:
        """One transaction for all rows, then one for what is rare; runs on the logbook's thread.

        Rows can be written again, and a lost reply is noted in its row; counts, which cannot, come last."""
        rare = [errand for errand in errands if not isinstance(errand, Row | Unanswered)]
        answers = self._write_rows(errands) if len(rare) < len(errands) else [None] * len(errands)
        if rare:
            with self._database.writing() as session:
                _apply_rare(session, rare)
        return answers

    def _write_rows(self, errands: Sequence[Errand]) -> Sequence[EarlierAnswer | None]:
        began = time.monotonic()
        asks = any(isinstance(errand, Unanswered) for errand in errands)
        with rows.writing(self._database) as book:
            known = book.lost_replies(datetime.now(UTC) - LOST_REPLIES_COUNT_FOR) if asks else {}
            book.write([row for errand in errands if (row := _row_to_write(errand, known)) is not None])
        self._count(CommitSeen(len(errands), time.monotonic() - began))
        return [
            EarlierAnswer(*known[errand.fingerprint])
            if isinstance(errand, Unanswered) and errand.fingerprint in known
            else None
            for errand in errands
        ]

    def _feed_back(self) -> None:
        """Runs on the logbook's thread, between batches."""
        try:
            self._journal.feed(self._take_back)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
        except Exception:  # noqa: BLE001  a journal that cannot be fed must not stop the logbook
            logs.failed_unexpectedly("feeding the journal back")

    def _take_back(self, entries: Sequence[Entry]) -> None:
        """One entry that the database will never take does not hold up the others."""
        try:
            self._apply(entries)
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  which one it was is found out one by one
            for entry in entries:
                self._take_back_alone(entry)

    def _take_back_alone(self, entry: Entry) -> None:
        try:
            self._apply([entry])
        except DatabaseUnavailable:
            raise
        except Exception:  # noqa: BLE001  told, with its trace, and given up
            logs.failed_unexpectedly("taking an entry of the journal back")


def _apply_rare(session: Session, errands: Sequence[Errand]) -> None:
    storage.count_unknown(session, [errand for errand in errands if isinstance(errand, UnknownSender)])
    app_passwords_used(
        session, {errand.app_password_id: errand.time for errand in errands if isinstance(errand, Used)}
    )
    for errand in errands:
        if isinstance(errand, LostReply):
            storage.note_lost_reply(session, errand.mail_id, errand.fingerprint)
        elif isinstance(errand, ReplyDelivered):
            storage.reply_delivered(session, errand.mail_id)


def _row_to_write(errand: Errand, answered: Mapping[bytes, object]) -> Row | None:
    if isinstance(errand, Unanswered):
        return None if errand.fingerprint in answered else errand.row
    return errand if isinstance(errand, Row) else None

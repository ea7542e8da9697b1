"""How the mails of a batch come out, for now: noted one by one, settled in the database all at once."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core.database.engine import Database
from core.mail import queue as mail_queue
from core.mail import storage_use
from core.mail.queue import End
from core.mail.row import State
from core.mail.storage_use import StorageUse
from core.retry import seconds_until_next
from core.salesforce.troubles import Trouble
from sync.mail.waiting import WaitingMail


class Outcomes:
    """The mails of one batch that have no outcome yet, and the outcomes of the others."""

    def __init__(
        self,
        database: Database,
        mails: Iterable[WaitingMail],
        count: Callable[[State], None] = lambda _: None,
    ) -> None:
        """`count` is told of each mail that was settled, in which state."""
        self._database = database
        self._count = count
        self._open = {mail.id: mail for mail in mails}
        self._ends: list[End] = []
        self.written = StorageUse()

    @property
    def open(self) -> list[WaitingMail]:
        """Those without an outcome."""
        return list(self._open.values())

    def is_open(self, mail: WaitingMail) -> bool:
        return mail.id in self._open

    def end_of(self, mail: WaitingMail) -> End | None:
        """How this one came out; None: it has no outcome."""
        return next((end for end in self._ends if end.job.row.id == mail.id), None)

    def set_aside(self, mail: WaitingMail) -> None:
        """It has no outcome of its own for now. One that is not taken back before the batch ends is claimed
        anew in the next round."""
        self._open.pop(mail.id, None)

    def take_back(self, mail: WaitingMail) -> None:
        self._open[mail.id] = mail

    def drop(self, mail: WaitingMail) -> None:
        """Another worker has this one by now; nothing is settled."""
        self._open.pop(mail.id, None)

    def end(
        self,
        mail: WaitingMail,
        state: State,
        trouble: Trouble | None = None,
        *,
        due_at: datetime | None = None,
    ) -> None:
        """In this state; `due_at`: when it is looked at again."""
        if state is State.FAILED and trouble is not None:
            mail.note_try(trouble)
        mail.log = replace(
            mail.log,
            trouble_code=None if trouble is None else trouble.code,
            trouble_detail="" if trouble is None else trouble.detail,
            not_before=mail.log.not_before if mail.log.is_uncertain else None,
        )
        was_receipt_looked_for = not (mail.is_copy and trouble is not None)
        attempts = mail.job.attempts + (1 if was_receipt_looked_for else 0)
        self._ends.append(End(mail.job, state, mail.log, due_at, attempts, mail.same_as))
        self._open.pop(mail.id, None)

    def wait(self, mail: WaitingMail, due_at: datetime, trouble: Trouble | None = None) -> None:
        """Keep the state; due again at `due_at`."""
        self.end(mail, _kept_state(mail), trouble, due_at=due_at)

    def stand_back(self, mail: WaitingMail, due_at: datetime) -> None:
        """Somebody else comes first: it is as it was, due again at `due_at`, and this was no try."""
        self._ends.append(End(mail.job, mail.job.row.state, mail.log, due_at, mail.job.attempts))
        self._open.pop(mail.id, None)

    def try_again_now(self, mail: WaitingMail) -> None:
        """Something was learnt with which the next try can succeed."""
        self.wait(mail, mail.job.row.time)

    def try_again_later(self, mail: WaitingMail, trouble: Trouble) -> None:
        """With exponential back-off."""
        mail.note_try(trouble)
        self.wait(mail, datetime.now(UTC) + pause(mail), trouble)

    def release(self) -> None:
        """Release what has no outcome, with what is known of it; it is due as before."""
        for mail in self.open:
            row = mail.job.row
            self._ends.append(End(mail.job, _kept_state(mail), mail.log, row.due_at, mail.job.attempts))
        self._open.clear()

    def keep(self) -> None:
        """Store what is known of those without an outcome; they stay claimed. Raises DatabaseUnavailable."""
        with self._database.writing() as session:
            mail_queue.intend(session, [(mail.job, mail.log) for mail in self.open])

    def settle(self) -> None:
        """Write down all outcomes at once. Raises DatabaseUnavailable."""
        if self._ends:
            with self._database.writing() as session:
                mail_queue.settle(session, self._ends)
                storage_use.add(session, self.written, datetime.now(UTC))
            self.written = StorageUse()
        for end in self._ends:
            self._count(end.state)
        self._ends.clear()


def _kept_state(mail: WaitingMail) -> State:
    """One that was unmatched and has records to be written by now is waiting: nothing may end its wait any
    more."""
    is_matched = mail.job.row.state is State.UNMATCHED and bool(mail.log.missing)
    return State.WAITING if is_matched else mail.job.row.state


def pause(mail: WaitingMail) -> timedelta:
    """How long this mail waits for its next try."""
    return timedelta(seconds=seconds_until_next(mail.job.attempts + 1, random.random()))  # noqa: S311  jitter

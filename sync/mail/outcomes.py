"""How the mails of a batch end, for now: noted as they come, written down all at once."""

import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core.database.engine import Database
from core.mail import queue as mail_queue
from core.mail.queue import End
from core.mail.row import State
from core.retry import seconds_until_next
from core.salesforce.troubles import Trouble
from sync.mail.waiting import Mail

_MOST_TRIES_TOLD = 10


class Ends:
    """The mails of one batch: those that have not come to an end yet, and how the others did."""

    def __init__(
        self, database: Database, mails: Iterable[Mail], count: Callable[[State], None] = lambda _: None
    ) -> None:
        """`count` is told of each mail that was settled, in which state."""
        self.is_all_done = True
        """Whether nothing will be tried again."""
        self._database = database
        self._count = count
        self._waiting = {mail.job.row.id: mail for mail in mails}
        self._ended: list[End] = []

    @property
    def open(self) -> list[Mail]:
        """Those that have not come to an end."""
        return list(self._waiting.values())

    def is_open(self, mail: Mail) -> bool:
        return mail.job.row.id in self._waiting

    def leave(self, mail: Mail) -> None:
        """Somebody else has this one by now."""
        self._waiting.pop(mail.job.row.id, None)

    def end(
        self, mail: Mail, state: State, trouble: Trouble | None = None, *, due_at: datetime | None = None
    ) -> None:
        """In this state; `due_at`: when it is looked at again."""
        if state is State.FAILED and trouble is not None:
            _note_try(mail, trouble)
        mail.log = replace(
            mail.log, trouble_code=None if trouble is None else trouble.code,
            trouble_detail="" if trouble is None else trouble.detail,
            not_before=mail.log.not_before if mail.log.uncertain else None,
        )  # fmt: skip
        is_no_look = mail.is_copy and trouble is not None
        attempts = mail.job.attempts + (0 if is_no_look else 1)
        self._ended.append(End(mail.job, state, mail.log, due_at, attempts))
        self._waiting.pop(mail.job.row.id, None)

    def wait(self, mail: Mail, due_at: datetime, trouble: Trouble | None = None) -> None:
        """In the state that it is in."""
        self.end(mail, mail.job.row.state, trouble, due_at=due_at)
        self.is_all_done = False

    def go_on_at_once(self, mail: Mail) -> None:
        """Something was learnt with which the next try can succeed."""
        self.wait(mail, mail.job.row.time)

    def later(self, mail: Mail, trouble: Trouble) -> None:
        """It is tried again, ever more seldom."""
        _note_try(mail, trouble)
        self.wait(mail, now() + pause(mail), trouble)

    def release(self) -> None:
        """Let go of what was not done, with what is known of it; it is due as before."""
        for mail in self.open:
            row = mail.job.row
            self._ended.append(End(mail.job, row.state, mail.log, row.due_at, mail.job.attempts))
        self._waiting.clear()
        self.is_all_done = False

    def settle(self) -> None:
        """Write down what has come to an end, all at once. Raises DatabaseUnavailable."""
        if self._ended:
            with self._database.writing() as session:
                mail_queue.settle(session, self._ended)
        for end in self._ended:
            self._count(end.state)
        self._ended.clear()


def pause(mail: Mail) -> timedelta:
    """How long this mail waits for its next try."""
    return timedelta(seconds=seconds_until_next(mail.job.attempts + 1, random.random()))  # noqa: S311  jitter


def now() -> datetime:
    return datetime.now(UTC)


def _note_try(mail: Mail, trouble: Trouble) -> None:
    tries = [*mail.log.trace.get("tries", ()), [now().isoformat(timespec="seconds"), trouble.code]]
    mail.note(tries=tries[-_MOST_TRIES_TOLD:])

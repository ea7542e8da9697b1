"""The mails that wait for the worker: claimed, given to several threads, and deleted when they were kept long
enough."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core import logs
from core.batches import batches
from core.database.engine import Database, DatabaseUnavailable
from core.database.installation import restored_at
from core.mail import queue as mail_queue
from core.mail.queue import End, Job
from core.mail.row import State
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.settings.in_force import one_in_force, policy_settings, rules
from sync.mail.batch import MailLogger
from sync.mail.waiting import Sender
from sync.session import people_ready_to_sync
from sync.threads import at_once

_MOST_CLAIMED = 1_000
_BATCH = 200
_MOST_UNFORESEEN = 5


class Mails:
    """The worker's mails."""

    def __init__(self, logger: MailLogger, database: Database, worker: str) -> None:
        self._logger = logger
        self._database = database
        self._worker = worker

    def log_due(self, stop: threading.Event) -> None:
        """All that is due now. Raises DatabaseUnavailable."""
        self._let_go()
        self._log_all(lambda: datetime.now(UTC), stop)

    def log_everything(self, stop: threading.Event) -> bool:
        """All that waits, whenever it is due; whether nothing waits any more. Raises DatabaseUnavailable."""
        self._let_go()
        with self._database.writing() as session:
            start = mail_queue.make_due(session)
        self._log_all(lambda: start, stop)
        with self._database.reading() as session:
            return not mail_queue.is_anything_waiting(session)

    def _let_go(self) -> None:
        """What this worker claimed in an earlier cycle and could not settle, because the database was away
        just then."""
        with self._database.writing() as session:
            mail_queue.let_go(session, self._worker)

    def _log_all(self, due_by: Callable[[], datetime], stop: threading.Event) -> None:
        while not stop.is_set() and (claimed := self._claim(due_by())):
            at_once(lambda one: self._log_mails_of(*one), claimed, stop)

    def _claim(self, due_by: datetime) -> list[tuple[Sender, list[Job]]]:
        """Mails that this worker takes on, by sender."""
        with self._database.writing() as session:
            people = people_ready_to_sync(session)
            if not people:
                return []
            claimed = mail_queue.claim(
                session, self._worker, most=_MOST_CLAIMED, only=list(people), due_by=due_by
            )
            if not claimed:
                return []
            policy, restored = settings_store.policy(session), restored_at(session)
            for_mail = settings_store.policy_for_mail(session)
            found = []
            for person_id, jobs in claimed.items():
                account, connection = people[person_id]
                preference = settings_store.preference(session, person_id)
                sender = Sender(
                    account,
                    connection,
                    rules(policy, preference),
                    for_mail,
                    mail_queue.ignored(session, person_id),
                    one_in_force(Setting.TIME_ZONE, policy, preference).value,
                    restored,
                )
                found.append((sender, jobs))
            return found

    def _log_mails_of(self, sender: Sender, jobs: list[Job]) -> None:
        """Never raises: a fault with one person's mails delays no other person's."""
        for batch in batches(jobs, _BATCH):
            self._log_batch(sender, batch)

    def _log_batch(self, sender: Sender, jobs: list[Job]) -> None:
        """A fault that was not foreseen is met again by one mail alone, so that it delays no other mail."""
        try:
            self._logger.log_mails(sender, jobs)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))  # what is claimed is let go of in the next cycle
        except Exception:  # noqa: BLE001  the edge of a batch
            logs.failed_unexpectedly("logging mails")
            self._log_one_by_one(sender, jobs)

    def _log_one_by_one(self, sender: Sender, jobs: list[Job]) -> None:
        """With what was noted of each before the fault; a single one is put off."""
        try:
            with self._database.writing() as session:
                left = mail_queue.as_they_are(session, jobs)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
            return
        for job in left:
            if len(jobs) == 1:
                self._put_off(job)
            else:
                self._log_batch(sender, [job])

    def _put_off(self, job: Job) -> None:
        """With exponential back-off, and for good after the last try."""
        pause = timedelta(seconds=60 * 2 ** min(job.attempts, _MOST_UNFORESEEN))
        try:
            with self._database.writing() as session:
                if job.attempts >= _MOST_UNFORESEEN:
                    log = replace(job.log, trouble_code="unforeseen", trouble_detail="")
                    mail_queue.settle(session, [End(job, State.FAILED, log)])
                else:
                    mail_queue.put_off(session, job, datetime.now(UTC) + pause)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))


def tidy(database: Database) -> None:
    """What was kept long enough is deleted. Raises DatabaseUnavailable."""
    with database.writing() as session:
        policy = policy_settings(settings_store.policy(session))
        mail_queue.tidy(session, timedelta(days=policy.retention_days), timedelta(days=policy.unmatched_days))

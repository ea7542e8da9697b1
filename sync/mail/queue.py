"""The mails that wait for the worker: claimed, given to several threads by sender, and taken apart where one
of them disturbs the others."""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core import logs
from core.database.engine import Database, DatabaseUnavailable, Session
from core.database.installation import restored_at
from core.mail import queue as mail_queue
from core.mail.queue import End, Job
from core.mail.requests import ignored
from core.mail.row import State
from core.salesforce import connection_store
from core.settings import store as settings_store
from core.settings.in_force import rules, time_zone
from sync.mail.batch import BatchRefused, MailLogger
from sync.mail.waiting import Sender
from sync.threads import at_once

_MOST_CLAIMED = 1_000
_MOST_PEOPLE = 50
_MOST_UNFORESEEN = 5


class Mails:
    """The worker's mails."""

    def __init__(self, logger: MailLogger, database: Database, worker: str) -> None:
        self._logger = logger
        self._database = database
        self._worker = worker

    def log_some(self, stop: threading.Event, due_by: datetime | None = None) -> bool:
        """Log some of the mails that are due now, or by that moment; whether there were any. Raises
        DatabaseUnavailable."""
        with self._database.reading() as session:
            # Everything is read before the claim's transaction begins: on SQLite that holds the only lock for
            # writing.
            ready = connection_store.ready(session)
            people = mail_queue.people_with_due_mail(
                session, self._worker, ready, most=_MOST_PEOPLE, due_by=due_by
            )
            jobs = mail_queue.due_jobs(session, self._worker, people, most=_MOST_CLAIMED, due_by=due_by)
        with self._database.writing() as session:
            # what an earlier round could not settle, as the database was away just then
            mail_queue.let_go(session, self._worker)
            claimed = mail_queue.claim(session, self._worker, jobs, due_by)
        at_once(lambda one: self._log_batch(*one), claimed.items(), stop)
        return bool(claimed)

    def log_everything(self, stop: threading.Event) -> bool:
        """Log all that waits, whenever it is due; whether nothing waits any more. Raises
        DatabaseUnavailable."""
        with self._database.writing() as session:
            due_by = mail_queue.make_due(session)
        while not stop.is_set() and self.log_some(stop, due_by):
            pass
        with self._database.reading() as session:
            return not mail_queue.is_anything_waiting(session)

    def _log_batch(self, person_id: int, jobs: list[Job]) -> None:
        """One person's mails. Never raises: a fault with one person's mails delays no other person's."""
        try:
            with self._database.reading() as session:
                sender = _sender(session, person_id)
            if sender is None:
                return  # the connection has just been ended; the mails are let go of in the next round
            try:
                self._logger.log_mails(sender, jobs)
            except BatchRefused:
                self._log_halves(person_id, jobs)
            except DatabaseUnavailable:
                raise
            except Exception:  # noqa: BLE001  the edge of a batch
                logs.failed_unexpectedly("logging mails")
                self._log_halves(person_id, jobs)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))  # what is claimed is let go of in the next round
        except Exception:  # noqa: BLE001  the edge of a person
            logs.failed_unexpectedly("logging one person's mails")

    def _log_halves(self, person_id: int, jobs: list[Job]) -> None:
        """Go on with what was noted of each mail, in smaller batches, so that a mail that cannot be logged
        delays no other. One that fails by itself is put off with exponential back-off, and has failed after
        the last try. Raises DatabaseUnavailable."""
        with self._database.writing() as session:
            left = mail_queue.as_they_are(session, jobs)
        if len(jobs) > 1:
            # By halves it takes eight calls to find one mail of 200, and not 200 calls.
            middle = (len(left) + 1) // 2
            for half in (left[:middle], left[middle:]):
                if half:
                    self._log_batch(person_id, half)
            return
        for job in left:
            with self._database.writing() as session:
                if job.attempts < _MOST_UNFORESEEN:
                    pause = timedelta(seconds=60 * 2**job.attempts)
                    mail_queue.put_off(session, job, datetime.now(UTC) + pause)
                    continue
                # a copy has gone out, whatever looking for its receipt met
                state = State.COPIED if job.row.state is State.COPIED else State.FAILED
                log = replace(job.log, trouble_code="unforeseen", trouble_detail="")
                mail_queue.settle(session, [End(job, state, log)])


def _sender(session: Session, person_id: int) -> Sender | None:
    """By which rules this person's mails are logged; None without a connection."""
    connection = connection_store.connection(session, person_id)
    if connection is None:
        return None
    policy, preference = settings_store.policy(session), settings_store.preference(session, person_id)
    return Sender(
        connection,
        rules(policy, preference),
        settings_store.policy_for_mail(session),
        ignored(session, person_id),
        time_zone(policy, preference, connection.identity.time_zone),
        restored_at(session),
    )

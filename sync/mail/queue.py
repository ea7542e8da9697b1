"""The mails that wait for the worker: claimed, given to several threads by sender, and let go of again."""

import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core import logs
from core.batches import batches
from core.database.engine import Database, DatabaseUnavailable, Session
from core.database.installation import restored_at
from core.mail import queue as mail_queue
from core.mail.queue import End, Job
from core.mail.requests import ignored
from core.mail.row import State
from core.salesforce import connection_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.settings.in_force import one_in_force, rules
from sync.mail.batch import MailLogger
from sync.mail.waiting import Sender
from sync.threads import at_once

_MOST_CLAIMED = 1_000
_MOST_PEOPLE = 50
"""At once: a claim holds the lock of SQLite for some 30 ms, and relays wait for it."""
_BATCH = 200
_MOST_UNFORESEEN = 5


class Mails:
    """The worker's mails."""

    def __init__(self, logger: MailLogger, database: Database, worker: str) -> None:
        self._logger = logger
        self._database = database
        self._worker = worker

    def log(self, stop: threading.Event, *, everything: bool) -> bool:
        """Log all that is due; with `everything` all that waits, whenever it is due. Whether nothing waits
        any more. Raises DatabaseUnavailable."""
        with self._database.writing() as session:
            # what was claimed in an earlier cycle and could not be settled, as the database was away just
            # then
            mail_queue.let_go(session, self._worker)
            due_by = mail_queue.make_due(session) if everything else None
        while not stop.is_set():
            with self._database.reading() as session:
                people = mail_queue.people_with_due_mail(
                    session, self._worker, connection_store.ready(session), most=_MOST_PEOPLE, due_by=due_by
                )
            if not people:
                break
            with self._database.writing() as session:
                claimed = mail_queue.claim(
                    session, self._worker, most=_MOST_CLAIMED, only=people, due_by=due_by
                )
            with self._database.reading() as session:
                senders = _senders(session, claimed)
            work = [
                (senders[person_id], batch)
                for person_id, jobs in claimed.items()
                if person_id in senders
                for batch in batches(jobs, _BATCH)
            ]
            at_once(lambda one: self._log_batch(*one), work, stop)
        with self._database.reading() as session:
            return not mail_queue.is_anything_waiting(session)

    def _log_batch(self, sender: Sender, jobs: list[Job]) -> None:
        """Never raises: a fault with one person's mails delays no other person's.

        An error that was not foreseen is met again with each mail by itself, so that it delays that mail
        alone."""
        try:
            self._logger.log_mails(sender, jobs)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))  # what is claimed is let go of in the next cycle
        except Exception:  # noqa: BLE001  the edge of a batch
            logs.failed_unexpectedly("logging mails")
            try:
                self._go_on_one_by_one(sender, jobs)
            except DatabaseUnavailable as error:
                logs.database_unavailable(str(error))

    def _go_on_one_by_one(self, sender: Sender, jobs: list[Job]) -> None:
        """Each mail by itself, with what was noted of it before the error. One that fails by itself is put
        off with exponential back-off, and has failed after the last try. Raises DatabaseUnavailable."""
        with self._database.writing() as session:
            left = mail_queue.as_they_are(session, jobs)
        if len(jobs) > 1:
            for job in left:
                self._log_batch(sender, [job])
            return
        for job in left:
            with self._database.writing() as session:
                if job.attempts >= _MOST_UNFORESEEN:
                    log = replace(job.log, trouble_code="unforeseen", trouble_detail="")
                    mail_queue.settle(session, [End(job, State.FAILED, log)])
                else:
                    pause = timedelta(seconds=60 * 2 ** min(job.attempts, _MOST_UNFORESEEN))
                    mail_queue.put_off(session, job, datetime.now(UTC) + pause)


def _senders(session: Session, people: Iterable[int]) -> dict[int, Sender]:
    """By which rules these people's mails are logged; without those whose connection has just been ended."""
    policy = settings_store.policy(session)
    for_mail, restored = settings_store.policy_for_mail(session), restored_at(session)
    senders = {}
    for person_id in people:
        connection = connection_store.connection(session, person_id)
        if connection is None:
            continue
        preference = settings_store.preference(session, person_id)
        senders[person_id] = Sender(
            connection,
            rules(policy, preference),
            for_mail,
            ignored(session, person_id),
            one_in_force(Setting.TIME_ZONE, policy, preference).value,
            restored,
        )
    return senders

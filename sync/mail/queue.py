"""The mails that wait for the worker: claimed, given to several hands, and what is kept long enough let go."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core import logs
from core.database.engine import Database, DatabaseUnavailable, Session
from core.database.installation import restored_at
from core.mail import queue as mail_queue
from core.mail.queue import End, Job
from core.mail.row import State
from core.people.store import Account
from core.salesforce.connection_store import Connection
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.settings.in_force import PolicySettings, one_in_force, policy_settings, rules
from sync.mail.batch import Person, Recorder
from sync.persons import persons_who_can_be_helped
from sync.threads import at_once

_AT_ONCE = 1_000
_OF_ONE_PERSON = 200
_MOST_UNFORESEEN = 5


class Mails:
    """The worker's mails."""

    def __init__(self, recorder: Recorder | None, database: Database, worker: str) -> None:
        self._recorder = recorder
        self._database = database
        self._worker = worker

    def log_due(self, stop: threading.Event) -> None:
        """All that is due now."""
        self._let_go()
        while not stop.is_set() and (found := self._claim(datetime.now(UTC))):
            at_once(lambda one: self._record(*one), found, stop)

    def log_everything(self, stop: threading.Event) -> bool:
        """All that waits, whenever it is due; whether nothing waits any more."""
        self._let_go()
        with self._database.writing() as session:
            start = mail_queue.make_due(session)
        while not stop.is_set() and (found := self._claim(start)):
            at_once(lambda one: self._record(*one), found, stop)
        with self._database.reading() as session:
            return not mail_queue.is_anything_waiting(session)

    def tidy(self) -> None:
        """What was kept long enough goes."""
        with self._database.writing() as session:
            policy = policy_settings(settings_store.policy(session))
            mail_queue.tidy(
                session, timedelta(days=policy.retention_days), timedelta(days=policy.unmatched_days)
            )

    def _let_go(self) -> None:
        """What this worker claimed in an earlier cycle and could not settle, because the database was away just then."""
        with self._database.writing() as session:
            mail_queue.let_go(session, self._worker)

    def _claim(self, due_by: datetime) -> list[tuple[Person, list[Job]]]:
        """What this worker takes on, by person."""
        with self._database.writing() as session:
            persons = persons_who_can_be_helped(session)
            if not persons:
                return []
            claimed = mail_queue.claim(
                session, self._worker, most=_AT_ONCE, only=list(persons), due_by=due_by
            )
            policy = settings_store.policy_for_mail(session) if claimed else None
            restored = restored_at(session)
            return [
                (_person(session, *persons[person_id], policy, restored), jobs)
                for person_id, jobs in claimed.items()
                if policy
            ]

    def _record(self, person: Person, jobs: list[Job]) -> None:
        """One person's mails, so many at once; never raises: what one person's mails meet keeps nobody else's waiting."""
        for some in _slices(jobs):
            self._record_some(person, some)

    def _record_some(self, person: Person, jobs: list[Job]) -> None:
        if self._recorder is None:
            return
        try:
            self._recorder.record(person, jobs)
        except DatabaseUnavailable as error:
            logs.database_unavailable(
                str(error)
            )  # what is claimed is let go of, and taken up, in the next cycle
        except Exception:  # noqa: BLE001  the edge of a batch
            logs.failed_unexpectedly("logging mails")
            self._take_apart(person, jobs)

    def _take_apart(self, person: Person, jobs: list[Job]) -> None:
        """One mail that nobody foresaw does not hold up the others; what was written before it was met is known."""
        try:
            with self._database.writing() as session:
                left = mail_queue.as_they_are(session, jobs)
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
            return
        if len(jobs) == 1:
            for job in left:
                self._put_off(job)
            return
        for job in left:
            self._record_some(person, [job])

    def _put_off(self, job: Job) -> None:
        """What nobody foresaw is not met again and again at full speed, and not for ever."""
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


def _person(
    session: Session,
    account: Account,
    connection: Connection,
    for_mail: PolicySettings,
    restored: datetime | None,
) -> Person:
    policy, preference = settings_store.policy(session), settings_store.preference(session, account.id)
    return Person(
        account, connection, rules(policy, preference), for_mail, mail_queue.ignored(session, account.id),
        one_in_force(Setting.TIME_ZONE, policy, preference).value, restored,
    )  # fmt: skip


def _slices(jobs: list[Job]) -> Iterator[list[Job]]:
    for start in range(0, len(jobs), _OF_ONE_PERSON):
        yield jobs[start : start + _OF_ONE_PERSON]

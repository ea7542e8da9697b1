"""The mails that wait for the worker: claimed, given to several hands, and what is kept long enough let go."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from core import logs
from core.settings import Name, in_force, policy_settings, rules
from core.storage import organisations, settings, work
from core.storage.connections import Connection, connections, has_api
from core.storage.database import Database, Session
from core.storage.people import Account
from core.storage.work import Job
from sync.hands import at_once
from sync.mail.record import Person, Recorder

_AT_ONCE = 1_000
_OF_ONE_PERSON = 200
_MOST_TIMES_AT_ONCE = 6


class Mails:
    """The worker's mails."""

    def __init__(self, recorder: Recorder | None, database: Database, worker: str) -> None:
        self._recorder = recorder
        self._database = database
        self._worker = worker

    def log_due(self, stop: threading.Event) -> None:
        """All that is due now."""
        while not stop.is_set() and (work_found := self._claim(everything=False)):
            at_once(lambda one: self._record(*one), work_found, stop)

    def log_everything(self, stop: threading.Event) -> bool:
        """All that waits, each once, and again where that can help at once; whether nothing waits any more."""
        times: dict[str, int] = {}
        while not stop.is_set():
            found = []
            for person, jobs in self._claim(everything=True):
                new = [job for job in jobs if _is_to_be_tried(job, times)]
                self._release([job for job in jobs if job not in new])
                for job in new:
                    times[job.row.id] = times.get(job.row.id, 0) + 1
                if new:
                    found.append((person, new))
            if not found:
                break
            at_once(lambda one: self._record(*one), found, stop)
        with self._database.reading() as session:
            return not work.is_anything_waiting(session)

    def tidy(self) -> None:
        """What was kept long enough goes."""
        with self._database.writing() as session:
            policy = policy_settings(settings.policy(session))
            work.tidy(session, timedelta(days=policy.retention_days), timedelta(days=policy.unmatched_days))

    def _claim(self, *, everything: bool) -> list[tuple[Person, list[Job]]]:
        """What this worker takes on, by person, so many at once."""
        with self._database.writing() as session:
            persons = _persons_who_can_be_helped(session)
            if not persons:
                return []
            claimed = work.claim(
                session, self._worker, most=_AT_ONCE, only=list(persons), everything=everything
            )
            if not claimed:
                return []
            return [
                (_person(session, *persons[person_id]), some)
                for person_id, jobs in claimed.items() for some in _slices(jobs)
            ]  # fmt: skip

    def _record(self, person: Person, jobs: list[Job]) -> None:
        if self._recorder is None:
            return
        try:
            self._recorder.record(person, jobs)
        except Exception:  # noqa: BLE001  the edge of a batch: what one person's mails meet keeps nobody else's waiting
            logs.failed_unexpectedly("logging mails")
            self._put_off(jobs)

    def _put_off(self, jobs: list[Job]) -> None:
        """Something that nobody foresaw must not be met again and again at full speed."""
        due_at = datetime.now(UTC) + timedelta(minutes=1)
        with self._database.writing() as session:
            work.put_off(session, jobs, due_at)

    def _release(self, jobs: list[Job]) -> None:
        if jobs:
            with self._database.writing() as session:
                work.release(session, jobs)


def _is_to_be_tried(job: Job, times: dict[str, int]) -> bool:
    tried = times.get(job.row.id, 0)
    is_due = job.row.due_at is not None and job.row.due_at <= datetime.now(UTC)
    return tried == 0 or (is_due and tried < _MOST_TIMES_AT_ONCE)


def _persons_who_can_be_helped(session: Session) -> dict[int, tuple[Account, Connection]]:
    paused = organisations.paused(session)
    return {
        account.id: (account, connection)
        for account, connection in connections(session)
        if has_api(connection) and connection.identity.organisation_id not in paused
    }


def _person(session: Session, account: Account, connection: Connection) -> Person:
    policy, preference = settings.policy(session), settings.preference(session, account.id)
    values = {one.name: one.value for one in in_force(policy, preference)}
    return Person(
        account, connection, rules(policy, preference), policy_settings(policy), work.ignored(session, account.id),
        values[Name.TIME_ZONE],
    )  # fmt: skip


def _slices(jobs: list[Job]) -> Iterator[list[Job]]:
    for start in range(0, len(jobs), _OF_ONE_PERSON):
        yield jobs[start : start + _OF_ONE_PERSON]

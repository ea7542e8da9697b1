"""The task syncs that are due: claimed, given to several hands, each to its end."""

import random
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from core import logs
from core.database.engine import Database, DatabaseUnavailable
from core.database.heartbeats import database_now
from core.retry import seconds_until_next
from core.salesforce import connection_store
from core.salesforce.connection_store import Connection
from core.salesforce.connections import Connections
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import Trouble, TroubleKind
from core.settings import store as settings_store
from core.settings.in_force import PolicySettings, policy_settings
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.polling import seconds_between_looks
from core.tasks.queue import ClaimLost, TaskSync
from core.tasks.task import Choices
from sync.session import Clocks, Remembered, SalesforceSession, note_trouble
from sync.tasks.cycle import Cycle, CycleOutcome
from sync.tasks.held import HeldSync
from sync.tasks.schema import SECONDS_GOOD, choices_of
from sync.threads import THREADS, at_once

_SECONDS_FOR_ANOTHER = 45.0
"""Longer than a worker that was killed is believed to live."""
_SECONDS_BETWEEN_LOOKS = 0.5
_LEAST = 5.0
_FOR_A_PERSON = frozenset({TroubleKind.CONNECTION, TroubleKind.NO_API})


class TaskSyncs:
    """The worker's task syncs."""

    def __init__(
        self,
        connections: Connections,
        database: Database,
        worker: str,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`count` is told how many changes each cycle took in or sent."""
        self._connections = connections
        self._database = database
        self._worker = worker
        self._count = count
        self.choices: Remembered[Choices] = Remembered(SECONDS_GOOD)
        self._clocks = Clocks()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tasks")
        self.in_hand: set[int] = set()

    def sync_due(self, stop: threading.Event) -> None:
        """Begin with all that are due now, as far as hands are free; nobody waits for those that are at
        work."""
        free = THREADS - len(self.in_hand)
        with self._database.reading() as session:
            if free <= 0 or not task_queue.is_any_due(session, connection_store.ready(session)):
                return
        for held, connection, policy in self.claim(everything=False, most=free):
            self.in_hand.add(held.person_id)
            self._threads.submit(self._sync_in_thread, held, connection, policy, stop)

    def finish(self) -> None:
        """What has begun comes to its end."""
        self._threads.shutdown(wait=True)

    def sync_everything(self, stop: threading.Event) -> bool:
        """All that are switched on, whenever they are due, every known link verified; whether nothing is left
        to be tried again. What another worker has in hand is waited for."""
        done: dict[int, bool] = {}
        deadline = time.monotonic() + _SECONDS_FOR_ANOTHER
        while not stop.is_set():
            found = self.claim(everything=True, but=set(done))
            results = at_once(
                lambda one: (one[0].person_id, self.sync_person(*one, stop, everything=True)), found, stop
            )
            done |= dict(results)
            with self._database.reading() as session:
                left = task_queue.in_hand(session, connection_store.ready(session)) - set(done)
                is_left = bool(task_queue.switched_on(session, connection_store.able(session)) - set(done))
            if not left or time.monotonic() > deadline:
                return not is_left and all(done.values())
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return False

    def let_go(self) -> None:
        """What this worker claimed before and could not settle, because the database was away just then."""
        with self._database.writing() as session:
            task_queue.let_go(session, self._worker, set(self.in_hand))

    def tidy(self) -> None:
        """Bins are emptied in time; and who may sync by the settings, is."""
        with self._database.writing() as session:
            task_store.tidy(session)
        with self._database.writing() as session:
            settings_store.follow_task_sync(session)

    def _sync_in_thread(
        self, held: TaskSync, connection: Connection, policy: PolicySettings, stop: threading.Event
    ) -> None:
        try:
            self.sync_person(held, connection, policy, stop, everything=False)
        finally:
            self.in_hand.discard(held.person_id)

    def claim(
        self, *, everything: bool, but: Collection[int] = (), most: int | None = None
    ) -> list[tuple[TaskSync, Connection, PolicySettings]]:
        with self._database.writing() as session:
            ready = connection_store.ready(session)
            claimed = task_queue.claim(
                session, self._worker, ready, but=but, everything=everything, most=most
            )
            policy = policy_settings(settings_store.policy(session))
            found = [
                (self._for_this_user(session, held, connection), connection, policy)
                for held in claimed
                if (connection := connection_store.connection(session, held.person_id)) is not None
            ]
            marker = self._database.installation.advance(session) if claimed else None
        if marker is not None:
            self._database.installation.keep(marker)
        return found

    def _for_this_user(self, session: Any, held: TaskSync, connection: Connection) -> TaskSync:
        """A person who is another Salesforce user by now begins anew; what was linked to the other stays as
        it is."""
        who = connection.identity
        if (held.organisation_id, held.user_id) == (who.organisation_id, who.user_id):
            return held
        row = task_queue.hold(session, held)
        if held.user_id is not None:
            row.enabled_at = connection.connected_at
        row.organisation_id, row.user_id = who.organisation_id, who.user_id
        row.since, row.is_first, row.confirmed, row.verified_id, row.verify_at = None, True, None, 0, None
        return replace(
            held,
            organisation_id=who.organisation_id,
            user_id=who.user_id,
            since=None,
            is_first=True,
            confirmed=None,
            enabled_at=row.enabled_at,
            verified_id=0,
            verify_at=None,
        )

    def sync_person(
        self,
        held: TaskSync,
        connection: Connection,
        policy: PolicySettings,
        stop: threading.Event,
        *,
        everything: bool,
    ) -> bool:
        """One person's cycle; never raises: what one person's tasks meet keeps nobody else's waiting. Whether
        nothing is left to be tried again."""
        begun = time.monotonic()
        try:
            outcome = self._cycle(held, connection, policy, stop, everything=everything)
            self._settle(held, policy, outcome)
        except ClaimLost:
            return False
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
            return False
        except Exception:  # noqa: BLE001  the edge of a person's cycle
            logs.failed_unexpectedly("synchronising tasks")
            return self._put_off(held, policy)
        self._count(outcome.number)
        if outcome.number or outcome.trouble_code:
            logs.tasks_synced(held.person_id, outcome.number, outcome.trouble_code, time.monotonic() - begun)
        return outcome.is_all_done

    def _put_off(self, held: TaskSync, policy: PolicySettings) -> bool:
        """What nobody foresaw is not met again at full speed."""
        try:
            self._settle(
                held, policy, CycleOutcome(is_all_done=False, is_broken=True, trouble_code="unforeseen_sync")
            )
        except DatabaseUnavailable as error:
            logs.database_unavailable(str(error))
        return False

    def _cycle(
        self,
        held: TaskSync,
        connection: Connection,
        policy: PolicySettings,
        stop: threading.Event,
        *,
        everything: bool,
    ) -> CycleOutcome:
        """Raises ClaimLost, DatabaseUnavailable."""
        try:
            salesforce = SalesforceSession(
                self._connections, connection, api_reserve=policy.api_reserve, clocks=self._clocks
            )
        except (Unavailable, Refused) as error:
            return self._outcome_of_trouble(error.trouble, connection)
        try:
            if not salesforce.has_calls_left():
                return CycleOutcome(is_all_done=False, is_broken=True, trouble_code="REQUEST_LIMIT_EXCEEDED")
            if held.is_first:
                self.choices.forget(salesforce.organisation_id)
            choices = choices_of(self.choices, salesforce)
            return Cycle(HeldSync(salesforce, held, policy, self.choices, choices, everything, stop)).run()
        except (Unavailable, Refused) as error:
            return self._outcome_of_trouble(error.trouble, connection)
        finally:
            salesforce.note_usage()

    def _outcome_of_trouble(self, found: Trouble, connection: Connection) -> CycleOutcome:
        """Time, or a person, has to mend it."""
        self.choices.forget(connection.identity.organisation_id)
        note_trouble(self._database, connection, found)
        return CycleOutcome(
            is_all_done=found.kind in _FOR_A_PERSON,
            is_broken=True,
            trouble_code=found.code,
            trouble_detail=found.detail,
        )

    def _settle(self, held: TaskSync, policy: PolicySettings, outcome: CycleOutcome) -> None:
        """Let go of it until it is due again."""
        is_asking = outcome.values.get("plan") is not None
        attempts = held.attempts + 1 if outcome.is_broken or outcome.is_transient else 0
        with self._database.writing() as session:
            now = database_now(session)
            again = now + timedelta(seconds=max(_LEAST, seconds_until_next(attempts, random.random())))  # noqa: S311  jitter
            by_pace = now + timedelta(seconds=self._pace(session, held, policy, outcome))
            has_looked = "succeeded_at" in outcome.values or is_asking
            look_at = by_pace if has_looked or held.attempts else held.look_at
            due_at = (
                min(again, look_at) if outcome.is_transient else look_at
            )  # one task that waits slows down no other
            if outcome.is_broken:
                due_at = look_at = again
            values = {
                **outcome.values,
                "attempts": attempts,
                "trouble_code": outcome.trouble_code,
                "trouble_detail": outcome.trouble_detail,
                "due_at": due_at,
                "look_at": look_at,
            }
            task_queue.release(session, held, values)

    def _pace(self, session: Any, held: TaskSync, policy: PolicySettings, outcome: CycleOutcome) -> float:
        links = outcome.values.get("links", held.links)
        budget = task_queue.budget(session, held.organisation_id, policy.api_share, links)
        active_at = outcome.values.get("changed_at", held.last_active_at)
        return seconds_between_looks(policy.sync_interval, datetime.now(UTC) - active_at, budget)

"""One cycle of one person's tasks: what changed there is taken in, what changed here is sent, and what is
known is verified.

The watermark moves only when all of it is done; whatever breaks off is read again."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from core.salesforce import late_commits
from core.salesforce.client import MOST_IDS
from core.salesforce.ids import id_key
from core.tasks import links as task_links
from core.tasks import queue as task_queue
from core.tasks.polling import seconds_of_a_round
from core.tasks.queue import Asks, SyncPlan
from sync.tasks.held import HeldSync
from sync.tasks.plan import CLOCKS_MAY_DIFFER, begun_at, gone, halts
from sync.tasks.pull import Pull
from sync.tasks.push import Push
from sync.tasks.query import TaskQuery

_LONG_OFF = timedelta(days=15)
"""Salesforce's bin remembers no longer (REST guide, "Get Deleted")."""


@dataclass
class CycleOutcome:
    """What is to be noted of a cycle, and whether nothing is left that will be tried again."""

    values: dict[str, Any] = field(default_factory=dict)
    is_all_done: bool = True
    is_transient: bool = False
    """A record met what time mends: it is tried again after a while."""
    is_broken: bool = False
    """The cycle came to no end: all of it is tried again after a while."""
    trouble_code: str | None = None
    trouble_detail: str = ""
    number: int = 0


class Cycle:
    """Raises Unavailable, Refused, ClaimLost, DatabaseUnavailable."""

    def __init__(self, sync: HeldSync) -> None:
        self._sync = sync
        self._query = TaskQuery(sync.client, sync.salesforce.user_id, has_key=sync.choices.has_key)
        is_new = sync.row.is_first and sync.row.confirmed is None
        self._is_rehearsal = is_new and (sync.policy.confirm_first_sync or sync.row.is_restored)
        self._pull = Pull(sync, self._query, is_rehearsal=self._is_rehearsal)

    def run(self) -> CycleOutcome:
        """The whole of it."""
        row, sync = self._sync.row, self._sync
        polled_at, looked = row.succeeded_at or row.enabled_at, {}
        if self._is_look_due():
            begun_at, polled_at = sync.salesforce.now_there, datetime.now(UTC)
            for page in self._query.changes(self._read_since(begun_at)):
                self._pull.take_in(page)
            self._look_for_lost(polled_at)
            self._pull.pair_up()
            looked = self._verify()
            if (plan := self._question()) is not None:
                return self._halted(plan)
            self._pull.remove()
            since = begun_at - late_commits.LATE_COMMIT
            looked |= {
                "since": max(since, row.since or since),
                "is_first": False,
                "is_restored": False,
                "succeeded_at": polled_at,
            }
        if (plan := self._question_of_deletions()) is not None:
            return self._halted(plan)
        push = Push(sync, self._query, self._pull)
        push.push(polled_at)
        if (plan := self._question()) is not None:
            return self._halted(plan)
        self._pull.remove()
        is_changed = bool(
            push.number or self._pull.counts.brought or self._pull.counts.changed or self._pull.counts.paired
        )
        values: dict[str, Any] = {"plan": None, **looked}
        if self._is_confirmed_done(has_looked=bool(looked)):
            values["confirmed"] = None
        if is_changed:
            values["changed_at"] = datetime.now(UTC)
        outcome = CycleOutcome(
            values,
            is_all_done=not push.is_waiting,
            is_transient=push.is_waiting,
            number=push.number + self._pull.counts.changed,
        )
        if push.trouble is not None:
            outcome.trouble_code, outcome.trouble_detail = push.trouble.code, push.trouble.detail
        return outcome

    def _look_for_lost(self, polled_at: datetime) -> None:
        """Creates that would have shown by now and have not: somebody may have given what they made to
        somebody else."""
        sync, row = self._sync, self._sync.row
        with sync.salesforce.database.reading() as session:
            unsettled = task_links.unsettled(session, row.person_id, sync.organisation_id)
        late = [one for one in unsettled if one.not_before is not None and one.not_before <= polled_at]
        if late and not self._is_rehearsal:
            since = min(begun_at(one) for one in late) - CLOCKS_MAY_DIFFER + sync.salesforce.offset
            for page in self._query.made_by_the_person(since):
                self._pull.take_in(page)

    def _is_look_due(self) -> bool:
        """Whether Salesforce is asked what has changed; what was changed here does not wait for that, unless
        it hangs on it."""
        sync, row = self._sync, self._sync.row
        if sync.everything or row.is_first or row.confirmed is not None or row.is_look_due:
            return True
        with sync.salesforce.database.reading() as session:
            return bool(task_links.unsettled(session, row.person_id, sync.organisation_id))

    def _read_since(self, now_there: datetime) -> datetime:
        """From when on everything is read, by Salesforce's clock."""
        row = self._sync.row
        if row.since is None:
            return self._sync.bring_in_since
        # a clock that was set back has not read what lies between
        return min(row.since, now_there - late_commits.LATE_COMMIT)

    def _verify(self) -> dict[str, Any]:
        """Known links, read by their ids: so many that all have had their turn within a round; all of them
        when everything is to be looked at, or the sync was off. What is to be noted of it."""
        sync, row = self._sync, self._sync.row
        now = datetime.now(UTC)
        is_whole = sync.everything or row.is_first
        if not is_whole and row.verify_at is not None and row.verify_at > now:
            return {}
        with sync.salesforce.database.reading() as session:
            number = task_links.linked(session, row.person_id, sync.organisation_id)
            budget = task_queue.budget(session, sync.organisation_id, sync.policy.api_share, number)
        steps = budget.calls_of_a_round
        one_each = timedelta(seconds=seconds_of_a_round(budget) / max(1, steps))
        behind = 1.0 if row.verify_at is None else 1 + (now - row.verify_at) / one_each
        after = 0 if is_whole else row.verified_id
        done, wanted = 0, steps if is_whole else min(steps, math.ceil(behind))
        while done < wanted:
            after = self._verify_some(after)
            done += 1
            if halts(len(self._pull.removals), done * MOST_IDS):
                wanted = steps  # much is lost: all is looked at before anything goes
            elif not after:
                break
        return {"verified_id": after, "verify_at": now + one_each, "links": number}

    def _verify_some(self, after: int) -> int:
        """After which task it goes on; 0: from the first."""
        sync = self._sync
        with sync.salesforce.database.reading() as session:
            some = task_links.linked_after(
                session,
                sync.row.person_id,
                sync.organisation_id,
                after=after,
                most=MOST_IDS,
                with_reassigned=sync.row.is_first,
            )
        if not some:
            return 0
        found, missing = self._query.known([str(one.salesforce_id) for one in some])
        known = {id_key(str(one.salesforce_id)): one.related for one in some}
        self._pull.take_in(self._query.named(found, known))
        if missing:
            traces = self._query.traces(missing)
            self._pull.take_in(traces)
            seen = {id_key(one.id) for one in traces}
            lost = [
                one
                for one in some
                if str(one.salesforce_id) in set(missing) and id_key(str(one.salesforce_id)) not in seen
            ]
            self._pull.removals |= {one.ours.id: one for one in gone(lost)}
        return some[-1].id if len(some) == MOST_IDS else 0

    def _question(self) -> SyncPlan | None:
        """What the person has to confirm before anything is deleted."""
        sync, counts = self._sync, self._pull.counts
        removals = {number: one for number, one in self._pull.removals.items() if one.ours.binned_at is None}
        person_id, organisation_id = sync.row.person_id, sync.organisation_id
        with sync.salesforce.database.reading() as session:
            linked = task_links.linked(session, person_id, organisation_id) if removals else 0
            send = task_links.waiting_number(session, person_id, organisation_id) if self._is_rehearsal else 0
        if self._is_rehearsal:
            asks = Asks.RESTORED if sync.row.is_restored else Asks.FIRST
            return SyncPlan(asks, counts.brought, counts.paired, len(removals), linked, send)
        lost = sum(one.is_loss for one in removals.values())
        handed_over = len(removals) - lost
        if halts(lost, linked - handed_over) and lost > self._confirmed_deletions(
            Asks.FIRST, Asks.RESTORED, Asks.LOST_THERE
        ):
            return SyncPlan(Asks.LOST_THERE, delete=lost, of=linked)
        last = sync.row.succeeded_at
        traceless = sum(one.why == "gone" for one in removals.values())
        is_long_ago = last is not None and datetime.now(UTC) - last > _LONG_OFF
        if is_long_ago and traceless > self._confirmed_deletions(
            Asks.FIRST, Asks.RESTORED, Asks.LOST_THERE, Asks.GONE
        ):
            return SyncPlan(Asks.GONE, delete=traceless, of=linked)
        return None

    def _question_of_deletions(self) -> SyncPlan | None:
        sync = self._sync
        with sync.salesforce.database.reading() as session:
            due = task_links.deletions_due(session, sync.row.person_id, sync.organisation_id)
            linked = task_links.linked(session, sync.row.person_id, sync.organisation_id) if due else 0
        is_too_many = due > self._confirmed_deletions(Asks.LOST_HERE) and halts(due, due + linked)
        return SyncPlan(Asks.LOST_HERE, delete=due, of=due + linked) if is_too_many else None

    def _confirmed_deletions(self, *asks: Asks) -> int:
        """How many deletions the person has confirmed that are not done yet."""
        confirmed = self._sync.row.confirmed
        if confirmed is None or confirmed.asks not in asks:
            return 0
        done = 0 if confirmed.asks is Asks.LOST_HERE else self._pull.counts.removed
        return max(0, confirmed.delete - done)

    def _is_confirmed_done(self, *, has_looked: bool) -> bool:
        """Whether nothing is left of what the person has said yes to."""
        sync = self._sync
        if sync.row.confirmed is None or sync.row.confirmed.asks is not Asks.LOST_HERE:
            return has_looked
        with sync.salesforce.database.reading() as session:
            return not task_links.deletions_due(session, sync.row.person_id, sync.organisation_id)

    def _halted(self, plan: SyncPlan) -> CycleOutcome:
        """Nothing more is done until the person has answered."""
        return CycleOutcome({"plan": task_queue.plan_to_json(plan)})

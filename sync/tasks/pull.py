"""Salesforce -> here: what has changed is taken in, page by page; what would go is gathered, and believed or
asked about."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

from core.batches import batches
from core.database.engine import Session
from core.salesforce.ids import id_key
from core.tasks import links as task_links
from core.tasks import queue as task_queue
from core.tasks.queue import Asks
from core.tasks.task import Ours
from sync.tasks.held import HeldSync
from sync.tasks.merge import Merged
from sync.tasks.plan import Action, BringIn, Complain, Pair, Remove, Take, kind_of, pairs, plan
from sync.tasks.query import TaskQuery
from sync.tasks.records import Nonsense, Remote

_AT_ONCE = 200
Some = TypeVar("Some")


@dataclass
class Counts:
    """What was done, or would be."""

    brought: int = 0
    paired: int = 0
    changed: int = 0
    removed: int = 0


class Pull:
    """One cycle's. `is_rehearsal`: nothing is done, all is counted."""

    def __init__(self, sync: HeldSync, query: TaskQuery, *, is_rehearsal: bool) -> None:
        self.counts = Counts()
        self.removals: dict[int, Remove] = {}
        """By the task's id; done when it is known how many there are."""
        self._sync = sync
        self._query = query
        self._is_rehearsal = is_rehearsal
        self._kinds = self._kinds_here() if sync.row.is_first else {}
        self._doubles: list[Remote] = []
        """Open tasks that may be the same as one that is here."""

    def take_in(self, remotes: Sequence[Remote | Nonsense]) -> None:
        """One page. Raises ClaimLost, DatabaseUnavailable."""
        if not remotes:
            return
        with (
            self._sync.salesforce.database.reading() as session
        ):  # most pages bring nothing new, and nobody waits for their lock
            actions = self._plan(session, remotes, is_locked=False)
        if not actions:
            return
        if self._is_rehearsal:
            self._to_do_now(actions)
            return
        touched = {_id_of(action) for action in actions}
        for some in batches([one for one in remotes if one.id in touched], _AT_ONCE):
            self._take_in_some(some)

    def _take_in_some(self, remotes: Sequence[Remote | Nonsense]) -> None:
        """So few that nobody waits long for the lock."""
        with self._sync.salesforce.database.writing() as session:
            row = task_queue.hold(session, self._sync.row)
            left = self._to_do_now(self._plan(session, remotes, is_locked=True))
            self._apply(session, left)
            row.progress += sum(isinstance(one, BringIn) for one in left)
        moved = {one.person_id for one in left if isinstance(one, Take)} - {self._sync.row.person_id}
        for person_id in moved:  # in a transaction of its own: two persons' rows are locked by nobody at once
            with self._sync.salesforce.database.writing() as session:
                task_queue.changed(session, person_id)

    def pair_up(self) -> None:
        """What came in at first and may be the same as what is here: linked where there is no doubt, else
        brought in.

        Raises Unavailable, Refused, ClaimLost, DatabaseUnavailable."""
        if not self._doubles:
            return
        there = Counter(
            kind_of(one.values) for one in self._query.open_tasks(one.values.subject for one in self._doubles)
        )
        with self._sync.salesforce.database.writing() as session:
            task_queue.hold(session, self._sync.row)
            here = task_links.unlinked_open(session, self._sync.row.person_id)
            known = task_links.of_records(
                session, self._sync.organisation_id, [one.id for one in self._doubles], is_locked=True
            )
            doubles = [one for one in self._doubles if id_key(one.id) not in known]
            found = pairs(doubles, here, there)
            paired = {one.remote.id for one in found}
            rest = [BringIn(one) for one in doubles if one.id not in paired]
            self.counts.paired += len(found)
            self.counts.brought += len(rest)
            if not self._is_rehearsal:
                self._apply(session, [*found, *rest])
        self._doubles = []

    def remove(self) -> None:
        """What is gone there goes here. Raises ClaimLost, DatabaseUnavailable."""
        for some in batches(list(self.removals.values()), _AT_ONCE):
            with self._sync.salesforce.database.writing() as session:
                row = task_queue.hold(session, self._sync.row)
                lost = sum(one.is_loss for one in some)
                task_queue.deletions_done(row, (Asks.FIRST, Asks.RESTORED, Asks.LOST_THERE, Asks.GONE), lost)
                now = {one.id: one for one in task_links.ours_again(session, [one.ours for one in some])}
                for removal in some:
                    ours = now.get(removal.ours.id)
                    if ours is not None and ours.salesforce_id == removal.ours.salesforce_id:
                        self._remove(session, ours, removal)
        self.counts.changed += len(self.removals)
        self.counts.removed += sum(one.is_loss for one in self.removals.values())
        self.removals.clear()

    def _plan(
        self, session: Session, remotes: Sequence[Remote | Nonsense], *, is_locked: bool
    ) -> list[Action]:
        ids = [one.id for one in remotes]
        known = task_links.of_records(session, self._sync.organisation_id, ids, is_locked=is_locked)
        unsettled = task_links.unsettled(session, self._sync.row.person_id, self._sync.organisation_id)
        new = [one for one in ids if id_key(one) not in known]
        return plan(remotes, known, unsettled, self._sync.view(session, new))

    def _to_do_now(self, actions: Sequence[Action]) -> list[Action]:
        """What is to be done at once; the rest is kept for when all pages are known."""
        left: list[Action] = []
        for action in actions:
            if isinstance(action, Remove):
                self.removals[action.ours.id] = action
            elif isinstance(action, BringIn) and self._may_be_a_double(action.remote):
                self._doubles.append(action.remote)
            else:
                self.removals.pop(action.ours.id, None) if isinstance(action, Take) else None
                left.append(action)
        self.counts.brought += sum(isinstance(one, BringIn) for one in left)
        self.counts.changed += sum(isinstance(one, Take | Pair) for one in left)
        return left

    def _apply(self, session: Session, actions: Sequence[Action]) -> None:
        sync = self._sync
        for action in actions:
            if isinstance(action, Take):
                self._take(session, action)
            elif isinstance(action, Pair):
                self._pair(session, action)
            elif isinstance(action, Complain):
                task_links.complain(session, action.ours, task_links.UNREADABLE, "", is_final=True)
        task_links.bring_in(
            session,
            sync.row.person_id,
            sync.organisation_id,
            [
                (one.remote.id, one.remote.values, one.remote.related, one.remote.created_at)
                for one in actions
                if isinstance(one, BringIn)
            ],
        )

    def _take(self, session: Session, action: Take) -> None:
        ours, remote = action.ours, action.remote
        if action.is_back:
            task_links.take_out_of_bin(session, ours)
        if action.is_found:
            task_links.link(session, ours, self._sync.organisation_id, remote.id)
        self._remember(session, ours, action.merged, "overwritten")
        task_links.take(
            session,
            ours,
            values=action.merged.values,
            base=remote.values,
            related=remote.related,
            person_id=action.person_id,
            limits=self._sync.limits(is_by_bytes=ours.is_by_bytes),
        )

    def _pair(self, session: Session, action: Pair) -> None:
        task_links.link(session, action.ours, self._sync.organisation_id, action.remote.id)
        for name in action.ours.values.differing(action.remote.values):
            task_links.remember(
                session, action.ours, name, action.ours.values.of(name), side="here", why="paired"
            )
        task_links.take(
            session,
            action.ours,
            values=action.remote.values,
            base=action.remote.values,
            related=action.remote.related,
            person_id=self._sync.row.person_id,
            limits=self._sync.limits(is_by_bytes=False),
        )

    def _remove(self, session: Session, ours: Ours, removal: Remove) -> None:
        """What Salesforce had of it at last is kept beside what was here."""
        remote = removal.remote
        if remote is not None:
            base = ours.base or ours.sent
            for name in remote.values.differing(base) if base is not None else ():
                if remote.values.of(name) != ours.values.of(name):
                    task_links.remember(
                        session, ours, name, remote.values.of(name), side="salesforce", why="overwritten"
                    )
        task_links.remove(
            session, ours, removal.why, self._sync.salesforce.now_there if remote is None else remote.stamp
        )

    def _remember(self, session: Session, ours: Ours, merged: Merged, why: str) -> None:
        for lost in merged.lost:
            task_links.remember(
                session,
                ours,
                lost.field,
                lost.value,
                side=lost.side.value,
                why="conflict" if lost.is_conflict else why,
            )

    def _kinds_here(self) -> dict[tuple[str, date | None], int]:
        with self._sync.salesforce.database.reading() as session:
            here = task_links.unlinked_open(session, self._sync.row.person_id)
        return Counter(kind_of(one.values) for one in here)

    def _may_be_a_double(self, remote: Remote) -> bool:
        return remote.values.status.is_open and self._kinds.get(kind_of(remote.values)) == 1


def _id_of(action: Action) -> str | None:
    """Of the record that it is about."""
    if isinstance(action, BringIn | Pair | Take):
        return action.remote.id
    return (
        action.remote.id
        if isinstance(action, Remove) and action.remote is not None
        else action.ours.salesforce_id
    )

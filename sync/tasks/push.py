"""Here -> Salesforce: what was edited, made and deleted here, in batches.

Before a batch of updates the records are read again, and what has moved meanwhile is merged first; an
intention is noted before each create, so that one whose end nobody knows is looked for before it is
repeated."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from core.batches import batches
from core.database.engine import Session
from core.salesforce.client import MOST_IDS, MOST_RECORDS, Written
from core.salesforce.ids import id_key
from core.salesforce.login import Refused, Unavailable
from core.salesforce.schema import KEY_FIELD
from core.salesforce.troubles import Trouble, TroubleKind
from core.tasks import links as task_links
from core.tasks import queue as task_queue
from core.tasks.fields import Field
from core.tasks.queue import Asks
from core.tasks.task import Ours, Values, fitted, lacking
from sync.once import WROTE_NOTHING, Judged, Verdict, judged, noted
from sync.session import FOR_GOOD
from sync.tasks.held import HeldSync
from sync.tasks.plan import gone
from sync.tasks.pull import Pull
from sync.tasks.query import TaskQuery
from sync.tasks.records import Remote, written

_STALE = timedelta(seconds=3)
"""So much older a look at the record can be than our word that it is deleted."""
_MOST_HALVES = 40
"""In one cycle; it takes eight to find one record of a batch."""
_OF_A_RECORD = frozenset({"JSON_PARSER_ERROR"})
"""Why a call is refused as a whole, though it is one record's fault; others may be, where other calls go
through."""
_OF_THE_CALL = frozenset({"INVALID_FIELD", "INVALID_TYPE", "NOT_FOUND", "UNSUPPORTED_API_VERSION"})
"""And what no record can be blamed for."""
_IS_GONE = frozenset({"ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY", "NOT_FOUND"})
_NOT_IN_PICKLIST = frozenset(
    {"INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST", "INVALID_FIELD", "INVALID_FIELD_FOR_INSERT_UPDATE"}
)


@dataclass(frozen=True)
class _Update:
    ours: Ours
    fields: tuple[Field, ...]
    values: Values
    """What Salesforce then has."""


class Push:
    """One cycle's. `trouble`: what a record met that time can mend."""

    def __init__(self, sync: HeldSync, query: TaskQuery, pull: Pull) -> None:
        self.trouble: Trouble | None = None
        self.is_waiting = False
        """Something waits for a later cycle."""
        self.number = 0
        self._sync = sync
        self._query = query
        self._pull = pull
        self._has_asked_anew = False
        self._has_written = False
        self._halves = _MOST_HALVES

    def push(self, polled_at: datetime) -> None:
        """Everything that waits. `polled_at`: what was created well before that moment has been seen by now,
        if it is there.

        Raises Unavailable, Refused, ClaimLost, DatabaseUnavailable."""
        after = 0
        while True:
            if self._sync.stop.is_set():
                self.is_waiting = True
                return
            with self._sync.salesforce.database.reading() as session:
                some = task_links.waiting(
                    session, self._sync.row.person_id, self._sync.organisation_id, after=after, most=MOST_IDS
                )
            if not some:
                return
            after = some[-1].id
            self._delete_ours([one for one in some if one.salesforce_id is not None and one.is_deletion_due])
            self._create([one for one in some if one.salesforce_id is None], polled_at)
            self._update([one for one in some if one.salesforce_id is not None and one.binned_at is None])

    def _update(self, tasks: Sequence[Ours]) -> None:
        if not tasks:
            return
        found, missing = self._query.known([str(one.salesforce_id) for one in tasks])
        self._look_for(missing, tasks)
        related = {id_key(str(one.salesforce_id)): one.related for one in tasks}
        self._pull.take_in(self._query.named(found, related))
        readable = {id_key(one.id) for one in found if isinstance(one, Remote) and not one.is_deleted}
        updates = []
        with self._sync.salesforce.database.writing() as session:
            task_queue.hold(session, self._sync.row)
            for ours in task_links.ours_again(session, tasks):
                is_mine = ours.person_id == self._sync.row.person_id and ours.id not in self._pull.removals
                if not ours.is_waiting or ours.binned_at is not None or not is_mine:
                    continue
                if id_key(str(ours.salesforce_id)) not in readable:
                    self.is_waiting = True
                    continue
                respelt = self._with_known_words(session, ours)
                update = self._difference(respelt)
                if update is None:
                    task_links.settled(session, respelt)
                else:
                    updates.append(update)
        for batch in batches(updates, MOST_RECORDS):
            self._update_batch(batch)

    def _look_for(self, missing: Sequence[str], tasks: Sequence[Ours]) -> None:
        """Records that are not found: a query tells whether they are deleted, or gone without a trace."""
        if not missing:
            return
        traces = self._query.traces(missing)
        self._pull.take_in(traces)
        left = set(missing) - {one.id for one in traces}
        self._pull.removals |= {
            one.ours.id: one for one in gone(one for one in tasks if one.salesforce_id in left)
        }

    def _difference(self, ours: Ours) -> _Update | None:
        """What Salesforce lacks of it."""
        if ours.base is None:
            return None
        limits = self._sync.limits(is_by_bytes=ours.is_by_bytes)
        held = fitted(ours.values, limits)
        if not (fields := lacking(ours.values, ours.base, limits)):
            return None
        return _Update(ours, fields, ours.base.having({field: held.of(field) for field in fields}))

    def _with_known_words(self, session: Session, ours: Ours) -> Ours:
        """With a status and a priority that the organisation has; what came from it is left alone."""
        values, base, choices = ours.values, ours.base, self._sync.choices
        if base is None or base.status != values.status:
            values = values.having({Field.STATUS: choices.nearest(values.status)})
        if base is None and values.priority not in choices.priorities:
            values = values.having({Field.PRIORITY: choices.usual_priority})
        return task_links.respell(session, ours, values)

    def _update_batch(self, updates: Sequence[_Update]) -> None:
        """One call; what came of each is taken in."""
        limits = self._sync.limits(is_by_bytes=False)  # the values are cut already
        records = [
            {"Id": one.ours.salesforce_id, **written(one.values, one.fields, limits)} for one in updates
        ]
        try:
            answers = self._sync.client.update("Task", records)
        except Refused as refused:
            self._by_halves(self._update_batch, updates, updates[0].ours, refused)
            return
        self._has_written = True
        with self._sync.salesforce.database.writing() as session:
            task_queue.hold(session, self._sync.row)
            task_links.lock(session, [one.ours for one in updates])
            for one, answer in zip(updates, answers, strict=True):
                if answer.id is not None:
                    self.number += 1
                    self._note_updated(session, one)
                else:
                    self._refused(session, one.ours, answer.trouble)

    def _note_updated(self, session: Session, update: _Update) -> None:
        ours = update.ours
        task_links.updated(session, ours, update.values, self._sync.limits(is_by_bytes=ours.is_by_bytes))

    def _create(self, tasks: Sequence[Ours], polled_at: datetime) -> None:
        ready = []
        for ours in tasks:
            is_uncertain = ours.not_before is not None
            if is_uncertain and not self._may_repeat(ours, polled_at):
                self.is_waiting = True
            elif ours.binned_at is not None or not ours.is_wanted:
                self._forget_unsent(ours)
            else:
                ready.append(ours)
        for batch in batches(ready, MOST_RECORDS):
            self._create_batch(batch)

    def _may_repeat(self, ours: Ours, polled_at: datetime) -> bool:
        """Where the organisation itself refuses a second one, or the first would have shown by now."""
        if self._sync.choices.has_key and ours.is_keyed and ours.binned_at is None:
            return True
        return ours.not_before is not None and polled_at >= ours.not_before

    def _forget_unsent(self, ours: Ours) -> None:
        """It was deleted here before Salesforce had it, and does not show there."""
        with self._sync.salesforce.database.writing() as session:
            task_queue.hold(session, self._sync.row)
            task_links.never_sent(session, ours, None, None)
            task_links.settled(session, ours)

    def _create_batch(self, tasks: Sequence[Ours]) -> None:
        """One call; each record is created once, whatever happens."""
        sync = self._sync

        def note(session: Session, not_before: datetime) -> list[tuple[Ours, Values]]:
            begun = []
            task_queue.hold(session, sync.row)
            for task in task_links.ours_again(session, tasks):
                ours = self._with_known_words(session, task)
                values = fitted(ours.values, sync.limits(is_by_bytes=ours.is_by_bytes))
                has_key = sync.choices.has_key
                if task_links.intend(
                    session, ours, sync.organisation_id, values, not_before, is_keyed=has_key
                ):
                    begun.append((ours, values))
            return begun

        begun = noted(sync.salesforce.database, note)
        try:
            written = sync.client.create("Task", [self._record(ours, values) for ours, values in begun])
        except WROTE_NOTHING as error:
            tried = [ours for ours, _ in begun]
            with sync.salesforce.database.writing() as session:
                task_queue.hold(session, sync.row)
                for ours in tried:
                    task_links.never_sent(session, ours, ours.sent, ours.not_before)
            if not isinstance(error, Refused):
                raise
            self._by_halves(self._create_batch, tried, tried[0], error)
            return
        if not begun:
            return
        self._has_written = True
        has_key = sync.choices.has_key
        answers = [(one, judged(answer, has_key=has_key)) for one, answer in zip(begun, written, strict=True)]
        there = self._whole_ids(answer for _, answer in answers)
        with sync.salesforce.database.writing() as session:
            task_queue.hold(session, sync.row)
            task_links.lock(session, [ours for (ours, _), _ in answers])
            for (ours, sent), answer in answers:
                self._take_in(session, ours, sent, answer, there)

    def _whole_ids(self, answers: Iterable[Judged]) -> dict[str, str]:
        """The ids, 18 characters each, of records that were there already, by what tells them apart."""
        ids = [one.id for one in answers if one.verdict is Verdict.ALREADY_THERE and one.id is not None]
        if not ids:
            return {}
        try:
            records = self._sync.client.retrieve("Task", [id_key(one) for one in ids], ["Id"])
        except (Unavailable, Refused):
            return {}  # the next look finds them by their keys
        return {id_key(str(one["Id"])): str(one["Id"]) for one in records if one is not None}

    def _take_in(
        self, session: Session, ours: Ours, sent: Values, answer: Judged, there: Mapping[str, str]
    ) -> None:
        """What became of one create. What is there already was begun with the values of the earlier try."""
        is_there = answer.verdict is Verdict.ALREADY_THERE
        record_id = there.get(id_key(answer.id or "")) if is_there else answer.id
        if record_id is not None:
            self.number += 1
            limits = self._sync.limits(is_by_bytes=ours.is_by_bytes)
            has = (ours.sent or sent) if is_there else sent
            task_links.created(session, ours, self._sync.organisation_id, record_id, has, limits)
        elif is_there and (ours.not_before is None or datetime.now(UTC) < ours.not_before):
            self.is_waiting = True  # the next look finds it
        elif is_there and answer.trouble is not None:
            task_links.complain(session, ours, answer.trouble.code, answer.trouble.detail, is_final=True)
        else:
            # what an earlier try may have made is not refused by this one
            task_links.never_sent(session, ours, ours.sent, ours.not_before)
            self._refused(session, ours, answer.trouble)

    def _by_halves(
        self, write: Callable[[Sequence[Any]], None], some: Sequence[Any], first: Ours, refused: Refused
    ) -> None:
        """A call was refused as a whole. If one record may have done it, it is found by halves, each noted
        and written like any batch, and the others go on without it. Raises what it is given where the record
        is not to blame."""
        trouble = refused.trouble
        if trouble.kind is not TroubleKind.PERMANENT or trouble.code in _OF_THE_CALL:
            raise refused
        if len(some) == 1:
            if trouble.code not in _OF_A_RECORD and not self._has_written:
                raise refused
            self._complain(first, trouble)
        elif self._halves <= 0:
            self.is_waiting = True
            self.trouble = self.trouble or trouble
        else:
            self._halves -= 1
            middle = len(some) // 2
            write(some[:middle])
            write(some[middle:])

    def _complain(self, ours: Ours, trouble: Trouble) -> None:
        with self._sync.salesforce.database.writing() as session:
            task_queue.hold(session, self._sync.row)
            task_links.complain(session, ours, trouble.code, trouble.detail, is_final=True)

    def _record(self, ours: Ours, sent: Values) -> dict[str, Any]:
        made = {
            name: value
            for name, value in written(sent, tuple(Field), self._sync.limits(is_by_bytes=False)).items()
            if value is not None
        }
        key = {KEY_FIELD: ours.key} if self._sync.choices.has_key else {}
        about = {"WhoId": ours.related.who_id, "WhatId": ours.related.what_id}
        return {
            **made,
            **{name: one for name, one in about.items() if one is not None},
            "OwnerId": self._sync.salesforce.user_id,
            **key,
        }

    def _delete_ours(self, tasks: Sequence[Ours]) -> None:
        """What is somebody else's by now is not deleted: that is asked first."""
        if not tasks:
            return
        found, _ = self._query.known([str(one.salesforce_id) for one in tasks])
        owners = {id_key(one.id): id_key(one.owner_id) for one in found if isinstance(one, Remote)}
        mine = id_key(self._sync.salesforce.user_id)
        somebody_elses = {record_id for record_id, owner in owners.items() if owner != mine}
        if somebody_elses:
            self._pull.take_in([one for one in found if id_key(one.id) in somebody_elses])
            with self._sync.salesforce.database.writing() as session:
                row = task_queue.hold(session, self._sync.row)
                task_queue.deletions_done(row, (Asks.LOST_HERE,), len(somebody_elses))
        self._delete([one for one in tasks if id_key(str(one.salesforce_id)) not in somebody_elses])

    def _delete(self, tasks: Sequence[Ours]) -> None:
        for batch in batches(tasks, MOST_RECORDS):
            begun = self._sync.salesforce.now_there - _STALE
            answers = self._sync.client.delete([str(one.salesforce_id) for one in batch])
            with self._sync.salesforce.database.writing() as session:
                row = task_queue.hold(session, self._sync.row)
                done = sum(self._is_settled(answer) for answer in answers)
                task_queue.deletions_done(row, (Asks.LOST_HERE,), done)
                task_links.lock(session, batch)
                for ours, answer in zip(batch, answers, strict=True):
                    if answer.id is not None or (
                        answer.trouble is not None and answer.trouble.code in _IS_GONE
                    ):
                        self.number += 1
                        task_links.deleted(session, ours, begun)
                    elif answer.trouble is not None and answer.trouble.kind in FOR_GOOD:
                        task_links.not_deleted(session, ours, answer.trouble.code, answer.trouble.detail)
                    else:
                        self._comes_again(session, ours, answer.trouble)

    def _is_settled(self, answer: Written) -> bool:
        """Whether this deletion is not tried again."""
        trouble = answer.trouble
        return trouble is None or trouble.code in _IS_GONE or trouble.kind in FOR_GOOD

    def _refused(self, session: Session, ours: Ours, trouble: Trouble | None) -> None:
        """One record was not taken: what can be mended is, what time mends waits, the rest is said on the
        task."""
        code = "" if trouble is None else trouble.code
        if code in _IS_GONE and ours.salesforce_id is not None:
            self.is_waiting = True
        elif code == "STRING_TOO_LONG" and not ours.is_by_bytes:
            task_links.cut_by_bytes(session, ours)
            self.is_waiting = True
        elif code in _NOT_IN_PICKLIST and not self._has_asked_anew and not ours.has_trouble:
            # a status that was renamed, or a field that is gone: what the organisation has is asked anew
            # before the next try
            self._sync.known_choices.forget(self._sync.organisation_id)
            self._has_asked_anew = True
            self._comes_again(session, ours, trouble)
        elif trouble is not None and trouble.kind in FOR_GOOD:
            task_links.complain(session, ours, trouble.code, trouble.detail, is_final=True)
        else:
            self._comes_again(session, ours, trouble)

    def _comes_again(self, session: Session, ours: Ours, trouble: Trouble | None) -> None:
        self.is_waiting = True
        self.trouble = self.trouble or trouble
        if trouble is not None:
            task_links.complain(session, ours, trouble.code, trouble.detail, is_final=False)

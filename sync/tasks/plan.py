"""What Salesforce has and what is here -> everything that is to be done, or a Halt.

Pure: values in, actions out."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from core.salesforce import late_commits
from core.salesforce.ids import id_key
from core.tasks.fields import Field
from core.tasks.task import Ours, TextLimits, Values, fitted
from sync.tasks.merge import Merged, Times, merge
from sync.tasks.records import Nonsense, Remote

FEW = 5
"""So many tasks may go at once, whatever share of all they are."""
CLOCKS_MAY_DIFFER = timedelta(minutes=5)
"""Between the beginning of a create, by our clock set right, and the record's own time."""


@dataclass(frozen=True)
class BringIn:
    """A task that is not here yet."""

    remote: Remote


@dataclass(frozen=True)
class Pair:
    """One that is here and one that is there are the same: they are linked, and Salesforce's values win."""

    ours: Ours
    remote: Remote


@dataclass(frozen=True)
class Take:
    """What a linked task is from now on, here; its base is what Salesforce has. `person_id`: whose it is now;
    `is_back`: it comes out of the bin; `is_found`: it is what a create made whose end nobody knew."""

    ours: Ours
    remote: Remote
    merged: Merged
    person_id: int
    is_back: bool = False
    is_found: bool = False


@dataclass(frozen=True)
class Remove:
    """Into the bin here: deleted there (`salesforce`), gone without a trace (`gone`), or somebody else's now
    (`reassigned`)."""

    ours: Ours
    why: str
    remote: Remote | None = None

    @property
    def is_loss(self) -> bool:
        """Whether a task is gone by it that the person had: neither handed over nor in the bin before."""
        return self.why != "reassigned" and self.ours.binned_at is None


@dataclass(frozen=True)
class Complain:
    """What Salesforce has of this task makes no sense."""

    ours: Ours


Action = BringIn | Pair | Take | Remove | Complain


@dataclass(frozen=True)
class View:
    """By what the changes are looked at: whose they are, since when an unknown task must have been changed to
    come in, how far Salesforce's clock is ahead, which tasks are logs of mails, how much Salesforce holds,
    and whether its records carry our key."""

    person_id: int
    user_id: str
    bring_in_since: datetime
    offset: timedelta = timedelta(0)
    persons: Mapping[str, int] = field(default_factory=dict)
    """Of whose tasks are synchronised too: by the first fifteen characters of the user's id."""
    own_logs: frozenset[str] = frozenset()
    limits: TextLimits = field(default_factory=TextLimits)
    has_key: bool = False

    def person_of(self, owner_id: str) -> int | None:
        """Whose list a task of this owner belongs to."""
        return (
            self.person_id if id_key(owner_id) == id_key(self.user_id) else self.persons.get(id_key(owner_id))
        )

    def limits_of(self, ours: Ours) -> TextLimits:
        """How much Salesforce holds of this task's texts."""
        return TextLimits(self.limits.subject, self.limits.comments, is_by_bytes=ours.is_by_bytes)


def plan(
    remotes: Iterable[Remote | Nonsense], known: Mapping[str, Ours], unsettled: Sequence[Ours], view: View
) -> list[Action]:
    """What is to be done here about these records of Salesforce; nothing about those that are as they were.

    `known`: the linked tasks by the first fifteen characters of the record's id; `unsettled`: those whose
    create nobody knows the end of."""
    left = list(unsettled)
    actions: list[Action] = []
    for remote in remotes:
        ours = known.get(id_key(remote.id))
        if isinstance(remote, Nonsense):
            actions += [] if ours is None or ours.is_unreadable else [Complain(ours)]
        elif ours is not None:
            actions += _of_linked(ours, remote, view)
        elif (found := _made_by_us(remote, left, view)) is not None:
            left.remove(found)
            actions += _of_found(found, remote, view)
        elif _comes_in(remote, view):
            actions.append(BringIn(remote))
    return actions


def gone(ours: Iterable[Ours]) -> list[Remove]:
    """Linked tasks of which Salesforce shows no trace."""
    return [Remove(one, "gone") for one in ours if one.binned_at is None]


def halts(lost: int, linked: int) -> bool:
    """Whether a side that lost so many of so many linked tasks at once is not believed without asking."""
    return linked > FEW and lost * 2 > linked


def pairs(
    brought: Sequence[Remote], here: Iterable[Ours], there: Mapping[tuple[str, date | None], int]
) -> list[Pair]:
    """Which open tasks are the same: exactly one on each side has that subject and due date.

    `there`: how many open tasks of each such kind the person has in Salesforce, those that do not come in
    too."""
    ours_by: dict[tuple[str, date | None], list[Ours]] = defaultdict(list)
    for one in here:
        ours_by[kind_of(one.values)].append(one)
    return [
        Pair(ours_by[kind_of(remote.values)][0], remote)
        for remote in brought
        if len(ours_by[kind_of(remote.values)]) == 1 and there.get(kind_of(remote.values)) == 1
    ]


def kind_of(values: Values) -> tuple[str, date | None]:
    """By what two tasks are held to be the same."""
    return values.subject, values.due


def _of_linked(ours: Ours, remote: Remote, view: View) -> list[Action]:
    person_id = view.person_of(remote.owner_id)
    if remote.is_deleted:
        # deleted there; deleted here as well: both know
        return (
            []
            if ours.binned_at is not None and not ours.is_deletion_due
            else [Remove(ours, "salesforce", remote)]
        )
    if person_id is None:
        # reassigned to somebody whose tasks are none of ours
        is_settled = ours.binned_at is not None and not ours.is_deletion_due
        return [] if is_settled else [Remove(ours, "reassigned", remote)]
    if ours.is_deletion_due and person_id != ours.person_id:
        # it was deleted by somebody whose task it is no more
        return [_take(ours, remote, person_id, view, is_back=True)]
    if ours.binned_at is not None and not ours.is_deletion_due:
        return _of_binned(ours, remote, person_id, view)
    taken = _take(ours, remote, person_id, view)
    return [] if _is_known(taken) else [taken]


def _of_binned(ours: Ours, remote: Remote, person_id: int, view: View) -> list[Action]:
    """In the bin here, and alive there: it was undeleted, shows again, or is somebody's again whose tasks are
    ours to keep; unless what we read is older than why it is in the bin."""
    is_older = ours.bin_stamp is not None and remote.stamp <= ours.bin_stamp
    if is_older and ours.binned not in {"reassigned", "gone"}:
        return []
    return [_take(ours, remote, person_id, view, is_back=True)]


def _of_found(ours: Ours, remote: Remote, view: View) -> list[Action]:
    """The record that a create made whose answer was lost."""
    person_id = view.person_of(remote.owner_id)
    if remote.is_deleted or person_id is None:
        return [Remove(ours, "salesforce" if remote.is_deleted else "reassigned", remote)]
    return [_take(ours, remote, person_id, view, is_found=True)]


def _take(
    ours: Ours, remote: Remote, person_id: int, view: View, *, is_back: bool = False, is_found: bool = False
) -> Take:
    base = ours.sent if is_found else ours.base
    times = Times({name: time + view.offset for name, time in ours.edited_at.items()}, remote.modified_at)
    merged = merge(base, ours.values, remote.values, times, view.limits_of(ours))
    return Take(ours, remote, merged, person_id, is_back=is_back, is_found=is_found)


def _is_known(taken: Take) -> bool:
    """Nothing is new: an echo of what we wrote, or of what we have read before."""
    ours, remote = taken.ours, taken.remote
    return (
        not ours.is_unreadable
        and taken.merged.values == ours.values
        and ours.base == remote.values
        and taken.person_id == ours.person_id
        and ours.related.is_about_the_same(remote.related)
        and not _is_renamed(ours, remote)
    )


def _is_renamed(ours: Ours, remote: Remote) -> bool:
    told = [
        (remote.related.who_name, ours.related.who_name),
        (remote.related.what_name, ours.related.what_name),
    ]
    return any(there is not None and there != here for there, here in told)


def _made_by_us(remote: Remote, unsettled: Sequence[Ours], view: View) -> Ours | None:
    """By the key where it carried one; else by who made it, when, and what was sent: the most like it."""
    for ours in unsettled:
        if ours.is_keyed and view.has_key and remote.key == ours.key:
            return ours
    if not remote.is_to_do or id_key(remote.id) in view.own_logs:
        return None
    unkeyed = [ours for ours in unsettled if not (ours.is_keyed and view.has_key)]
    likeness = [(_likeness(remote, ours, view), -number, ours) for number, ours in enumerate(unkeyed)]
    best = max(likeness, default=(0, 0, None))
    return best[2] if best[0] else None


def _likeness(remote: Remote, ours: Ours, view: View) -> int:
    """How much the record is like what was sent; 0: it is another."""
    if ours.sent is None or ours.not_before is None or id_key(remote.created_by) != id_key(view.user_id):
        return 0
    begun, ends = begun_at(ours) + view.offset, ours.not_before + view.offset
    if not begun - CLOCKS_MAY_DIFFER <= remote.created_at <= ends + CLOCKS_MAY_DIFFER:
        return 0
    sent = fitted(ours.sent, view.limits_of(ours))
    same = len(Field) - len(sent.differing(remote.values))
    is_same_text = bool(sent.comments) and sent.comments == remote.values.comments
    is_it = sent.subject == remote.values.subject or (is_same_text and sent.due == remote.values.due)
    return same if is_it else 0


def begun_at(ours: Ours) -> datetime:
    """When a create whose end is not known can have been begun at the earliest."""
    if ours.sent_since is not None:
        return ours.sent_since
    return (ours.not_before or datetime.max.replace(tzinfo=UTC)) - late_commits.UNTIL_A_WRITE_SHOWS


def _comes_in(remote: Remote, view: View) -> bool:
    return (
        not remote.is_deleted
        and remote.is_to_do
        and id_key(remote.owner_id) == id_key(view.user_id)
        and remote.modified_at >= view.bring_in_since
        and id_key(remote.id) not in view.own_logs
    )

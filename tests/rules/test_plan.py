"""What Salesforce has and what is here -> what is to be done."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from core.tasks.fields import Field, Status
from core.tasks.task import Ours, Related, Values
from sync.tasks.merge import Merged
from sync.tasks.plan import (
    BringIn,
    Complain,
    Pair,
    Remove,
    Take,
    View,
    gone,
    halts,
    pairs,
    plan,
)
from sync.tasks.records import Nonsense, Remote, columns, read, written

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ID = "00T5g0000000001AAA"
ANNA, CARL, STRANGER = "0055g0000000001AAA", "0055g0000000002AAA", "0055g0000000003AAA"
VIEW = View(1, ANNA, NOON - timedelta(hours=24), persons={ANNA[:15]: 1, CARL[:15]: 2})
REMOTE = Remote(ID, ANNA, Values("a"), Related(), is_deleted=False, is_to_do=True, modified_at=NOON, stamp=NOON, created_at=NOON, created_by=ANNA)  # fmt: skip
OURS = Ours(id=7, person_id=1, version=3, values=Values("a"), salesforce_id=ID, base=Values("a"))
IN_BIN = replace(OURS, binned_at=NOON, bin_stamp=NOON, is_gone=True)


def planned(remote=REMOTE, ours=None, view=VIEW, unsettled=()):
    return plan([remote], {} if ours is None else {ID[:15]: ours}, unsettled, view)


@pytest.mark.parametrize(
    ("change", "comes_in"),
    [
        ({}, True),
        ({"is_deleted": True}, False),
        ({"is_to_do": False}, False),
        ({"owner_id": CARL}, False),
        ({"modified_at": VIEW.bring_in_since}, True),
        ({"modified_at": VIEW.bring_in_since - timedelta(seconds=1)}, False),
    ],
)
def test_a_task_that_is_not_here(change, comes_in):
    remote = replace(REMOTE, **change)
    assert planned(remote) == ([BringIn(remote)] if comes_in else [])


def test_the_log_of_a_mail_does_not_come_in():
    assert planned(view=replace(VIEW, own_logs=frozenset({ID[:15]}))) == []


@pytest.mark.parametrize(
    ("remote", "ours", "expected"),
    [
        # an echo
        ({}, {}, None),
        # deleted there
        ({"is_deleted": True}, {}, "salesforce"),
        # deleted there, edited here
        ({"is_deleted": True}, {"values": Values("b")}, "salesforce"),
        # deleted on both sides
        ({"is_deleted": True}, {"binned_at": NOON, "binned": "here"}, "salesforce"),
        ({"is_deleted": True}, {"binned_at": NOON, "binned": "here", "is_gone": True}, None),
        # reassigned to somebody whose tasks are none of ours
        ({"owner_id": STRANGER}, {}, "reassigned"),
        ({"owner_id": STRANGER}, {"binned_at": NOON, "binned": "reassigned"}, None),
        # deleted here, and reassigned there before that was said
        ({"owner_id": STRANGER}, {"binned_at": NOON, "binned": "here"}, "reassigned"),
        ({"owner_id": STRANGER}, {"binned_at": NOON, "binned": "here", "is_gone": True}, None),
    ],
)
def test_what_goes(remote, ours, expected):
    changed, known = replace(REMOTE, **remote), replace(OURS, **ours)
    assert planned(changed, known) == ([] if expected is None else [Remove(known, expected, changed)])


def test_what_was_changed_there_is_taken():
    remote = replace(REMOTE, values=Values("b"))
    [action] = planned(remote, OURS)
    assert (action.merged.values, action.person_id, action.is_back) == (Values("b"), 1, False)


def test_a_change_of_owner_moves_the_task():
    remote = replace(REMOTE, owner_id=CARL)
    assert planned(remote, OURS) == [Take(OURS, remote, Merged(Values("a")), 2)]


def test_what_was_deleted_by_somebody_whose_it_is_no_more_is_its_new_owners():
    deleted = replace(OURS, binned_at=NOON, binned="here")
    [action] = planned(replace(REMOTE, owner_id=CARL), deleted)
    assert (action.person_id, action.is_back) == (2, True)


def test_a_change_of_whom_it_is_about_is_taken():
    assert planned(replace(REMOTE, related=Related(who_id="003x")), OURS) != []
    assert planned(replace(REMOTE, related=Related(who_name="Bob")), OURS) != []


@pytest.mark.parametrize(("seconds", "is_back"), [(-1, False), (0, False), (1, True)])
@pytest.mark.parametrize("binned", ["here", "salesforce", "gone", "reassigned"])
def test_out_of_the_bin_comes_what_salesforce_shows_later(seconds, is_back, binned):
    ours = replace(IN_BIN, binned=binned, is_gone=binned != "reassigned")
    actions = planned(replace(REMOTE, stamp=NOON + timedelta(seconds=seconds)), ours)
    is_back = is_back or binned in {"reassigned", "gone"}  # whose it is, or that it shows, is news by itself
    assert [action.is_back for action in actions] == ([True] if is_back else [])


def test_nonsense_is_said_once_and_changes_nothing():
    assert plan([Nonsense(ID)], {ID[:15]: OURS}, [], VIEW) == [Complain(OURS)]
    assert (
        plan([Nonsense(ID)], {ID[:15]: replace(OURS, has_trouble=True, is_unreadable=True)}, [], VIEW) == []
    )
    assert plan([Nonsense(ID)], {}, [], VIEW) == []


SENT = replace(
    OURS, salesforce_id=None, base=None, sent=Values("a", comments="c"), values=Values("edited since", comments="c"),
    not_before=NOON + timedelta(minutes=14), key="k", is_wanted=True, is_waiting=True, edited_at={Field.SUBJECT: NOON},
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "is_it"),
    [
        ({"values": Values("a", comments="c")}, True),
        ({"values": Values("a")}, True),
        ({"values": Values("changed there", comments="c")}, True),
        ({"values": Values("another")}, False),
        ({"values": Values("a"), "created_by": CARL}, False),
        ({"values": Values("a"), "created_at": NOON - timedelta(minutes=6)}, False),
        ({"values": Values("a"), "created_at": NOON + timedelta(minutes=12)}, True),
        ({"values": Values("a"), "created_at": NOON + timedelta(hours=1)}, False),
    ],
)
def test_what_a_lost_create_made_is_known_again(change, is_it):
    [action] = planned(replace(REMOTE, **change), unsettled=[SENT])
    assert isinstance(action, Take if is_it else BringIn)
    if is_it:
        assert (action.is_found, action.merged.values.subject) in {
            (True, "edited since"),
            (True, "changed there"),
        }


def test_the_log_of_a_mail_is_not_what_a_lost_create_made():
    log = replace(REMOTE, values=SENT.sent)
    assert planned(replace(log, is_to_do=False), unsettled=[SENT]) == []
    assert planned(log, view=replace(VIEW, own_logs=frozenset({ID[:15]})), unsettled=[SENT]) == []


def test_of_two_lost_creates_the_one_that_is_most_like_the_record_made_it():
    other = replace(SENT, id=8, sent=Values("a", comments="other"))
    found = [
        planned(replace(REMOTE, values=one.sent), unsettled=[SENT, other])[0].ours.id for one in (other, SENT)
    ]
    assert found == [8, 7]


def test_what_makes_sense_again_is_taken_though_nothing_else_is_new():
    assert planned(REMOTE, replace(OURS, has_trouble=True, is_unreadable=True)) != []
    assert planned(REMOTE, replace(OURS, has_trouble=True)) == []


def test_where_a_create_carried_our_key_it_decides():
    view, keyed = replace(VIEW, has_key=True), replace(SENT, is_keyed=True)
    [action] = planned(replace(REMOTE, values=Values("x"), key="k"), view=view, unsettled=[keyed])
    assert isinstance(action, Take)
    [action] = planned(replace(REMOTE, values=SENT.sent), view=view, unsettled=[keyed])
    assert isinstance(action, BringIn)
    # the field is new: what was begun without it is known by its values
    [action] = planned(replace(REMOTE, values=SENT.sent), view=view, unsettled=[SENT])
    assert isinstance(action, Take)


def test_what_a_lost_create_made_may_be_somebody_elses_by_now():
    stranger, carl = (replace(REMOTE, values=SENT.sent, owner_id=one) for one in (STRANGER, CARL))
    assert [one.why for one in planned(stranger, unsettled=[SENT])] == ["reassigned"]
    assert [one.person_id for one in planned(carl, unsettled=[SENT])] == [2]


def test_a_lost_create_is_found_once_and_two_are_two():
    second = replace(SENT, id=8)
    other = replace(REMOTE, id="00T5g0000000002AAA", values=Values("a"))
    actions = plan([replace(REMOTE, values=Values("a")), other], {}, [SENT, second], VIEW)
    assert [action.ours.id for action in actions] == [7, 8]


@pytest.mark.parametrize(
    ("lost", "linked", "expected"),
    [
        (3, 5, False),
        (5, 5, False),
        (3, 6, False),
        (4, 6, True),
        (6, 6, True),
        (50, 100, False),
        (51, 100, True),
        (0, 6, False),
    ],
)
def test_a_side_that_lost_more_than_half_of_more_than_five_is_not_believed(lost, linked, expected):
    assert halts(lost, linked) is expected


def test_gone_without_a_trace_is_gone_once():
    assert gone([OURS, IN_BIN]) == [Remove(OURS, "gone")]


@pytest.mark.parametrize(
    ("here", "there", "is_pair"), [(1, 1, True), (2, 1, False), (1, 2, False), (0, 1, False)]
)
def test_pairs_are_one_of_each(here, there, is_pair):
    ours = [replace(OURS, id=n, salesforce_id=None) for n in range(here)]
    remotes = [replace(REMOTE, id=f"00T5g000000000{n}AAA") for n in range(there)]
    found = pairs(remotes, ours, {("a", None): there})
    assert found == ([Pair(ours[0], remotes[0])] if is_pair else [])


def test_another_day_is_no_pair():
    assert (
        pairs(
            [replace(REMOTE, values=Values("a", due=date(2026, 1, 1)))], [OURS], {("a", date(2026, 1, 1)): 1}
        )
        == []
    )


RECORD = {
    "Id": ID, "Subject": None, "ActivityDate": "2026-12-01", "Status": "Deferred", "IsClosed": False, "Priority": "Low",
    "Description": "a\r\nb\0", "IsReminderSet": True, "ReminderDateTime": "2026-12-01T08:00:00.000+0000", "OwnerId": ANNA,
    "WhoId": "003x", "WhatId": None, "Type": None, "TaskSubtype": "Task", "IsRecurrence": False, "CreatedById": ANNA,
    "CreatedDate": "2026-11-22T12:00:00.000+0000", "LastModifiedDate": "2026-11-22T12:00:00.000+0000",
    "SystemModstamp": "2026-11-22T12:00:00.000+0000", "IsDeleted": False, "Who": {"Name": "Bob"}, "What": None,
}  # fmt: skip


def test_a_record_is_read():
    assert read(RECORD) == replace(
        REMOTE, related=Related("003x", None, "Bob"),
        values=Values("", date(2026, 12, 1), Status("Deferred"), "Low", "a\r\nb", datetime(2026, 12, 1, 8, tzinfo=UTC)),
    )  # fmt: skip
    assert set(columns(has_key=False, with_names=False)) <= set(RECORD)


def test_a_reminder_that_has_been_is_none():
    assert read(RECORD | {"IsReminderSet": False}).values.reminder is None


@pytest.mark.parametrize(
    "wrong",
    [{"ActivityDate": "9999-99-99"}, {"ActivityDate": 5}, {"Status": None}, {"Status": ""}, {"Subject": 5}, {"IsClosed": "no"},
     {"SystemModstamp": "yesterday"}, {"SystemModstamp": None}, {"LastModifiedDate": "2026-11-22T12:00:00"}, {"OwnerId": None}],
)  # fmt: skip
def test_what_makes_no_sense_is_told_apart(wrong):
    assert read(RECORD | wrong) == Nonsense(ID)
    missing = {name: value for name, value in RECORD.items() if name not in wrong}
    assert read(missing) == Nonsense(ID)


@pytest.mark.parametrize("record_id", [None, 5, "", "short", "00T5g0000000001/A"])
def test_without_an_id_it_is_nothing(record_id):
    assert read(RECORD | {"Id": record_id}) is None


def test_what_is_written_is_what_was_read():
    values = read(RECORD).values
    assert written(values, tuple(Field), VIEW.limits) == {
        "Subject": None, "ActivityDate": "2026-12-01", "Status": "Deferred", "Priority": "Low", "Description": "a\r\nb",
        "IsReminderSet": True, "ReminderDateTime": "2026-12-01T08:00:00.000Z",
    }  # fmt: skip
    assert written(Values(), (Field.REMINDER,), VIEW.limits) == {"IsReminderSet": False}

"""Three versions of a task -> one: every case of one field's domain, and all fields together by property."""

import itertools
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.tasks.fields import Field, Status
from core.tasks.task import TextLimits, Values, fitted
from sync.tasks.merge import THE_SAME_MOMENT, LostValue, Merged, Side, Times, merge

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIMITS = TextLimits()
SUBJECTS = ("base", "ours", "theirs", "")
OPEN, PROGRESS, DONE, WON = (
    Status("Not Started"), Status("In Progress"), Status("Completed", is_open=False), Status("Won", is_open=False),
)  # fmt: skip
EARLIER, SAME, LATER = -timedelta(minutes=1), timedelta(seconds=1), timedelta(minutes=1)


def times(ours, *fields):
    return Times(dict.fromkeys(fields, NOON + ours), NOON)


@pytest.mark.parametrize("edited", [EARLIER, SAME, THE_SAME_MOMENT, LATER])
def test_a_text(edited):
    """The whole table: who changed it, and who was later."""
    for base, ours, theirs in itertools.product(SUBJECTS, repeat=3):
        merged = merge(Values(base), Values(ours), Values(theirs), times(edited, Field.SUBJECT), LIMITS)
        if theirs in {ours, base}:  # the same on both sides, or changed here only
            expected = Merged(Values(ours))
        elif ours == base:  # changed there only
            expected = Merged(Values(theirs), (LostValue(Field.SUBJECT, ours, Side.HERE, is_conflict=False),))
        elif edited == LATER:  # changed on both sides, here later
            expected = Merged(
                Values(ours), (LostValue(Field.SUBJECT, theirs, Side.SALESFORCE, is_conflict=True),)
            )
        else:  # changed on both sides, there later or within the same moment
            expected = Merged(Values(theirs), (LostValue(Field.SUBJECT, ours, Side.HERE, is_conflict=True),))
        assert merged == expected, (base, ours, theirs)


def test_an_edit_that_nobody_knows_the_time_of_gives_way():
    merged = merge(Values("base"), Values("ours"), Values("theirs"), times(LATER), LIMITS)
    assert merged.values.subject == "theirs"


@pytest.mark.parametrize("edited", [EARLIER, LATER])
def test_a_status(edited):
    """Two statuses of one class mean the same: where both sides changed to it, Salesforce's finer word stands."""
    for base, ours, theirs in itertools.product((OPEN, PROGRESS, DONE, WON), repeat=3):
        known = times(edited, Field.STATUS)
        merged = merge(Values(status=base), Values(status=ours), Values(status=theirs), known, LIMITS)
        if theirs in {ours, base}:
            expected, is_conflict = ours, False
        elif ours == base or ours.is_open is theirs.is_open:
            expected, is_conflict = theirs, False
        else:
            expected, is_conflict = (ours if edited is LATER else theirs), True
        assert (merged.values.status, merged.is_conflict) == (expected, is_conflict), (base, ours, theirs)


@pytest.mark.parametrize("ours", SUBJECTS)
def test_without_a_base_salesforce_wins(ours):
    merged = merge(None, Values(ours), Values("theirs"), times(LATER, Field.SUBJECT), LIMITS)
    assert merged.values.subject == "theirs"
    assert not merged.is_conflict


@pytest.mark.parametrize("theirs", ["x" * 255, "short"])
@pytest.mark.parametrize("base", ["x" * 255, "old"])
def test_what_is_longer_than_salesforce_holds_is_the_same_as_far_as_it_holds_it(theirs, base):
    ours = "x" * 300
    merged = merge(Values(base), Values(ours), Values(theirs), times(EARLIER, Field.SUBJECT), LIMITS)
    stays = theirs == "x" * 255
    assert merged.values.subject == (ours if stays else theirs)
    assert [one.value for one in merged.lost] == ([] if stays else [ours])


VALUES = st.builds(
    Values,
    subject=st.sampled_from(["a", "b", "c"]),
    due=st.sampled_from([None, date(2026, 12, 1), date.max]),
    status=st.sampled_from([OPEN, PROGRESS, DONE, WON]),
    priority=st.sampled_from(["High", "Normal", "Low"]),
    comments=st.sampled_from(["", "x", "y" * 40]),
    reminder=st.sampled_from([None, NOON]),
)
TIMES = st.dictionaries(
    st.sampled_from(list(Field)), st.sampled_from([NOON + EARLIER, NOON + SAME, NOON + LATER])
).map(lambda ours: Times(ours, NOON))


@settings(max_examples=100)
@given(VALUES | st.none(), VALUES, VALUES, TIMES, st.sampled_from([LIMITS, TextLimits(comments=20)]))
def test_nothing_is_invented_and_nothing_is_lost(base, ours, theirs, known, limits):
    theirs = fitted(theirs, limits)
    base = None if base is None else fitted(base, limits)
    merged = merge(base, ours, theirs, known, limits)
    for field in Field:
        told = [one.value for one in merged.lost if one.field is field]
        assert merged.values.of(field) in {ours.of(field), theirs.of(field)}
        assert ours.of(field) in [merged.values.of(field), *told]
        is_there_still = theirs.of(field) == (None if base is None else base.of(field)) or fitted(
            ours, limits
        ).of(field) == theirs.of(field)
        assert is_there_still or theirs.of(field) in [merged.values.of(field), *told]


@settings(max_examples=100)
@given(VALUES, VALUES, VALUES, TIMES)
def test_merged_again_it_stays_as_it_is(base, ours, theirs, known):
    """What Salesforce has is the base from then on; what was won here is the only difference."""
    first = merge(base, ours, theirs, known, LIMITS)
    again = merge(theirs, first.values, theirs, known, LIMITS)
    assert again == Merged(first.values)

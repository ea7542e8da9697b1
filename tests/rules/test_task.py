"""A task's values: as people type them, as they stand in JSON, and as much of them as Salesforce holds."""

from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.tasks.fields import Field, Status
from core.tasks.polling import Budget, least_seconds, seconds_between_looks, seconds_of_a_round
from core.tasks.task import (
    Choices,
    KnownStatus,
    TaskError,
    TextLimits,
    Values,
    checked_comments,
    checked_due,
    checked_priority,
    checked_reminder,
    checked_subject,
    fitted,
    from_json,
    from_text,
    to_json,
    to_text,
)

WON = KnownStatus("Won", "Won", is_open=False, is_default=False, order=1)
DONE = KnownStatus("Done", "Done", is_open=False, is_default=False, order=2)
NEW = KnownStatus("New", "New", is_open=True, is_default=False, order=3)
OPEN = KnownStatus("Open", "Open", is_open=True, is_default=True, order=4)
CHOICES = Choices((WON, DONE, NEW, OPEN))


@pytest.mark.parametrize(
    "text",
    [
        "x" * 300,
        "😀" * 300,
        "ü",
        "",
        "a" + "😀" * 127,
        "x" * 255,
        "x" * 90 + " " * 12 + "y" * 152 + " " + "z" * 50,
    ],
)
def test_what_is_cut_is_a_beginning_and_no_longer_than_may_be(text):
    for is_by_bytes in (False, True):
        cut = fitted(Values(text, comments=text), TextLimits(255, 100, is_by_bytes=is_by_bytes))
        for found, most in ((cut.subject, 255), (cut.comments, 100)):
            assert text.startswith(found)
            assert len(found.encode() if is_by_bytes else found.encode("utf-16-le")) <= most * (
                1 if is_by_bytes else 2
            )
            assert found == text or len(found) * 4 > most // 2
            assert found in {text, found.rstrip()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call Bob", "Call Bob"),
        (" Call\r\nBob ", "Call Bob"),
        ("😀😀", "😀😀"),
        ("x" * 300, "x" * 300),
        ("a\0b", "a b"),
    ],
)
def test_a_subject(text, expected):
    assert checked_subject(text) == expected


@pytest.mark.parametrize(
    ("check", "text", "says"),
    [
        (checked_subject, " \r\n ", "needs a subject"),
        (checked_subject, "\u200b", "needs a subject"),
        (checked_subject, "\x07\x1b", "needs a subject"),
        (checked_subject, "x" * 10_001, "10001 characters"),
        (checked_comments, "x" * 130_001, "130001 characters"),
        (checked_due, "tomorrow", "like 2026-12-31"),
        (checked_due, "2026-02-30", "like 2026-12-31"),
        (checked_due, "20261231", "like 2026-12-31"),
        (checked_due, "٢٠٢٦-12-31", "like 2026-12-31"),
        (lambda text: checked_priority(text, CHOICES), "urgent", "High, Normal, Low"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(check, text, says):
    with pytest.raises(TaskError) as refusal:
        check(text)
    assert says in str(refusal.value)


def test_days_and_priorities():
    assert checked_due(" 9999-12-31 ") == date(9999, 12, 31)
    assert checked_due("") is None
    assert checked_priority("hIGH", CHOICES) == "High"
    assert checked_priority("", CHOICES) == "Normal"
    assert checked_priority("", Choices(priorities=("Hoch", "Mittel", "Niedrig"))) == "Mittel"
    assert checked_priority("p7", CHOICES, "P7") == "P7"
    with pytest.raises(TaskError):
        checked_reminder(datetime(1, 1, 1, tzinfo=UTC))


def test_an_organisations_words_for_open_and_closed():
    assert CHOICES.open_status() == Status("Open")
    assert CHOICES.closed_status() == Status("Won", is_open=False)
    assert CHOICES.closed_status("Done") == Status("Done", is_open=False)
    assert CHOICES.closed_status("gone") == Status("Won", is_open=False)
    assert CHOICES.nearest(Status("New")) == Status("New")
    assert CHOICES.nearest(Status("gone", is_open=False)) == Status("Won", is_open=False)
    assert CHOICES.nearest(Status("gone")) == Status("Open")


VALUES = st.builds(
    Values, subject=st.text(), due=st.none() | st.dates(), status=st.builds(Status, st.text(min_size=1), st.booleans()),
    priority=st.text(), comments=st.text(), reminder=st.none() | st.datetimes(timezones=st.just(UTC)),
)  # fmt: skip


@settings(max_examples=50)
@given(VALUES)
def test_json_gives_back_what_it_was_given(values):
    assert from_json(to_json(values)) == values
    for field in set(Field) - {Field.STATUS}:
        assert from_text(field, to_text(field, values.of(field)), CHOICES) == values.of(field)
    assert from_text(Field.STATUS, "Done", CHOICES) == Status("Done", is_open=False)
    assert from_text(Field.STATUS, "gone", CHOICES) == Status("Open")


@pytest.mark.parametrize(
    ("idle", "calls", "persons", "expected"),
    [
        (0, 100_000, 1, 60), (9, 100_000, 1, 60), (10, 100_000, 1, 120), (25, 100_000, 1, 240), (999, 100_000, 1, 600),
        (0, 0, 1_000, 60), (0, 15_000, 100, pytest.approx(1920)), (0, 1_000_000, 100, 60),
    ],
)  # fmt: skip
def test_the_pace(idle, calls, persons, expected):
    assert seconds_between_looks(60, timedelta(minutes=idle), Budget(calls, 30, persons)) == expected


@pytest.mark.parametrize("links", [0, 1, 2_000, 2_001, 100_000])
@pytest.mark.parametrize("calls", [15_000, 1_000_000])
def test_all_looking_stays_within_the_share(links, calls):
    budget = Budget(calls, 30, 40, links)
    looks = 86_400 / least_seconds(budget)
    for_links = 86_400 / seconds_of_a_round(budget) * budget.calls_of_a_round
    assert (looks + for_links) * budget.persons <= calls * 0.3 + 1e-6
    assert seconds_of_a_round(budget) == 1_500 or for_links == pytest.approx(budget.a_day / 2)


def test_every_link_is_verified_within_half_an_hour_where_there_are_calls_for_it():
    assert seconds_of_a_round(Budget(1_000_000, 30, 10, 100_000)) == 1_500
    assert seconds_of_a_round(Budget(0, 30, 1, 100_000)) == 1_500
    assert seconds_between_looks(3_600, timedelta(0), Budget(0, 30, 1)) == 3_600


def test_a_base_of_a_release_that_did_not_have_a_field_loads_with_its_default():
    for field in Field:
        plain = {
            name: value
            for name, value in to_json(Values(subject="x")).items()
            if name not in field.kind.to_json(Values().of(field))
        }
        assert from_json(plain).of(field) == Values().of(field)


def test_every_field_stands_in_columns_json_and_records():
    values = Values(
        "s",
        date(2026, 12, 31),
        Status("Done", is_open=False),
        "High",
        "c",
        datetime(2026, 12, 31, 9, tzinfo=UTC),
    )
    record = {"IsClosed": True}
    for field in Field:
        value = values.of(field)
        assert value != Values().of(field)
        columns = SimpleNamespace(**field.kind.to_columns(value))
        assert field.kind.from_columns(columns) == value
        assert field.kind.from_json(field.kind.to_json(value)) == value
        written = field.kind.write(value)
        assert set(written) <= set(field.kind.remote)
        assert field.kind.read({**record, **written}) == value
        assert field.label

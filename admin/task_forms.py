"""The form of a task: read and checked, or filled with what there is."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import HiddenField, SelectField, StringField, TextAreaField

from admin.refusals import beside
from admin.times import zone
from core.task import (
    Choices,
    Field,
    TaskError,
    Values,
    checked_comments,
    checked_due,
    checked_priority,
    checked_reminder,
    checked_subject,
    one_newline,
)


class TaskForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """Each field is the task's field of its name."""

    subject = StringField(_l("Subject"), render_kw={"autocomplete": "off"})
    due = StringField(_l("Due date"), render_kw={"type": "date"})
    priority = SelectField(_l("Priority"), validate_choice=False)
    status = SelectField(_l("Status"), validate_choice=False)
    reminder = StringField(_l("Reminder"), render_kw={"type": "datetime-local"})
    comments = TextAreaField(_l("Comments"), render_kw={"rows": 5})
    version = HiddenField()

    def offer(self, choices: Choices, current: Values | None = None) -> None:
        """What may be chosen: what the organisation has, and what the task has."""
        self.priority.choices = _with(choices.priorities, None if current is None else current.priority)
        self.status.choices = _with(
            [one.name for one in choices.statuses], None if current is None else current.status.name
        )


def filled(values: Values, choices: Choices, version: int) -> TaskForm:
    """The form as the task is."""
    form = TaskForm(
        formdata=None, subject=values.subject, due="" if values.due is None else values.due.isoformat(), priority=values.priority,
        status=values.status.name, reminder=_local(values.reminder), comments=values.comments, version=str(version),
    )  # fmt: skip
    form.offer(choices, values)
    return form


def empty(choices: Choices, due: date | None) -> TaskForm:
    """For a new task."""
    form = TaskForm(
        formdata=None, due="" if due is None else due.isoformat(), priority=checked_priority("", choices.priorities),
        status=choices.open_status().name,
    )  # fmt: skip
    form.offer(choices)
    return form


def read(form: TaskForm, choices: Choices, current: Values | None = None) -> dict[Field, Any] | None:
    """What the person typed; None where something is wrong, which then stands beside its field.

    What the form could not show as it is, seconds of a reminder or another kind of line end, is not thereby changed."""
    was = current or Values(status=choices.open_status())
    found: dict[Field, Any] = {}
    checks: dict[Field, Callable[[str], Any]] = {
        Field.SUBJECT: lambda text: was.subject if current and text == was.subject else checked_subject(text),
        Field.DUE: checked_due,
        Field.PRIORITY: lambda text: checked_priority(text, (*choices.priorities, was.priority)),
        Field.STATUS: lambda text: _status(text, choices, was),
        Field.REMINDER: lambda text: was.reminder if text == _local(was.reminder) else _reminder(text),
        Field.COMMENTS: lambda text: (
            was.comments if one_newline(text) == one_newline(was.comments) else checked_comments(text)
        ),
    }
    for name, check in checks.items():
        field = form[name.value]
        if field.data is None:
            continue
        try:
            found[name] = check(field.data or "")
        except TaskError as refusal:
            beside(field, refusal)
    return None if form.errors else found


def _status(text: str, choices: Choices, was: Values) -> Any:
    if text in {"", was.status.name}:
        return was.status
    found = choices.known(text)
    if found is None:
        raise TaskError("“%(text)s” is none of the statuses: %(choices)s", text=text, choices=", ".join(one.name for one in choices.statuses))  # fmt: skip
    return found


def _reminder(text: str) -> datetime | None:
    """A time by the person's clock."""
    if not text.strip():
        return None
    try:
        time = datetime.fromisoformat(text.strip()).replace(tzinfo=zone())
        return checked_reminder(time.astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise TaskError(
            "“%(text)s” is not a time; write it like 2026-12-31T09:00", text=text.strip()
        ) from error


def _local(time: datetime | None) -> str:
    if time is None:
        return ""
    try:
        return time.astimezone(zone()).strftime("%Y-%m-%dT%H:%M")
    except (ValueError, OverflowError):
        return ""


def _with(known: Sequence[str], current: str | None) -> list[tuple[str, str]]:
    names = [*known] if current is None or current in known else [current, *known]
    return [(name, name) for name in names]

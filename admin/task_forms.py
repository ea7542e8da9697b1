"""The form of a task: read and checked, or filled with what there is.

The form carries a mark of each field as it was shown, so that only what the person changed is changed,
whatever happened to the rest meanwhile."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from wtforms import HiddenField, SelectField, StringField, TextAreaField

from admin.refusals import beside
from admin.times import zone
from core.people.store import StoredPerson
from core.tasks.fields import Field
from core.tasks.task import (
    Choices,
    Related,
    TaskError,
    Values,
    checked_comments,
    checked_due,
    checked_priority,
    checked_reminder,
    checked_subject,
    one_newline,
)

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?", re.ASCII)
_RECORD = re.compile(r"\b(003|00Q|001|006)[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?\b")
_PEOPLE = frozenset({"003", "00Q"})


class TaskForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """Each field is the task's field of its name."""

    subject = StringField(_l(Field.SUBJECT.label), render_kw={"autocomplete": "off"})
    due = StringField(_l(Field.DUE.label), render_kw={"type": "date"})
    priority = SelectField(_l(Field.PRIORITY.label), validate_choice=False)
    status = SelectField(_l(Field.STATUS.label), validate_choice=False)
    reminder = StringField(_l(Field.REMINDER.label), render_kw={"type": "datetime-local"})
    comments = TextAreaField(_l(Field.COMMENTS.label), render_kw={"rows": 5})
    about = StringField(
        _l("About (contact, lead, account or opportunity)"),
        render_kw={
            "placeholder": _l("the address of its page in Salesforce, or its id"),
            "spellcheck": "false",
        },
    )
    person = SelectField(_l("For"), validate_choice=False)
    shown = HiddenField()

    def offer(
        self, choices: Choices, current: Values | None = None, persons: Sequence[StoredPerson] = ()
    ) -> None:
        """What may be chosen: what the organisation has, and what the task has."""
        priority, status = (None, None) if current is None else (current.priority, current.status.name)
        self.priority.choices = [(name, name) for name in _choices_with(choices.priorities, priority)]
        names = _choices_with([one.name for one in choices.statuses], status)
        self.status.choices = [(name, choices.label(name)) for name in names]
        self.person.choices = [(str(one.id), one.name or one.email) for one in persons]


def filled(values: Values, choices: Choices) -> TaskForm:
    """The form as the task is."""
    form = TaskForm(
        formdata=None, **{name.value: text for name, text in _texts(values).items()}, shown=_marks(values)
    )
    form.offer(choices, values)
    return form


def empty(choices: Choices, due: date | None, persons: Sequence[StoredPerson], me: StoredPerson) -> TaskForm:
    """For a new task."""
    form = TaskForm(
        formdata=None,
        due="" if due is None else due.isoformat(),
        priority=choices.usual_priority,
        status=choices.open_status().name,
        person=str(me.id),
    )
    form.offer(choices, persons=persons)
    return form


def read_new(form: TaskForm, choices: Choices) -> tuple[Values, Related] | None:
    """What the person typed; None where something is wrong, which then stands beside its field."""
    usual = Values(status=choices.open_status(), priority=choices.usual_priority)
    found = _checked(
        form,
        choices,
        usual,
        {name: form[name.value].data for name in Field if form[name.value].data is not None},
    )
    if Field.SUBJECT not in found and not form.subject.errors:
        beside(form.subject, TaskError("A task needs a subject"))
    related = _related(form)
    return None if form.errors or related is None else (usual.having(found), related)


def read_changes(form: TaskForm, choices: Choices, current: Values) -> Mapping[Field, Any] | None:
    """What the person changed. None if a value is wrong, or a field was changed elsewhere meanwhile: the
    reason then stands beside the field, and saving again overwrites it."""
    now = _texts(current)
    marks = (form.shown.data or "").split(".")
    shown = dict(zip(Field, marks, strict=True)) if len(marks) == len(Field) else {}
    typed = {}
    for name in Field:
        text = form[name.value].data
        if text is None or _mark(name, text) in {shown.get(name), _mark(name, now[name])}:
            continue  # as it was shown, or as it is by now
        typed[name] = text
        if shown.get(name) not in {None, _mark(name, now[name])}:
            says = choices.label(now[name]) if name is Field.STATUS else now[name] or str(_("empty"))
            beside(
                form[name.value],
                TaskError(
                    "This was changed meanwhile; it says now: “%(now)s”. Save again to have it your way",
                    now=says,
                ),
            )
    form.shown.data = _marks(current)
    found = _checked(form, choices, current, typed)
    return None if form.errors else found


def _checked(form: TaskForm, choices: Choices, was: Values, typed: Mapping[Field, str]) -> dict[Field, Any]:
    checks: dict[Field, Callable[[str], Any]] = {
        Field.SUBJECT: checked_subject,
        Field.DUE: checked_due,
        Field.PRIORITY: lambda text: checked_priority(text, choices, was.priority),
        Field.STATUS: lambda text: _status(text, choices, was),
        Field.REMINDER: _reminder,
        Field.COMMENTS: checked_comments,
    }
    found: dict[Field, Any] = {}
    for name, text in typed.items():
        try:
            found[name] = checks[name](text)
        except TaskError as refusal:
            beside(form[name.value], refusal)
    return found


def _related(form: TaskForm) -> Related | None:
    """By the ids that stand in what was typed."""
    text = (form.about.data or "").strip()
    ids = [(found.group(1), found.group(0)) for found in _RECORD.finditer(text)]
    who = [one for prefix, one in ids if prefix in _PEOPLE]
    what = [one for prefix, one in ids if prefix not in _PEOPLE]
    if (text and not ids) or len(who) > 1 or len(what) > 1:
        beside(
            form.about,
            TaskError(
                "Name one contact or lead, or one account or opportunity, or one of each, by its id or by "
                "the address of its page in Salesforce"
            ),
        )
        return None
    return Related(who[0] if who else None, what[0] if what else None)


def _status(text: str, choices: Choices, was: Values) -> Any:
    if text in {"", was.status.name}:
        return was.status
    found = choices.known(text)
    if found is None:
        raise TaskError(
            "“%(text)s” is not one of the statuses: %(choices)s",
            text=text,
            choices=", ".join(one.name for one in choices.statuses),
        )
    return found


def _reminder(text: str) -> datetime | None:
    """A time by the person's clock."""
    value = text.strip()
    if not value:
        return None
    try:
        time = datetime.fromisoformat(value if _TIME.fullmatch(value) else "")
        return checked_reminder(time.replace(tzinfo=zone()).astimezone(UTC))
    except (ValueError, OverflowError) as error:
        raise TaskError("“%(text)s” is not a time; write it like 2026-12-31T09:00", text=value) from error


def _texts(values: Values) -> dict[Field, str]:
    """As the form shows them."""
    return {
        Field.SUBJECT: values.subject,
        Field.DUE: "" if values.due is None else values.due.isoformat(),
        Field.STATUS: values.status.name,
        Field.PRIORITY: values.priority,
        Field.COMMENTS: values.comments,
        Field.REMINDER: _local_time(values.reminder),
    }


def _marks(values: Values) -> str:
    texts = _texts(values)
    return ".".join(_mark(name, texts[name]) for name in Field)


def _mark(name: Field, text: str) -> str:
    """The same for what a browser sends back unchanged: line ends, and in a line none."""
    same = one_newline(text) if name is Field.COMMENTS else "".join(text.splitlines())
    return hashlib.sha256(same.encode("utf-8", "replace")).hexdigest()[:16]


def _local_time(time: datetime | None) -> str:
    if time is None:
        return ""
    try:
        return time.astimezone(zone()).strftime("%Y-%m-%dT%H:%M")
    except (ValueError, OverflowError):
        return ""


def _choices_with(known: Sequence[str], current: str | None) -> list[str]:
    return [*known] if current is None or current in known else [current, *known]

"""The Command Center: what is to be done today and tomorrow, and ways to all the rest."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_login import current_user, login_required
from werkzeug.wrappers import Response

from admin import task_forms, task_sync
from admin.access import database, me
from admin.refusals import flash_refusal, translated
from admin.salesforce_forms import Button
from admin.task_forms import TaskForm
from admin.times import zone
from admin.words import BINNED, TASK_COLOURS, TASK_FIELDS, TASK_STATES, WHY_LOST
from core.refusal import Refusal
from core.salesforce.troubles import trouble
from core.storage import connections as stored
from core.storage import settings, task_syncs, tasks
from core.storage.database import Session
from core.storage.people import NotThere
from core.storage.tasks import ChangedMeanwhile, InTheBin, Task, Which
from core.task import Choices, Field, Values

pages = Blueprint("tasks", __name__, url_prefix="/tasks")
_ROWS = 200


@pages.get("")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def command_center() -> str:
    return _render()


@pages.post("")
@login_required  # type: ignore[untyped-decorator]
def add() -> str | Response:
    form, account = TaskForm(), me()
    with database().reading() as session:
        choices = _choices(session)
    form.offer(choices)
    values = task_forms.read(form, choices) if form.validate_on_submit() else None
    if values is None:
        return _render(form)
    with database().writing() as session:
        is_wanted = settings.syncs_tasks_of(session, account.id)
        made = Values(status=choices.open_status()).having(values)
        tasks.add(session, account.id, made, is_wanted=is_wanted)
    flash(_("Added “%(subject)s”.", subject=made.subject[:80]), "success")
    return redirect(_back())


@pages.get("/<int:task_id>")
@login_required  # type: ignore[untyped-decorator]
def task(task_id: int) -> str | Response:
    return _render_task(task_id)


@pages.post("/<int:task_id>")
@login_required  # type: ignore[untyped-decorator]
def save(task_id: int) -> str | Response:
    form, account = TaskForm(), me()
    try:
        with database().writing() as session:
            current, choices = tasks.task(session, account.id, task_id), _choices(session)
            form.offer(choices, current.values)
            values = task_forms.read(form, choices, current.values) if form.validate_on_submit() else None
            if values is None:
                return _render_task(task_id, form)
            version = int(form.version.data) if (form.version.data or "").isdecimal() else None
            tasks.edit(session, account.id, task_id, values, version=version)
    except ChangedMeanwhile as refusal:
        return _render_task(task_id, form, translated(refusal), is_newest=True)
    except InTheBin:
        return _render_task(task_id, form, _("This task was deleted meanwhile, and is in the bin. What you typed is below: restore the task first, or save it as a new one."))  # fmt: skip
    except NotThere as refusal:
        flash_refusal(refusal)
        return redirect(url_for("tasks.command_center"))
    flash(_("Saved."), "success")
    return redirect(_back())


@pages.post("/<int:task_id>/complete")
@login_required  # type: ignore[untyped-decorator]
def complete(task_id: int) -> Response:
    def done(session: Session, person_id: int) -> None:
        tasks.complete(session, person_id, task_id, _choices(session))

    return _do(done, None, completed=task_id)


@pages.post("/<int:task_id>/reopen")
@login_required  # type: ignore[untyped-decorator]
def reopen(task_id: int) -> Response:
    def again(session: Session, person_id: int) -> None:
        tasks.reopen(session, person_id, task_id, _choices(session))

    return _do(again, _("It is open again."))


@pages.post("/<int:task_id>/delete")
@login_required  # type: ignore[untyped-decorator]
def delete(task_id: int) -> Response:
    return _do(lambda session, person_id: tasks.remove(session, person_id, task_id), None, deleted=task_id)


@pages.post("/<int:task_id>/restore")
@login_required  # type: ignore[untyped-decorator]
def restore(task_id: int) -> Response:
    def back(session: Session, person_id: int) -> None:
        tasks.restore(session, person_id, task_id, is_wanted=settings.syncs_tasks_of(session, person_id))

    return _do(back, _("It is back."))


@pages.post("/<int:task_id>/send")
@login_required  # type: ignore[untyped-decorator]
def send(task_id: int) -> Response:
    def sent(session: Session, person_id: int) -> None:
        tasks.send(session, person_id, task_id, is_syncing=settings.syncs_tasks_of(session, person_id))

    return _do(sent, _("It is sent to Salesforce within seconds."))


@pages.post("/<int:task_id>/seen")
@login_required  # type: ignore[untyped-decorator]
def acknowledge(task_id: int) -> Response:
    return _do(lambda session, person_id: tasks.acknowledge(session, person_id, task_id), None)


@pages.post("/<int:task_id>/dismiss-reminder")
@login_required  # type: ignore[untyped-decorator]
def dismiss_reminder(task_id: int) -> Response:
    return _do(
        lambda session, person_id: tasks.edit(session, person_id, task_id, {Field.REMINDER: None}), None
    )


@pages.post("/<int:task_id>/history/<int:entry_id>")
@login_required  # type: ignore[untyped-decorator]
def restore_value(task_id: int, entry_id: int) -> Response:
    """Have again what a field was, the loser of a conflict for instance."""

    def back(session: Session, person_id: int) -> None:
        tasks.restore_value(session, person_id, task_id, entry_id, _choices(session))

    return _do(back, _("It is as it was."))


def reminders() -> list[Task]:
    """What whoever is signed in wanted to be reminded of by now; for every page."""
    if not current_user.is_authenticated:
        return []
    with database().reading() as session:
        return tasks.due_reminders(session, me().id)


def _do(what: Callable[[Session, int], None], said: str | None, **told: Any) -> Response:
    try:
        if Button().validate_on_submit():
            with database().writing() as session:
                what(session, me().id)
    except Refusal as refusal:
        flash_refusal(refusal)
        return redirect(_back())
    if said is not None:
        flash(said, "success")
    return redirect(_back(**told))


def _back(**told: Any) -> str:
    """To the list that the person came from."""
    which = _which(request.form.get("list", ""))
    return url_for("tasks.command_center", list=None if which is Which.NOW else which.value, **told)


def _which(text: str) -> Which:
    return Which(text) if text in set(Which) - {Which.ALL} else Which.NOW


def _choices(session: Session) -> Choices:
    sync = task_syncs.task_sync(session, me().id)
    return tasks.choices(session, None if sync is None else sync.organisation_id)


def _render(form: TaskForm | None = None) -> str:
    account, which = me(), _which(request.values.get("list", ""))
    now = datetime.now(UTC).astimezone(zone())
    with database().reading() as session:
        found = tasks.tasks(session, account.id, which, now, limit=_ROWS + 1)
        counts = tasks.counts(session, account.id, now)
        choices = _choices(session)
        undo = _told(session, account.id)
        url = _instance_url(session, account.id)
    return render_template(
        "tasks.html", tasks=found[:_ROWS], has_more=len(found) > _ROWS, which=which, counts=counts, today=now.date(),
        form=form or task_forms.empty(choices, now.date() if which is Which.NOW else None), undo=undo, sync=task_sync.look(account.id), url=url, trouble=trouble,
        states=TASK_STATES, colours=TASK_COLOURS, binned=BINNED, button=Button(formdata=None),
    )  # fmt: skip


def _render_task(
    task_id: int, form: TaskForm | None = None, said: str | None = None, *, is_newest: bool = False
) -> str | Response:
    account = me()
    with database().reading() as session:
        try:
            shown = tasks.task(session, account.id, task_id)
        except NotThere as refusal:
            flash_refusal(refusal)
            return redirect(url_for("tasks.command_center"))
        history, choices, url = (
            tasks.history(session, task_id),
            _choices(session),
            _instance_url(session, account.id),
        )
        is_syncing = settings.syncs_tasks_of(session, account.id)
    if form is None:
        form = task_forms.filled(shown.values, choices, shown.version)
    elif is_newest:
        form.version.data = str(shown.version)
    return render_template(
        "task.html", task=shown, form=form, said=said, history=history, url=url, trouble=trouble, states=TASK_STATES,
        colours=TASK_COLOURS, binned=BINNED, fields=TASK_FIELDS, why_lost=WHY_LOST, is_syncing=is_syncing, button=Button(formdata=None),
        which=_which(request.values.get("list", "")),
    )  # fmt: skip


def _told(session: Session, person_id: int) -> tuple[str, Task] | None:
    """What was just done and can be undone."""
    for what in ("completed", "deleted"):
        text = request.args.get(what, "")
        if text.isascii() and text.isdecimal() and len(text) < 10:
            try:
                return what, tasks.task(session, person_id, int(text))
            except NotThere:
                return None
    return None


def _instance_url(session: Session, person_id: int) -> str | None:
    connection = stored.connection(session, person_id)
    return None if connection is None else connection.instance_url

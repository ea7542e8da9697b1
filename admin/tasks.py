"""The Command Center: what is to be done today and tomorrow, and ways to all the rest."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_login import current_user
from werkzeug.wrappers import Response

from admin import task_forms
from admin.access import database, me, sign_in_required
from admin.refusals import beside, flash_refusal
from admin.salesforce import tasks
from admin.salesforce.forms import Button
from admin.sign_in import own_path
from admin.task_forms import TaskForm
from admin.times import zone
from admin.words import BINNED, TASK_COLOURS, TASK_FIELDS, TASK_LISTS, TASK_STATES, WHY_LOST
from core.database.engine import Session
from core.people.store import NotThere, StoredPerson, all_persons
from core.refusal import Refusal
from core.salesforce import connection_store
from core.salesforce.troubles import trouble
from core.settings import store as settings_store
from core.tasks import lists as task_lists
from core.tasks import picklists
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field
from core.tasks.lists import Which
from core.tasks.store import InTheBin, Task
from core.tasks.task import Choices, today_and_tomorrow

pages = Blueprint("tasks", __name__, url_prefix="/tasks")
_ROWS = 100
_ID = "int(max=2147483647)"
"""What a database can count to; what is larger is there no more than what is not there."""


@pages.get("")
@sign_in_required
def command_center() -> str:
    return _render()


@pages.post("")
@sign_in_required
def add() -> str | Response:
    form = TaskForm()
    with database().reading() as session:
        choices, persons = _choices(session), _persons(session)
    form.offer(choices, persons=persons)
    made = task_forms.read_new(form, choices) if form.validate_on_submit() else None
    whose = next((one for one in persons if str(one.id) == (form.person.data or str(me().id))), None)
    if whose is None:
        beside(form.person, Refusal("There is no person of this name"))
    if made is None or whose is None:
        return _render(form)
    values, related = made
    with database().writing() as session:
        is_wanted = settings_store.syncs_tasks_of(session, whose.id)
        task_id = task_store.add(session, whose.id, values, is_wanted=is_wanted, related=related)
    if whose.id != me().id:
        flash(
            _(
                "Added “%(subject)s” for %(person)s.",
                subject=values.subject[:80],
                person=whose.name or whose.email,
            ),
            "success",
        )
        return redirect(_url_to_return_to())
    return redirect(_url_to_return_to(added=task_id))


@pages.get(f"/<{_ID}:task_id>")
@sign_in_required
def task(task_id: int) -> str | Response:
    return _render_task(task_id)


@pages.post(f"/<{_ID}:task_id>")
@sign_in_required
def save(task_id: int) -> str | Response:
    form, account = TaskForm(), me()
    try:
        with database().writing() as session:
            current, choices = task_store.task(session, account.id, task_id), _choices(session)
            form.offer(choices, current.values)
            changes = (
                task_forms.read_changes(form, choices, current.values) if form.validate_on_submit() else None
            )
            if changes is not None:
                task_store.edit(session, account.id, task_id, changes)
    except InTheBin:
        return _render_task(
            task_id,
            form,
            _(
                "This task was deleted meanwhile, and is in the bin. What you typed is below: restore the "
                "task first, or save it as a new one."
            ),
        )
    except NotThere as refusal:
        flash_refusal(refusal)
        return redirect(url_for("tasks.command_center"))
    if changes is None:
        return _render_task(task_id, form)
    flash(_("Saved."), "success")
    return redirect(_url_to_return_to())


@pages.post(f"/<{_ID}:task_id>/complete")
@sign_in_required
def complete(task_id: int) -> Response:
    def done(session: Session, person_id: int) -> None:
        task_store.complete(session, person_id, task_id, _choices(session))

    return _change_task(done, None, completed=task_id)


@pages.post(f"/<{_ID}:task_id>/reopen")
@sign_in_required
def reopen(task_id: int) -> Response:
    def again(session: Session, person_id: int) -> None:
        task_store.reopen(session, person_id, task_id, _choices(session))

    return _change_task(again, _("It is open again."))


@pages.post(f"/<{_ID}:task_id>/delete")
@sign_in_required
def delete(task_id: int) -> Response:
    return _change_task(
        lambda session, person_id: task_store.remove(session, person_id, task_id), None, deleted=task_id
    )


@pages.post(f"/<{_ID}:task_id>/restore")
@sign_in_required
def restore(task_id: int) -> Response:
    def back(session: Session, person_id: int) -> None:
        task_store.restore(
            session, person_id, task_id, is_wanted=settings_store.syncs_tasks_of(session, person_id)
        )

    return _change_task(back, _("It is back."))


@pages.post(f"/<{_ID}:task_id>/send")
@sign_in_required
def send(task_id: int) -> Response:
    def sent(session: Session, person_id: int) -> None:
        task_store.send(
            session, person_id, task_id, is_syncing=settings_store.syncs_tasks_of(session, person_id)
        )

    is_now = tasks.look(me().id, is_seen=False).reason is None
    return _change_task(
        sent,
        _("It is sent to Salesforce within seconds.")
        if is_now
        else _("It is sent as soon as Salesforce is connected."),
    )


@pages.post(f"/<{_ID}:task_id>/seen")
@sign_in_required
def acknowledge(task_id: int) -> Response:
    return _change_task(lambda session, person_id: task_store.acknowledge(session, person_id, task_id), None)


@pages.post(f"/<{_ID}:task_id>/dismiss-reminder")
@sign_in_required
def dismiss_reminder(task_id: int) -> Response:
    return _change_task(
        lambda session, person_id: task_store.edit(session, person_id, task_id, {Field.REMINDER: None}), None
    )


@pages.post(f"/<{_ID}:task_id>/history/<{_ID}:entry_id>")
@sign_in_required
def restore_value(task_id: int, entry_id: int) -> Response:
    """Have again what a field was, the loser of a conflict for instance."""

    def back(session: Session, person_id: int) -> None:
        task_store.restore_value(session, person_id, task_id, entry_id, _choices(session))

    return _change_task(back, _("It is as it was."))


def reminders() -> list[Task]:
    """What whoever is signed in wanted to be reminded of by now; for every page."""
    if not current_user.is_authenticated:
        return []
    with database().reading() as session:
        return task_lists.due_reminders(session, me().id)


def _change_task(what: Callable[[Session, int], None], said: str | None, **told: Any) -> Response:
    try:
        if Button().validate_on_submit():
            with database().writing() as session:
                what(session, me().id)
    except Refusal as refusal:
        flash_refusal(refusal)
        return redirect(_url_to_return_to())
    if said is not None:
        flash(said, "success")
    return redirect(_url_to_return_to(**told))


def _url_to_return_to(**told: Any) -> str:
    """To the page that the person came from."""
    wanted = request.form.get("next", "")
    if wanted and (path := own_path(wanted)) is not None:
        return path
    which = _list_named(request.form.get("list", ""))
    return url_for("tasks.command_center", list=None if which is Which.NOW else which.value, **told)


def _list_named(text: str) -> Which:
    return Which(text) if text in set(Which) - {Which.ALL} else Which.NOW


def _choices(session: Session) -> Choices:
    sync = task_queue.task_sync(session, me().id)
    return picklists.choices(session, None if sync is None else sync.organisation_id)


def _persons(session: Session) -> list[StoredPerson]:
    """The people that a task can be given to, the signed-in person first."""
    others = [one for one in all_persons(session) if one.is_active and one.id != me().id]
    return [me(), *others]


def _render(form: TaskForm | None = None) -> str:
    account, which = me(), _list_named(request.values.get("list", ""))
    now, first = datetime.now(UTC).astimezone(zone()), _page_start(request.args.get("from", ""))
    with database().reading() as session:
        choices = _choices(session)
        found = task_lists.listed(session, account.id, which, now, choices, (first, _ROWS + 1))
        counts = task_lists.counts(session, account.id, now)
        persons = _persons(session)
        done = _what_was_done(session, account.id)
        url = _instance_url(session, account.id)
    if form is None:
        form = task_forms.empty(choices, now.date() if which is Which.NOW else None, persons, account)
    return render_template(
        "tasks.html",
        tasks=found[:_ROWS],
        first=first,
        next=first + _ROWS if len(found) > _ROWS else None,
        previous=max(0, first - _ROWS) if first else None,
        which=which,
        lists=TASK_LISTS,
        counts=counts,
        today=now.date(),
        form=form,
        done=done,
        list_of=lambda task: _list_of(task, now),
        sync=tasks.look(account.id),
        url=url,
        trouble=trouble,
        states=TASK_STATES,
        colours=TASK_COLOURS,
        binned=BINNED,
        choices=choices,
        days=task_store.DAYS_IN_THE_BIN,
        timedelta=timedelta,
        button=Button(formdata=None),
    )


def _page_start(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 8 else 0


def _list_of(task: Task, now: datetime) -> Which:
    """On which list a task is."""
    today, tomorrow = today_and_tomorrow(now)
    if task.binned_at is not None:
        return Which.BIN
    if not task.values.status.is_open:
        return Which.DONE
    if task.values.due is None:
        return Which.UNDATED
    return (
        Which.OVERDUE if task.values.due < today else Which.LATER if task.values.due > tomorrow else Which.NOW
    )


def _render_task(task_id: int, form: TaskForm | None = None, said: str | None = None) -> str | Response:
    account = me()
    with database().reading() as session:
        try:
            shown = task_store.task(session, account.id, task_id)
        except NotThere as refusal:
            flash_refusal(refusal)
            return redirect(url_for("tasks.command_center"))
        history, choices, url = (
            task_store.history(session, task_id),
            _choices(session),
            _instance_url(session, account.id),
        )
        is_syncing = settings_store.syncs_tasks_of(session, account.id)
    return render_template(
        "task.html",
        task=shown,
        form=form or task_forms.filled(shown.values, choices),
        said=said,
        history=history,
        url=url,
        trouble=trouble,
        states=TASK_STATES,
        colours=TASK_COLOURS,
        binned=BINNED,
        fields=TASK_FIELDS,
        why_lost=WHY_LOST,
        is_syncing=is_syncing,
        choices=choices,
        button=Button(formdata=None),
        which=_list_named(request.values.get("list", "")),
    )


def _what_was_done(session: Session, person_id: int) -> tuple[str, Task] | None:
    """What was just done, if it is so still."""
    for what, is_so in _DONE.items():
        text = request.args.get(what, "")
        if text.isascii() and text.isdecimal() and len(text) < 10:
            try:
                found = task_store.task(session, person_id, int(text))
            except NotThere:
                return None
            return (what, found) if is_so(found) else None
    return None


_DONE: dict[str, Callable[[Task], bool]] = {
    "added": lambda task: task.binned_at is None,
    "completed": lambda task: task.binned_at is None and not task.values.status.is_open,
    "deleted": lambda task: task.binned_at is not None,
}


def _instance_url(session: Session, person_id: int) -> str | None:
    connection = connection_store.connection(session, person_id)
    return None if connection is None else connection.instance_url

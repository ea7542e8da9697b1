"""The card "Sync Tasks/Reminders to Salesforce Tasks", how the sync stands, and what waits for the person's word."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flask import Blueprint, flash, redirect, request, url_for
from flask_babel import format_timedelta, ngettext
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import login_required
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import BooleanField, RadioField, StringField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import InputRequired, Length

from admin.access import admin_required, connections, database, me
from admin.prerequisites import NeedsConnection, Prerequisites
from admin.refusals import beside, flash_refusal
from admin.salesforce import page
from admin.salesforce.forms import Button
from core.database.engine import Session
from core.refusal import Refusal
from core.salesforce import connection_store
from core.salesforce.troubles import Trouble, trouble
from core.settings import catalogue
from core.settings import store as settings_store
from core.settings.catalogue import LockedSetting, Name, SettingError, TaskSync
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.polling import seconds_between_looks
from core.tasks.queue import Asks, Plan

pages = Blueprint("task_sync", __name__, url_prefix="/settings/salesforce/tasks")

_NUMBERS = {
    Name.SYNC_INTERVAL: "sync_interval", Name.FIRST_SYNC_HOURS: "first_sync_hours", Name.API_SHARE: "api_share",
}  # fmt: skip


class TaskSyncForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    task_sync = RadioField(
        _l("Tasks"), [InputRequired()],
        choices=[SelectChoice(TaskSync.OFF.value, _l("Do not sync to Salesforce tasks")),
                 SelectChoice(TaskSync.BOTH_WAYS.value, _l("Sync both ways"))],
    )  # fmt: skip


class TaskSyncPolicyForm(TaskSyncForm):
    task_sync_locked = BooleanField(_l("Persons may not choose differently"))
    confirm_first_sync = BooleanField(_l("Show what a first sync would do, and wait for the person's word"))
    sync_interval = StringField(
        _l("Fastest pace, in seconds"), [Length(max=10)], render_kw={"inputmode": "numeric"}
    )
    first_sync_hours = StringField(
        _l("The first sync brings in what was changed within so many hours"),
        [Length(max=10)],
        render_kw={"inputmode": "numeric"},
    )
    api_share = StringField(
        _l("Per cent of the organisation's daily API calls that looking for changes may use"), [Length(max=10)],
        render_kw={"inputmode": "numeric"},
    )  # fmt: skip


@dataclass(frozen=True)
class Look:
    """How a person's sync stands, as the pages say it. `seconds` is the pace in force."""

    is_on: bool
    reason: str | None
    """Why it cannot go on although it is on."""
    is_first: bool = False
    progress: int = 0
    ago: str | None = None
    seconds: int = 0
    trouble: Trouble | None = None
    plan: Plan | None = None

    @property
    def question(self) -> str:
        """What the plan asks."""
        return "" if self.plan is None else _question(self.plan)


@dataclass(frozen=True)
class Card:
    """What the settings page shows of the task sync."""

    form: TaskSyncForm
    policy_form: TaskSyncPolicyForm | None
    is_locked: bool
    look: Look


def card(form: TaskSyncForm | None = None, policy_form: TaskSyncPolicyForm | None = None) -> Card:
    """With the forms as they were filled in."""
    account = me()
    with database().reading() as session:
        policy = settings_store.policy(session)
        in_force = {
            one.name: one
            for one in catalogue.in_force(policy, settings_store.preference(session, account.id))
        }
    chosen = in_force[Name.TASK_SYNC]
    if account.is_admin and policy_form is None:
        values = {one.name: one for one in catalogue.policy_in_force(policy)}
        policy_form = TaskSyncPolicyForm(
            formdata=None, task_sync=values[Name.TASK_SYNC].value, task_sync_locked=values[Name.TASK_SYNC].locked,
            confirm_first_sync=values[Name.CONFIRM_FIRST_SYNC].value == "yes",
            **{field: values[name].value for name, field in _NUMBERS.items()},
        )  # fmt: skip
    return Card(
        form or TaskSyncForm(formdata=None, task_sync=chosen.value),
        policy_form,
        chosen.locked,
        look(account.id, is_seen=False),
    )


def look(person_id: int, *, is_seen: bool = True) -> Look:
    """How the sync of whoever is signed in stands; `is_seen`: the person looks at the tasks, which quickens the pace."""
    with database().reading() as session:
        policy, preference = settings_store.policy(session), settings_store.preference(session, person_id)
        is_on = catalogue.syncs_tasks(policy, preference)
        known = page.prerequisites(session)
        sync = task_queue.task_sync(session, person_id)
        pace = _pace(session, known, catalogue.policy_settings(policy))
    if not is_on or sync is None:
        return Look(is_on, known.reason if is_on else None)
    if is_seen:
        with database().writing() as session:
            task_queue.seen(session, person_id, pace)
    ago = None if sync.succeeded_at is None else datetime.now(UTC) - sync.succeeded_at
    return Look(
        is_on, known.reason, is_first=sync.is_first and sync.plan is None, progress=sync.progress,
        ago=None if ago is None else str(format_timedelta(max(ago, timedelta(0)), granularity="second", threshold=1.2)),
        seconds=round(pace.total_seconds()), plan=sync.plan,
        trouble=None if sync.trouble_code is None else trouble(sync.trouble_code, sync.trouble_detail),
    )  # fmt: skip


@pages.post("")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def save() -> str | Response:
    """It starts at once, in the background."""
    form, account = TaskSyncForm(), me()
    if not form.validate_on_submit():
        return page.render(task_card=card(form))
    is_on = form.task_sync.data == TaskSync.BOTH_WAYS
    try:
        with database().writing() as session:
            reason = Prerequisites(
                connections() is not None, connection_store.connection(session, account.id)
            ).reason
            if is_on and reason is not None:
                raise _needs_connection(reason)
            settings_store.set_preference(
                session, account, Name.TASK_SYNC, form.task_sync.data, actor=account.email
            )
    except (LockedSetting, NeedsConnection) as refusal:
        flash_refusal(refusal)
        return page.render(task_card=card(form))
    flash(_("Saved. The sync has begun in the background.") if is_on else _("Saved. Nothing is synchronised any more, and nothing was deleted."), "success")  # fmt: skip
    return redirect(url_for("salesforce.sync_settings", _anchor="tasks"))


@pages.post("/policy")
@admin_required
def save_policy() -> str | Response:
    form = TaskSyncPolicyForm()
    if not form.validate_on_submit() or not _are_right(form):
        return page.render(task_card=card(policy_form=form))
    actor = me().email
    values = {
        Name.TASK_SYNC: form.task_sync.data, Name.CONFIRM_FIRST_SYNC: "yes" if form.confirm_first_sync.data else "no",
        **{name: form[field].data for name, field in _NUMBERS.items()},
    }  # fmt: skip
    with database().writing() as session:
        before = {one.name: one.value for one in catalogue.policy_in_force(settings_store.policy(session))}
        if (
            not form.task_sync_locked.data
        ):  # first, so that nobody's sync is switched off and on again in between
            settings_store.lock_policy(session, Name.TASK_SYNC, locked=False, actor=actor)
        for name, value in values.items():
            if catalogue.checked(name, value) != before[name]:
                settings_store.set_policy(session, name, value, actor=actor)
        settings_store.lock_policy(session, Name.TASK_SYNC, locked=form.task_sync_locked.data, actor=actor)
    flash(_("Saved."), "success")
    return redirect(url_for("salesforce.sync_settings", _anchor="tasks"))


@pages.post("/now")
@login_required  # type: ignore[untyped-decorator]
def sync_now() -> Response:
    if Button().validate_on_submit():
        stands = look(me().id, is_seen=False)
        if not stands.is_on or stands.reason is not None:
            flash(stands.reason or _("Task sync is switched off."), "warning")
            return redirect(_back())
        with database().writing() as session:
            task_queue.sync_now(session, me().id)
        flash(_("Salesforce is asked within seconds."), "success")
    return redirect(_back())


@pages.get("")
@login_required  # type: ignore[untyped-decorator]
def settings_page() -> Response:
    return redirect(url_for("salesforce.sync_settings", _anchor="tasks"))


@pages.post("/reconsider")
@login_required  # type: ignore[untyped-decorator]
def reconsider() -> Response:
    """No: what was deleted here comes back, and how Salesforce stands is looked at anew."""
    if Button().validate_on_submit():
        with database().writing() as session:
            sync = task_queue.task_sync(session, me().id)
            plan = None if sync is None else sync.plan
            if plan is not None and plan.asks is Asks.LOST_HERE:
                number = task_store.restore_undone(session, me().id)
                flash(ngettext("%(num)d task is back.", "%(num)d tasks are back.", number), "success")
            else:
                flash(_("Salesforce is looked at anew within seconds."), "success")
            task_queue.reconsider(session, me().id)
    return redirect(_back())


@pages.post("/confirm")
@login_required  # type: ignore[untyped-decorator]
def confirm() -> Response:
    try:
        if Button().validate_on_submit():
            with database().writing() as session:
                task_queue.confirm(session, me().id)
            flash(_("It is done within seconds."), "success")
    except Refusal as refusal:
        flash_refusal(refusal)
    return redirect(_back())


def _needs_connection(reason: str) -> NeedsConnection:
    return NeedsConnection("%(reason)s Connect Salesforce first", reason=reason)


def _back() -> str:
    is_from_settings = request.form.get("page") == "settings"
    return (
        url_for("salesforce.sync_settings", _anchor="tasks")
        if is_from_settings
        else url_for("tasks.command_center")
    )


def _pace(session: Session, known: Prerequisites, policy: catalogue.PolicySettings) -> timedelta:
    """As fast as the person who looks is served."""
    identity = None if known.connection is None else known.connection.identity
    held = None if known.connection is None else task_queue.task_sync(session, known.connection.person_id)
    organisation_id = None if identity is None else identity.organisation_id
    links = 0 if held is None else held.links
    budget = task_queue.budget(session, organisation_id, policy.api_share, links)
    return timedelta(seconds=seconds_between_looks(policy.sync_interval, timedelta(0), budget))


def _are_right(form: TaskSyncPolicyForm) -> bool:
    right = True
    for name, field in _NUMBERS.items():
        try:
            catalogue.checked(name, form[field].data or "")
        except SettingError as refusal:
            beside(form[field], refusal)
            right = False
    return right


def _question(plan: Plan) -> str:
    if plan.asks is Asks.FIRST:
        return str(
            _("The first sync would bring in %(bring_in)s, pair %(pair)s and delete %(delete)s tasks here.",
              bring_in=plan.bring_in, pair=plan.pair, delete=plan.delete)
        ) + " " + str(
            ngettext("%(num)d change that was made here would be sent.", "%(num)d changes that were made here would be sent.", plan.send)
            if plan.send else _("Nothing that is here would be sent.")
        )  # fmt: skip
    if plan.asks is Asks.RESTORED:
        return str(
            _("The database was restored from a backup. Compared with Salesforce, the sync would bring in %(bring_in)s, pair %(pair)s and delete %(delete)s tasks here.",
              bring_in=plan.bring_in, pair=plan.pair, delete=plan.delete)
        ) + " " + str(
            ngettext("%(num)d change that was made here before the backup would be sent.", "%(num)d changes that were made here before the backup would be sent.", plan.send)
            if plan.send else _("Nothing that is here would be sent.")
        )  # fmt: skip
    if plan.asks is Asks.LOST_THERE:
        return str(
            _("%(delete)s of your %(of)s synchronised tasks are gone from Salesforce at once. The sync waits: if that is right, have them deleted here too; if not, restore them in Salesforce first.",
              delete=plan.delete, of=plan.of)
        )  # fmt: skip
    if plan.asks is Asks.LOST_HERE:
        return str(
            _("%(delete)s of your %(of)s synchronised tasks were deleted here at once. The sync waits: if that is right, have them deleted in Salesforce too; if not, restore them from the bin first.",
              delete=plan.delete, of=plan.of)
        )  # fmt: skip
    return str(
        ngettext("%(num)d task is gone from Salesforce since longer than its bin remembers. The sync waits: is it to be deleted here too?",
                 "%(num)d tasks are gone from Salesforce since longer than its bin remembers. The sync waits: are they to be deleted here too?",
                 plan.delete)
    )  # fmt: skip

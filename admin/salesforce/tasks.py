"""The card "Sync Tasks/Reminders to Salesforce Tasks", how the sync stands, and what waits for the person's
word."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, flash, redirect, request, url_for
from flask_babel import format_timedelta, ngettext
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from admin.access import database, me, sign_in_required
from admin.prerequisites import NeedsConnection, Prerequisites, prerequisites
from admin.refusals import flash_refusal
from admin.salesforce.forms import Button
from admin.salesforce.redraw import Filled, redraw
from admin.salesforce.settings_form import are_right, filled, settings_form, typed
from core.database.engine import Session
from core.refusal import Refusal
from core.salesforce.troubles import Trouble, trouble
from core.settings import store as settings_store
from core.settings.catalogue import Section, Setting, TaskSyncMode, of_persons
from core.settings.in_force import (
    InForce,
    LockedSetting,
    PolicySettings,
    policy_settings,
    syncs_tasks,
)
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.polling import seconds_between_looks
from core.tasks.queue import Asks, SyncPlan

pages = Blueprint("task_sync", __name__, url_prefix="/settings/salesforce/tasks")

_SETTINGS = of_persons(Section.TASKS)


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
    plan: SyncPlan | None = None

    @property
    def question(self) -> str:
        """What the plan asks."""
        return "" if self.plan is None else _question(self.plan)


@dataclass(frozen=True)
class Card:
    """What the settings page shows of the task sync."""

    form: Any
    is_locked: bool
    look: Look


def card(settings: Mapping[Setting, InForce], typed_in: Filled) -> Card:
    """With the form as it was filled in, or as the settings are."""
    return Card(
        typed_in.tasks or filled(_SETTINGS, settings),
        settings[Setting.TASK_SYNC].locked,
        look(me().id, is_seen=False),
    )


def look(person_id: int, *, is_seen: bool = True) -> Look:
    """How the sync of whoever is signed in stands; `is_seen`: the person looks at the tasks, which quickens
    the pace."""
    with database().reading() as session:
        policy, preference = settings_store.policy(session), settings_store.preference(session, person_id)
        is_on = syncs_tasks(policy, preference)
        known = prerequisites(session)
        sync = task_queue.task_sync(session, person_id)
        pace = _pace(session, known, policy_settings(policy))
    if not is_on or sync is None:
        return Look(is_on, known.reason if is_on else None)
    if is_seen:
        with database().writing() as session:
            task_queue.seen(session, person_id, pace)
    ago = None if sync.succeeded_at is None else datetime.now(UTC) - sync.succeeded_at
    return Look(
        is_on,
        known.reason,
        is_first=sync.is_first and sync.plan is None,
        progress=sync.progress,
        ago=None
        if ago is None
        else str(format_timedelta(max(ago, timedelta(0)), granularity="second", threshold=1.2)),
        seconds=round(pace.total_seconds()),
        plan=sync.plan,
        trouble=None if sync.trouble_code is None else trouble(sync.trouble_code, sync.trouble_detail),
    )


@pages.post("")
@sign_in_required
def save() -> str | Response:
    """It starts at once, in the background."""
    form, account = settings_form(_SETTINGS)(), me()
    chosen = typed(form, _SETTINGS)
    if not form.validate_on_submit() or not are_right(form, chosen):
        return redraw(Filled(tasks=form))
    is_on = chosen[Setting.TASK_SYNC] == TaskSyncMode.BOTH_WAYS
    with database().reading() as session:
        reason = prerequisites(session).reason
    if is_on and reason is not None:
        flash_refusal(NeedsConnection("%(reason)s Connect Salesforce first", reason=reason))
        return redraw(Filled(tasks=form))
    try:
        with database().writing() as session:
            settings_store.set_preference(
                session, account, Setting.TASK_SYNC, chosen[Setting.TASK_SYNC], actor=account.email
            )
    except LockedSetting as refusal:
        flash_refusal(refusal)
        return redraw(Filled(tasks=form))
    if is_on:
        flash(_("Saved. The sync has begun in the background."), "success")
    else:
        flash(_("Saved. Tasks are no longer synchronised, and nothing was deleted."), "success")
    return redirect(url_for("salesforce.sync_settings", _anchor="tasks"))


@pages.post("/now")
@sign_in_required
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
@sign_in_required
def settings_page() -> Response:
    return redirect(url_for("salesforce.sync_settings", _anchor="tasks"))


@pages.post("/reconsider")
@sign_in_required
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
                flash(_("Salesforce is checked again within seconds."), "success")
            task_queue.reconsider(session, me().id)
    return redirect(_back())


@pages.post("/confirm")
@sign_in_required
def confirm() -> Response:
    try:
        if Button().validate_on_submit():
            with database().writing() as session:
                task_queue.confirm(session, me().id)
            flash(_("It is done within seconds."), "success")
    except Refusal as refusal:
        flash_refusal(refusal)
    return redirect(_back())


def _back() -> str:
    is_from_settings = request.form.get("page") == "settings"
    return (
        url_for("salesforce.sync_settings", _anchor="tasks")
        if is_from_settings
        else url_for("tasks.command_center")
    )


def _pace(session: Session, known: Prerequisites, policy: PolicySettings) -> timedelta:
    """As fast as the person who looks is served."""
    identity = None if known.connection is None else known.connection.identity
    held = None if known.connection is None else task_queue.task_sync(session, known.connection.person_id)
    organisation_id = None if identity is None else identity.organisation_id
    links = 0 if held is None else held.links
    budget = task_queue.budget(session, organisation_id, policy.api_share, links)
    return timedelta(seconds=seconds_between_looks(policy.sync_interval, timedelta(0), budget))


def _question(plan: SyncPlan) -> str:
    if plan.asks is Asks.FIRST:
        return (
            str(
                _(
                    "The first sync would bring in %(bring_in)s, pair %(pair)s and delete %(delete)s "
                    "tasks here.",
                    bring_in=plan.bring_in,
                    pair=plan.pair,
                    delete=plan.delete,
                )
            )
            + " "
            + str(
                ngettext(
                    "%(num)d change that was made here would be sent.",
                    "%(num)d changes that were made here would be sent.",
                    plan.send,
                )
                if plan.send
                else _("Nothing that is here would be sent.")
            )
        )
    if plan.asks is Asks.RESTORED:
        return (
            str(
                _(
                    "The database was restored from a backup. Compared with Salesforce, the sync would "
                    "bring in %(bring_in)s, pair %(pair)s and delete %(delete)s tasks here.",
                    bring_in=plan.bring_in,
                    pair=plan.pair,
                    delete=plan.delete,
                )
            )
            + " "
            + str(
                ngettext(
                    "%(num)d change that was made here before the backup would be sent.",
                    "%(num)d changes that were made here before the backup would be sent.",
                    plan.send,
                )
                if plan.send
                else _("Nothing that is here would be sent.")
            )
        )
    if plan.asks is Asks.LOST_THERE:
        return str(
            _(
                "%(delete)s of your %(of)s synchronised tasks are gone from Salesforce at once. The sync "
                "waits: if that is right, have them deleted here too; if not, restore them in Salesforce "
                "first.",
                delete=plan.delete,
                of=plan.of,
            )
        )
    if plan.asks is Asks.LOST_HERE:
        return str(
            _(
                "%(delete)s of your %(of)s synchronised tasks were deleted here at once. The sync waits: "
                "if that is right, have them deleted in Salesforce too; if not, restore them from the bin "
                "first.",
                delete=plan.delete,
                of=plan.of,
            )
        )
    return str(
        ngettext(
            "%(num)d task is gone from Salesforce since longer than its bin remembers. The sync waits: is "
            "it to be deleted here too?",
            "%(num)d tasks are gone from Salesforce since longer than its bin remembers. The sync waits: "
            "are they to be deleted here too?",
            plan.delete,
        )
    )

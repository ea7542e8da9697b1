"""The tab "Salesforce API": how a person's mail is logged through the API."""

from typing import Any

from flask import Blueprint, flash, redirect, request, url_for
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from admin.access import database, me, sign_in_required
from admin.prerequisites import NeedsConnection, prerequisites
from admin.refusals import flash_refusal
from admin.salesforce.forms import Button
from admin.salesforce.redraw import Filled, redraw
from admin.salesforce.settings_form import are_right, settings_form, typed
from core.cuts import cut
from core.mail import requests as mail_requests
from core.mail.subject import LONGEST_TASK_SUBJECT, task_subject
from core.settings import store as settings_store
from core.settings.catalogue import Logging, Section, Setting, of_persons
from core.settings.in_force import LockedSetting, in_force
from core.settings.kinds import SettingError

pages = Blueprint("api", __name__, url_prefix="/settings/salesforce/api")

SETTINGS = of_persons(Section.API)


def preview(form: Any) -> str:
    """What the form's template makes of a mail; "" where it is no template."""
    try:
        template = Setting.SUBJECT_TEMPLATE.check(form.subject_template.data or "")
    except SettingError:
        return ""
    return cut(task_subject(template, str(_("Our offer"))), LONGEST_TASK_SUBJECT)


@pages.get("")
@sign_in_required
def api() -> str:
    return redraw(Filled(tab="api"))


@pages.post("")
@sign_in_required
def save() -> str | Response:
    """Nothing applies until it is saved."""
    form, account = settings_form(SETTINGS)(), me()
    with database().reading() as session:
        policy, preference = settings_store.policy(session), settings_store.preference(session, account.id)
        reason = prerequisites(session).reason
    before = in_force(policy, preference)
    values = {name: text for name, text in typed(form, SETTINGS).items() if not before[name].locked}
    if not form.validate_on_submit() or not are_right(form, values) or "preview" in request.form:
        return redraw(Filled(tab="api", api=form))
    if reason is not None:
        flash_refusal(NeedsConnection("%(reason)s Connect Salesforce first", reason=reason))
        return redraw(Filled(tab="api", api=form))
    try:
        with database().writing() as session:
            for name, text in values.items():
                if name.check(text) != before[name].value:
                    settings_store.set_preference(session, account, name, text, actor=account.email)
            if "activate" in request.form:
                settings_store.set_preference(
                    session, account, Setting.LOGGING, Logging.API, actor=account.email
                )
    except LockedSetting as refusal:
        flash_refusal(refusal)
        return redraw(Filled(tab="api", api=form))
    flash(_("Saved. The relay follows within two seconds."), "success")
    return redirect(url_for("api.api"))


@pages.post("/stop-ignoring")
@sign_in_required
def stop_ignoring() -> Response:
    """Mails to this address or domain are looked up again."""
    if Button().validate_on_submit():
        with database().writing() as session:
            mail_requests.stop_ignoring(session, me().id, request.form.get("pattern", ""))
        flash(_("Mails that come from now on are looked up again."), "success")
    return redirect(url_for("api.api"))

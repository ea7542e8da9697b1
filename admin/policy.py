"""The organisation's policy: what applies to everybody, and where persons may differ. Admins only."""

from flask import Blueprint, flash, redirect, request, url_for
from flask_babel import gettext as _
from werkzeug.wrappers import Response
from wtforms import Field

from admin.access import admin_required, database, me
from admin.policy_form import PolicyForm
from admin.refusals import beside
from admin.salesforce import page
from admin.salesforce.forms import Button
from core.settings import catalogue
from core.settings import store as settings_store
from core.settings.catalogue import Name, SettingError

pages = Blueprint("policy", __name__, url_prefix="/settings")


@pages.post("/policy")
@admin_required
def save() -> str | Response:
    form = PolicyForm()
    if not form.validate_on_submit() or not _values_are_right(form):
        return page.render(policy_form=form)
    with database().writing() as session:
        before = {
            setting.name: setting.value
            for setting in catalogue.policy_in_force(settings_store.policy(session))
        }
        for name, value in _values(form).items():
            if catalogue.checked(name, value) != before[name]:
                settings_store.set_policy(session, name, value, actor=me().email)
        settings_store.lock_policy(session, Name.LOGGING, locked=form.logging_locked.data, actor=me().email)
    flash(_("Saved. The relay follows within two seconds."), "success")
    return redirect(url_for("salesforce.sync_settings"))


@pages.post("/policy/own-domains")
@admin_required
def confirm_own_domains() -> Response:
    """The domains that count as internal because people sign in with them are the organisation's own from now on."""
    if Button().validate_on_submit():
        with database().writing() as session:
            derived = ",".join(settings_store.policy_for_mail(session).derived_domains)
            if derived and derived == request.form.get("domains"):
                settings_store.set_policy(session, Name.OWN_DOMAINS, derived, actor=me().email)
                flash(_("Confirmed. Mail within these domains is internal."), "success")
            else:
                flash(_("The domains have changed meanwhile; look at them again."), "warning")
    return redirect(url_for("salesforce.sync_settings", _anchor="policy"))


def _values(form: PolicyForm) -> dict[Name, str]:
    return {
        Name.LOGGING: form.logging.data,
        Name.OWN_DOMAINS: form.own_domains.data or "",
        Name.NEVER_LOG: form.never_log.data or "",
        Name.TIME_ZONE: form.time_zone.data or "",
        Name.SHOW_SUBJECTS: "yes" if form.show_subjects.data else "no",
    }


def _values_are_right(form: PolicyForm) -> bool:
    """Check all of them before any is stored, so that nothing is half-done."""
    fields: dict[Name, Field] = {
        Name.OWN_DOMAINS: form.own_domains,
        Name.NEVER_LOG: form.never_log,
        Name.TIME_ZONE: form.time_zone,
    }
    right = True
    for name, field in fields.items():
        try:
            catalogue.checked(name, field.data or "")
        except SettingError as refusal:
            beside(field, refusal)
            right = False
    return right

"""The organisation's policy: what applies to everybody, and where persons may not differ. Admins only."""

from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, flash, redirect, request, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from werkzeug.wrappers import Response

from admin.access import admin_required, database, me
from admin.salesforce.forms import Button
from admin.salesforce.redraw import Filled, redraw
from admin.salesforce.settings_form import are_right, filled, settings_form, typed
from core.settings import store as settings_store
from core.settings.catalogue import Section, Setting, of_policy
from core.settings.in_force import InForce, policy_in_force

pages = Blueprint("policy", __name__, url_prefix="/settings/policy")

_TITLES = {
    Section.MAIL: _l("Mail"),
    Section.API: _l("Logging through the API"),
    Section.TASKS: _l("Tasks"),
    Section.LIMITS: _l("Limits and retention"),
}


@dataclass(frozen=True)
class Part:
    """One section of the policy as the page shows it."""

    section: Section
    title: str
    settings: tuple[Setting, ...]
    form: Any
    locked: frozenset[Setting]
    """Those that people may not choose differently, as the boxes show it."""


def parts(in_force: dict[Setting, InForce], typed_in: Filled) -> list[Part]:
    """All sections, with the forms as they were filled in or as the policy is."""
    return [
        Part(
            section,
            str(title),
            of_policy(section),
            typed_in.policy.get(section) or filled(of_policy(section), in_force),
            typed_in.locked
            if section in typed_in.policy
            else frozenset(one for one in of_policy(section) if in_force[one].locked),
        )
        for section, title in _TITLES.items()
    ]


@pages.post("/<section>")
@admin_required
def save(section: str) -> str | Response:
    """One section, as a whole or not at all."""
    if section not in [one.value for one in Section]:
        abort(404)
    settings = of_policy(Section(section))
    form = settings_form(settings)()
    values = typed(form, settings)
    locked = frozenset(one for one in settings if one.may_be_locked and f"lock-{one}" in request.form)
    if not form.validate_on_submit() or not are_right(form, values):
        tab = "api" if section == Section.API else "bcc"
        return redraw(Filled(tab=tab, policy={Section(section): form}, locked=locked))
    actor = me().email
    with database().writing() as session:
        before = policy_in_force(settings_store.policy(session))
        for setting in settings:  # unlocked first, so that no sync is switched off and on again in between
            if before[setting].locked and setting not in locked:
                settings_store.lock_policy(session, setting, locked=False, actor=actor)
        for setting, text in values.items():
            if setting.check(text) != before[setting].value:
                settings_store.set_policy(session, setting, text, actor=actor)
        for setting in locked:
            settings_store.lock_policy(session, setting, locked=True, actor=actor)
    flash(_("Saved. The relay follows within two seconds."), "success")
    return redirect(url_for("salesforce.sync_settings", _anchor="policy"))


@pages.post("/own-domains")
@admin_required
def confirm_own_domains() -> Response:
    """The domains that count as internal because people sign in with them become the organisation's own."""
    if Button().validate_on_submit():
        with database().writing() as session:
            derived = ",".join(settings_store.policy_for_mail(session).derived_domains)
            if derived and derived == request.form.get("domains"):
                settings_store.set_policy(session, Setting.OWN_DOMAINS, derived, actor=me().email)
                flash(_("Confirmed. Mail within these domains is internal."), "success")
            else:
                flash(_("The domains have changed meanwhile; look at them again."), "warning")
    return redirect(url_for("salesforce.sync_settings", _anchor="policy"))

"""My Account: one's own password and time zone."""

from zoneinfo import available_timezones

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import login_user
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import PasswordField, SelectField, SubmitField
from wtforms.validators import DataRequired, Length

from admin.access import SignedInPerson, database, me, sign_in_required
from admin.passwords import hashed, is_right
from admin.refusals import beside, flash_refusal
from core.people import store as people_store
from core.refusal import Refusal
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.settings.in_force import one_in_force

pages = Blueprint("account", __name__, url_prefix="/settings/account")


class PasswordForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    current = PasswordField(
        _l("Current password"),
        [DataRequired(), Length(max=1000)],
        render_kw={"autocomplete": "current-password"},
    )
    new = PasswordField(
        _l("New password"), [DataRequired(), Length(max=1000)], render_kw={"autocomplete": "new-password"}
    )
    change = SubmitField(_l("Change password"))


class TimeZoneForm(FlaskForm):  # type: ignore[misc]
    time_zone = SelectField(_l("Time zone"))
    save = SubmitField(_l("Save"))


@pages.get("")
@sign_in_required
def account() -> str:
    return _render(PasswordForm(formdata=None))


@pages.post("/password")
@sign_in_required
def change_password() -> str | Response:
    form = PasswordForm()
    if form.validate_on_submit() and not is_right(form.current.data, me().password_hash):
        form.current.errors = [_("This is not your current password")]
    elif form.validate_on_submit():
        try:
            _store_password(form.new.data)
        except Refusal as refusal:
            beside(form.new, refusal)
        else:
            flash(_("Your password is changed; you are signed out everywhere else."), "success")
            return redirect(url_for("account.account"))
    return _render(form)


@pages.post("/time-zone")
@sign_in_required
def set_time_zone() -> str | Response:
    form = _time_zone_form(None)
    if not form.validate_on_submit():
        return _render(PasswordForm(formdata=None))
    try:
        with database().writing() as session:
            settings_store.set_preference(
                session, me(), Setting.TIME_ZONE, form.time_zone.data, actor=me().email
            )
    except Refusal as refusal:
        flash_refusal(refusal)
    else:
        flash(_("Saved."), "success")
    return redirect(url_for("account.account"))


def _store_password(password: str) -> None:
    """The other sign-ins end, this one goes on. Raises PasswordRefused."""
    password_hash = hashed(password)
    with database().writing() as session:
        people_store.set_password_hash(session, me().email, password_hash, actor=me().email)
        changed = people_store.person_by_email(session, me().email)
    login_user(SignedInPerson(changed))


def _time_zone_form(chosen: str | None) -> TimeZoneForm:
    form = TimeZoneForm() if chosen is None else TimeZoneForm(formdata=None, time_zone=chosen)
    form.time_zone.choices = [
        ("", _("as in Salesforce, else the organisation's")),
        *[(name, name) for name in sorted(available_timezones())],
    ]
    return form


def _render(password_form: PasswordForm) -> str:
    with database().reading() as session:
        chosen = settings_store.preference(session, me().id)
        time_zone = one_in_force(Setting.TIME_ZONE, settings_store.policy(session), chosen)
    return render_template(
        "account.html",
        account=me(),
        password_form=password_form,
        time_zone_form=_time_zone_form(chosen.get(Setting.TIME_ZONE, "")),
        time_zone=time_zone,
    )

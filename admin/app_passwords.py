"""App passwords: one for each mail client, shown once."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import IntegerField, StringField, SubmitField
from wtforms.validators import InputRequired, Length, NumberRange
from wtforms.widgets import HiddenInput

from admin.access import database, me, sign_in_required
from admin.refusals import flash_refusal
from core.people import store as people_store
from core.refusal import Refusal

pages = Blueprint("app_passwords", __name__, url_prefix="/settings/app-passwords")


class CreateForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    label = StringField(
        _l("Which mail client is it for?"),
        [Length(max=100)],
        render_kw={"placeholder": _l("Outlook on my laptop"), "autocomplete": "off"},
    )
    create = SubmitField(_l("Create app password"))


class RevokeForm(FlaskForm):  # type: ignore[misc]
    id = IntegerField(validators=[InputRequired(), NumberRange(1, 2**31 - 1)], widget=HiddenInput())


@pages.get("")
@sign_in_required
def app_passwords() -> str:
    return _render(CreateForm(formdata=None))


@pages.post("")
@sign_in_required
def create() -> str:
    form = CreateForm()
    if not form.validate_on_submit():
        return _render(form)
    with database().writing() as session:
        _, made = people_store.add_app_password(
            session, me().email, label=form.label.data or "", actor=me().email
        )
    return _render(CreateForm(formdata=None), made)


@pages.post("/revoke")
@sign_in_required
def revoke() -> Response:
    form = RevokeForm()
    if form.validate_on_submit():
        try:
            with database().writing() as session:
                people_store.revoke_app_password(session, me().email, form.id.data, actor=me().email)
        except Refusal as refusal:
            flash_refusal(refusal)
        else:
            flash(_("Revoked: the mail client that used it can no longer sign in."), "success")
    return redirect(url_for("app_passwords.app_passwords"))


def _render(form: CreateForm, made: str | None = None) -> str:
    with database().reading() as session:
        entries = people_store.app_passwords(session, me().id)
    return render_template(
        "app_passwords.html", entries=entries, form=form, revoke_form=RevokeForm(formdata=None), made=made
    )

"""Unknown senders: their mail was passed on and logged for no person."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import HiddenField, SelectField, SubmitField
from wtforms.fields.choices import SelectChoice
from wtforms.validators import DataRequired

from admin.access import admin_required, database, load_left_behind, me
from admin.refusals import flash_errors, flash_refusal
from core.mail.store import unknown_senders
from core.people.store import add_address, all_persons
from core.refusal import Refusal

pages = Blueprint("senders", __name__)


class GiveForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """Give an unknown sender's address to a person, as an acceptable address."""

    address = HiddenField(validators=[DataRequired()])
    person = SelectField(_l("Belongs to"), [DataRequired()])
    submit = SubmitField(_l("Add"))


@pages.get("/senders")
@admin_required
def senders() -> str:
    load_left_behind()
    with database().reading() as session:
        unknown = unknown_senders(session)
    return render_template("senders.html", unknown=unknown, form=_form())


@pages.post("/senders")
@admin_required
def give() -> Response:
    form = _form()
    if not form.validate_on_submit():
        flash_errors(form)
        return redirect(url_for("senders.senders"))
    try:
        with database().writing() as session:
            add_address(session, form.person.data, form.address.data, actor=me().email)
    except Refusal as refusal:
        flash_refusal(refusal)
    else:
        flash(
            _(
                "%(address)s is now an acceptable address of %(person)s.",
                address=form.address.data,
                person=form.person.data,
            ),
            "success",
        )
    return redirect(url_for("senders.senders"))


def _form() -> GiveForm:
    form = GiveForm()
    with database().reading() as session:
        form.person.choices = [SelectChoice(one.email, one.name or one.email) for one in all_persons(session)]
    return form

"""People: who may sign in and send, and in which of two roles. Admins only."""

from collections.abc import Callable

from flask import Blueprint, abort, flash, redirect, render_template, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import BooleanField, EmailField, HiddenField, StringField, SubmitField
from wtforms.validators import DataRequired, Length

from admin.access import admin_required, database, me
from admin.passwords import hashed
from admin.refusals import beside, flash_refusal
from core.database.engine import Session
from core.people import store as people_store
from core.people.store import StoredPerson
from core.refusal import Refusal
from core.secrets import new_password

pages = Blueprint("people", __name__, url_prefix="/settings/people")


class AddPersonForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    email = EmailField(
        _l("E-mail address"), [DataRequired(), Length(max=320)], render_kw={"autocomplete": "off"}
    )
    name = StringField(_l("Name"), [Length(max=200)], render_kw={"autocomplete": "off"})
    is_admin = BooleanField(_l("Admin"))
    add = SubmitField(_l("Add person"))


class AddressForm(FlaskForm):  # type: ignore[misc]
    address = StringField(
        _l("Add an acceptable address"), [DataRequired(), Length(max=320)], render_kw={"inputmode": "email"}
    )
    add = SubmitField(_l("Add"))


class ActionForm(FlaskForm):  # type: ignore[misc]
    """What one button does to a person."""

    action = HiddenField(validators=[DataRequired()])
    address = HiddenField()


@pages.get("")
@admin_required
def people() -> str:
    return _render(AddPersonForm(formdata=None))


@pages.post("")
@admin_required
def add() -> str:
    form = AddPersonForm()
    if not form.validate_on_submit():
        return _render(form)
    password = new_password()
    try:
        with database().writing() as session:
            added = people_store.add_person(
                session,
                form.email.data,
                name=form.name.data or "",
                is_admin=form.is_admin.data,
                password_hash=hashed(password),
                actor=me().email,
            )
    except Refusal as refusal:
        beside(form.email, refusal)
        return _render(form)
    return render_template("password_made.html", account=added, password=password)


@pages.get("/<int(max=2147483647):person_id>")
@admin_required
def person(person_id: int) -> str:
    return _render_person(person_id, AddressForm(formdata=None))


@pages.post("/<int(max=2147483647):person_id>/addresses")
@admin_required
def add_address(person_id: int) -> str | Response:
    form = AddressForm()
    if form.validate_on_submit():
        try:
            with database().writing() as session:
                account = _account(session, person_id)
                people_store.add_address(session, account.email, form.address.data, actor=me().email)
        except Refusal as refusal:
            beside(form.address, refusal)
        else:
            return redirect(url_for("people.person", person_id=person_id))
    return _render_person(person_id, form)


@pages.post("/<int(max=2147483647):person_id>")
@admin_required
def act(person_id: int) -> str | Response:
    form = ActionForm()
    if not form.validate_on_submit():
        abort(400)
    if form.action.data == "password":
        return _new_password(person_id)
    action = _ACTIONS.get(form.action.data)
    if action is None:
        abort(400)
    try:
        with database().writing() as session:
            action(session, _account(session, person_id).email, form.address.data)
    except Refusal as refusal:
        flash_refusal(refusal)
    else:
        flash(_("Saved."), "success")
    return redirect(url_for("people.person", person_id=person_id))


_ACTIONS: dict[str, Callable[[Session, str, str], None]] = {
    "disable": lambda session, email, _: people_store.set_active(
        session, email, active=False, actor=me().email
    ),
    "enable": lambda session, email, _: people_store.set_active(
        session, email, active=True, actor=me().email
    ),
    "make-admin": lambda session, email, _: people_store.set_admin(
        session, email, admin=True, actor=me().email
    ),
    "make-user": lambda session, email, _: people_store.set_admin(
        session, email, admin=False, actor=me().email
    ),
    "remove-address": lambda session, email, address: people_store.remove_address(
        session, email, address, actor=me().email
    ),
}


def _new_password(person_id: int) -> str:
    password = new_password()
    with database().writing() as session:
        account = _account(session, person_id)
        people_store.set_password_hash(session, account.email, hashed(password), actor=me().email)
    return render_template("password_made.html", account=account, password=password)


def _render(form: AddPersonForm) -> str:
    with database().reading() as session:
        accounts = people_store.all_persons(session)
    return render_template("people.html", accounts=accounts, form=form)


def _render_person(person_id: int, form: AddressForm) -> str:
    with database().reading() as session:
        account = _account(session, person_id)
        addresses = people_store.addresses(session, person_id)
    return render_template(
        "person.html", account=account, addresses=addresses, form=form, action_form=ActionForm(formdata=None)
    )


def _account(session: Session, person_id: int) -> StoredPerson:
    account = people_store.person_by_id(session, person_id)
    if account is None:
        abort(404)
    return account

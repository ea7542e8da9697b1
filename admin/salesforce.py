"""Settings → Salesforce → Sync Settings: how a person's mail is logged, and which senders are that person.

The same page lies behind "Admin Settings" and "My Account"; an admin sees the organisation's policy on it too."""

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from flask_login import login_required
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import HiddenField, StringField, SubmitField
from wtforms.validators import DataRequired, Length

from admin.access import database, me
from admin.policy_form import PolicyForm, filled_policy_form
from admin.refusals import beside, flash_refusal
from core import settings as rules
from core.refusal import Refusal
from core.settings import InForce, LockedSetting, Logging, Name, SettingError
from core.storage import people, settings

pages = Blueprint("salesforce", __name__, url_prefix="/settings")


class BccForm(FlaskForm):  # type: ignore[misc]  # Flask-WTF ships no types
    """One form, three buttons: keep the address, and switch the copy on or off."""

    address = StringField(
        _l("Email to Salesforce address"),
        [Length(max=320)],
        render_kw={
            "placeholder": "emailtosalesforce@….le.salesforce.com",
            "inputmode": "email",
            "spellcheck": "false",
        },
    )
    save = SubmitField(_l("Save address"))
    activate = SubmitField(_l("Activate"))
    deactivate = SubmitField(_l("Deactivate"))


class AddAddressForm(FlaskForm):  # type: ignore[misc]
    new_address = StringField(
        _l("Add an address that you send from"),
        [DataRequired(), Length(max=320)],
        render_kw={"inputmode": "email", "spellcheck": "false"},
    )
    add = SubmitField(_l("Add"))


class RemoveAddressForm(FlaskForm):  # type: ignore[misc]
    address = HiddenField(validators=[DataRequired()])


@pages.get("")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def index() -> Response:
    return redirect(url_for("salesforce.sync_settings"))


@pages.get("/salesforce")
@login_required  # type: ignore[untyped-decorator]
def sync_settings() -> str:
    return render()


@pages.post("/salesforce/bcc")
@login_required  # type: ignore[untyped-decorator]
def bcc() -> str | Response:
    form = BccForm()
    if not form.validate_on_submit():
        return render(bcc_form=form)
    try:
        _choose(form)
        _say_what_was_done(form)
    except LockedSetting as refusal:
        flash_refusal(refusal)
    except SettingError as refusal:
        beside(form.address, refusal)
        return render(bcc_form=form)
    return redirect(url_for("salesforce.sync_settings"))


@pages.post("/salesforce/addresses")
@login_required  # type: ignore[untyped-decorator]
def add_address() -> str | Response:
    form = AddAddressForm()
    if form.validate_on_submit():
        try:
            with database().writing() as session:
                added = people.add_address(session, me().email, form.new_address.data, actor=me().email)
        except Refusal as refusal:
            beside(form.new_address, refusal)
        else:
            flash(_("Mail from %(address)s is yours now.", address=added), "success")
            return redirect(url_for("salesforce.sync_settings"))
    return render(add_form=form)


@pages.post("/salesforce/addresses/remove")
@login_required  # type: ignore[untyped-decorator]
def remove_address() -> Response:
    form = RemoveAddressForm()
    if form.validate_on_submit():
        try:
            with database().writing() as session:
                people.remove_address(session, me().email, form.address.data, actor=me().email)
        except Refusal as refusal:
            flash_refusal(refusal)
        else:
            flash(
                _("Mail from %(address)s is not logged for you any more.", address=form.address.data),
                "success",
            )
    return redirect(url_for("salesforce.sync_settings"))


def render(
    *,
    bcc_form: BccForm | None = None,
    add_form: AddAddressForm | None = None,
    policy_form: PolicyForm | None = None,
) -> str:
    """The page, with the forms as they were filled in."""
    account = me()
    with database().reading() as session:
        policy = settings.policy(session)
        in_force = {one.name: one for one in rules.in_force(policy, settings.preference(session, account.id))}
        addresses = people.addresses(session, account.id)
    bcc_address = in_force[Name.BCC_ADDRESS].value
    if bcc_form is None:
        bcc_form = BccForm(formdata=None, address=bcc_address)
    if policy_form is None and account.is_admin:
        policy_form = filled_policy_form(policy)
    return render_template(
        "salesforce.html",
        bcc_form=bcc_form,
        add_form=add_form or AddAddressForm(formdata=None),
        remove_form=RemoveAddressForm(formdata=None),
        policy_form=policy_form,
        addresses=addresses,
        bcc_address=bcc_address,
        logging=in_force[Name.LOGGING],
        bcc_state=_bcc_state(in_force[Name.LOGGING], bcc_address),
    )


def _bcc_state(logging: InForce, bcc_address: str) -> str:
    """`off`, `active`, or `address-missing`."""
    if logging.value != Logging.BCC:
        return "off"
    return "active" if bcc_address else "address-missing"


def _choose(form: BccForm) -> None:
    """Store what the pressed button says. Raises SettingError, LockedSetting."""
    account = me()
    address = form.address.data or ""
    with database().writing() as session:
        if form.deactivate.data:
            settings.set_preference(session, account, Name.LOGGING, Logging.OFF, actor=account.email)
            return
        settings.set_preference(session, account, Name.BCC_ADDRESS, address, actor=account.email)
        if form.activate.data:
            if not address.strip():
                raise SettingError(
                    "Type in your Email to Salesforce address first; the steps below show where to find it"
                )
            settings.set_preference(session, account, Name.LOGGING, Logging.BCC, actor=account.email)


def _say_what_was_done(form: BccForm) -> None:
    if form.activate.data:
        flash(_("Active: your sales mails are copied to Salesforce."), "success")
    elif form.deactivate.data:
        flash(_("Not active any more: your mails are passed on and not copied."), "success")
    else:
        flash(_("Saved."), "success")

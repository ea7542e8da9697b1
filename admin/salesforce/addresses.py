"""A person's acceptable addresses: added, taken over from Salesforce, removed."""

from flask import Blueprint, flash, redirect, url_for
from flask_babel import gettext as _
from werkzeug.wrappers import Response

from admin.access import database, me, sign_in_required
from admin.refusals import beside, flash_refusal
from admin.salesforce.forms import AddAddressForm, RemoveAddressForm
from admin.salesforce.redraw import Filled, redraw
from core.people import store as people_store
from core.refusal import Refusal

pages = Blueprint("addresses", __name__, url_prefix="/settings/salesforce/addresses")


@pages.post("")
@sign_in_required
def add_address() -> str | Response:
    form = AddAddressForm()
    if form.validate_on_submit():
        try:
            with database().writing() as session:
                added = people_store.add_address(session, me().email, form.new_address.data, actor=me().email)
        except Refusal as refusal:
            beside(form.new_address, refusal)
        else:
            flash(_("Mail from %(address)s is yours now.", address=added), "success")
            return redirect(url_for("salesforce.sync_settings"))
    return redraw(Filled(address=form))


@pages.post("/remove")
@sign_in_required
def remove_address() -> Response:
    form = RemoveAddressForm()
    if form.validate_on_submit():
        try:
            with database().writing() as session:
                people_store.remove_address(session, me().email, form.address.data, actor=me().email)
        except Refusal as refusal:
            flash_refusal(refusal)
        else:
            flash(
                _("Mail from %(address)s is not logged for you any more.", address=form.address.data),
                "success",
            )
    return redirect(url_for("salesforce.sync_settings"))

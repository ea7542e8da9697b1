"""The tab "Email to Salesforce (BCC)": the copy switched on and off, and the address looked up or typed
in."""

from flask import Blueprint, flash, redirect, url_for
from flask_babel import gettext as _
from flask_babel import lazy_gettext as _l
from werkzeug.wrappers import Response

from admin.access import connections, database, me, sign_in_required
from admin.prerequisites import NeedsConnection, prerequisites
from admin.refusals import beside, flash_refusal, flash_trouble
from admin.salesforce.forms import BccForm
from admin.salesforce.redraw import Filled, redraw
from core.salesforce import bcc_address_queue, connection_store
from core.salesforce.bcc_address import AddressOutcome
from core.salesforce.bcc_address_lookup import pick_up
from core.salesforce.troubles import Trouble
from core.settings import store as settings_store
from core.settings.catalogue import Logging, Setting
from core.settings.in_force import LockedSetting
from core.settings.kinds import SettingError

pages = Blueprint("bcc", __name__, url_prefix="/settings/salesforce/bcc")

_FOUND = {
    AddressOutcome.FOUND: (
        _l("Your address was found in Salesforce: your sales mails are copied."),
        "success",
    ),
    AddressOutcome.ADDRESS_MISSING: (
        _l("Salesforce shows no address for you yet; the steps below help."),
        "warning",
    ),
    AddressOutcome.FEATURE_OFF: (
        _l("Your organisation has not switched Email to Salesforce on; the steps below help."),
        "warning",
    ),
    AddressOutcome.NO_RIGHT: (_l("Your Salesforce user may not look the address up; type it in."), "warning"),
}


@pages.post("")
@sign_in_required
def bcc() -> str | Response:
    form = BccForm()
    if not form.validate_on_submit():
        return redraw(Filled(bcc=form))
    try:
        if form.look.data or (form.activate.data and not (form.address.data or "").strip()):
            _look_up(form)
        else:
            _choose(form)
            _say_what_was_done(form)
    except (LockedSetting, NeedsConnection) as refusal:
        flash_refusal(refusal)
    except SettingError as refusal:
        beside(form.address, refusal)
        return redraw(Filled(bcc=form))
    return redirect(url_for("salesforce.sync_settings"))


def _look_up(form: BccForm) -> None:
    """Now, and if Salesforce does not answer, later by the worker. Raises NeedsConnection, LockedSetting."""
    account, found_by = me(), connections()
    with database().writing() as session:
        if (reason := prerequisites(session).reason) is not None:
            raise NeedsConnection(
                "%(reason)s Connect it first, or type your Email to Salesforce address in", reason=reason
            )
        bcc_address_queue.ask(session, account.id)
        if form.activate.data:
            settings_store.set_preference(session, account, Setting.LOGGING, Logging.BCC, actor=account.email)
        connection = connection_store.connection(session, account.id)
    if found_by is None or connection is None:
        return
    found = pick_up(found_by, account, connection, takes_over=True, actor=account.email)
    if isinstance(found, Trouble):
        flash_trouble(found)
    else:
        flash(*_FOUND[found])


def _choose(form: BccForm) -> None:
    """Store what the pressed button says. Raises SettingError, LockedSetting."""
    account = me()
    with database().writing() as session:
        if form.deactivate.data:
            settings_store.set_preference(session, account, Setting.LOGGING, Logging.OFF, actor=account.email)
            return
        settings_store.set_preference(
            session, account, Setting.BCC_ADDRESS, form.address.data or "", actor=account.email
        )
        if form.with_receipt.data:
            if (reason := prerequisites(session).reason) is not None:
                raise NeedsConnection("%(reason)s A receipt needs a connection", reason=reason)
            settings_store.set_preference(
                session, account, Setting.LOGGING, Logging.BCC_WITH_RECEIPT, actor=account.email
            )
        if form.activate.data:
            settings_store.set_preference(session, account, Setting.LOGGING, Logging.BCC, actor=account.email)


def _say_what_was_done(form: BccForm) -> None:
    if form.with_receipt.data:
        flash(_("With receipt from now on: Blindcopy looks whether Salesforce has each mail."), "success")
    elif form.activate.data:
        flash(_("Active: your sales mails are copied to Salesforce."), "success")
    elif form.deactivate.data:
        flash(_("Not active any more: your mails are passed on and not copied."), "success")
    else:
        flash(_("Saved."), "success")

"""Settings → Salesforce → Sync Settings: how a person's mail is logged, and which senders are that person.

The same page lies behind "Admin Settings" and "My Account"; an admin sees the organisation's policy on it
too."""

from datetime import UTC, datetime, timedelta

from flask import Blueprint, redirect, render_template, url_for
from werkzeug.wrappers import Response

from admin.access import database, me, sign_in_required
from admin.prerequisites import Prerequisites, prerequisites
from admin.salesforce import api, policy, tasks
from admin.salesforce.forms import AddAddressForm, BccForm, Button
from admin.salesforce.redraw import Filled
from admin.salesforce.settings_form import filled
from core.mail import requests as mail_requests
from core.mail import store as mail_store
from core.people import store as people_store
from core.salesforce import bcc_address_queue
from core.salesforce.bcc_address import AddressOutcome, senders_that_salesforce_lacks, senders_to_propose
from core.salesforce.bcc_address_queue import PickUp
from core.settings import store as settings_store
from core.settings.catalogue import Logging, Setting
from core.settings.in_force import InForce, in_force, policy_in_force

pages = Blueprint("salesforce", __name__, url_prefix="/settings")


@pages.get("")
@sign_in_required
def index() -> Response:
    return redirect(url_for("salesforce.sync_settings"))


@pages.get("/salesforce")
@sign_in_required
def sync_settings() -> str:
    return draw(Filled())


def draw(typed_in: Filled) -> str:
    """The whole page; the forms that were filled in show what was typed and what is wrong with it."""
    account = me()
    with database().reading() as session:
        in_policy = settings_store.policy(session)
        settings = in_force(in_policy, settings_store.preference(session, account.id))
        addresses = people_store.addresses(session, account.id)
        picked_up = bcc_address_queue.pick_up(session, account.id)
        known = prerequisites(session)
        ignored = sorted(mail_requests.ignored(session, account.id))
        for_mail = settings_store.policy_for_mail(session)
        by_others = mail_store.logged_by_others(session, datetime.now(UTC) - timedelta(days=30), account.id)
    policy_settings = policy_in_force(in_policy)
    bcc_address = settings[Setting.BCC_ADDRESS].value
    senders = (picked_up and picked_up.senders) or ()
    api_form = typed_in.api or filled(api.SETTINGS, settings)
    return render_template(
        "salesforce.html",
        tab=typed_in.tab,
        api_form=api_form,
        api_settings=api.SETTINGS,
        in_force=settings,
        preview=api.preview(api_form),
        bcc_form=typed_in.bcc or BccForm(formdata=None, address=bcc_address),
        add_form=typed_in.address or AddAddressForm(formdata=None),
        button=Button(formdata=None),
        policy_in_force=policy_settings,
        policy_parts=policy.parts(policy_settings, typed_in) if account.is_admin else [],
        has_own_domains=bool(for_mail.own_domains),
        derived_domains=for_mail.derived_domains,
        task_card=tasks.card(settings, typed_in),
        addresses=addresses,
        ignored=ignored,
        bcc_address=bcc_address,
        logging=settings[Setting.LOGGING],
        bcc_state=_bcc_state(settings[Setting.LOGGING], bcc_address, picked_up, known),
        known=known,
        copied_by_others_too=by_others.copied,
        is_another=picked_up is not None and picked_up.is_another,
        lacking=senders_that_salesforce_lacks(tuple(addresses), senders),
        proposals=senders_to_propose(tuple(addresses), senders),
    )


def _bcc_state(logging: InForce, bcc_address: str, picked_up: PickUp | None, known: Prerequisites) -> str:
    """`off`, `api`, `active`, `looking`, `address-missing`, `feature-off` or `no-right`."""
    if logging.value == Logging.API:
        return "api"
    if not Logging(logging.value).copies:
        return "off"
    if bcc_address:
        return "active"
    if not known.has_api:
        return AddressOutcome.ADDRESS_MISSING.value
    outcome = AddressOutcome.LOOKING if picked_up is None else picked_up.outcome
    return AddressOutcome.LOOKING.value if outcome is AddressOutcome.FOUND else outcome.value

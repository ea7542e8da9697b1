"""Settings → Salesforce → Sync Settings: how a person's mail is logged, and which senders are that person.

The same page lies behind "Admin Settings" and "My Account"; an admin sees the organisation's policy on it too."""

from typing import TYPE_CHECKING

from flask import Blueprint, redirect, render_template, url_for
from flask_login import login_required
from werkzeug.wrappers import Response

from admin.access import connections, database, me
from admin.policy_form import PolicyForm, filled_policy_form
from admin.prerequisites import Prerequisites
from admin.salesforce.forms import AddAddressForm, BccForm, Button
from core.database.engine import Session
from core.mail import queue as mail_queue
from core.people import store as people_store
from core.salesforce import bcc_address_queue, connection_store
from core.salesforce.bcc_address import Outcome, senders_that_salesforce_lacks, senders_to_propose
from core.salesforce.bcc_address_queue import PickUp
from core.settings import catalogue
from core.settings import store as settings_store
from core.settings.catalogue import InForce, Logging, Name

if TYPE_CHECKING:
    from admin.salesforce.api import ApiForm
    from admin.salesforce.tasks import Card

pages = Blueprint("salesforce", __name__, url_prefix="/settings")


@pages.get("")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def index() -> Response:
    return redirect(url_for("salesforce.sync_settings"))


@pages.get("/salesforce")
@login_required  # type: ignore[untyped-decorator]
def sync_settings() -> str:
    return render()


def prerequisites(session: Session) -> Prerequisites:
    """What the person of this request can use of Salesforce."""
    return Prerequisites(connections() is not None, connection_store.connection(session, me().id))


def render(
    *,
    bcc_form: BccForm | None = None,
    add_form: AddAddressForm | None = None,
    policy_form: PolicyForm | None = None,
    api_form: "ApiForm | None" = None,
    policy_api_form: "ApiForm | None" = None,
    task_card: "Card | None" = None,
    tab: str = "bcc",
) -> str:
    """The page, with the forms as they were filled in; `tab`: `bcc` or `api`."""
    from admin.salesforce import tasks  # noqa: PLC0415  these draw themselves by this page
    from admin.salesforce.api import FIELDS, filled, preview  # noqa: PLC0415

    account = me()
    with database().reading() as session:
        policy = settings_store.policy(session)
        in_force = {
            one.name: one
            for one in catalogue.in_force(policy, settings_store.preference(session, account.id))
        }
        addresses = people_store.addresses(session, account.id)
        picked_up = bcc_address_queue.pick_up(session, account.id)
        known = prerequisites(session)
        ignored = sorted(mail_queue.ignored(session, account.id))
        for_mail = settings_store.policy_for_mail(session)
    bcc_address = in_force[Name.BCC_ADDRESS].value
    if bcc_form is None:
        bcc_form = BccForm(formdata=None, address=bcc_address)
    if policy_form is None and account.is_admin:
        policy_form = filled_policy_form(policy)
    senders = (picked_up and picked_up.senders) or ()
    policy_in_force = {one.name: one for one in catalogue.policy_in_force(policy)}
    if api_form is None:
        api_form = filled(in_force)
    if account.is_admin and policy_api_form is None:
        policy_api_form = filled(policy_in_force)
    return render_template(
        "salesforce.html",
        tab=tab,
        api_form=api_form,
        policy_api_form=policy_api_form,
        fields=list(FIELDS.items()),
        in_force=in_force,
        policy_in_force=policy_in_force,
        preview=preview(api_form.subject_template.data or ""),
        choices=lambda field: [
            (choice[0], choice[1]) if isinstance(choice, tuple) else (choice.value, choice.label)
            for choice in field.choices
        ],
        bcc_form=bcc_form,
        add_form=add_form or AddAddressForm(formdata=None),
        button=Button(formdata=None),
        policy_form=policy_form,
        has_own_domains=bool(for_mail.own_domains),
        derived_domains=for_mail.derived_domains,
        task_card=task_card or tasks.card(),
        addresses=addresses,
        ignored=ignored,
        bcc_address=bcc_address,
        logging=in_force[Name.LOGGING],
        bcc_state=_bcc_state(in_force[Name.LOGGING], bcc_address, picked_up, known),
        known=known,
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
        return Outcome.ADDRESS_MISSING.value
    outcome = Outcome.LOOKING if picked_up is None else picked_up.outcome
    return Outcome.LOOKING.value if outcome is Outcome.FOUND else outcome.value

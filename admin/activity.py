"""What happened to each mail, and why; and what a person can still do about it."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_babel import ngettext
from werkzeug.wrappers import Response

from admin import words
from admin.access import database, load_left_behind, me, sign_in_required
from admin.refusals import flash_refusal
from admin.trace import Told, trace_of
from core.database.engine import Session
from core.mail import limits as mail_limits
from core.mail import queue as mail_queue
from core.mail import requests as mail_requests
from core.mail import store as mail_store
from core.mail.progress import MailLog
from core.mail.reasons import Reason
from core.mail.row import DISMISSIBLE, State
from core.mail.store import Entry, Filter
from core.people.addresses import AddressError, checked_pattern
from core.people.store import NotThere, all_persons, person_by_email
from core.refusal import Refusal
from core.salesforce.connection_store import instance_urls
from core.salesforce.troubles import trouble
from core.settings import store as settings_store
from core.settings.in_force import policy_settings

pages = Blueprint("activity", __name__)
_ROWS = 50
_IDS = re.compile(r"\b(?:003|00Q|001|006)[A-Za-z0-9]{12}(?:[A-Za-z0-9]{3})?\b")


@pages.get("/activity")
@sign_in_required
def activity() -> str:
    account = me()
    load_left_behind()
    state = _state(request.args.get("state", ""))
    by_others = bool(request.args.get("others"))
    before = request.args.get("before") or None
    with database().reading() as session:
        persons = all_persons(session) if account.is_admin else []
        chosen = next((one for one in persons if one.email == request.args.get("person")), None)
        person_id = (chosen.id if chosen else None) if account.is_admin else account.id
        which = Filter(person_id, state, before, by_others=by_others)
        entries = mail_store.entries(session, which, _ROWS + 1)
        shows_subjects = policy_settings(settings_store.policy(session)).show_subjects_to_admins
        firsts = {entry.row.same_as for entry in entries if entry.row.same_as is not None}
        logs = mail_queue.logs_of(session, firsts | {entry.row.id for entry in entries})
        deliveries = mail_store.deliveries(session, [entry.row for entry in entries])
        urls = instance_urls(session, {entry.row.person for entry in entries})
        means = mail_requests.means_of(session, {entry.row.person for entry in entries})
        kinds = mail_requests.kinds_of_trouble(session, person_id)
        kept_back = mail_limits.refusals(session, datetime.now(UTC) - mail_limits.ONE_DAY, person_id)

    entries = [entry if entry.person == account.email else _as_others_see_it(entry) for entry in entries]

    def trace(entry: Entry) -> Told:
        row = entry.row
        first = logs.get(row.same_as or "")
        return trace_of(row, logs.get(row.id, MailLog()), urls.get(row.person), first)

    return render_template(
        "activity.html",
        entries=entries[:_ROWS],
        older=entries[_ROWS - 1].row.id if len(entries) > _ROWS else None,
        persons=persons,
        chosen=chosen,
        state=state,
        states=words.STATES,
        by_others=by_others,
        colours=words.COLOURS,
        why=words.why,
        dismissible=DISMISSIBLE,
        trace=trace,
        deliveries=deliveries,
        can_log_again=mail_requests.can_log_again,
        can_log_now=lambda row: mail_requests.can_log_now(row, means[row.person]),
        kept_back=kept_back,
        kinds=[(code, number, trouble(code)) for code, number in kinds.items()],
        may_see_subject=lambda entry: entry.person == account.email or shows_subjects,
    )


def _as_others_see_it(entry: Entry) -> Entry:
    """Without subject and recipients where the From was not an address of the sender's own."""
    if entry.row.reason is not Reason.NOT_OWN_ADDRESS:
        return entry
    return replace(entry, row=replace(entry.row, subject=None, recipients=None))


@pages.post("/activity/<mail_id>/dismiss")
@sign_in_required
def dismiss(mail_id: str) -> Response:
    return _change_mail(mail_id, lambda session: mail_store.dismiss(session, mail_id), _("Dismissed."))


@pages.post("/activity/<mail_id>/log-again")
@sign_in_required
def log_again(mail_id: str) -> Response:
    return _change_mail(
        mail_id,
        lambda session: mail_requests.log_again(session, mail_id),
        _("It is tried again within seconds."),
    )


@pages.post("/activity/<mail_id>/pick")
@sign_in_required
def pick(mail_id: str) -> Response:
    """Log it on the records that the person names, by id or by the address of their page."""
    ids = _IDS.findall(request.form.get("records", ""))
    if not ids:
        flash(
            _(
                "Name a contact, lead, account or opportunity by its id or by the address of its page in "
                "Salesforce."
            ),
            "danger",
        )
        return redirect(url_for("activity.activity", state=State.UNMATCHED))
    return _change_mail(
        mail_id,
        lambda session: mail_requests.pick(session, mail_id, ids),
        _("It is logged there within seconds."),
    )


@pages.post("/activity/<mail_id>/ignore")
@sign_in_required
def ignore(mail_id: str) -> Response:
    """Mails to this address or domain are not asked about any more."""
    try:
        pattern = checked_pattern(request.form.get("pattern", ""))
    except AddressError as refusal:
        flash_refusal(refusal)
        return redirect(url_for("activity.activity", state=State.UNMATCHED))

    def done(session: Session) -> None:
        mail_requests.ignore(session, mail_store.entry(session, mail_id).row.person, pattern)

    return _change_mail(
        mail_id, done, _("Mails to %(pattern)s are not looked up for you any more.", pattern=pattern)
    )


@pages.post("/activity/all-of-a-kind")
@sign_in_required
def all_of_a_kind() -> Response:
    """Retry or dismiss every failed mail with one kind of trouble, of the person that the page shows."""
    account, code = me(), request.form.get("code", "")
    chosen = request.form.get("person", "") if account.is_admin else account.email
    try:
        with database().reading() as session:
            person_id = person_by_email(session, chosen).id if chosen else None
            ids = mail_requests.ids_in_trouble(session, person_id, code)
    except Refusal as refusal:
        flash_refusal(refusal)
        return redirect(url_for("activity.activity"))
    done = mail_store.dismiss if "dismiss" in request.form else mail_requests.log_again
    number = mail_requests.each(database(), ids, done)
    flash(ngettext("Done for %(num)d mail.", "Done for %(num)d mails.", number), "success")
    return redirect(url_for("activity.activity", person=chosen if account.is_admin else None))


def _change_mail(mail_id: str, what: Callable[[Session], None], said: str) -> Response:
    try:
        with database().writing() as session:
            _refuse_others(mail_store.entry(session, mail_id))
            what(session)
    except Refusal as refusal:
        flash_refusal(refusal)
    else:
        flash(said, "success")
    return redirect(url_for("activity.activity"))


def _refuse_others(entry: Entry) -> None:
    """Only an admin may see another person's mail; to everybody else it does not exist."""
    if not me().is_admin and entry.person != me().email:
        raise NotThere("There is no mail %(id)s in the logbook", id=entry.row.id)


def _state(text: str) -> State | None:
    return State(text) if text in set(State) else None

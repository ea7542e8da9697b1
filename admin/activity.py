"""What happened to each mail, and why."""

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask_babel import gettext as _
from flask_login import login_required
from werkzeug.wrappers import Response

from admin import words
from admin.access import database, me
from admin.refusals import flash_refusal
from core.mail import DISMISSIBLE, State
from core.settings import policy_settings
from core.storage import logbook, settings
from core.storage.logbook import Entry, Filter, NotDismissible
from core.storage.people import NotThere, all_persons

pages = Blueprint("activity", __name__)
_ROWS = 50


@pages.get("/activity")
@login_required  # type: ignore[untyped-decorator]  # Flask-Login ships no types
def activity() -> str:
    account = me()
    state = _state(request.args.get("state", ""))
    before = request.args.get("before") or None
    with database().reading() as session:
        persons = all_persons(session) if account.is_admin else []
        chosen = next((one for one in persons if one.email == request.args.get("person")), None)
        person_id = (chosen.id if chosen else None) if account.is_admin else account.id
        entries = logbook.entries(session, Filter(person_id, state, before), _ROWS + 1)
        shows_subjects = policy_settings(settings.policy(session)).show_subjects_to_admins
    return render_template(
        "activity.html",
        entries=entries[:_ROWS],
        older=entries[_ROWS - 1].row.id if len(entries) > _ROWS else None,
        persons=persons,
        chosen=chosen,
        state=state,
        states=words.STATES,
        colours=words.COLOURS,
        why=words.why,
        dismissible=DISMISSIBLE,
        may_see_subject=lambda entry: entry.person == account.email or shows_subjects,
    )


@pages.post("/activity/<mail_id>/dismiss")
@login_required  # type: ignore[untyped-decorator]
def dismiss(mail_id: str) -> Response:
    try:
        with database().writing() as session:
            _refuse_others(logbook.entry(session, mail_id))
            logbook.dismiss(session, mail_id)
    except (NotThere, NotDismissible) as refusal:
        flash_refusal(refusal)
    else:
        flash(_("Dismissed."), "success")
    return redirect(url_for("activity.activity"))


def _refuse_others(entry: Entry) -> None:
    """Somebody else's mail does not exist for a person who is not an admin."""
    if not me().is_admin and entry.person != me().email:
        raise NotThere("There is no mail %(id)s in the logbook", id=entry.row.id)


def _state(text: str) -> State | None:
    return State(text) if text in set(State) else None

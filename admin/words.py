"""What the logbook's codes mean, in sentences for people."""

from flask_babel import lazy_gettext as _l

from core.mail.reasons import Reason
from core.mail.row import Copy, Row, State
from core.tasks.fields import Field
from core.tasks.lists import Which
from core.tasks.store import Binned
from core.tasks.task import TaskState

STATES = {
    State.PENDING: _l("On its way"),
    State.ABORTED: _l("Not sent"),
    State.UNKNOWN: _l("Unknown"),
    State.REFUSED: _l("Refused"),
    State.NOT_LOGGED: _l("Not logged"),
    State.COPIED: _l("Copied"),
    State.COPY_REFUSED: _l("Copy refused"),
    State.CONFIRMED: _l("Confirmed"),
    State.WAITING: _l("Waiting"),
    State.LOGGED: _l("Logged"),
    State.UNMATCHED: _l("Unmatched"),
    State.FAILED: _l("Failed"),
    State.DISMISSED: _l("Dismissed"),
}

COLOURS = {
    State.PENDING: "info",
    State.ABORTED: "secondary",
    State.UNKNOWN: "warning",
    State.REFUSED: "danger",
    State.NOT_LOGGED: "secondary",
    State.COPIED: "success",
    State.COPY_REFUSED: "warning",
    State.CONFIRMED: "success",
    State.WAITING: "info",
    State.LOGGED: "success",
    State.UNMATCHED: "warning",
    State.FAILED: "danger",
    State.DISMISSED: "secondary",
}

_REASONS = {
    Reason.UNREADABLE_AUTHOR: _l(
        "The From line of the mail does not name exactly one address, so the sender cannot be told."
    ),
    Reason.NOT_OWN_ADDRESS: _l("The From address is not one of this person's acceptable addresses."),
    Reason.LOGGING_OFF: _l("Logging is switched off."),
    Reason.BY_SALESFORCE: _l("Salesforce itself sent the mail and knows of it."),
    Reason.NULL_SENDER: _l("It is a notification without a sender, such as a bounce."),
    Reason.AUTOMATIC: _l("It is an automatic reply, or the answer to an invitation."),
    Reason.BULK: _l(
        "It says that it goes to many (%(detail)s). Such mail is logged where “Log mail merges and "
        "newsletters” is on."
    ),
    Reason.READ_RECEIPT: _l("It is a read receipt."),
    Reason.OPTED_OUT: _l("The mail asked not to be logged (X-Blindcopy: no)."),
    Reason.INTERNAL_ONLY: _l(
        "All recipients are in the organisation's own domains or on the never-log list."
    ),
    Reason.ALREADY_COPIED: _l(
        "The sender had put the Email to Salesforce address among the recipients, so Salesforce has it "
        "without our copy."
    ),
    Reason.NO_BCC_ADDRESS: _l("No Email to Salesforce address is known for this person."),
    Reason.NOT_CONNECTED: _l("Mail is to be logged through the API, and Salesforce was never connected."),
    Reason.API: _l("The mail was to be logged through the Salesforce API."),
    Reason.TOO_LARGE_TO_COPY: _l("The mail is larger than 25 MB, which Email to Salesforce does not take."),
    Reason.SAME_MAIL: _l("The same mail has come before, and its blind copy went out with that."),
    Reason.LOOP: _l("The mail has gone the same way three times within ten minutes; a rule sends it round."),
    Reason.COPY: _l("A blind copy was to go to the Email to Salesforce address."),
}


_OUTCOMES = {
    State.PENDING: _l("The mail is being handed to the mail provider right now."),
    State.ABORTED: _l(
        "The mail broke off before its end, so nothing was sent; the mail client has been told, or knows."
    ),
    State.UNKNOWN: _l(
        "The connection broke right after the mail was handed over, so it is not known whether the mail "
        "provider took it. "
        "If a recipient has it, Salesforce may have its copy too."
    ),
    State.REFUSED: _l("The mail provider refused the mail, so there is nothing to log: %(reply)s"),
    State.COPIED: _l("A blind copy went to the Email to Salesforce address, and the mail provider took it."),
    State.CONFIRMED: _l("A blind copy was sent, and Salesforce has the mail."),
    State.WAITING: _l("The mail was sent, and waits to be logged in Salesforce."),
    State.LOGGED: _l("The mail is logged in Salesforce."),
    State.UNMATCHED: _l("The mail was sent, and no contact or lead in Salesforce has one of its addresses."),
    State.FAILED: _l("The mail was sent, and Salesforce refuses to log it."),
    State.DISMISSED: _l("Nothing is to be done about this mail."),
}
_ABORTED_BY_US = _l("Nothing was sent, and the mail client was told why: %(reply)s")
_COPY_LEFT_OUT = _l(
    "The mail was sent without its blind copy: the mail provider had refused it before, and the copy may "
    "have been the cause."
)
_COPY_UNANSWERED = _l(
    "The mail was sent without its blind copy: the mail provider did not answer to the copy's address in "
    "time."
)
_COPY_REFUSED = _l("The mail was sent without its blind copy, which the mail provider refused: %(reply)s")


TASK_STATES = {
    TaskState.LOCAL: _l("Only here"),
    TaskState.IN_SYNC: _l("In sync"),
    TaskState.WAITING: _l("Waiting"),
    TaskState.CONFLICT: _l("Conflict"),
    TaskState.FAILED: _l("Failed"),
    TaskState.BIN: _l("In the bin"),
}
TASK_COLOURS = {
    TaskState.LOCAL: "light",
    TaskState.IN_SYNC: "success",
    TaskState.WAITING: "info",
    TaskState.CONFLICT: "warning",
    TaskState.FAILED: "danger",
    TaskState.BIN: "secondary",
}
TASK_FIELDS = {one: _l(one.label) for one in Field}
BINNED = {
    Binned.HERE: _l("Deleted here."),
    Binned.SALESFORCE: _l("Deleted in Salesforce."),
    Binned.GONE: _l("Salesforce does not show it any more."),
    Binned.REASSIGNED: _l("It was given to another person in Salesforce."),
}
TASK_LISTS = {
    Which.NOW: _l("Today and tomorrow"),
    Which.OVERDUE: _l("Overdue"),
    Which.LATER: _l("Later"),
    Which.UNDATED: _l("Without date"),
    Which.DONE: _l("Done"),
    Which.BIN: _l("Bin"),
}
WHY_LOST = {
    ("here", "edited"): _l("changed here"),
    ("here", "overwritten"): _l("changed in Salesforce"),
    ("here", "conflict"): _l("was here; both sides had changed it, Salesforce later"),
    ("here", "paired"): _l("was here before it was paired with the same task in Salesforce"),
    ("salesforce", "conflict"): _l("was in Salesforce; both sides had changed it, this one later"),
    ("salesforce", "overwritten"): _l("was in Salesforce when it was deleted"),
}


def why(row: Row) -> str:
    """Why this mail was logged so, or not at all: one answer in sentences."""
    reply = row.bcc_reply if row.state is State.COPY_REFUSED else row.upstream
    return str(_sentence(row)) % {"reply": reply or "", "detail": row.detail or "-"}


def _sentence(row: Row) -> object:
    if row.state is State.NOT_LOGGED:
        return _REASONS[row.reason]
    if row.state is State.ABORTED and row.upstream is not None:
        return _ABORTED_BY_US
    if row.state is State.COPY_REFUSED and row.bcc is Copy.UNANSWERED:
        return _COPY_UNANSWERED
    if row.state is State.COPY_REFUSED:
        return _COPY_REFUSED if row.bcc_reply is not None else _COPY_LEFT_OUT
    return _OUTCOMES[row.state]

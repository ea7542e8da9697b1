"""What Salesforce's refusals mean: whether trying again can help, why it happened, and who can mend it how.

The codes are those of the REST API Developer Guide ("Status Codes and Error Responses"), of "Core Data Types
Used in API Calls" and of the diagnostics tables of two connectors.

Pure: codes and messages in, a trouble out."""

from dataclasses import dataclass
from enum import Enum

_LONGEST_DETAIL = 500


class TroubleKind(Enum):
    """What follows from a trouble."""

    TRANSIENT = "transient"
    """It passes: try again, ever later."""
    LIMIT = "limit"
    """The whole org waits until calls are left again."""
    SESSION = "session"
    """The access token has had its day: refresh it, once."""
    CONNECTION = "connection"
    """The person must connect again."""
    NO_API = "no-api"
    """This org, or this person, may not use the API: the blind copy remains."""
    PERMANENT = "permanent"
    """Trying again brings the same."""


class Mender(Enum):
    """Who can mend it."""

    TIME = "no action needed"
    PERSON = "you"
    SALESFORCE_ADMIN = "your Salesforce admin"
    OPERATOR = "the operator of Blindcopy"


@dataclass(frozen=True)
class Trouble:
    """One refusal. `cause` and `remedy` are sentences for people, `detail` is what Salesforce said."""

    code: str
    kind: TroubleKind
    mender: Mender
    cause: str
    remedy: str
    detail: str = ""


_T, _L, _S, _C, _N, _P = (
    TroubleKind.TRANSIENT,
    TroubleKind.LIMIT,
    TroubleKind.SESSION,
    TroubleKind.CONNECTION,
    TroubleKind.NO_API,
    TroubleKind.PERMANENT,
)
_TIME, _PERSON, _ADMIN, _OPERATOR = Mender.TIME, Mender.PERSON, Mender.SALESFORCE_ADMIN, Mender.OPERATOR
_WAITS = "It is retried automatically."
_RECONNECT = "Connect Salesforce again, under Settings, Salesforce, Connections & Customizations."
_LOG_AGAIN = "then try again: “Log again” at a mail, “Send to Salesforce” at a task."

_TABLE: dict[str, tuple[TroubleKind, Mender, str, str]] = {
    "FAILED_WRITE": (_T, _TIME, "Salesforce could not write the record just then.", _WAITS),
    "INSERT_UPDATE_DELETE_NOT_ALLOWED_DURING_MAINTENANCE": (
        _T,
        _TIME,
        "Salesforce is being upgraded.",
        _WAITS,
    ),
    "QUERY_TIMEOUT": (_T, _TIME, "Salesforce took too long over a query.", _WAITS),
    "REQUEST_RUNNING_TOO_LONG": (_T, _TIME, "Salesforce took too long over a request.", _WAITS),
    "SERVER_UNAVAILABLE": (_T, _TIME, "Salesforce is overloaded or down.", _WAITS),
    "TOO_MANY_APEX_REQUESTS": (_T, _TIME, "Salesforce is overloaded.", _WAITS),
    "UNABLE_TO_LOCK_ROW": (
        _T,
        _TIME,
        "Another user or program was changing the record at the same moment.",
        _WAITS,
    ),
    "API_CURRENTLY_DISABLED": (_T, _TIME, "Salesforce has switched its API off for the moment.", _WAITS),
    "REQUEST_LIMIT_EXCEEDED": (
        _L,
        _ADMIN,
        "The organisation has used up its API calls of the day.",
        "Work pauses and resumes automatically; if it happens often, ask for more API calls.",
    ),
    "INVALID_SESSION_ID": (_S, _TIME, "The session with Salesforce has ended.", _WAITS),
    "AUTHENTICATION_FAILURE": (_C, _PERSON, "Salesforce no longer accepts the connection.", _RECONNECT),
    "EXPIRED_ACCESS": (_C, _PERSON, "The access to Salesforce has expired.", _RECONNECT),
    "invalid_grant": (
        _C,
        _PERSON,
        "The access was revoked or has expired, or is not allowed from here.",
        _RECONNECT,
    ),
    "inactive_user": (
        _C,
        _ADMIN,
        "The Salesforce user is inactive.",
        "Activate the user in Setup, Users; then connect again.",
    ),
    "INACTIVE_USER": (
        _C,
        _ADMIN,
        "The Salesforce user is inactive.",
        "Activate the user in Setup, Users; then connect again.",
    ),
    "INACTIVE_ORGANIZATION": (
        _C,
        _ADMIN,
        "The Salesforce organisation is inactive.",
        "Ask Salesforce to activate it.",
    ),
    "ORG_LOCKED": (_C, _ADMIN, "The Salesforce organisation is locked.", "Ask Salesforce to unlock it."),
    "TRIAL_EXPIRED": (_C, _ADMIN, "The Salesforce trial has ended.", "Buy the edition, then connect again."),
    "INVALID_LOGIN": (_C, _PERSON, "Salesforce does not accept the sign-in.", _RECONNECT),
    "PASSWORD_LOCKOUT": (
        _C,
        _ADMIN,
        "The Salesforce user is locked out.",
        "Unlock the user in Setup, Users; then connect again.",
    ),
    "invalid_client": (
        _P,
        _OPERATOR,
        "Salesforce does not accept the secret of the External Client App.",
        "Set BLINDCOPY_SALESFORCE_CLIENT_SECRET to the app's consumer secret.",
    ),
    "invalid_client_id": (
        _P,
        _OPERATOR,
        "Salesforce does not know the External Client App, or it is not installed in this org.",
        (
            "Set BLINDCOPY_SALESFORCE_CLIENT_ID to the app's consumer key; have the Salesforce admin install "
            "the app."
        ),
    ),
    "access_denied": (
        _P,
        _PERSON,
        "You pressed Deny on Salesforce's page, or your Salesforce admin has not allowed the app.",
        (
            "Connect again and press Allow; if there is nothing to press, have the Salesforce admin install "
            "the app."
        ),
    ),
    "OAUTH_APP_BLOCKED": (
        _P,
        _ADMIN,
        "The app is blocked in this Salesforce org.",
        "Unblock and install it in Setup, Connected Apps OAuth Usage; then connect again.",
    ),
    "OAUTH_APP_ACCESS_DENIED": (
        _P,
        _ADMIN,
        "The Salesforce user is not among those who may use the app.",
        (
            "Let the user's profile or permission set use it in Setup, External Client App Manager, "
            "Policies; then connect again."
        ),
    ),
    "RESTRICTED_DOMAIN": (
        _P,
        _PERSON,
        "Your org allows sign-ins at its own login page only, not at Salesforce's general one.",
        (
            "Choose “My Domain” and type in your org's own address, like acme.my.salesforce.com; then "
            "connect again."
        ),
    ),
    "clock_skew": (
        _P,
        _OPERATOR,
        "The clock of Blindcopy's machine and Salesforce's clock are minutes apart.",
        "Set the machine's clock by NTP; then connect again.",
    ),
    "wrong_state": (
        _P,
        _PERSON,
        "The answer from Salesforce does not belong to a sign-in that was begun in this browser.",
        "Connect again from this page, in one browser window, and finish within ten minutes.",
    ),
    "expired_code": (
        _P,
        _PERSON,
        "The sign-in took too long, or its page was loaded twice: Salesforce's code is good once only.",
        "Connect again.",
    ),
    "not_salesforce": (
        _P,
        _PERSON,
        "This is not a Salesforce address.",
        "A My Domain looks like acme.my.salesforce.com.",
    ),
    "another_user": (
        _P,
        _OPERATOR,
        "The token belongs to another Salesforce user than was named.",
        "Name the user that the token belongs to.",
    ),
    "not_approved": (
        _P,
        _ADMIN,
        "The Salesforce user is not let in for the app's key.",
        "Pre-authorise the user's profile or permission set in Setup, External Client App Manager, Policies.",
    ),
    "unforeseen": (
        _P,
        _OPERATOR,
        "An unexpected error occurred while logging this mail.",
        "Look at the worker's log, and report it; then log the mail again, or dismiss it.",
    ),
    "unforeseen_sync": (
        _T,
        _TIME,
        "An unexpected error occurred while synchronising tasks.",
        "It is retried automatically; if it stays, have the operator of Blindcopy look at the worker's log.",
    ),
    "unreadable_record": (
        _P,
        _ADMIN,
        "What Salesforce has of this task makes no sense, so nothing is done about it.",
        "Look at the task in Salesforce; it is read again automatically.",
    ),
    "lost_text": (
        _P,
        _OPERATOR,
        "What was kept of the mail cannot be read, so its To and Cc are not known any more.",
        (
            "Give the worker the key that the relay had, in BLINDCOPY_SECRET_KEY, then log the mail again; "
            "or dismiss it."
        ),
    ),
    "unreadable_tokens": (
        _P,
        _OPERATOR,
        "The tokens are encrypted with a key that this process does not have.",
        "Give every process the key again, in BLINDCOPY_SECRET_KEY.",
    ),
    "unusable_key": (
        _P,
        _OPERATOR,
        "The private key cannot be used.",
        "Name a PEM file with an RSA key in BLINDCOPY_SALESFORCE_JWT_KEY_FILE.",
    ),
    "redirect_uri_mismatch": (
        _P,
        _OPERATOR,
        "The callback address is not one of the External Client App's.",
        "Add BLINDCOPY_PUBLIC_URL/salesforce/callback to the app's callback URLs.",
    ),
    "API_DISABLED_FOR_ORG": (
        _N,
        _ADMIN,
        "The edition has no API access, or the user lacks the permission “API Enabled”.",
        "Give the user “API Enabled” (Setup, Permission Sets), or use the blind copy, which needs no API.",
    ),
    "UNSUPPORTED_API_VERSION": (
        _P,
        _OPERATOR,
        "The org no longer offers this API version.",
        "Update Blindcopy.",
    ),
    "CANNOT_INSERT_UPDATE_ACTIVATE_ENTITY": (
        _P,
        _ADMIN,
        "An automation in Salesforce (a trigger or flow) failed on the record.",
        f"Mend the automation that the message names, {_LOG_AGAIN}",
    ),
    "ENTITY_IS_LOCKED": (
        _P,
        _ADMIN,
        "The record is locked, by an approval for instance.",
        f"Unlock the record, {_LOG_AGAIN}",
    ),
    "ENTITY_IS_ARCHIVED": (_P, _PERSON, "The record is archived.", "Choose another record."),
    "ENTITY_IS_DELETED": (
        _P,
        _PERSON,
        "The record was deleted.",
        "Restore it from the recycle bin, or choose another record.",
    ),
    "FIELD_CUSTOM_VALIDATION_EXCEPTION": (
        _P,
        _ADMIN,
        "A validation rule of your organisation refuses the record.",
        f"Let the rule pass what Blindcopy writes, {_LOG_AGAIN}",
    ),
    "FIELD_FILTER_VALIDATION_EXCEPTION": (
        _P,
        _ADMIN,
        "A lookup filter of your organisation refuses the record.",
        f"Loosen the filter, {_LOG_AGAIN}",
    ),
    "FIELD_INTEGRITY_EXCEPTION": (
        _P,
        _PERSON,
        "Two fields of the record do not go together.",
        "Choose other records.",
    ),
    "INSUFFICIENT_ACCESS": (_P, _ADMIN, "The Salesforce user may not do this.", f"Give access, {_LOG_AGAIN}"),
    "INSUFFICIENT_ACCESS_OR_READONLY": (
        _P,
        _ADMIN,
        "The Salesforce user may not write this record.",
        f"Give edit access to it, {_LOG_AGAIN}",
    ),
    "INSUFFICIENT_ACCESS_ON_CROSS_REFERENCE_ENTITY": (
        _P,
        _ADMIN,
        "The Salesforce user may not write to a record that this one relates to.",
        f"Give edit access to that record, {_LOG_AGAIN}",
    ),
    "INVALID_FIELD_FOR_INSERT_UPDATE": (
        _P,
        _ADMIN,
        "A field may not be set.",
        f"Give the user edit rights on the field that the message names, {_LOG_AGAIN}",
    ),
    "INVALID_FIELD": (
        _P,
        _ADMIN,
        "A field does not exist, or the user may not see it.",
        f"Make the field that the message names visible to the user, {_LOG_AGAIN}",
    ),
    "INVALID_TYPE": (
        _P,
        _ADMIN,
        "The user may not see this kind of record.",
        f"Give read access to the object, {_LOG_AGAIN}",
    ),
    "REQUIRED_FIELD_MISSING": (
        _P,
        _ADMIN,
        "Your organisation requires a field that Blindcopy does not know.",
        f"Give the field a default, or make it optional, {_LOG_AGAIN}",
    ),
    "TXN_SECURITY_NO_ACCESS": (
        _P,
        _ADMIN,
        "A transaction security policy refuses it.",
        f"Loosen the policy, {_LOG_AGAIN}",
    ),
    "CANNOT_UPDATE_CONVERTED_LEAD": (
        _P,
        _PERSON,
        "The lead was converted.",
        "Log the mail on the contact that it became.",
    ),
    "DUPLICATES_DETECTED": (
        _P,
        _ADMIN,
        "A duplicate rule refuses the record.",
        f"Let the rule pass it, {_LOG_AGAIN}",
    ),
    "DUPLICATE_EXTERNAL_ID": (_P, _ADMIN, "Several records have the same external id.", "Merge them."),
    "DUPLICATE_VALUE": (
        _P,
        _ADMIN,
        "Another record has the same value in a field where each must have its own.",
        f"Look at the field and the record that the message names, {_LOG_AGAIN}",
    ),
    "STRING_TOO_LONG": (_P, _OPERATOR, "A text is longer than the field.", "Tell the operator of Blindcopy."),
    "INVALID_CROSS_REFERENCE_KEY": (
        _P,
        _PERSON,
        "The record is not there any more.",
        "Choose another record.",
    ),
    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST": (
        _P,
        _ADMIN,
        "A picklist of your organisation lacks the value.",
        f"Add the value that the message names, {_LOG_AGAIN}",
    ),
    "INACTIVE_OWNER_OR_USER": (_P, _ADMIN, "The owner is inactive.", "Give the record another owner."),
    "STORAGE_LIMIT_EXCEEDED": (
        _L,
        _ADMIN,
        "The organisation's storage is full.",
        "Make room; everything waits till then.",
    ),
    "EXCEEDED_QUOTA": (
        _L,
        _ADMIN,
        "The organisation's storage is full.",
        "Make room; everything waits till then.",
    ),
    "MALFORMED_QUERY": (
        _P,
        _OPERATOR,
        "Blindcopy asked in a way that Salesforce does not understand.",
        "Report it.",
    ),
    "UNKNOWN_EXCEPTION": (
        _P,
        _ADMIN,
        "Something failed in Salesforce that it does not name.",
        f"Look at the message, {_LOG_AGAIN}",
    ),
}

_OF_A_STATUS = {401: "INVALID_SESSION_ID", 410: "UNSUPPORTED_API_VERSION"}
_UNKNOWN = (
    _P,
    _ADMIN,
    "Salesforce refuses it for a reason that Blindcopy does not know.",
    f"Look at the message, {_LOG_AGAIN}",
)


CODES_OF_NO_API = frozenset(code for code, row in _TABLE.items() if row[0] is TroubleKind.NO_API)


def trouble(code: str, message: str = "", status: int = 0) -> Trouble:
    """What an error of Salesforce means; by its code, where that is not known by the HTTP status.

    Some codes say too little: a session that ended within a trigger, a time-out that is called a field, and
    OAuth's one word for whatever is wrong with a grant."""
    words = message.lower()
    if "INVALID_SESSION_ID" in message:
        code = "INVALID_SESSION_ID"
    elif code == "invalid_grant" and "authorization code" in words:
        code = "expired_code"
    elif code == "invalid_grant" and "approved" in words:
        code = "not_approved"
    elif code in {"invalid_grant", "invalid_request"} and ("login domain" in words or "my domain" in words):
        code = "RESTRICTED_DOMAIN"
    elif code == "INVALID_FIELD" and "timeout" in message.lower().replace("-", "").replace(" ", ""):
        code = "QUERY_TIMEOUT"
    elif code not in _TABLE:
        code = _OF_A_STATUS.get(status, "SERVER_UNAVAILABLE" if status >= 500 else code)
    kind, mender, cause, remedy = _TABLE.get(code, _UNKNOWN)
    return Trouble(code, kind, mender, cause, remedy, " ".join(message.split())[:_LONGEST_DETAIL])

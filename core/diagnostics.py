"""Check set-up: whether everything that Blindcopy leans on is as it should be, and what to do where it is
not.

Each finding is a line of its own: green, yellow (it works, and could do more) or red."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from core.config import Config
from core.endpoints import Upstream
from core.findings import Finding, Light, facts
from core.salesforce.bcc_address import AddressOutcome, look_up, senders_that_salesforce_lacks
from core.salesforce.client import Client, Record
from core.salesforce.connection_store import Connection
from core.salesforce.connections import Connections
from core.salesforce.login import Refused as RefusedBySalesforce
from core.salesforce.login import Unavailable as SalesforceUnavailable
from core.salesforce.schema import KEY_FIELD, is_key
from core.salesforce.troubles import Mender, Trouble, TroubleKind
from core.smtp import Connected, RefusesUs, Route, UpstreamUnavailable
from core.upstream_tokens import kept_refresh_token

_CLOCKS_MAY_DIFFER = timedelta(minutes=2)
_TASK_FIELDS = (
    "Subject",
    "Description",
    "WhoId",
    "WhatId",
    "OwnerId",
    "ActivityDate",
    "Status",
    "Priority",
    "TaskSubtype",
    "IsReminderSet",
    "ReminderDateTime",
)
_EMAIL_FIELDS = (
    "Subject",
    "TextBody",
    "HtmlBody",
    "FromAddress",
    "FromName",
    "ToAddress",
    "CcAddress",
    "BccAddress",
    "ToIds",
    "CcIds",
    "BccIds",
    "MessageDate",
    "MessageIdentifier",
    "RelatedToId",
    "Status",
    "Incoming",
    "IsClientManaged",
)

_CONNECTIONS = "Blindcopy: Settings → Salesforce → Connections & Customizations"
_SYNC_SETTINGS = "Blindcopy: Settings → Salesforce → Sync Settings"
_MY_EMAIL = "Salesforce: your picture → Settings → Email → My Email to Salesforce"
_EMAIL_ADMINISTRATION = (
    "Salesforce: Setup → Email Administration → Email to Salesforce → Edit → Active → Save"
)
_FIELD_SECURITY = (
    "Salesforce: Setup → Object Manager → {} → Fields & Relationships → (field) → Set Field-Level Security"
)
_PERMISSIONS = "Salesforce: Setup → Permission Sets → (set) → System Permissions → API Enabled"
_UPDATE_MESSAGES = "Salesforce: Setup → Permission Sets → (set) → App Permissions → Update Email Messages"
_STATUSES = "Salesforce: Setup → Object Manager → Task → Fields & Relationships → Status"
_TYPES = "Salesforce: Setup → Object Manager → Task → Fields & Relationships → Type → New"
_ENHANCED = "Salesforce: Setup → Email → Enhanced Email → Enable"
_SHARED = (
    "Salesforce: Setup → Activity Settings → Allow Users to Relate Multiple Contacts to Tasks and Events"
)
_KEY_PATH = (
    "Salesforce: Setup → Object Manager → {} → Fields & Relationships → New → Text(64), Unique, External ID"
)
_USAGE = "Salesforce: Setup → Company Information → API Requests, Last 24 Hours"


@dataclass(frozen=True)
class Examined:
    """The person to check, with the connection to Salesforce and the acceptable addresses."""

    email: str
    connection: Connection | None
    addresses: tuple[str, ...]


def look_at_upstream(config: Config) -> Iterator[Finding]:
    """Whether the mail provider can be reached, and takes us."""
    if config.upstream is not None:
        yield from _upstream(config.upstream, config)


def look_at_salesforce(connections: Connections | None, person: Examined, reserve: int) -> Iterator[Finding]:
    """One person's connection and what it shows of the org; `reserve` is the share of the daily calls, in per
    cent, that is never touched."""
    if connections is None:
        yield Finding(
            Light.YELLOW,
            "salesforce",
            "Blindcopy is not registered with Salesforce: addresses are typed in, and nothing is looked up",
            remedy="Register an External Client App and set BLINDCOPY_SALESFORCE_CLIENT_ID",
            path=_CONNECTIONS,
        )
        return
    if person.connection is None:
        yield Finding(
            Light.YELLOW,
            "connection",
            "%(person)s is not connected to Salesforce",
            {"person": person.email},
            remedy="Connect Salesforce",
            path=_CONNECTIONS,
        )
        return
    if not person.connection.is_usable:
        yield _trouble("connection", person.connection.trouble, _CONNECTIONS)
        return
    try:
        yield from _look_at_organisation(
            connections.client(person.connection), person, person.connection, reserve
        )
    except RefusedBySalesforce as refused:
        is_api = refused.trouble.kind is TroubleKind.NO_API
        yield _trouble(
            "API access" if is_api else "connection",
            refused.trouble,
            _PERMISSIONS if is_api else _CONNECTIONS,
        )
    except SalesforceUnavailable as error:
        yield _trouble("connection", error.trouble, _CONNECTIONS)


def _upstream(upstream: Upstream, config: Config) -> Iterator[Finding]:
    kept = kept_refresh_token(upstream, config.state_dir, config.secret_keys)
    if kept is not None and not kept.is_there:
        # to ask for a token here would use up the one that the operator gave, for all relays
        said = f"{upstream}: no relay of this state directory has signed in by the refresh token yet"
        yield facts(Light.YELLOW, "upstream", said, "start a relay, or look here on its machine")
        return
    try:
        connected = asyncio.run(_connect(Route(upstream, config.hostname, kept=kept)))
    except OSError as error:
        yield facts(Light.RED, "upstream", f"the file of BLINDCOPY_UPSTREAM_CA_FILE cannot be used: {error}")
        return
    except (UpstreamUnavailable, RefusesUs) as error:
        yield facts(
            Light.RED, "upstream", f"{upstream}: {error}", "look at BLINDCOPY_UPSTREAM and at the provider"
        )
        return
    offers = " ".join(sorted(name.upper() for name in connected.extensions)) or "nothing"
    yield facts(Light.GREEN, "upstream", f"{upstream} answers and offers {offers}")
    if connected.tls_version is not None:
        yield facts(
            Light.GREEN, "upstream", f"{connected.tls_version}, certificate {_certificate(connected)}"
        )
    if upstream.user is not None:
        yield facts(Light.GREEN, "upstream", f"takes the credentials of {upstream.user}")


async def _connect(route: Route) -> Connected:
    connected = await route.connect()
    connected.transport.close()
    return connected


def _certificate(connected: Connected) -> str:
    certificate = connected.certificate
    names = [value for _, value in certificate.get("subjectAltName", ())]  # type: ignore[attr-defined]  # ssl's own shape
    return f"for {', '.join(names)}, valid until {certificate.get('notAfter')}"


def _look_at_organisation(
    client: Client, person: Examined, connection: Connection, reserve: int
) -> Iterator[Finding]:
    """Raises UpstreamUnavailable, Refused."""
    kinds = client.kinds()
    yield Finding(
        Light.GREEN,
        "connection",
        "%(person)s is connected as %(username)s",
        {"person": person.email, "username": connection.identity.username},
    )
    yield Finding(Light.GREEN, "API access", "Salesforce answers")
    yield _clock(client.offset)
    yield _calls(client, reserve)
    yield from _unless_refused(
        "Email to Salesforce", lambda: list(_address(client, person, connection.identity.user_id))
    )
    task = client.fields("Task") if "Task" in kinds else {}
    email = client.fields("EmailMessage") if "EmailMessage" in kinds else {}
    yield _rights("Task", "Activity", task, _TASK_FIELDS)
    yield from _unless_refused("Task statuses", lambda: [_statuses(client)])
    yield _types(task)
    if "EmailMessageRelation" in kinds:
        yield _rights("EmailMessage", "Email Message", email, _EMAIL_FIELDS)
        yield Finding(Light.GREEN, "Enhanced Email", "on: mails are logged as e-mails")
        yield from _unless_refused(
            "Later parts of a mail", lambda: [_later_parts(client.fields("EmailMessageRelation"))]
        )
    else:
        yield Finding(
            Light.YELLOW,
            "Enhanced Email",
            "off: mails are logged as closed tasks, without their formatting",
            remedy="Switch Enhanced Email on",
            path=_ENHANCED,
        )
    yield _shared_activities(task)
    yield _key(task, email if "EmailMessageRelation" in kinds else None)


def _unless_refused(what: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    """One thing that is refused does not hide the others."""
    try:
        return look()
    except RefusedBySalesforce as refused:
        return [_trouble(what, refused.trouble, "")]


def _later_parts(relation: Mapping[str, Record]) -> Finding:
    """Whether this user may add people to an e-mail message that is already in Salesforce."""
    what = "Later parts of a mail"
    if {"EmailMessageId", "RelationId", "RelationType"} <= {
        name for name, one in relation.items() if one.get("createable")
    }:
        return Finding(Light.GREEN, what, "people whom they bring are added to the record that is there")
    return Finding(
        Light.YELLOW,
        what,
        "people whom they bring cannot be added to the record that is there; who is missing is said in "
        "*Why?*",
        remedy="Give the user the permission “Update Email Messages”",
        path=_UPDATE_MESSAGES,
    )


def _clock(offset: timedelta | None) -> Finding:
    if offset is None:
        return Finding(Light.YELLOW, "clock", "Salesforce did not say the time")
    if abs(offset) > _CLOCKS_MAY_DIFFER:
        return Finding(
            Light.RED,
            "clock",
            "Salesforce's clock and this machine's are %(seconds)s s apart",
            {"seconds": round(abs(offset).total_seconds())},
            remedy="Set this machine's clock by NTP",
        )
    return Finding(Light.GREEN, "clock", "agrees with Salesforce's")


def _calls(client: Client, reserve: int) -> Finding:
    usage = client.usage
    if usage is None or not usage.total:
        return Finding(Light.YELLOW, "daily calls", "Salesforce did not say how many are left")
    left = max(0, usage.total - usage.used)
    parts: dict[str, str | int] = {"left": left, "total": usage.total}
    if left * 100 <= usage.total * reserve:
        return Finding(
            Light.RED,
            "daily calls",
            "%(left)s of %(total)s API calls are left, no more than the reserve",
            parts,
            remedy="Find out what uses them up, or ask Salesforce for more",
            path=_USAGE,
        )
    return Finding(Light.GREEN, "daily calls", "%(left)s of %(total)s API calls are left", parts)


def _address(client: Client, person: Examined, user_id: str) -> Iterator[Finding]:
    found = look_up(client, user_id)
    what = "Email to Salesforce"
    if found.outcome is AddressOutcome.FOUND:
        yield Finding(Light.GREEN, what, "%(person)s has an address", {"person": person.email})
        yield _senders(person, found.senders or ())
    elif found.outcome is AddressOutcome.NO_RIGHT:
        yield Finding(
            Light.YELLOW,
            what,
            "the user may not look the address up",
            remedy="Type the address in",
            path=_SYNC_SETTINGS,
        )
    elif found.outcome is AddressOutcome.FEATURE_OFF:
        yield Finding(
            Light.RED,
            what,
            "the organisation has not switched it on",
            remedy="Have a Salesforce admin switch it on",
            path=_EMAIL_ADMINISTRATION,
        )
    else:
        yield Finding(
            Light.RED,
            what,
            "%(person)s has no address yet",
            {"person": person.email},
            remedy="Fill in “My Acceptable Email Addresses” and save",
            path=_MY_EMAIL,
        )


def _senders(person: Examined, senders: tuple[str, ...]) -> Finding:
    lacking = senders_that_salesforce_lacks(person.addresses, senders)
    if lacking:
        return Finding(
            Light.RED,
            "acceptable senders",
            "Salesforce would drop mail from %(addresses)s",
            {"addresses": ", ".join(lacking)},
            remedy="Add them to “My Acceptable Email Addresses”",
            path=_MY_EMAIL,
        )
    return Finding(Light.GREEN, "acceptable senders", "Salesforce takes mail from every acceptable address")


def _rights(name: str, label: str, fields: Mapping[str, Record], wanted: tuple[str, ...]) -> Finding:
    what = f"field rights on {name}"
    lacking = [one for one in wanted if not fields.get(one, {}).get("createable")]
    if lacking:
        return Finding(
            Light.RED,
            what,
            "the user may not write %(fields)s",
            {"fields": ", ".join(lacking)},
            remedy="Give the user's profile or permission set edit access to them",
            path=_FIELD_SECURITY.format(label),
        )
    return Finding(Light.GREEN, what, "all that is written may be written")


def _statuses(client: Client) -> Finding:
    statuses = client.query("SELECT ApiName, IsClosed FROM TaskStatus ORDER BY SortOrder")
    closed = [str(one["ApiName"]) for one in statuses if one["IsClosed"]]
    still_open = [str(one["ApiName"]) for one in statuses if not one["IsClosed"]]
    if closed and still_open:
        return Finding(
            Light.GREEN,
            "Task statuses",
            "open: %(open)s; closed: %(closed)s",
            {"open": ", ".join(still_open), "closed": ", ".join(closed)},
        )
    return Finding(
        Light.RED,
        "Task statuses",
        "there must be one that is open, and one that is closed",
        remedy="Add the one that is lacking",
        path=_STATUSES,
    )


def _types(task: Mapping[str, Record]) -> Finding:
    types = [
        one.get("value") for one in task.get("Type", {}).get("picklistValues", ()) if one.get("active", True)
    ]
    if "Email" in types:
        return Finding(Light.GREEN, "Task types", "“Email” is one")
    return Finding(
        Light.YELLOW,
        "Task types",
        "“Email” (written so) is none: logged mails get no type",
        remedy="Add the value “Email”",
        path=_TYPES,
    )


def _shared_activities(task: Mapping[str, Record]) -> Finding:
    if "TaskWhoIds" in task:
        return Finding(Light.GREEN, "Shared Activities", "on: a task relates to up to 50 contacts")
    return Finding(
        Light.YELLOW,
        "Shared Activities",
        "off: a mail to several contacts that is logged as a task becomes a task for each",
        remedy="Switch it on",
        path=_SHARED,
    )


def _key(task: Mapping[str, Record], email: Mapping[str, Record] | None) -> Finding:
    wanted = {"Activity": task} | ({} if email is None else {"Email Message": email})
    lacking = [label for label, fields in wanted.items() if not is_key(fields)]
    if not lacking:
        return Finding(
            Light.GREEN, KEY_FIELD, "there, unique: a record is never written twice, and nothing need wait"
        )
    return Finding(
        Light.YELLOW,
        KEY_FIELD,
        "not on %(objects)s: a write whose answer was lost is looked up, and repeated after 14 minutes at "
        "the earliest",
        {"objects": ", ".join(lacking)},
        remedy="Add the field",
        path=_KEY_PATH.format(lacking[0]),
    )


def _trouble(what: str, found: Trouble | None, path: str) -> Finding:
    if found is None:
        return Finding(
            Light.RED, what, "the connection is broken", remedy="Connect Salesforce again", path=path
        )
    light = Light.YELLOW if found.mender is Mender.TIME else Light.RED
    return Finding(light, what, "%(cause)s", {"cause": found.cause}, remedy=found.remedy, path=path)

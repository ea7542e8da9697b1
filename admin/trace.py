"""How it came to what happened with a mail in Salesforce, in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask_babel import gettext as _
from flask_babel import ngettext

from core.mail.row import Row, State
from core.mail.writes import MailLog, Target
from core.salesforce.troubles import Mender, Trouble, trouble

_KINDS = {
    "003": "Contact",
    "00Q": "Lead",
    "006": "Opportunity",
    "001": "Account",
    "00T": "Task",
    "02s": "EmailMessage",
}


@dataclass(frozen=True)
class Link:
    """A record in Salesforce."""

    text: str
    url: str | None


@dataclass(frozen=True)
class Trace:
    """What the activity page tells of one mail beside its answer."""

    steps: tuple[str, ...]
    written: tuple[Link, ...]
    trouble: Trouble | None
    mender: str


def trace_of(row: Row, log: MailLog, instance_url: str | None) -> Trace:
    """The sentences, and links to what was written."""
    found = None if log.trouble_code is None else trouble(log.trouble_code, log.trouble_detail)
    return Trace(
        steps=tuple(_steps(row, log.trace)),
        written=tuple(_link(target, log.trace, instance_url) for target in log.written),
        trouble=found if row.state in {State.FAILED, State.WAITING, State.UNMATCHED} else None,
        mender="" if found is None else _mender(found.mender),
    )


def _steps(row: Row, trace: Mapping[str, Any]) -> list[str]:
    """In the order in which it was done."""
    if not trace:
        return []
    steps = [_("%(sender)s is an acceptable address of this person.", sender=row.sender or _("The From"))]
    steps += _recipients(trace)
    steps += [_found(address, *numbers) for address, numbers in (trace.get("found") or {}).items()]
    steps += _choice(trace)
    if (outcome := _OUTCOMES.get(trace.get("outcome", ""))) is not None:
        steps.append(_(outcome))
    steps += [
        _(
            "A try at %(time)s UTC failed: %(cause)s",
            time=time[:16].replace("T", " "),
            cause=_(trouble(code).cause),
        )
        for time, code in trace.get("tries", ())
    ]
    return [str(step) for step in steps]


def _recipients(trace: Mapping[str, Any]) -> list[str]:
    steps = []
    if places := trace.get("places"):
        steps.append(_("Looked up: %(addresses)s.", addresses=", ".join(places)))
    if number := trace.get("internal"):
        steps.append(
            ngettext("%(num)d recipient is internal or on the never-log list and was not looked up.",
                     "%(num)d recipients are internal or on the never-log list and were not looked up.", number)
        )  # fmt: skip
    if blind := trace.get("blind_copied"):
        steps.append(
            _("Blind-copied by the sender, so not looked up: %(addresses)s.", addresses=", ".join(blind))
        )
    if ignored := trace.get("ignored"):
        steps.append(_("Ignored as you wished: %(addresses)s.", addresses=", ".join(ignored)))
    return steps


def _choice(trace: Mapping[str, Any]) -> list[str]:
    steps = []
    if chosen := trace.get("chosen"):
        names = ", ".join(f"{name or record_id} ({_kind(kind)})" for kind, record_id, name in chosen)
        steps.append(_("By your rules the mail belongs to: %(records)s.", records=names))
    deals, has_deal = (
        trace.get("open_deals", 0),
        any(one[0] == "opportunity" for one in trace.get("chosen", ())),
    )
    if deals and not has_deal:
        steps.append(
            ngettext("There was %(num)d open opportunity, which the rule leaves out.",
                     "There were %(num)d open opportunities, and the rule chooses none of them.", deals)
        )  # fmt: skip
    if trace.get("rematched"):
        steps.append(
            _("A record had been deleted, merged or converted meanwhile, so everybody was looked up anew.")
        )
    if picked := trace.get("picked"):
        steps.append(_("Somebody chose the records: %(ids)s.", ids=", ".join(picked)))
    return steps


_OUTCOMES = {
    "nobody-counts": "None of the recipients is to be looked up, so there is nothing to log.",
    "no-match-unmatched": "Nobody was found. The mail is kept without its text, and logged when somebody with such an address appears.",
    "no-match-nothing": "Nobody was found, and your rule says to do nothing then.",
    "no-match-task": "Nobody was found, so an open task was made, as your rule says.",
    "not-confirmed": "Salesforce did not show the mail: it matches To and Cc only, on the standard e-mail field, of the first 50 addresses, and drops mail of senders that it does not know.",
}


def _found(address: str, contacts: int, leads: int) -> str:
    if not contacts and not leads:
        return str(_("%(address)s: nobody in Salesforce that you can see.", address=address))
    return str(
        _(
            "%(address)s: %(contacts)s contacts, %(leads)s leads.",
            address=address,
            contacts=contacts,
            leads=leads,
        )
    )


def _kind(kind: str) -> str:
    names = {
        "contact": _("contact"),
        "lead": _("lead"),
        "opportunity": _("opportunity"),
        "account": _("account"),
    }
    return str(names.get(kind, kind))


def _link(target: Target, trace: Mapping[str, Any], instance_url: str | None) -> Link:
    names = {record_id: name for _kind_, record_id, name in trace.get("chosen", ())}
    on = ", ".join(names.get(one) or f"{_KINDS.get(one[:3], '')} {one}".strip() for one in target.on)
    kind = _("E-mail") if target.kind == "EmailMessage" else _("Task")
    text = f"{kind} {_('on')} {on}" if on else str(kind)
    has_page = instance_url and target.id and len(target.id) >= 15
    return Link(text, f"{instance_url}/{target.id}" if has_page else None)


def _mender(mender: Mender) -> str:
    return str(
        {
            Mender.TIME: _("nobody needs to"), Mender.PERSON: _("you"), Mender.SALESFORCE_ADMIN: _("your Salesforce admin"),
            Mender.OPERATOR: _("whoever runs Blindcopy"),
        }[mender]
    )  # fmt: skip

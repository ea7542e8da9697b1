"""How it came to what happened with a mail in Salesforce, in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flask_babel import gettext as _
from flask_babel import ngettext

from core.mail.progress import FileState, MailFile, MailLog, MatchResult, Target, Trace
from core.mail.row import Row, State
from core.salesforce.troubles import Mender, Trouble, trouble
from core.settings.catalogue import Duplicates

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
class Told:
    """What the activity page tells of one mail beside its answer."""

    steps: tuple[str, ...]
    written: tuple[Link, ...]
    trouble: Trouble | None
    mender: str


def trace_of(row: Row, log: MailLog, instance_url: str | None, first: MailLog | None = None) -> Told:
    """The sentences, and links to what was written. `first`: of the first part of a mail that came in
    several; it knows what the records are called."""
    found = None if log.trouble_code is None else trouble(log.trouble_code, log.trouble_detail)
    return Told(
        steps=tuple(_steps(row, log, first)),
        written=_links(log, _names(log, first), instance_url),
        trouble=found if row.state in {State.FAILED, State.WAITING, State.UNMATCHED} else None,
        mender="" if found is None else _mender(found.mender),
    )


def _steps(row: Row, log: MailLog, first: MailLog | None) -> list[str]:
    """In the order in which it was done."""
    trace = log.trace
    if trace == Trace() and not log.picked:
        return []
    steps = [_("%(sender)s is an acceptable address of this person.", sender=row.sender or _("The From"))]
    if row.reason.may_heal:
        steps.append(
            _(
                "When it was sent it could not be logged, so its text was not kept, nor where each recipient "
                "stood: all count as To."
            )
        )
    steps += _recipients(trace)
    steps += [_found(address, *numbers, trace.duplicates) for address, numbers in trace.found.items()]
    steps += _choice(log)
    if trace.there is not None:
        steps.append(
            _(
                "Salesforce had this mail already: %(who)s logged it (%(time)s UTC).",
                who=trace.there.by,
                time=trace.there.time[:16].replace("T", " "),
            )
        )
    steps += [
        _(
            "Also logged by %(who)s (%(time)s UTC), so it is in Salesforce more than once.",
            who=one.by,
            time=one.time[:16].replace("T", " "),
        )
        for one in trace.also
    ]
    steps += [_(_CUTS[one]) for one in trace.cut if one in _CUTS]
    steps += _files(log.files or ())
    if trace.not_added:
        names = _names(log, first)
        steps.append(
            _(
                "Salesforce does not let these be added to the record that is there: %(records)s.",
                records=", ".join(names.get(one) or one for one in trace.not_added),
            )
        )
    if trace.result in _RESULTS:
        steps.append(_(_RESULTS[trace.result]))
    steps += [
        _(
            "A try at %(time)s UTC failed: %(cause)s",
            time=one.time[:16].replace("T", " "),
            cause=_(trouble(one.code).cause),
        )
        for one in trace.tries
    ]
    return [str(step) for step in steps]


def _recipients(trace: Trace) -> list[str]:
    steps = []
    if trace.places:
        steps.append(_("Looked up: %(addresses)s.", addresses=", ".join(trace.places)))
    if trace.internal:
        steps.append(
            ngettext(
                "%(num)d recipient is internal or on the never-log list and was not looked up.",
                "%(num)d recipients are internal or on the never-log list and were not looked up.",
                trace.internal,
            )
        )
    if trace.blind_copied:
        steps.append(
            _(
                "Blind-copied by the sender, so not looked up: %(addresses)s.",
                addresses=", ".join(trace.blind_copied),
            )
        )
    if trace.ignored:
        steps.append(_("Ignored at your request: %(addresses)s.", addresses=", ".join(trace.ignored)))
    return steps


def _choice(log: MailLog) -> list[str]:
    steps, trace = [], log.trace
    if trace.chosen:
        names = ", ".join(f"{one.name or one.id} ({_kind(one.kind)})" for one in trace.chosen)
        steps.append(_("By your rules the mail belongs to: %(records)s.", records=names))
    if trace.open_deals and not any(one.kind == "opportunity" for one in trace.chosen):
        steps.append(
            ngettext(
                "There was %(num)d open opportunity, which the rule leaves out.",
                "There were %(num)d open opportunities, and the rule chooses none of them.",
                trace.open_deals,
            )
        )
    if log.was_rematched:
        steps.append(
            _("A record had been deleted, merged or converted meanwhile, so everybody was looked up again.")
        )
    if log.picked:
        steps.append(_("A person chose the records: %(ids)s.", ids=", ".join(log.picked)))
    return steps


_RESULTS = {
    MatchResult.NOBODY_COUNTS: "None of the recipients is to be looked up, so there is nothing to log.",
    MatchResult.ANSWER: "It only answers an invitation, so there is nothing to log.",
    MatchResult.NO_MATCH_UNMATCHED: "No record was found. The mail is kept without its text, and logged "
    "when a person with such an address appears.",
    MatchResult.NO_MATCH_NOTHING: "No record was found, and your rule says to do nothing then.",
    MatchResult.NO_MATCH_TASK: "No record was found, so an open task was created, as your rule says.",
    MatchResult.SAME_MAIL: "Another part of this mail was logged before; this part belongs to the same "
    "record.",
    MatchResult.NOT_CONFIRMED: "Salesforce did not show the mail: it matches To and Cc only, on the "
    "standard e-mail field, of the first 50 addresses, and drops mail of "
    "senders that it does not know.",
}


_RULES = {
    Duplicates.OLDEST: "the oldest was chosen, as your rule says",
    Duplicates.MOST_RECENT_ACTIVITY: "the one with the latest activity was chosen, as your rule says",
    Duplicates.ALL: "all were chosen, as your rule says",
}
_CUTS = {
    "subject": "The subject is longer than Salesforce takes and was cut; “…” stands at its end.",
    "text": "The text is longer than Salesforce takes, or than what was kept of the mail, and was cut; "
    "its end says so.",
    "earlier": "The mails that it answers were left out of the text, as your rule says.",
    "signature": "The signature, or a disclaimer, was left out of the text, as your rule says.",
    "recipients": "Not all addresses fit into the record; how many more there are stands behind them.",
}


_WHY_ONLY_NAMED = {
    FileState.TOO_LARGE: "%(names)s: only named, as the policy's room for the files of a mail is smaller.",
    FileState.NO_ROOM: "%(names)s: only named, as there was no room to keep more files until they are "
    "logged.",
    FileState.PACKED: "%(names)s: only named, as Outlook had packed the files into winmail.dat.",
    FileState.LOST: "%(names)s: only named, as the file was not kept as a whole.",
}
_WHY_REFUSED = {
    "FILE_EXTENSION_NOT_ALLOWED": "%(names)s: only named, as the organisation takes no files of this type.",
    "HTML_FILE_UPLOAD_NOT_ALLOWED": "%(names)s: only named, as the organisation takes no HTML files.",
    "STORAGE_LIMIT_EXCEEDED": "%(names)s: only named, as the organisation's file storage is full.",
    "EXCEEDED_QUOTA": "%(names)s: only named, as the organisation's file storage is full.",
    "NO_ANSWER": "%(names)s: only named, as Salesforce gave no answer to several tries.",
}


def _files(files: Sequence[MailFile]) -> list[str]:
    """What became of what was attached, the files of one fate together."""
    named = [one for one in files if one.state is FileState.NOT_WANTED]
    steps = []
    if named:
        steps.append(
            ngettext(
                "%(num)d file was attached; its name stands below the text.",
                "%(num)d files were attached; their names stand below the text.",
                len(named),
            )
        )
    groups: dict[str, list[str]] = {}
    for one in files:
        if one.document is not None and one.state is FileState.FILE:
            sentence = "%(names)s: attached to the record in Salesforce."
        elif one.state is FileState.REFUSED:
            known = _WHY_REFUSED.get(one.code)
            sentence = known or "%(names)s: only named, as Salesforce does not take it: %(code)s."
        else:
            sentence = _WHY_ONLY_NAMED.get(one.state, "")
        groups.setdefault(str(_(sentence, names="{}", code=one.code)) if sentence else "", []).append(
            one.name
        )
    told = [text.replace("{}", ", ".join(names)) for text, names in groups.items() if text]
    return [*steps, *told]


def _found(address: str, contacts: int, leads: int, duplicates: str | None) -> str:
    if not contacts and not leads:
        return str(_("%(address)s: no contact or lead in Salesforce that you can see.", address=address))
    found = [
        ngettext("%(num)d contact", "%(num)d contacts", contacts) if contacts else "",
        ngettext("%(num)d lead", "%(num)d leads", leads) if leads else "",
    ]
    text = f"{address}: {', '.join(filter(None, found))}"
    if max(contacts, leads) > 1 and duplicates in _RULES:
        return f"{text}; {_(_RULES[Duplicates(duplicates)])}."
    return f"{text}."


def _kind(kind: str) -> str:
    names = {
        "contact": _("contact"),
        "lead": _("lead"),
        "opportunity": _("opportunity"),
        "account": _("account"),
    }
    return str(names.get(kind, kind))


def _names(log: MailLog, first: MailLog | None) -> dict[str, str]:
    """What each record is called, by its id."""
    chosen = (*log.trace.chosen, *(() if first is None else first.trace.chosen))
    return {one.id: one.name for one in chosen}


def _links(log: MailLog, names: Mapping[str, str], instance_url: str | None) -> tuple[Link, ...]:
    """One for each record, with all that it stands on."""
    on: dict[str | None, Target] = {}
    for target in log.written:
        known = on.get(target.id)
        if known is not None:
            target = replace(known, who=(*known.who, *target.who), what=known.what or target.what)  # noqa: PLW2901
        on[target.id] = target
    return tuple(_link(target, names, instance_url) for target in on.values())


def _link(target: Target, names: Mapping[str, str], instance_url: str | None) -> Link:
    on = ", ".join(names.get(one) or f"{_KINDS.get(one[:3], '')} {one}".strip() for one in target.on)
    kind = _("E-mail") if target.kind == "EmailMessage" else _("Task")
    text = f"{kind} {_('on')} {on}" if on else str(kind)
    has_page = instance_url and target.id and len(target.id) >= 15
    return Link(text, f"{instance_url}/{target.id}" if has_page else None)


def _mender(mender: Mender) -> str:
    return str(
        {
            Mender.TIME: _("no action needed"),
            Mender.PERSON: _("you"),
            Mender.SALESFORCE_ADMIN: _("your Salesforce admin"),
            Mender.OPERATOR: _("the operator of Blindcopy"),
        }[mender]
    )

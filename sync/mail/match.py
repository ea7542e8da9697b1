"""Which records each mail is logged on: recipients are looked up in Salesforce, and the sender's rules choose
among them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core.batches import batches
from core.mail.progress import EMAIL_MESSAGE, TASK, ChosenRecord, MatchResult, Target, Trace, Where
from core.mail.row import State
from core.people.addresses import address_key, matches
from core.salesforce.client import MOST_QUERIES
from core.salesforce.troubles import trouble
from core.settings.catalogue import LogOn, NoMatch
from core.settings.in_force import PolicySettings
from sync.mail.choose import (
    Choice,
    LookUp,
    PersonRecord,
    Recipients,
    RelatedRecord,
    choose,
    people_to_look_for,
)
from sync.mail.content import Content
from sync.mail.fields import added_where_possible, targets
from sync.mail.files import note_names
from sync.mail.lookup import DEALS, deals_of, in_batches, visible
from sync.mail.others import LOGGED, belong_to_what_is_there, identifiers
from sync.mail.outcomes import Outcomes
from sync.mail.waiting import MailSession, WaitingMail

FIRST_LOOK_FOR_A_MATCH = timedelta(minutes=10)
_LAST_LOOK_FOR_A_MATCH = timedelta(hours=6)


def match(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """Give each mail its targets, or its outcome where there are none; all their recipients are looked up
    together.

    Raises Unavailable, Refused."""
    sender = session.sender
    asked: list[tuple[WaitingMail, Recipients]] = []
    dates: dict[str, str] = {}
    shown: dict[str, dict[str, Where]] = {}
    # A tool that writes each part for its own recipient names that one only in the header.
    headers = {
        part.id: _header(part, content)
        for part, content in session.contents([part for mail in mails for part in mail.parts])
    }
    for mail, content in session.contents(mails):
        if mail.log.picked:
            _set_targets(session, outcomes, mail, _choice_of(mail.log.picked))
            continue
        if content.is_answer:
            mail.note_result(MatchResult.ANSWER)
            outcomes.end(mail, State.DISMISSED)
            continue
        header = _header(mail, content)
        if header is None:
            outcomes.end(mail, State.FAILED, trouble("lost_text"))
            continue
        all_headers = [header, *filter(None, (headers[part.id] for part in mail.parts))]
        recipients = people_to_look_for(
            [one for part in (mail, *mail.parts) for one in part.recipients],
            [one for to, _ in all_headers for one in to],
            [one for _, cc in all_headers for one in cc],
            internal=sender.policy.internal_domains + sender.policy.never_log,
            ignored=sender.ignored,
            with_blind_copied=sender.rules.blind_copied,
        )
        known = replace(
            mail.log.trace,
            places=recipients.looked_up,
            internal=len(recipients.internal),
            ignored=recipients.ignored,
            blind_copied=recipients.blind_copied,
        )
        mail.log = replace(mail.log, trace=known)
        if recipients.looked_up:
            asked.append((mail, recipients))
            shown[mail.id] = _shown(all_headers, sender.policy)
            dates[mail.id] = content.date
        elif mail.log.written:
            # it brings nobody who counts, or nobody who counts any more
            mail.log = replace(mail.log, targets=mail.log.written, needs_match=False)
        else:
            mail.note_result(MatchResult.NOBODY_COUNTS)
            outcomes.end(mail, State.DISMISSED)
    # One query for everybody's addresses: a call for each mail would use up small organisations' daily calls.
    addresses = [address for _, recipients in asked for address in recipients.looked_up]
    found = session.directory.find(session.client, addresses, sender.rules) if addresses else LookUp()
    found = _with_deals_and_records(session, found, [(mail, dates[mail.id]) for mail, _ in asked])
    for mail, recipients in asked:
        choice = choose(recipients, found, sender.rules)
        trace = _trace_of(mail.log.trace, choice, recipients, found, shown[mail.id])
        mail.log = replace(mail.log, trace=replace(trace, duplicates=sender.rules.duplicates.value))
        _set_targets(session, outcomes, mail, choice)


def _header(mail: WaitingMail, content: Content) -> tuple[Sequence[str], Sequence[str]] | None:
    """The addresses in To and in Cc; None where that can no longer be told."""
    places = mail.log.trace.places
    if content.is_there and not content.is_unreadable:
        return content.to, content.cc
    if places is None and mail.job.row.reason.may_heal:
        return [address_key(one) for one in mail.recipients], []  # its header was not kept
    if content.is_unreadable or places is None:
        return None
    # the text is erased, but it is known where each address stood
    return (
        [address for address, where in places.items() if where is Where.TO],
        [address for address, where in places.items() if where is Where.CC],
    )


def _shown(
    headers: Sequence[tuple[Sequence[str], Sequence[str]]], policy: PolicySettings
) -> dict[str, Where]:
    """Everybody in To and Cc whom the record may name: whoever reads it sees whom the mail went to."""
    hidden = (
        policy.never_log if policy.show_internal_recipients else policy.never_log + policy.internal_domains
    )
    found = {address: Where.CC for _, cc in headers for address in cc}
    found |= {address: Where.TO for to, _ in headers for address in to}
    return {address: where for address, where in found.items() if not matches(address, hidden)}


def _with_deals_and_records(
    session: MailSession, found: LookUp, mails: Sequence[tuple[WaitingMail, str]]
) -> LookUp:
    """The same with the open opportunities of these contacts; and what Salesforce has of the mails already is
    theirs. Both are asked for in one call. Raises Unavailable, Refused."""
    rules = session.sender.rules
    contacts = [one.id for some in found.contacts.values() for one in some]
    is_message = bool(mails) and session.features().kind(rules.record) == EMAIL_MESSAGE
    about_deals = list(in_batches(contacts, 400)) if LogOn.OPPORTUNITIES in rules.log_on else []
    about_mails = list(in_batches(identifiers([mail for mail, _ in mails]), 200)) if is_message else []
    queries = [*((DEALS, [some]) for some in about_deals), *((LOGGED, [some]) for some in about_mails)]
    answers = [
        answer for some in batches(queries, MOST_QUERIES) for answer in session.client.query_together(some)
    ]
    deals = [row for answer in answers[: len(about_deals)] for row in visible(answer)]
    # Who may not look for what others have logged has the mail logged all the same.
    there = [row for answer in answers[len(about_deals) :] if isinstance(answer, list) for row in answer]
    belong_to_what_is_there(session.client, mails, there)
    return replace(found, deals=deals_of(deals))


def _set_targets(session: MailSession, outcomes: Outcomes, mail: WaitingMail, choice: Choice) -> None:
    """Decide for good what is written, so that a try that is repeated writes the same. Where nobody was
    found, the sender's rule for that applies; records that are written already are kept, and are enough
    then."""
    # A person may have picked records for a mail that stands on others already: those stay as they are.
    written, no_match = mail.log.written, session.sender.rules.no_match
    mail.log = replace(mail.log, needs_match=False)
    if not choice.is_empty:
        features = session.features()
        left = choice.without({record for target in written for record in target.on})
        kind = features.kind(session.sender.rules.record)
        made = targets(left, kind, shares_activities=features.shares_activities)
        if mail.same_as is not None or mail.log.trace.there is not None:
            made = added_where_possible(
                made,
                written,
                shares_activities=features.shares_activities,
                is_ours=mail.log.trace.there is None,
            )
        mail.log = replace(mail.log, targets=(*written, *made))
        mail.note_result(MatchResult.MATCHED)
        return
    if mail.same_as is None and mail.log.trace.there is None:
        mail.note_result(MatchResult(f"no-match-{no_match.value}"))
    if written:
        mail.log = replace(mail.log, targets=written)
    elif no_match is NoMatch.TASK:
        mail.log = replace(mail.log, targets=(Target(TASK, (), None),))
    elif no_match is NoMatch.NOTHING:
        outcomes.end(mail, State.DISMISSED)
    else:
        note_names(session, [mail])  # its text is erased
        outcomes.end(mail, State.UNMATCHED, due_at=_next_look(session, mail))


def _next_look(session: MailSession, mail: WaitingMail) -> datetime | None:
    """When to look for a match again, with back-off; None once the mail is no longer kept for it."""
    looks = mail.job.attempts if mail.job.row.state is State.UNMATCHED else 0
    last = mail.job.row.time + timedelta(days=session.sender.policy.unmatched_days)
    due = datetime.now(UTC) + min(_LAST_LOOK_FOR_A_MATCH, FIRST_LOOK_FOR_A_MATCH * 2 ** min(looks, 10))
    return due if due < last else None


def _choice_of(ids: Sequence[str]) -> Choice:
    """The records that a person chose: contacts, leads, and other records, told by the ids' first three
    characters."""

    def record(record_id: str) -> PersonRecord:
        return PersonRecord(record_id, "", "", datetime.now(UTC))

    return Choice(
        contacts=tuple(record(one) for one in ids if one.startswith("003")),
        leads=tuple(record(one) for one in ids if one.startswith("00Q")),
        related=tuple(
            RelatedRecord(one, "", "", is_deal=one.startswith("006"))
            for one in ids
            if not one.startswith(("003", "00Q"))
        ),
    )


def _trace_of(
    trace: Trace, choice: Choice, recipients: Recipients, found: LookUp, shown: Mapping[str, Where]
) -> Trace:
    """What the activity page tells of the choice, and where each record's address stands."""
    persons = (*choice.contacts, *choice.leads)
    return replace(
        trace,
        found={
            address: (len(found.contacts.get(address, ())), len(found.leads.get(address, ())))
            for address in recipients.looked_up
        },
        chosen=(
            *(ChosenRecord("contact", one.id, one.name) for one in choice.contacts),
            *(ChosenRecord("lead", one.id, one.name) for one in choice.leads),
            *(
                ChosenRecord("opportunity" if one.is_deal else "account", one.id, one.name)
                for one in choice.related
            ),
        ),
        open_deals=choice.open_deals,
        record_places={one.id: recipients.looked_up[one.address] for one in persons}
        | {**shown, **recipients.looked_up},
        addresses={one.id: one.address for one in persons},
    )

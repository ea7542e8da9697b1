"""Whom and what each mail is logged on, by what Salesforce has and by the person's rules."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from core.mail.row import State
from core.mail.writes import TASK, Target
from core.salesforce.troubles import trouble
from core.settings.catalogue import NoMatch
from sync.mail.choose import Choice, Found, Person, Recipients, Related, Where, choose, people_to_look_for
from sync.mail.fields import targets
from sync.mail.outcomes import Ends, now
from sync.mail.waiting import Desk, Mail

FIRST_LOOK_FOR_A_MATCH = timedelta(minutes=10)
_LAST_LOOK_FOR_A_MATCH = timedelta(hours=6)


class Matching:
    """Matches the mails of one batch."""

    def __init__(self, desk: Desk, ends: Ends) -> None:
        self._desk = desk
        self._ends = ends

    def match(self, mails: Sequence[Mail]) -> None:
        """Find out for each whom and what it is logged on. Raises Unavailable, Refused."""
        asked: list[tuple[Mail, Recipients]] = []
        for mail in mails:
            if picked := mail.log.trace.get("picked"):
                self._aim(mail, _picked(picked), None)
                continue
            recipients = self._recipients(mail)
            if recipients is None:
                self._ends.end(mail, State.FAILED, trouble("lost_text"))
                continue
            mail.note(
                places={address: where.value for address, where in recipients.looked_up.items()},
                internal=len(recipients.internal), ignored=list(recipients.ignored), blind_copied=list(recipients.blind_copied),
            )  # fmt: skip
            if recipients.looked_up:
                asked.append((mail, recipients))
            else:
                mail.note(outcome="nobody-counts")
                self._ends.end(mail, State.DISMISSED)
        wanted = [address for _, recipients in asked for address in recipients.looked_up]
        found = (
            self._desk.directory.find(self._desk.client, wanted, self._desk.person.rules)
            if wanted
            else Found()
        )
        for mail, recipients in asked:
            self._aim(mail, choose(recipients, found, self._desk.person.rules), (recipients, found))

    def _recipients(self, mail: Mail) -> Recipients | None:
        """None where nobody can say any more who stood in the header."""
        places = mail.log.trace.get("places")
        content = self._desk.content(mail)
        if content.is_there:
            to, cc = content.to, content.cc
        elif places is None:
            return None
        else:  # its text is gone; where everybody stood is known
            to = tuple(address for address, where in places.items() if where == Where.TO)
            cc = tuple(address for address, where in places.items() if where == Where.CC)
        policy = self._desk.person.policy
        return people_to_look_for(
            mail.job.row.recipients or (), to, cc, internal=policy.internal_domains + policy.never_log,
            ignored=self._desk.person.ignored, with_blind_copied=self._desk.person.rules.blind_copied,
        )  # fmt: skip

    def _aim(self, mail: Mail, choice: Choice, from_what: tuple[Recipients, Found] | None) -> None:
        """Decide what is written, for good: what is tried again is this."""
        rules = self._desk.person.rules
        already = {one for target in mail.log.written for one in target.on}
        mail.needs_match = False
        mail.note(needs_match=False)
        if from_what is not None:
            mail.note(**_told(choice, *from_what))
        if choice.is_empty:
            self._no_match(mail)
            return
        features = self._desk.features()
        kind = features.kind(rules.record)
        made = targets(choice.without(already), kind, shares_activities=features.shares_activities)
        mail.log = replace(mail.log, targets=(*mail.log.written, *made))
        mail.note(outcome="matched")

    def _no_match(self, mail: Mail) -> None:
        rule = self._desk.person.rules.no_match
        mail.note(outcome=f"no-match-{rule.value}")
        if mail.log.written:
            mail.log = replace(mail.log, targets=mail.log.written)
        elif rule is NoMatch.TASK:
            self._desk.features(needs_task=True)
            mail.log = replace(mail.log, targets=(Target(TASK, (), None),))
        elif rule is NoMatch.NOTHING:
            self._ends.end(mail, State.DISMISSED)
        else:
            self._ends.end(mail, State.UNMATCHED, due_at=self._next_look(mail))

    def _next_look(self, mail: Mail) -> datetime | None:
        """When to look for a match again: ever more seldom, while the mail is kept for it."""
        looks = mail.job.attempts if mail.job.row.state is State.UNMATCHED else 0
        last = mail.job.row.time + timedelta(days=self._desk.person.policy.unmatched_days)
        due = now() + min(_LAST_LOOK_FOR_A_MATCH, FIRST_LOOK_FOR_A_MATCH * 2 ** min(looks, 10))
        return due if due < last else None


def _picked(ids: Sequence[str]) -> Choice:
    """The records that a person chose: contacts, leads, and whatever else."""

    def person(one: str) -> Person:
        return Person(one, "", "", now())

    return Choice(
        contacts=tuple(person(one) for one in ids if one.startswith("003")),
        leads=tuple(person(one) for one in ids if one.startswith("00Q")),
        related=tuple(
            Related(one, "", "", is_deal=one.startswith("006"))
            for one in ids
            if not one.startswith(("003", "00Q"))
        ),
    )


def _told(choice: Choice, recipients: Recipients, found: Found) -> dict[str, Any]:
    """What the activity page tells of the choice, and where each record's address stands."""
    persons = (*choice.contacts, *choice.leads)
    matched = {one.address for one in persons}
    return {
        "found": {
            address: [len(found.contacts.get(address, ())), len(found.leads.get(address, ()))]
            for address in recipients.looked_up
        },
        "chosen": [
            *[["contact", one.id, one.name] for one in choice.contacts], *[["lead", one.id, one.name] for one in choice.leads],
            *[["opportunity" if one.is_deal else "account", one.id, one.name] for one in choice.related],
        ],
        "open_deals": choice.open_deals,
        "record_places": {one.id: recipients.looked_up[one.address].value for one in persons}
        | {address: where.value for address, where in recipients.looked_up.items() if address not in matched},
    }  # fmt: skip

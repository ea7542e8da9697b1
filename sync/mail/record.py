"""Mails that wait, logged in Salesforce: matched in batches, written in batches, each record once.

What is about to be written is noted first; what came of it is noted after. A write whose end is not known is looked for
before it is repeated, and not repeated before a late commit could show, unless the organisation itself refuses the second
one (`Blindcopy_Key__c`)."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from core.addresses import matches
from core.connections import Connections
from core.mail import State
from core.mail_log import TASK, MailLog, Target
from core.retry import seconds_until_next
from core.salesforce.client import MOST_RECORDS, Client, Written
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import Kind, Trouble
from core.salesforce.troubles import trouble as trouble_of
from core.settings import NoMatch, PolicySettings, Rules
from core.storage import organisations, work
from core.storage.connections import Connection, lost_api
from core.storage.people import Account
from core.storage.work import End, Job
from sync.mail.activity import Author, Features, fields, targets
from sync.mail.content import Content, read_content
from sync.mail.features import FeatureBook
from sync.mail.find import Directory
from sync.mail.lost import Sought, look_for
from sync.mail.people import (
    Choice,
    Found,
    Recipients,
    Where,
    choose,
    people_to_look_for,
)
from sync.mail.people import Person as SalesforcePerson
from sync.mail.people import Related as RelatedRecord
from sync.mail.receipts import confirmed

A_LATE_COMMIT = timedelta(minutes=11)
"""A call may take ten minutes (limits, "API Request Limits"), and shows only then."""
_A_RENEWAL = timedelta(minutes=3)
"""Before the call goes out its session may have to be renewed."""
_FRESH = timedelta(seconds=10)
_LONGEST_LOOK_FOR_A_RECEIPT = timedelta(days=1)
_MOST_CHARACTERS = 1_000_000
"""Of the texts of one call, so that large mails need no more memory than small ones."""
_FIRST_LOOK_FOR_A_MATCH = timedelta(minutes=10)
_LAST_LOOK_FOR_A_MATCH = timedelta(hours=6)
_LOOKS_FOR_A_RECEIPT = (1, 3, 12)
"""In terms of `receipt-after`."""
_MOST_CUTS = 4
_MOST_TRIES_TOLD = 10
_SMALL = 16 * 1024
_STALE = frozenset({"ENTITY_IS_DELETED", "INVALID_CROSS_REFERENCE_KEY", "CANNOT_UPDATE_CONVERTED_LEAD"})
_SCHEMA = frozenset(
    {
        "INVALID_FIELD",
        "INVALID_FIELD_FOR_INSERT_UPDATE",
        "INVALID_TYPE",
        "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
    }
)
_DUPLICATE_OF = re.compile(r"id: ([A-Za-z0-9]{15,18})")


@dataclass(frozen=True)
class Person:
    """Whose mails they are, and by which rules they are logged."""

    account: Account
    connection: Connection
    rules: Rules
    policy: PolicySettings
    ignored: frozenset[str]
    time_zone: str


@dataclass
class _Mail:
    """A job as it is worked on."""

    job: Job
    log: MailLog
    content: Content | None = None
    trouble: Trouble | None = None
    needs_match: bool = False

    def __post_init__(self) -> None:
        self.needs_match = self.log.targets is None or bool(self.log.trace.get("needs_match"))

    @property
    def is_copy(self) -> bool:
        """Whether only its receipt is looked for."""
        return self.job.row.state is State.COPIED

    @property
    def missing(self) -> tuple[Target, ...]:
        return self.log.missing

    def put(self, old: Target, new: Target) -> None:
        self.log = replace(
            self.log, targets=tuple(new if one == old else one for one in self.log.targets or ())
        )

    def note(self, **steps: Any) -> None:
        self.log = replace(self.log, trace={**self.log.trace, **steps})


@dataclass
class Recorder:
    """Logs mails; keeps what it learnt of organisations and persons from batch to batch."""

    connections: Connections
    features: FeatureBook = field(default_factory=FeatureBook)
    directories: dict[str, Directory] = field(default_factory=dict)

    def record(self, person: Person, jobs: Sequence[Job]) -> bool:
        """Work off these mails of one person; whether none is left that will be tried again."""
        mails = [_Mail(job, job.log) for job in jobs]
        batch = _Batch(self, person, mails)
        try:
            batch.work()
        except Unavailable as error:
            return batch.stop_for(error.trouble)
        except Refused as refused:
            return batch.stop_for(refused.trouble)
        finally:
            batch.settle()
            batch.note_usage()
        return batch.is_all_done


class _Batch:
    def __init__(self, recorder: Recorder, person: Person, mails: list[_Mail]) -> None:
        self._recorder = recorder
        self._database = recorder.connections.database
        self._person = person
        self._waiting = {mail.job.row.id: mail for mail in mails}
        """Those that have not come to an end yet."""
        self._client: Client | None = None
        self.is_all_done = True
        self._ended: list[End] = []

    # -- the way

    def work(self) -> None:
        """Raises Unavailable, Refused."""
        try:
            self._client = client = self._recorder.connections.client(self._person.connection)
        except Refused as refused:
            self._put_off(refused.trouble)
            return
        if not self._may_go_on(client):
            self._release()
            return
        self._look_for_receipts(client, [mail for mail in self._waiting.values() if mail.is_copy])
        self._look_for_lost(client, list(self._waiting.values()))
        self._leave_out_whom_nobody_wants()
        self._match(
            client, [mail for mail in self._waiting.values() if mail.needs_match and not mail.log.uncertain]
        )
        self._write(
            client, [mail for mail in self._waiting.values() if mail.missing and not mail.needs_match]
        )
        self._finish()

    def _leave_out_whom_nobody_wants(self) -> None:
        """Somebody who came to the never-log list while the mail waited is not written to."""
        policy = self._person.policy
        unwanted = (*policy.own_domains, *policy.never_log, *self._person.ignored)
        for mail in self._waiting.values():
            is_open = bool(mail.missing) and not mail.log.uncertain
            if is_open and any(matches(address, unwanted) for address in mail.log.trace.get("places", ())):
                mail.needs_match = True

    def stop_for(self, trouble: Trouble) -> bool:
        """What is left comes back later: when the session, the limit, the person or time has mended it."""
        if trouble.kind is Kind.NO_API:
            with self._database.writing() as session:
                lost_api(session, self._person.account.id, trouble)
        if trouble.kind is Kind.LIMIT:
            with self._database.writing() as session:
                organisations.pause(session, self._person.connection.identity.organisation_id, trouble.code)
        for mail in list(self._waiting.values()):
            if mail.log.targets and not mail.missing and not mail.needs_match:
                self._end(mail, State.LOGGED)
        if trouble.kind in {Kind.NO_API, Kind.LIMIT}:
            self._release()
            return False
        for mail in list(self._waiting.values()):
            if trouble.kind is Kind.PERMANENT and not mail.is_copy:
                self._end(mail, State.FAILED, trouble)
            else:
                self._later(mail, trouble)
        return trouble.kind is Kind.PERMANENT

    def _put_off(self, trouble: Trouble) -> None:
        """Salesforce cannot be opened for this person: nothing is wrong with the mails."""
        for mail in list(self._waiting.values()):
            self._later(mail, trouble)

    def note_usage(self) -> None:
        if self._client is not None:
            with self._database.writing() as session:
                organisations.note_usage(
                    session, self._person.connection.identity.organisation_id, self._client.usage,
                    self._person.policy.api_reserve,
                )  # fmt: skip

    def _may_go_on(self, client: Client) -> bool:
        """Where calls were scarce when last seen, the least of all calls says whether they still are."""
        organisation_id = self._person.connection.identity.organisation_id
        with self._database.reading() as session:
            known = organisations.organisation(session, organisation_id)
        if known is None or not known.is_scarce:
            return True
        client.query("SELECT Id FROM User WHERE Id = {}", self._person.connection.identity.user_id)
        with self._database.writing() as session:
            return organisations.note_usage(
                session, organisation_id, client.usage, self._person.policy.api_reserve
            )

    def _release(self) -> None:
        """Let go of what was not done, with what is known of it; it is due as before."""
        for mail in self._waiting.values():
            row = mail.job.row
            self._ended.append(End(mail.job, row.state, mail.log, row.due_at, mail.job.attempts))
        self._waiting.clear()
        self.is_all_done = False

    def _look_for_receipts(self, client: Client, mails: Sequence[_Mail]) -> None:
        """Copies that were sent: after a while, three times and twelve times that, Salesforce is asked whether it has them."""
        if not mails:
            return
        try:
            found = confirmed(
                client, self._person.connection.identity.user_id, [mail.job.row for mail in mails]
            )
        except (Refused, Unavailable) as error:
            self._no_receipts(mails, error.trouble)
            return
        after = timedelta(minutes=self._person.policy.receipt_after)
        for mail in mails:
            looks = mail.job.attempts + 1
            if mail.job.row.id in found:
                self._end(mail, State.CONFIRMED)
            elif looks < len(_LOOKS_FOR_A_RECEIPT):
                self._end(mail, State.COPIED, due_at=mail.job.row.time + _LOOKS_FOR_A_RECEIPT[looks] * after)
            else:
                mail.note(outcome="not-confirmed")
                self._end(mail, State.COPIED)

    def _no_receipts(self, mails: Sequence[_Mail], trouble: Trouble) -> None:
        """That receipts cannot be had concerns the copies only; they are not looked for for ever."""
        for mail in mails:
            mail.note(outcome="not-confirmed")
            is_old = _now() - mail.job.row.time > _LONGEST_LOOK_FOR_A_RECEIPT
            due_at = None if is_old or trouble.kind is Kind.PERMANENT else _now() + _FIRST_LOOK_FOR_A_MATCH
            self._end(mail, State.COPIED, trouble, due_at=due_at)

    # -- matching

    def _match(self, client: Client, mails: Sequence[_Mail]) -> None:
        asked: list[tuple[_Mail, Recipients]] = []
        for mail in mails:
            if picked := mail.log.trace.get("picked"):
                self._aim(client, mail, _picked(picked), None)
                continue
            recipients = self._recipients(mail)
            if recipients is None:
                self._end(mail, State.FAILED, trouble_of("lost_text"))
                continue
            mail.note(
                places={address: where.value for address, where in recipients.looked_up.items()},
                internal=len(recipients.internal), ignored=list(recipients.ignored), blind_copied=list(recipients.blind_copied),
            )  # fmt: skip
            if recipients.looked_up:
                asked.append((mail, recipients))
            else:
                mail.note(outcome="nobody-counts")
                self._end(mail, State.DISMISSED)
        wanted = [address for _, recipients in asked for address in recipients.looked_up]
        found = self._directory.find(client, wanted, self._person.rules) if wanted else Found()
        for mail, recipients in asked:
            self._aim(client, mail, choose(recipients, found, self._person.rules), (recipients, found))

    def _recipients(self, mail: _Mail) -> Recipients | None:
        """None where nobody can say any more who stood in the header."""
        places = mail.log.trace.get("places")
        content = self._content(mail)
        if content.is_there:
            to, cc = content.to, content.cc
        elif places is None:
            return None
        else:  # its text is gone; where everybody stood is known
            to = tuple(address for address, where in places.items() if where == Where.TO)
            cc = tuple(address for address, where in places.items() if where == Where.CC)
        policy = self._person.policy
        return people_to_look_for(
            mail.job.row.recipients or (), to, cc, internal=policy.own_domains + policy.never_log,
            ignored=self._person.ignored, with_blind_copied=self._person.rules.blind_copied,
        )  # fmt: skip

    def _aim(
        self, client: Client, mail: _Mail, choice: Choice, from_what: tuple[Recipients, Found] | None
    ) -> None:
        """Decide what is written, for good: what is tried again is this."""
        rules = self._person.rules
        already = {one for target in mail.log.written for one in target.on}
        mail.needs_match = False
        mail.note(needs_match=False)
        if from_what is not None:
            mail.note(**_told(choice, *from_what))
        if choice.is_empty:
            self._no_match(client, mail)
            return
        features = self._features(client)
        kind = features.kind(rules.record)
        made = targets(choice.without(already), kind, shares_activities=features.shares_activities)
        mail.log = replace(mail.log, targets=(*mail.log.written, *made))
        mail.note(outcome="matched")

    def _no_match(self, client: Client, mail: _Mail) -> None:
        rule = self._person.rules.no_match
        mail.note(outcome=f"no-match-{rule.value}")
        if mail.log.written:
            mail.log = replace(mail.log, targets=mail.log.written)
        elif rule is NoMatch.TASK:
            self._features(client, needs_task=True)
            mail.log = replace(mail.log, targets=(Target(TASK, (), None),))
        elif rule is NoMatch.NOTHING:
            self._end(mail, State.DISMISSED)
        else:
            self._end(mail, State.UNMATCHED, due_at=self._next_look(mail))

    def _next_look(self, mail: _Mail) -> datetime | None:
        """When to look for a match again: ever more seldom, while the mail is kept for it."""
        looks = mail.job.attempts if mail.job.row.state is State.UNMATCHED else 0
        last = mail.job.row.time + timedelta(days=self._person.policy.unmatched_days)
        due = _now() + min(_LAST_LOOK_FOR_A_MATCH, _FIRST_LOOK_FOR_A_MATCH * 2 ** min(looks, 10))
        return due if due < last else None

    # -- writing

    def _look_for_lost(self, client: Client, mails: Sequence[_Mail]) -> None:
        """Writes that were begun and whose end nobody knows."""
        lost = [
            (mail, target) for mail in mails for target in mail.log.uncertain
            if target.is_sought or mail.needs_match or not self._features_of(client, target).has_key(target.kind)
        ]  # fmt: skip
        if not lost:
            return
        user_id = self._person.connection.identity.user_id
        found = look_for(
            client, user_id, [Sought(mail.job.row, target, mail.log.not_before) for mail, target in lost]
        )
        for (mail, target), record_id in zip(lost, found, strict=True):
            not_before = mail.log.not_before
            if record_id is not None:
                mail.put(target, replace(target, id=record_id))
            elif not_before is None or _now() >= not_before:
                mail.put(
                    target, replace(target, is_tried=False, is_sought=False)
                )  # nothing can come any more
            elif mail.job.row.id in self._waiting:
                self._wait(mail, min(not_before, _now() + self._pause(mail)))

    def _write(self, client: Client, mails: Sequence[_Mail]) -> None:
        wanted = [(mail, target) for mail in mails for target in mail.missing]
        wanted.sort(key=lambda pair: pair[1].kind)
        some: list[tuple[_Mail, Target]] = []
        records: list[dict[str, Any]] = []
        size = 0
        for mail, target in wanted:
            made = self._fields(client, mail, target)
            is_full = len(some) == MOST_RECORDS or size > _MOST_CHARACTERS
            if some and (is_full or some[0][1].kind != target.kind):
                self._write_some(client, some[0][1].kind, some, records)
                some, records, size = [], [], 0
            some.append((mail, target))
            records.append(made)
            size += sum(len(value) for value in made.values() if isinstance(value, str))
        if some:
            self._write_some(client, some[0][1].kind, some, records)

    def _write_some(
        self, client: Client, kind: str, pairs: list[tuple[_Mail, Target]], records: list[dict[str, Any]]
    ) -> None:
        """One call: what is meant is noted, then done, then what came of it is taken in."""
        begun = [(mail, replace(target, is_tried=True)) for mail, target in pairs]
        were_tried = [target.is_tried for _, target in pairs]
        for (mail, old), (_, new) in zip(pairs, begun, strict=True):
            mail.put(old, new)
        ours = self._noted(begun)
        for mail, _ in begun:
            if mail.job.row.id not in ours:
                self._waiting.pop(
                    mail.job.row.id, None
                )  # somebody else has it, and knows nothing of this call
        still = [number for number, (mail, _) in enumerate(begun) if mail.job.row.id in ours]
        try:
            answers = client.create(kind, [records[number] for number in still])
        except Refused:
            for (mail, target), was_tried in zip(begun, were_tried, strict=True):
                mail.put(target, replace(target, is_tried=was_tried))
            raise
        for number, answer in zip(still, answers, strict=True):
            self._take_in(client, *begun[number], answer, was_tried=were_tried[number])

    def _noted(self, begun: Sequence[tuple[_Mail, Target]]) -> frozenset[str]:
        """What is about to be written is in the database, from just now; the ids of the mails that are still ours.

        Who was asleep in between, with the whole machine perhaps, notes it again: somebody else may have it by now."""
        mails = {mail.job.row.id: mail for mail, _ in begun}
        while True:
            noted_at = _now()
            for mail in mails.values():
                mail.log = replace(mail.log, not_before=noted_at + A_LATE_COMMIT + _A_RENEWAL)
            with self._database.writing() as session:
                ours = work.intend(session, [(mail.job, mail.log) for mail in mails.values()])
            if _now() - noted_at < _FRESH:
                return ours

    def _take_in(
        self, client: Client, mail: _Mail, target: Target, answer: Written, *, was_tried: bool
    ) -> None:
        """What became of one record. `was_tried`: an earlier write of it has an end that nobody knows, and a refusal of this
        one says nothing of that."""
        if answer.id is not None:
            mail.put(target, replace(target, id=answer.id))
            return
        trouble = answer.trouble
        code = "" if trouble is None else trouble.code
        if (
            code == "DUPLICATE_VALUE"
            and self._features_of(client, target).has_key(target.kind)
            and trouble is not None
        ):
            known = _DUPLICATE_OF.search(trouble.detail)
            mail.put(target, replace(target, id=known.group(1) if known else "there"))
            return
        if was_tried:
            mail.put(target, replace(target, is_sought=True))
            mail.trouble = mail.trouble or trouble_of("SERVER_UNAVAILABLE")
            return
        untried = replace(target, is_tried=False)
        if code == "STRING_TOO_LONG" and target.cuts < _MOST_CUTS:
            untried = replace(untried, cuts=target.cuts + 1)
        elif code in _SCHEMA and not target.is_asked_anew:
            untried = replace(untried, is_asked_anew=True)
            self._recorder.features.forget(self._person.connection.identity.organisation_id)
        elif code in _STALE and not mail.log.trace.get("rematched"):
            # a record is gone since it was found: who is there now is looked for once more, for what is not written yet
            self._directory.forget(mail.log.trace.get("places", {}))
            mail.note(rematched=True, picked=None, needs_match=True)
            mail.needs_match = True
        else:
            mail.trouble = mail.trouble or trouble
        mail.put(target, untried)

    # -- ends

    def _finish(self) -> None:
        for mail in list(self._waiting.values()):
            trouble = mail.trouble
            if mail.needs_match and not mail.log.uncertain:
                mail.log = replace(mail.log, targets=mail.log.written)
                self._wait(mail, mail.job.row.time)  # at once
            elif mail.log.targets is not None and not mail.missing:
                self._end(mail, State.LOGGED)
            elif (
                trouble is not None
                and trouble.kind in {Kind.PERMANENT, Kind.NO_API, Kind.CONNECTION}
                and not mail.log.uncertain
            ):
                self._end(mail, State.FAILED, trouble)
            elif trouble is None:
                self._wait(mail, mail.job.row.time)  # with what was learnt it goes at once
            else:
                self._pause_for(trouble)
                self._later(mail, trouble)

    def _pause_for(self, trouble: Trouble) -> None:
        """A limit that single records met, such as storage, is the whole organisation's."""
        if trouble.kind is Kind.LIMIT:
            with self._database.writing() as session:
                organisations.pause(session, self._person.connection.identity.organisation_id, trouble.code)

    def _later(self, mail: _Mail, trouble: Trouble) -> None:
        tries = [*mail.log.trace.get("tries", ()), [_now().isoformat(timespec="seconds"), trouble.code]]
        mail.note(tries=tries[-_MOST_TRIES_TOLD:])
        self._wait(mail, _now() + self._pause(mail), trouble)

    def _pause(self, mail: _Mail) -> timedelta:
        return timedelta(seconds=seconds_until_next(mail.job.attempts + 1, random.random()))  # noqa: S311  jitter

    def _wait(self, mail: _Mail, due_at: datetime, trouble: Trouble | None = None) -> None:
        """In the state that it is in."""
        state = mail.job.row.state
        self._end(mail, state, trouble, due_at=due_at)
        self.is_all_done = False

    def _end(
        self, mail: _Mail, state: State, trouble: Trouble | None = None, *, due_at: datetime | None = None
    ) -> None:
        if state is State.FAILED and trouble is not None:
            tries = [*mail.log.trace.get("tries", ()), [_now().isoformat(timespec="seconds"), trouble.code]]
            mail.note(tries=tries[-_MOST_TRIES_TOLD:])
        is_certain = not any(target.is_tried and target.id is None for target in mail.log.targets or ())
        mail.log = replace(
            mail.log, trouble_code=None if trouble is None else trouble.code,
            trouble_detail="" if trouble is None else trouble.detail,
            not_before=None if is_certain else mail.log.not_before,
        )  # fmt: skip
        is_no_look = mail.is_copy and trouble is not None
        attempts = mail.job.attempts + (0 if is_no_look else 1)
        self._ended.append(End(mail.job, state, mail.log, due_at, attempts))
        self._waiting.pop(mail.job.row.id, None)

    def settle(self) -> None:
        """Write down what has come to an end, all at once."""
        if self._ended:
            with self._database.writing() as session:
                work.settle(session, self._ended)
        self._ended.clear()

    # -- what is looked at on the way

    @property
    def _directory(self) -> Directory:
        who = self._person.connection.identity
        return self._recorder.directories.setdefault(f"{who.organisation_id}{who.user_id}", Directory())

    def _features(self, client: Client, *, needs_task: bool = False) -> Features:
        organisation_id = self._person.connection.identity.organisation_id
        return self._recorder.features.of(
            client, organisation_id, self._person.rules.record, needs_task=needs_task
        )

    def _features_of(self, client: Client, target: Target) -> Features:
        return self._features(client, needs_task=target.kind == TASK)

    def _fields(self, client: Client, mail: _Mail, target: Target) -> dict[str, Any]:
        places = {one: Where(where) for one, where in mail.log.trace.get("record_places", {}).items()}
        return fields(
            mail.job.row, self._content(mail), target, self._person.rules, self._features_of(client, target),
            self._author(mail), places,
        )  # fmt: skip

    def _author(self, mail: _Mail) -> Author:
        zone = ZoneInfo(self._person.time_zone) if self._person.time_zone else None
        return Author(
            self._person.connection.identity.user_id, mail.job.row.time.astimezone(zone).date().isoformat()
        )

    def _content(self, mail: _Mail) -> Content:
        """Read anew each time where it is large, so that a batch of them needs no more memory than one."""
        if mail.content is not None:
            return mail.content
        with self._database.reading() as session:
            raw = work.text(session, mail.job.row.id)
        content = read_content(raw) if raw is not None else Content(is_there=False)
        if raw is None or len(raw) < _SMALL:
            mail.content = content
        return content


def _picked(ids: Sequence[str]) -> Choice:
    """The records that a person chose: contacts, leads, and whatever else."""

    def person(one: str) -> SalesforcePerson:
        return SalesforcePerson(one, "", "", _now())

    return Choice(
        contacts=tuple(person(one) for one in ids if one.startswith("003")),
        leads=tuple(person(one) for one in ids if one.startswith("00Q")),
        related=tuple(
            RelatedRecord(one, "", "", is_deal=one.startswith("006"))
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


def _now() -> datetime:
    return datetime.now(UTC)

"""The records of a batch, written: what is meant is noted, then done, then what came of it is taken in.

A write whose end is not known is looked for before it is repeated, and not repeated before a late commit could show,
unless the organisation itself refuses the second one (`Blindcopy_Key__c`)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from core.database.engine import DatabaseUnavailable
from core.database.installation import UNTIL_A_WRITE_SHOWS
from core.mail import queue as mail_queue
from core.mail.writes import Target
from core.salesforce.client import MOST_RECORDS, Written
from core.salesforce.login import NeverSent, Refused
from core.salesforce.troubles import trouble as trouble_of
from sync.mail.choose import Where
from sync.mail.fields import fields
from sync.mail.lost import Sought, look_for
from sync.mail.outcomes import Ends, now, pause
from sync.mail.waiting import Desk, Mail

A_LATE_COMMIT = timedelta(minutes=11)
"""A call may take ten minutes (limits, "API Request Limits"), and shows only then."""
_A_RENEWAL = timedelta(minutes=3)
"""Before the call goes out its session may have to be renewed."""
_FRESH = timedelta(seconds=10)
_MOST_NOTES = 5
_MOST_CHARACTERS = 1_000_000
"""Of the texts of one call, so that large mails need no more memory than small ones."""
_MOST_CUTS = 4
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


class Writing:
    """Writes the mails of one batch."""

    def __init__(self, desk: Desk, ends: Ends) -> None:
        self._desk = desk
        self._ends = ends

    def look_for_lost(self, mails: Sequence[Mail]) -> None:
        """Writes that were begun and whose end nobody knows."""
        lost = [
            (mail, target) for mail in mails for target in mail.log.uncertain
            if target.is_sought or mail.needs_match or not self._desk.features_of(target).has_key(target.kind)
        ]  # fmt: skip
        if not lost:
            return
        user_id = self._desk.identity.user_id
        found = look_for(
            self._desk.client,
            user_id,
            [
                Sought(
                    mail.job.row, target, None if self._is_older_than_a_restore(mail) else mail.log.not_before
                )
                for mail, target in lost
            ],
        )
        for (mail, target), record_id in zip(lost, found, strict=True):
            not_before = mail.log.not_before
            if record_id is not None:
                mail.put(target, replace(target, id=record_id))
            elif not_before is None or now() >= not_before:
                mail.put(
                    target, replace(target, is_tried=False, is_sought=False)
                )  # nothing can come any more
            elif self._ends.is_open(mail):
                self._ends.wait(mail, min(not_before, now() + pause(mail)))

    def doubt_after_a_restore(self, mails: Sequence[Mail]) -> None:
        """The database was restored from a backup: what it thinks is missing of an older mail may have been written since the
        backup, and is looked for like a write whose answer was lost."""
        restored_at = self._desk.person.restored_at
        for mail in mails:
            if restored_at is None or not self._is_older_than_a_restore(mail):
                continue
            for target in mail.missing:
                mail.put(target, replace(target, is_tried=True, is_sought=True))
            shows_by = restored_at + UNTIL_A_WRITE_SHOWS
            mail.log = replace(mail.log, not_before=max(shows_by, mail.log.not_before or shows_by))

    def _is_older_than_a_restore(self, mail: Mail) -> bool:
        restored_at = self._desk.person.restored_at
        return restored_at is not None and mail.job.row.time < restored_at

    def write(self, mails: Sequence[Mail]) -> None:
        """What is missing, as many records a call as may be. Raises Unavailable, Refused."""
        wanted = [(mail, target) for mail in mails for target in mail.missing]
        wanted.sort(key=lambda pair: pair[1].kind)
        some: list[tuple[Mail, Target]] = []
        records: list[dict[str, Any]] = []
        size = 0
        for mail, target in wanted:
            made = self._fields(mail, target)
            is_full = len(some) == MOST_RECORDS or size > _MOST_CHARACTERS
            if some and (is_full or some[0][1].kind != target.kind):
                self._write_some(some[0][1].kind, some, records)
                some, records, size = [], [], 0
            some.append((mail, target))
            records.append(made)
            size += sum(len(value) for value in made.values() if isinstance(value, str))
        if some:
            self._write_some(some[0][1].kind, some, records)

    def _write_some(self, kind: str, pairs: list[tuple[Mail, Target]], records: list[dict[str, Any]]) -> None:
        """One call: what is meant is noted, then done, then what came of it is taken in."""
        begun = [(mail, replace(target, is_tried=True)) for mail, target in pairs]
        were_tried = [target.is_tried for _, target in pairs]
        for (mail, old), (_, new) in zip(pairs, begun, strict=True):
            mail.put(old, new)
        ours = self._noted(begun)
        for mail, _ in begun:
            if mail.job.row.id not in ours:
                self._ends.leave(mail)  # and whoever has it knows nothing of this call
        still = [number for number, (mail, _) in enumerate(begun) if mail.job.row.id in ours]
        try:
            answers = self._desk.client.create(kind, [records[number] for number in still])
        except (Refused, NeverSent):
            for (mail, target), was_tried in zip(begun, were_tried, strict=True):
                mail.put(target, replace(target, is_tried=was_tried))
            raise
        for number, answer in zip(still, answers, strict=True):
            self._take_in(*begun[number], answer, was_tried=were_tried[number])

    def _noted(self, begun: Sequence[tuple[Mail, Target]]) -> frozenset[str]:
        """What is about to be written is in the database, from just now; the ids of the mails that are still ours.

        Who was asleep in between, with the whole machine perhaps, notes it again: somebody else may have it by now."""
        mails = {mail.job.row.id: mail for mail, _ in begun}
        for _ in range(_MOST_NOTES):
            noted_at = now()
            for mail in mails.values():
                mail.log = replace(mail.log, not_before=noted_at + A_LATE_COMMIT + _A_RENEWAL)
            with self._desk.database.writing() as session:
                ours = mail_queue.intend(session, [(mail.job, mail.log) for mail in mails.values()])
                marker = self._desk.database.installation.advance(session)
            self._desk.database.installation.keep(marker)
            if now() - noted_at < _FRESH:
                return ours
        raise DatabaseUnavailable("it takes too long to note what is to be written")

    def _take_in(self, mail: Mail, target: Target, answer: Written, *, was_tried: bool) -> None:
        """What became of one record. `was_tried`: an earlier write of it has an end that nobody knows, and a refusal of this
        one says nothing of that."""
        if answer.id is not None:
            mail.put(target, replace(target, id=answer.id))
            return
        trouble = answer.trouble
        code = "" if trouble is None else trouble.code
        if (
            code == "DUPLICATE_VALUE"
            and self._desk.features_of(target).has_key(target.kind)
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
            self._desk.ask_for_features_anew()
        elif code in _STALE and not mail.log.trace.get("rematched"):
            # a record is gone since it was found: who is there now is looked for once more, for what is not written yet
            self._desk.directory.forget(mail.log.trace.get("places", {}))
            mail.note(rematched=True, picked=None, needs_match=True)
            mail.needs_match = True
        else:
            mail.trouble = mail.trouble or trouble
        mail.put(target, untried)

    def _fields(self, mail: Mail, target: Target) -> dict[str, Any]:
        places = {one: Where(where) for one, where in mail.log.trace.get("record_places", {}).items()}
        return fields(
            mail.job.row, self._desk.content(mail), target, self._desk.person.rules, self._desk.features_of(target),
            self._desk.author(mail), places,
        )  # fmt: skip

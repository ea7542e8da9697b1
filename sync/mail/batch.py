"""Mails that wait, logged in Salesforce: receipts looked for, lost writes found, the rest matched and written, in batches."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from core.mail.queue import Job
from core.mail.row import State
from core.people.addresses import matches
from core.salesforce import api_usage
from core.salesforce.client import Client
from core.salesforce.connection_store import lost_api
from core.salesforce.connections import Connections
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import Kind, Trouble
from sync.mail.match import FIRST_LOOK_FOR_A_MATCH, Matching
from sync.mail.outcomes import Ends, now
from sync.mail.receipts import confirmed
from sync.mail.waiting import Desk, Knowledge, Mail, Person
from sync.mail.write import Writing

__all__ = ["Person", "Recorder"]

_LOOKS_FOR_A_RECEIPT = (1, 3, 12)
"""In terms of `receipt-after`."""
_LONGEST_LOOK_FOR_A_RECEIPT = timedelta(days=1)
_FOR_GOOD = frozenset({Kind.PERMANENT, Kind.NO_API, Kind.CONNECTION})


class Recorder:
    """Logs mails, any number of persons' at once."""

    def __init__(self, connections: Connections, count: Callable[[State], None] = lambda _: None) -> None:
        self._knowledge = Knowledge(connections)
        self._count = count

    def record(self, person: Person, jobs: Sequence[Job]) -> None:
        """Work off these mails of one person. Raises DatabaseUnavailable."""
        batch = _Batch(self._knowledge, person, [Mail(job, job.log) for job in jobs], self._count)
        try:
            batch.work()
        except (Unavailable, Refused) as error:
            batch.stop_for(error.trouble)
        finally:
            batch.close()


class _Batch:
    """One person's mails, on their way through one opening of Salesforce."""

    def __init__(
        self, knowledge: Knowledge, person: Person, mails: list[Mail], count: Callable[[State], None]
    ) -> None:
        self._knowledge = knowledge
        self._database = knowledge.connections.database
        self._person = person
        self._ends = Ends(self._database, mails, count)
        self._client: Client | None = None

    def work(self) -> None:
        """Raises Unavailable, Refused."""
        try:
            self._client = client = self._knowledge.connections.client(self._person.connection)
        except Refused as refused:  # nothing is wrong with the mails
            self._put_off(refused.trouble)
            return
        if not self._may_go_on(client):
            self._ends.release()
            return
        desk = Desk(self._knowledge, self._person, client)
        matching, writing = Matching(desk, self._ends), Writing(desk, self._ends)
        self._look_for_receipts(client, [mail for mail in self._ends.open if mail.is_copy])
        writing.doubt_after_a_restore(self._ends.open)
        writing.look_for_lost(self._ends.open)
        self._leave_out_whom_nobody_wants()
        to_match = [mail for mail in self._ends.open if mail.needs_match and not mail.log.uncertain]
        matching.match(to_match)
        matched = {mail.job.row.id for mail in to_match}
        just_matched = [mail for mail in self._ends.open if mail.job.row.id in matched]
        writing.doubt_after_a_restore(just_matched)
        writing.look_for_lost(just_matched)
        writing.write([mail for mail in self._ends.open if mail.missing and not mail.needs_match])
        self._finish()

    def stop_for(self, trouble: Trouble) -> None:
        """What is left comes back later: when the session, the limit, the person or time has mended it."""
        if trouble.kind is Kind.NO_API:
            with self._database.writing() as session:
                lost_api(session, self._person.account.id, trouble)
        self._pause_for(trouble)
        for mail in self._ends.open:
            if mail.log.targets and not mail.missing and not mail.needs_match:
                self._ends.end(mail, State.LOGGED)
        if trouble.kind in {Kind.NO_API, Kind.LIMIT}:
            self._ends.release()
        elif trouble.kind is not Kind.PERMANENT:
            self._put_off(trouble)
        for mail in self._ends.open:
            if mail.is_copy:
                self._ends.later(mail, trouble)
            else:
                self._ends.end(mail, State.FAILED, trouble)

    def close(self) -> None:
        """Write down how everything ended, and how many calls are left. Raises DatabaseUnavailable."""
        self._ends.settle()
        if self._client is not None:
            with self._database.writing() as session:
                api_usage.note_usage(
                    session, self._organisation_id, self._client.usage, self._person.policy.api_reserve
                )

    @property
    def _organisation_id(self) -> str:
        return self._person.connection.identity.organisation_id

    def _put_off(self, trouble: Trouble) -> None:
        for mail in self._ends.open:
            self._ends.later(mail, trouble)

    def _may_go_on(self, client: Client) -> bool:
        """Where calls were scarce when last seen, the least of all calls says whether they still are."""
        with self._database.reading() as session:
            known = api_usage.organisation(session, self._organisation_id)
        if known is None or not known.is_scarce:
            return True
        client.query("SELECT Id FROM User WHERE Id = {}", self._person.connection.identity.user_id)
        with self._database.writing() as session:
            return api_usage.note_usage(
                session, self._organisation_id, client.usage, self._person.policy.api_reserve
            )

    def _leave_out_whom_nobody_wants(self) -> None:
        """Somebody who came to the never-log list while the mail waited is not written to."""
        policy = self._person.policy
        unwanted = (*policy.internal_domains, *policy.never_log, *self._person.ignored)
        for mail in self._ends.open:
            is_open = bool(mail.missing) and not mail.log.uncertain
            if is_open and any(matches(address, unwanted) for address in mail.log.trace.get("places", ())):
                mail.needs_match = True

    def _look_for_receipts(self, client: Client, mails: Sequence[Mail]) -> None:
        """Copies that were sent: after a while, three times and twelve times that, Salesforce is asked whether it has them."""
        if not mails:
            return
        user_id = self._person.connection.identity.user_id
        try:
            found = confirmed(client, user_id, [mail.job.row for mail in mails])
        except (Refused, Unavailable) as error:
            self._do_without_receipts(mails, error.trouble)
            return
        after = timedelta(minutes=self._person.policy.receipt_after)
        for mail in mails:
            looks = mail.job.attempts + 1
            if mail.job.row.id in found:
                self._ends.end(mail, State.CONFIRMED)
            elif looks < len(_LOOKS_FOR_A_RECEIPT):
                due_at = mail.job.row.time + _LOOKS_FOR_A_RECEIPT[looks] * after
                self._ends.end(mail, State.COPIED, due_at=due_at)
            else:
                mail.note(outcome="not-confirmed")
                self._ends.end(mail, State.COPIED)

    def _do_without_receipts(self, mails: Sequence[Mail], trouble: Trouble) -> None:
        """That receipts cannot be had concerns the copies only; they are not looked for for ever."""
        for mail in mails:
            mail.note(outcome="not-confirmed")
            is_old = now() - mail.job.row.time > _LONGEST_LOOK_FOR_A_RECEIPT
            due_at = None if is_old or trouble.kind is Kind.PERMANENT else now() + FIRST_LOOK_FOR_A_MATCH
            self._ends.end(mail, State.COPIED, trouble, due_at=due_at)

    def _finish(self) -> None:
        """What is left has been tried: it is logged, or comes back, or is refused for good."""
        for mail in self._ends.open:
            trouble = mail.trouble
            if mail.needs_match and not mail.log.uncertain:
                mail.drop_missing()
                self._ends.go_on_at_once(mail)
            elif mail.log.targets is not None and not mail.missing:
                self._ends.end(mail, State.LOGGED)
            elif trouble is None:
                self._ends.go_on_at_once(mail)
            elif trouble.kind in _FOR_GOOD and not mail.log.uncertain:
                self._ends.end(mail, State.FAILED, trouble)
            else:
                self._pause_for(trouble)
                self._ends.later(mail, trouble)

    def _pause_for(self, trouble: Trouble) -> None:
        """A limit, be it met by a single record, is the whole organisation's."""
        if trouble.kind is Kind.LIMIT:
            with self._database.writing() as session:
                api_usage.pause(session, self._organisation_id, trouble.code)

"""One sender's mails, logged in Salesforce together.

The way of one mail: `Mails.log_some` (sync/mail/queue.py) claims it, `MailLogger.log_mails` here takes it
through, `join` tells which mails are parts of one, `match` looks its recipients up and lets the sender's
rules choose, `write` writes its records, and `Outcomes` settles it. Each mail gets an outcome, unless the
database is away or something unforeseen happens: `Mails` sees to those."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from core.mail.progress import MatchResult
from core.mail.queue import Job
from core.mail.row import State
from core.people.addresses import matches
from core.salesforce.connections import Connections
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import Trouble, TroubleKind
from sync.mail.additions import add
from sync.mail.files import bring, link
from sync.mail.match import FIRST_LOOK_FOR_A_MATCH, match
from sync.mail.outcomes import Outcomes
from sync.mail.receipts import receipts
from sync.mail.same import join, share
from sync.mail.waiting import Learnt, MailSession, Sender, WaitingMail
from sync.mail.write import look_for_written, write
from sync.session import FOR_GOOD, SalesforceSession, note_trouble

_LOOKS_FOR_A_RECEIPT = (1, 3, 12)
"""In terms of `receipt-after`."""
_LONGEST_LOOK_FOR_A_RECEIPT = timedelta(days=1)


class BatchRefused(Exception):
    """A call was refused as a whole, which one of the mails alone may have brought about."""


class MailLogger:
    """Logs mails, any number of senders' at once."""

    def __init__(self, connections: Connections, count: Callable[[State], None] = lambda _: None) -> None:
        """`count` is told of each mail that was settled, in which state."""
        self._connections = connections
        self._count = count
        self._learnt = Learnt()

    def log_mails(self, sender: Sender, jobs: Sequence[Job]) -> None:
        """Take these claimed mails of one sender as far as they come now, and settle them. Raises
        BatchRefused, after which those that are not settled are to be tried in smaller batches, and
        DatabaseUnavailable."""
        database = self._connections.database
        outcomes = Outcomes(database, [WaitingMail(job, job.log) for job in jobs], self._count)
        try:
            salesforce = SalesforceSession(
                self._connections,
                sender.connection,
                api_reserve=sender.policy.api_reserve,
                clocks=self._learnt.clocks,
            )
        except (Refused, Unavailable) as error:
            note_trouble(database, sender.connection, error.trouble)
            # a refusal concerns the connection: nothing is wrong with the mails, whatever its kind
            _stop_for(error.trouble, outcomes, fails_mails=isinstance(error, Unavailable))
            outcomes.settle()
            return
        try:
            if salesforce.has_calls_left():
                _log_open(MailSession(sender, salesforce, self._learnt), outcomes)
            else:
                outcomes.release()
        except (Unavailable, Refused) as error:
            salesforce.met(error.trouble)
            # Salesforce refuses a collection as a whole for one record that it cannot parse (REST guide,
            # composite sobjects), and says not which.
            if error.trouble.kind is TroubleKind.PERMANENT and len(jobs) > 1:
                outcomes.keep()
                raise BatchRefused from None
            _stop_for(error.trouble, outcomes, fails_mails=True)
        finally:
            outcomes.settle()
            salesforce.note_usage()


def _log_open(session: MailSession, outcomes: Outcomes) -> None:
    """The whole way of the mails of a batch. Raises Unavailable, Refused, DatabaseUnavailable."""
    _look_for_receipts(session, outcomes, [mail for mail in outcomes.open if mail.is_copy])
    look_for_written(session, outcomes, outcomes.open)

    # an address can come to the never-log list, or to those the sender ignores, while its mail waits
    unwanted = (
        *session.sender.policy.internal_domains,
        *session.sender.policy.never_log,
        *session.sender.ignored,
    )
    for mail in outcomes.open:
        # What may have been written cannot be taken back by a list; it is looked for and kept.
        is_undecided = bool(mail.log.missing) and not mail.log.uncertain
        if is_undecided and any(matches(address, unwanted) for address in mail.log.trace.places or ()):
            mail.log = replace(mail.log, needs_match=True)

    unwritten = [mail for mail in outcomes.open if not mail.log.uncertain]
    parts = join(session, outcomes, unwritten)
    to_match = [mail for mail in unwritten if outcomes.is_open(mail) and mail.is_to_match]
    match(session, outcomes, to_match)
    # only now is it known which records of these there may be from before a restore
    look_for_written(session, outcomes, [mail for mail in to_match if outcomes.is_open(mail)])

    to_write = [mail for mail in outcomes.open if mail.log.missing and not mail.is_to_match]
    add(session, to_write)
    # of a record that is found after a restore it is not known whether its files are attached
    restored = [mail for mail in outcomes.open if session.is_doubted(mail) and mail.log.written]
    bring(session, outcomes, [*(mail for mail in to_write if mail.makes_records), *restored])
    write(session, outcomes, [mail for mail in to_write if outcomes.is_open(mail) and mail.trouble is None])
    link(session, [mail for mail in outcomes.open if mail.log.without_files])

    for mail in outcomes.open:
        # a record was gone: its recipients are looked up anew
        if mail.is_to_match and not mail.log.uncertain:
            mail.log = replace(mail.log, targets=mail.log.written)
            outcomes.try_again_now(mail)
        elif mail.log.targets is not None and not mail.log.missing and not mail.log.without_files:
            outcomes.end(mail, State.LOGGED)
        elif mail.trouble is None:  # something was learnt: a text was too long, a field is not there
            outcomes.try_again_now(mail)
        elif mail.trouble.kind in FOR_GOOD and not mail.log.is_uncertain:
            outcomes.end(mail, State.FAILED, mail.trouble)
        else:
            session.salesforce.met(mail.trouble)
            outcomes.try_again_later(mail, mail.trouble)
    share(outcomes, parts, {mail.id: mail for mail in unwritten})


def _stop_for(trouble: Trouble, outcomes: Outcomes, *, fails_mails: bool) -> None:
    """A call was not answered, or was refused as a whole. The remaining mails are retried; with `fails_mails`
    a permanent error makes them fail."""
    for mail in outcomes.open:
        if mail.log.targets and not mail.log.missing and not mail.is_to_match and not mail.log.without_files:
            outcomes.end(mail, State.LOGGED)
    if fails_mails and trouble.kind in {TroubleKind.NO_API, TroubleKind.LIMIT}:
        outcomes.release()
    for mail in outcomes.open:
        is_for_good = trouble.kind is TroubleKind.PERMANENT and not mail.log.is_uncertain
        if fails_mails and is_for_good and not mail.is_copy:
            outcomes.end(mail, State.FAILED, trouble)
        else:
            outcomes.try_again_later(mail, trouble)


def _look_for_receipts(session: MailSession, outcomes: Outcomes, mails: Sequence[WaitingMail]) -> None:
    """Blind copies that were sent: after `receipt-after`, three times and twelve times that, Salesforce is
    asked whether it has them. If receipts cannot be read, only the copies are affected, and looking stops
    after a day.

    Raises DatabaseUnavailable."""
    if not mails:
        return
    now = datetime.now(UTC)
    try:
        found = receipts(session.client, session.salesforce.user_id, [mail.job.row for mail in mails])
    except (Refused, Unavailable) as error:
        for mail in mails:
            mail.note_result(MatchResult.NOT_CONFIRMED)
            is_old = now - mail.job.row.time > _LONGEST_LOOK_FOR_A_RECEIPT
            is_last = is_old or error.trouble.kind is TroubleKind.PERMANENT
            outcomes.end(
                mail, State.COPIED, error.trouble, due_at=None if is_last else now + FIRST_LOOK_FOR_A_MATCH
            )
        return
    after = timedelta(minutes=session.sender.policy.receipt_after)
    for mail in mails:
        looks = mail.job.attempts + 1
        if mail.id in found:
            mail.log = replace(mail.log, trace=replace(mail.log.trace, also=found[mail.id]))
            outcomes.end(mail, State.CONFIRMED)
        elif looks < len(_LOOKS_FOR_A_RECEIPT):
            outcomes.end(mail, State.COPIED, due_at=mail.job.row.time + _LOOKS_FOR_A_RECEIPT[looks] * after)
        else:
            mail.note_result(MatchResult.NOT_CONFIRMED)
            outcomes.end(mail, State.COPIED)

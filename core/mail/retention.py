"""Deletes what is no longer needed: old rows, senders that sent nothing for long, leftover texts; and ends
long waits for a match.

Everything is deleted in small transactions, each found by an index, so that no other writer waits long for
the lock of SQLite, and so that deleting keeps up with what comes in (100,000 people: 4 million mails a day).
One statement over the whole table held that lock for 0.3 to 2 seconds at a million rows (measured)."""

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, select, update

from core.database.engine import Database
from core.database.heartbeats import database_now
from core.database.models import MailLogRow, MailRow, UnknownSenderRow
from core.mail import texts as mail_texts
from core.mail.first_mails import forget_old
from core.mail.row import State
from core.mail.store import first_id

_AT_ONCE = 500
_UNTIL_FILES_GO = timedelta(days=15)
"""Of mails that have failed, or whose copy was not confirmed; their texts stay longer."""
_LONGEST_UNDER_WAY = timedelta(days=1)
"""From a file's first piece to its mail's row in the database, if ever that comes."""


class Retention:
    """Deletes what was kept long enough. It remembers from one time to the next how far it has looked."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_until = ""

    def tidy(
        self, retention: timedelta, unmatched: timedelta, is_stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """`retention`: how long rows are kept; `unmatched`: how long a match is looked for. Raises
        DatabaseUnavailable."""
        while not is_stopping() and self._delete_some(retention):
            pass
        while not is_stopping() and self._forget_some_senders(retention):
            pass
        while not is_stopping() and self._end_some_waits(unmatched):
            pass
        self._erase_needless_texts()

    def _delete_some(self, retention: timedelta) -> bool:
        """Some of the oldest rows; whether there may be more. Ids are in the order of time."""
        with self._database.writing() as session:
            before = first_id(database_now(session) - retention)
            query = select(MailRow.id).where(MailRow.id < before).order_by(MailRow.id).limit(_AT_ONCE)
            ids = list(session.scalars(query.with_for_update(skip_locked=True)))
            if ids:
                # Those first that refer to mails, and the mails are locked by then: everybody locks in that
                # order.
                mail_texts.erase(session, ids)
                session.execute(delete(MailLogRow).where(MailLogRow.mail_id.in_(ids)))
                session.execute(delete(MailRow).where(MailRow.id.in_(ids)))
        with self._database.writing() as session:  # workers lock these before the mails
            forget_old(session, retention)
        return len(ids) == _AT_ONCE

    def _forget_some_senders(self, retention: timedelta) -> bool:
        """Some unknown senders that have sent nothing for as long; whether there may be more."""
        with self._database.writing() as session:
            before = database_now(session) - retention
            query = select(UnknownSenderRow.key).where(UnknownSenderRow.last_seen < before).limit(_AT_ONCE)
            keys = list(session.scalars(query))
            if keys:
                session.execute(delete(UnknownSenderRow).where(UnknownSenderRow.key.in_(keys)))
        return len(keys) == _AT_ONCE

    def _end_some_waits(self, unmatched: timedelta) -> bool:
        """Some mails for which a match was looked for long enough; whether there may be more."""
        is_unmatched = MailRow.state == State.UNMATCHED.value
        with self._database.writing() as session:
            before = first_id(database_now(session) - unmatched)
            query = (
                select(MailRow.id)
                .where(is_unmatched, MailRow.due_at.is_not(None), MailRow.id < before)
                .order_by(MailRow.id)
                .limit(_AT_ONCE)
            )
            ids = list(session.scalars(query))
            if ids:
                # asked once more: on PostgreSQL a person can have had it logged again since it was found
                session.execute(update(MailRow).where(MailRow.id.in_(ids), is_unmatched).values(due_at=None))
        return len(ids) == _AT_ONCE

    def _erase_needless_texts(self) -> None:
        """A text is deleted together with the state that needed it. One is left over only if a journal was
        loaded a second time while its mail was being settled, so each run checks the next few."""
        with self._database.reading() as session:
            looked_at = mail_texts.after(session, self._looked_until, _AT_ONCE)
            needless = mail_texts.needless(session, looked_at)
        self._looked_until = looked_at[-1] if len(looked_at) == _AT_ONCE else ""
        if needless:
            with self._database.writing() as session:
                mail_texts.erase(session, mail_texts.needless(session, needless))
        with self._database.writing() as session:
            now = database_now(session)
            mail_texts.erase_files_left_behind(
                session, first_id(now - _LONGEST_UNDER_WAY), first_id(now - _UNTIL_FILES_GO)
            )

"""The logbook's rows as a journal's loader writes them: all of a batch in one statement, which is made once
for each number.

Put together anew for every batch by SQLAlchemy a batch took 2.5 ms of the interpreter's time, handed to the
driver 0.2 ms (measured). Writing is idempotent and only moves forward."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, literal_column, or_
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Session
from sqlalchemy.sql import ClauseElement

from core.database.dialect import fit, insert
from core.database.models import ADDRESS_LENGTH, MailRow
from core.mail import texts as mail_texts
from core.mail.reasons import Reason
from core.mail.row import KEEPS_TEXT, OPEN_STATES, Row, State

_TABLE = cast("Table", MailRow.__table__)
_WORKERS_OWN = frozenset({"claimed_by", "claim", "attempts", "logged_by"})
_COLUMNS = tuple(column.name for column in _TABLE.columns if column.name not in _WORKERS_OWN)
_NEVER_CHANGED = frozenset({"id", "time", "process", "person_id", "fingerprint"})
"""A fingerprint is noted by itself, when it turns out that a reply was lost."""
_NAMED_PARAMETER = re.compile(r"%\(\w+\)s")


@dataclass(frozen=True)
class _Statements:
    """The statement in the words of one database, and how values are put into its driver's types."""

    write: tuple[str, str, str]
    """What stands before, for, and after the rows."""
    time: Callable[[datetime], Any]
    json: Callable[[Any], Any]

    def writing(self, number: int) -> str:
        """The statement that writes so many rows."""
        return _written_out(self.write, number)


def write(session: Session, rows: Sequence[Row]) -> None:
    """Insert rows, or move rows that are there forward: an open state gives way, a final one stays.

    Of several rows of one id in one call the last counts. Texts are kept, or erased, in the same
    transaction."""
    last = {row.id: row for row in rows}
    if not last:
        return
    statements = _statements(session.get_bind().dialect)
    values = [_values(row, statements) for row in last.values()]
    session.connection().exec_driver_sql(statements.writing(len(values)), tuple(chain.from_iterable(values)))
    texts = {row.id: row.text for row in rows if row.text is not None and last[row.id].state in KEEPS_TEXT}
    if texts:
        mail_texts.keep(session, texts)
    erased = [row.id for row in last.values() if _may_have_text(row) and not _needs_text(row)]
    if erased:
        mail_texts.erase(session, erased)


def _needs_text(row: Row) -> bool:
    return row.decision.may_log and row.state in KEEPS_TEXT


def _may_have_text(row: Row) -> bool:
    """Also of one that turned out not to be logged while it was read."""
    return row.decision.may_log or row.same_as is not None or row.reason is Reason.LOOP


@lru_cache(maxsize=512)
def _written_out(write: tuple[str, str, str], number: int) -> str:
    head, one, tail = write
    return head + ", ".join([one] * number) + tail


@lru_cache(maxsize=16)
def _statements(dialect: Dialect) -> _Statements:
    statement = insert(dialect, _TABLE)
    settled = {name: statement.excluded[name] for name in _COLUMNS if name not in _NEVER_CHANGED}
    is_open = or_(*(MailRow.state == _word(state) for state in sorted(OPEN_STATES)))
    brings_more = statement.excluded.state != _word(State.PENDING)
    upsert = statement.on_conflict_do_update(index_elements=["id"], set_=settled, where=is_open & brings_more)
    return _Statements(
        write=_around_its_row(_sql(upsert, dialect, _COLUMNS)),
        time=_into_the_drivers_type("time", dialect),
        json=_into_the_drivers_type("recipients", dialect),
    )


def _sql(clause: ClauseElement, dialect: Dialect, parameters: tuple[str, ...]) -> str:
    """The statement's text, with parameters by position in their order."""
    return _NAMED_PARAMETER.sub("%s", str(clause.compile(dialect=dialect, column_keys=list(parameters))))


def _around_its_row(statement: str) -> tuple[str, str, str]:
    head, values, rest = statement.partition(" VALUES ")
    one, conflict, tail = rest.partition(" ON CONFLICT ")
    return head + values, one, conflict + tail


def _into_the_drivers_type(column: str, dialect: Dialect) -> Callable[[Any], Any]:
    return _TABLE.columns[column].type.dialect_impl(dialect).bind_processor(dialect) or (lambda value: value)


def _word(state: State) -> ColumnElement[str]:
    """A constant of ours as part of the statement."""
    return literal_column(f"'{state.value}'")


def _values(row: Row, into: _Statements) -> tuple[Any, ...]:
    """The row in the order of the table's columns."""
    return (
        row.id,
        into.time(row.time),
        row.process,
        row.person,
        fit(row.sender, ADDRESS_LENGTH),
        row.recipient_count,
        into.json(None if row.recipients is None else [fit(one, ADDRESS_LENGTH) for one in row.recipients]),
        fit(row.subject),
        fit(row.message_id),
        row.mode,
        row.decision.value,
        row.reason.value,
        row.state.value,
        fit(row.upstream),
        row.bcc.value,
        fit(row.bcc_reply),
        row.fingerprint,
        row.copy_refusal,
        row.identity,
        row.same_as,
        row.detail,
        None if row.due_at is None else into.time(row.due_at),
    )

"""The logbook's rows as the relay writes them: all that wait in one statement, which is made once for each number.

Put together anew for every batch by SQLAlchemy a batch took 2.5 ms of the interpreter's time, handed to the driver 0.2 ms;
and as the driver lets go of the interpreter for every step and must wait to have it back from a busy event loop, one
statement that is its own transaction takes two thirds of the time of begin, a step a row, and commit (all measured).
Writing is idempotent and only moves forward."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from importlib import import_module
from itertools import chain
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, bindparam, literal_column, or_, select
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.orm import Session
from sqlalchemy.sql import ClauseElement

from core.mail import KEEPS_TEXT, OPEN_STATES, Row, State
from core.secrets import Box
from core.storage.database import Database
from core.storage.models import ADDRESS_LENGTH, MailRow

LONGEST_TEXT = 2000
_TABLE = cast("Table", MailRow.__table__)
_WORKERS_OWN = frozenset({"claimed_by", "claim", "attempts"})
_COLUMNS = tuple(column.name for column in _TABLE.columns if column.name not in _WORKERS_OWN)
_NEVER_CHANGED = frozenset({"id", "time", "process", "person_id", "fingerprint"})
"""A fingerprint is noted by itself, when it turns out that a reply was lost."""
_NAMED_PARAMETER = re.compile(r"%\(\w+\)s")


@dataclass(frozen=True)
class _Statements:
    """The statements in the words of one database, and how values are put into its driver's types."""

    write: tuple[str, str, str]
    """What stands before, for, and after the rows."""
    look_for_lost_replies: str
    time: Callable[[datetime], Any]
    json: Callable[[Any], Any]

    def writing(self, number: int) -> str:
        """The statement that writes so many rows."""
        return _written_out(self.write, number)


class Rows:
    """The logbook's rows over one connection."""

    def __init__(self, cursor: DBAPICursor, dialect: Dialect, box: Box | None) -> None:
        self._cursor = cursor
        self._statements = _statements(dialect)
        self._is_sqlite = dialect.name == "sqlite"
        self._box = box

    def write(self, rows: Sequence[Row]) -> None:
        """Insert rows, or move rows that are there forward: an open state gives way, a final one stays.

        Of several rows of one id in one call the last counts. Texts are kept, or erased, in the same transaction."""
        last = {row.id: row for row in rows}
        texts = {
            row.id: row.text for row in rows if row.text is not None and last[row.id].state in KEEPS_TEXT
        }
        erased = [row.id for row in last.values() if row.decision.may_log and row.state not in KEEPS_TEXT]
        if (texts or erased) and self._is_sqlite:
            self._cursor.execute("BEGIN IMMEDIATE")  # else each statement is a transaction of its own
        values = [_values(row, self._statements) for row in last.values()]
        if values:
            self._cursor.execute(self._statements.writing(len(values)), tuple(chain.from_iterable(values)))
        if texts:
            self._keep(texts)
        if erased:
            self._erase(erased)

    def _keep(self, texts: Mapping[str, bytes]) -> None:
        """Of a mail that may still be logged; a text that is there already is the same."""
        if self._box is None:
            raise ValueError("texts are kept encrypted, and there is no key")
        mark = "?" if self._is_sqlite else "%s"
        states = ", ".join(f"'{state.value}'" for state in sorted(KEEPS_TEXT))
        self._cursor.executemany(
            f"INSERT INTO mail_text (mail_id, content) SELECT id, {mark} FROM mail "  # noqa: S608  marks and words of ours
            f"WHERE id = {mark} AND state IN ({states}) ON CONFLICT DO NOTHING",
            [(self._box.closed(text), mail_id) for mail_id, text in texts.items()],
        )

    def _erase(self, ids: list[str]) -> None:
        mark = "?" if self._is_sqlite else "%s"
        self._cursor.execute(
            f"DELETE FROM mail_text WHERE mail_id IN ({', '.join([mark] * len(ids))})",  # noqa: S608
            tuple(ids),
        )

    def lost_replies(self, since: datetime) -> Mapping[bytes, tuple[str, str]]:
        """Mails accepted since then without the client hearing it: fingerprint -> (row id, reply)."""
        self._cursor.execute(self._statements.look_for_lost_replies, (self._statements.time(since),))
        return {bytes(key): (mail_id, reply or "") for key, mail_id, reply in self._cursor.fetchall()}


@lru_cache(maxsize=512)
def _written_out(write: tuple[str, str, str], number: int) -> str:
    head, one, tail = write
    return head + ", ".join([one] * number) + tail


@contextmanager
def writing(database: Database) -> Iterator[Rows]:
    """Look, then write, once; on disk when the block ends. Raises DatabaseUnavailable."""
    with database.driving() as (cursor, dialect):
        yield Rows(cursor, dialect, database.box)


def insert(dialect: Dialect, table: Any) -> Any:
    """The dialect's own INSERT, which knows ON CONFLICT; the other dialect is not read (2 MB of memory)."""
    return import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)


def there(session: Session, table: Any, key: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """The row of this key, locked; made with these values where there is none, whoever else makes it just now."""
    session.execute(
        insert(session.get_bind().dialect, table).values(**key, **values).on_conflict_do_nothing()
    )
    return session.get(table, tuple(key.values()), with_for_update=True, populate_existing=True)


def fit(text: str | None, length: int = LONGEST_TEXT) -> str | None:
    """What every database can hold: no NUL, no lone surrogate, no more than the column."""
    if text is None or (len(text) <= length and text.isascii() and "\0" not in text):
        return text
    if not text.isascii() or "\0" in text:
        text = text.encode("utf-8", "replace").decode().replace("\0", "")
    return text[:length]


@lru_cache(maxsize=16)
def _statements(dialect: Dialect) -> _Statements:
    statement = insert(dialect, _TABLE)
    settled = {name: statement.excluded[name] for name in _COLUMNS if name not in _NEVER_CHANGED}
    is_open = or_(*(MailRow.state == _word(state) for state in sorted(OPEN_STATES)))
    brings_more = statement.excluded.state != _word(State.PENDING)
    lost = select(MailRow.fingerprint, MailRow.id, MailRow.upstream).where(
        MailRow.fingerprint.is_not(None), MailRow.time >= bindparam("since", type_=MailRow.time.type)
    )
    upsert = statement.on_conflict_do_update(index_elements=["id"], set_=settled, where=is_open & brings_more)
    return _Statements(
        write=_around_its_row(_sql(upsert, dialect, _COLUMNS)),
        look_for_lost_replies=_sql(lost, dialect, ("since",)),
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
        None if row.due_at is None else into.time(row.due_at),
    )

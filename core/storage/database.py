"""One database, SQLite or PostgreSQL: short transactions, and every trouble of the connection as one error.

The same code runs on both; what differs stands in this file."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import Dialect, make_url
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from core.config import Config
from core.secrets import Box
from core.storage import sealed

__all__ = ["Database", "DatabaseUnavailable", "Session", "newest_revision"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x626C696E64  # any number that only we use: "blind"
_SECONDS_TO_CONNECT = 5
_SECONDS_FOR_A_LOCK = 5
_MILLISECONDS_FOR_A_STATEMENT = 30_000


class DatabaseUnavailable(Exception):
    """The database cannot be reached or does not answer; trying again later can help."""


class Database:
    """Transactions on one database. Opening it touches nothing; the first transaction connects."""

    def __init__(self, url: str, box: Box | None = None) -> None:
        """`box` opens and closes what is encrypted; who has none cannot read those few values."""
        self._box = box
        self._engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
        self._writing_engine = self._engine.execution_options(writing=True)
        self._url = url
        self._is_up_to_date = False

    @classmethod
    def of(cls, config: Config) -> "Database":
        """The database of this installation, with its keys where they are set."""
        return cls(config.database_url, Box(config.secret_keys) if config.secret_keys else None)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only looks. Raises DatabaseUnavailable."""
        with self._transaction(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits when the block ends. Raises DatabaseUnavailable."""
        with self._transaction(self._writing_engine) as session:
            yield session

    @contextmanager
    def driving(self) -> Iterator[tuple[DBAPICursor, Dialect]]:
        """The driver's own cursor, for the one statement that is done for every mail: on SQLite it is a transaction
        of its own, on PostgreSQL all is committed when the block ends. Raises DatabaseUnavailable."""
        with _troubles_translated(), self._drivers_troubles_translated():
            connection = self._engine.raw_connection()
            try:
                yield connection.cursor(), self._engine.dialect
                connection.commit()
            except self._drivers_troubles:
                connection.invalidate()  # the pool does not see what is wrong with it
                raise
            finally:
                connection.close()  # back to the pool, which rolls back what was not committed

    @property
    def _drivers_troubles(self) -> tuple[type[Exception], ...]:
        driver: Any = self._engine.dialect.dbapi
        return driver.OperationalError, driver.InterfaceError

    @contextmanager
    def _drivers_troubles_translated(self) -> Iterator[None]:
        try:
            yield
        except self._drivers_troubles as error:
            raise DatabaseUnavailable(_short(error)) from error

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Session]:
        with _troubles_translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            sealed.set_box(session, self._box)
            yield session

    def migrate(self) -> None:
        """Bring the schema up to date, and what is encrypted under the first key; several processes may do so at once. Done once, it costs nothing again.

        Raises DatabaseUnavailable."""
        if self._is_up_to_date:
            return
        with _troubles_translated():
            revision = self.revision()
            if revision not in {"none", *_revisions()}:
                raise DatabaseUnavailable(
                    f"its schema, revision {revision}, is newer than this code, which knows {newest_revision()}: "
                    "update Blindcopy"
                )
            if revision != newest_revision():
                with (
                    self._migration_lock(),
                    self._writing_engine.begin() as connection,
                ):
                    if connection.dialect.name == "postgresql":
                        connection.execute(
                            text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                        )
                    _upgrade(connection)
        if self._box is not None:
            with self.reading() as session:
                is_old = sealed.has_old(session)
            if is_old:
                with self.writing() as session:
                    sealed.renew(session)
        self._is_up_to_date = True

    def revision(self) -> str:
        """The name of the schema's revision, "none" where there is no schema. Raises DatabaseUnavailable."""
        with _troubles_translated(), self._engine.connect() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return "none"
            return connection.scalar(text("SELECT version_num FROM alembic_version")) or "none"

    def close(self) -> None:
        self._engine.dispose()

    @property
    def box(self) -> Box | None:
        """For this package only: the keys of this process."""
        return self._box

    @property
    def engine(self) -> Engine:
        """For this package and its contract tests only."""
        return self._engine

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        """SQLite's: a file beside the database. PostgreSQL's is taken within the transaction."""
        if not self._url.startswith("sqlite"):
            yield
            return
        with Path(self._url.removeprefix("sqlite:///") + ".migrating").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def newest_revision() -> str:
    """The name of the schema's revision that this code works with."""
    return max(_revisions())


def _revisions() -> set[str]:
    """Those that this code knows, by the names of their files."""
    return {path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}


@contextmanager
def _troubles_translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
        raise DatabaseUnavailable(_short(error)) from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise DatabaseUnavailable(_short(error)) from error


def _short(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def _upgrade(connection: Connection) -> None:
    """Alembic is read only when there is something to do: it is a tenth of a process's memory."""
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _sqlite(url: str) -> Engine:
    path = Path(make_url(url).database or "")
    engine = create_engine(url, hide_parameters=True, connect_args={"timeout": _SECONDS_FOR_A_LOCK})

    @event.listens_for(engine, "do_connect")
    def _make_private(*_: Any) -> None:
        """The database holds addresses and subjects: nobody but the owner reads it."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, below
        _into_wal(connection)
        for pragma in ("synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        """A writer takes its lock at once, so that two of them queue up instead of failing half-way."""
        is_writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


def _into_wal(connection: Any) -> None:
    """Several processes that open a new database at once: who is not first is told at once that it is locked, whatever
    its time-out (SQLite, "Write-Ahead Logging", section 2.3)."""
    deadline = time.monotonic() + _SECONDS_FOR_A_LOCK
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _postgresql(url: str) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=_SECONDS_TO_CONNECT,
        connect_args={
            "connect_timeout": _SECONDS_TO_CONNECT,
            "tcp_user_timeout": _SECONDS_TO_CONNECT * 1000,
            "options": f"-c statement_timeout={_MILLISECONDS_FOR_A_STATEMENT} -c timezone=UTC",
        },
    )

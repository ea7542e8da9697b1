"""One database, SQLite or PostgreSQL: short transactions, and every trouble of the connection as one error.

The same code runs on both; what differs stands in this file. Nothing of ours opens the SQLite file beside
SQLite: closing any descriptor of a file drops all POSIX locks that the process holds on it, those of SQLite's
connections too, and the next process that closes the database then takes itself for the last one and deletes
the WAL under the others ("How To Corrupt An SQLite Database File", section 2.2)."""

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from core.config import Config, masked_url
from core.database import sealed
from core.database.installation import Installation
from core.secrets import Box
from core.state_directory import StateDirectory

__all__ = ["Database", "DatabaseUnavailable", "Session", "newest_revision"]

_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x626C696E64  # any number that only we use: "blind"
_SECONDS_TO_CONNECT = 5
_SECONDS_FOR_A_LOCK = 5
_SECONDS_BETWEEN_TRIES = 0.0005
_SECONDS_BETWEEN_TURNS = 0.003
"""Long enough for another process, which looks twice in a millisecond."""
MILLISECONDS_FOR_A_STATEMENT = 30_000
_MAKING_THE_FILE = threading.Lock()

_SQLITE_SAYS = {
    "file is not a database": "{path} is not an SQLite database; name Blindcopy's own file in DATABASE_URL",
    "malformed": "{path} is damaged; stop every process and restore a backup (docs/operations.md, Backup "
    "and restore)",
    "disk is full": "the disk is full; make room where {path} lies",
    "readonly database": "{path} cannot be written; the file and its directory must belong to the user "
    "that runs Blindcopy",
    "unable to open": "{path} cannot be opened; its directory must exist and belong to the user that runs "
    "Blindcopy",
    "disk I/O error": "the disk of {path} does not take what is written to it, or does not give it back",
}
"""What SQLite says of its file, as a sentence that names the remedy."""


class DatabaseUnavailable(Exception):
    """The database cannot be reached or does not answer; trying again later can help."""


class Database:
    """Transactions on one database. Opening it touches nothing; the first transaction connects."""

    def __init__(
        self,
        url: str,
        box: Box | None = None,
        state: StateDirectory | None = None,
        *,
        uses_state: bool = False,
    ) -> None:
        """`box` opens and closes what is encrypted; without it those few values cannot be read. `state`: the
        directory whose marker tells a restored database from the one that was in use; without it nothing is
        compared. `uses_state`: this process works with what lies there, so it must be this database's."""
        self._box = box
        self._engine = _sqlite(url) if url.startswith("sqlite") else _postgresql(url)
        self._turns = _TurnsToWrite() if url.startswith("sqlite") else None
        self._writing_engine = self._engine.execution_options(writing=True)
        self._url = url
        self.is_up_to_date = False
        self.installation = Installation(state, is_used=uses_state)

    @classmethod
    def of(cls, config: Config, *, uses_state: bool = False) -> "Database":
        """The database of this installation, with its keys where they are set."""
        box = Box(config.secret_keys) if config.secret_keys else None
        return cls(config.database_url, box, StateDirectory(config.state_dir), uses_state=uses_state)

    @property
    def sqlite_file(self) -> Path | None:
        """The file of an SQLite database."""
        return Path(make_url(self._url).database or "") if self._url.startswith("sqlite") else None

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only looks. Raises DatabaseUnavailable."""
        with self._transaction(self._engine) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that commits when the block ends. Raises DatabaseUnavailable."""
        turn = contextlib.nullcontext() if self._turns is None else self._turns.turn()
        with turn, self._transaction(self._writing_engine) as session:
            yield session

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Session]:
        with self._troubles_translated(), Session(engine, expire_on_commit=False) as session, session.begin():
            sealed.set_box(session, self._box)
            yield session

    def migrate(self) -> None:
        """Bring the schema up to date, and what is encrypted under the first key; several processes may do so
        at once. Once done, it costs nothing to do it again.

        A database that is older than what the state directory knows of it was restored, and is marked so
        here, before anything works with it. Raises DatabaseUnavailable, StateDirectoryTaken."""
        if self.is_up_to_date:
            return
        with self._troubles_translated():
            revision = self.revision()
            if revision not in {"none", *_revisions()}:
                raise DatabaseUnavailable(_says_of_a_foreign_revision(revision, masked_url(self._url)))
            if revision != newest_revision():
                with self._migration_lock(), self._writing_engine.begin() as connection:
                    if connection.dialect.name == "postgresql":
                        # rewriting a large table takes its time, and so does waiting for a process that does
                        # it
                        connection.execute(text("SET LOCAL statement_timeout = 0"))
                        connection.execute(
                            text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                        )
                    _upgrade(connection)
        with self.reading() as session:
            is_older = self.installation.was_restored(session)
        if is_older:
            with self.writing() as session:
                marker = self.installation.note_restore(session)
            self.installation.keep(marker)
        self.installation.keep_known()
        if self._box is not None:
            with self.reading() as session:
                is_old = sealed.has_old(session)
            if is_old:
                with self.writing() as session:
                    sealed.renew(session)
        self.is_up_to_date = True

    def revision(self) -> str:
        """The name of the schema's revision, "none" where there is no schema. Raises DatabaseUnavailable."""
        with self._troubles_translated(), self._engine.connect() as connection:
            found = inspect(connection)
            if found.has_table("alembic_version"):
                return connection.scalar(text("SELECT version_num FROM alembic_version")) or "none"
            if connection.dialect.name == "sqlite" and (tables := found.get_table_names()):
                raise DatabaseUnavailable(
                    f"{self.sqlite_file} is another program's database, with tables like “{tables[0]}”; "
                    "name a file of Blindcopy's own in DATABASE_URL"
                )
            return "none"

    def close(self) -> None:
        self._engine.dispose()
        self.installation.close()

    @property
    def box(self) -> Box | None:
        """For this package only: the keys of this process."""
        return self._box

    @property
    def engine(self) -> Engine:
        """For this package and its contract tests only."""
        return self._engine

    @contextmanager
    def _troubles_translated(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, InterfaceError, PoolTimeout, OSError) as error:
            raise DatabaseUnavailable(self._sentence(error)) from error
        except DBAPIError as error:
            is_damaged = (
                type(error.orig) is sqlite3.DatabaseError
            )  # what SQLite calls a spoilt or foreign file
            if not (error.connection_invalidated or is_damaged):
                raise
            raise DatabaseUnavailable(self._sentence(error)) from error

    def _sentence(self, error: Exception) -> str:
        said = str(error) if type(error) is OSError else _cause_in_short(error)
        if (path := self.sqlite_file) is not None:
            for part, sentence in _SQLITE_SAYS.items():
                if part in said:
                    return sentence.format(path=path)
        return said

    @contextmanager
    def _migration_lock(self) -> Iterator[None]:
        """SQLite's: a file beside the database. PostgreSQL's is taken within the transaction."""
        if not self._url.startswith("sqlite"):
            yield
            return
        with Path(f"{self.sqlite_file}.migrating").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def newest_revision() -> str:
    """The name of the schema's revision that this code works with."""
    return max(_revisions())


def _revisions() -> set[str]:
    """Those that this code knows, by the names of their files."""
    return {path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py")}


def _says_of_a_foreign_revision(revision: str, url: str) -> str:
    if revision.isdecimal() and len(revision) == len(newest_revision()):
        return (
            f"its schema, revision {revision}, is newer than this code, which knows {newest_revision()}: "
            "update Blindcopy"
        )
    return (
        f"{url} is another program's database, at its revision {revision}; name one of Blindcopy's own "
        f"in DATABASE_URL"
    )


def _cause_in_short(error: Exception) -> str:
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
    first: list[tuple[int, int]] = []

    @event.listens_for(engine, "do_connect")
    def _make_file(*_: Any) -> None:
        if first:
            _must_be_the_same(path, first[0])
        else:
            _make_private_file(path)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, below
        _into_wal(connection)
        for pragma in ("synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        if not first:
            first.append(_file_identity(path))

    @event.listens_for(engine, "checkout")
    def _look_at_the_file(*_: Any) -> None:
        _must_be_the_same(path, first[0])

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        """A writer takes its lock at once, so that two of them queue up instead of failing half-way."""
        if connection.get_execution_options().get("writing", False):
            _begin_to_write(connection)
        else:
            connection.exec_driver_sql("BEGIN")

    return engine


def _begin_to_write(connection: Connection) -> None:
    """SQLite's own waiting sleeps up to 100 ms between two looks, and whoever writes all the time wins:
    beside a busy worker a loader waited half a second (p99, measured). So we look twice in a millisecond."""
    deadline = time.monotonic() + _SECONDS_FOR_A_LOCK
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError as error:
                is_locked = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not is_locked or time.monotonic() > deadline:
                    raise
                time.sleep(_SECONDS_BETWEEN_TRIES)
            else:
                return
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {_SECONDS_FOR_A_LOCK * 1000}")


class _TurnsToWrite:
    """Of one process: one thread at a time writes to SQLite, and where others wait for their turn, it leaves
    a moment in between. Eight threads of a worker would else keep the lock among themselves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._counting = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Raises DatabaseUnavailable."""
        with self._counting:
            self._waiting += 1
        is_mine = self._lock.acquire(timeout=_SECONDS_FOR_A_LOCK)
        with self._counting:
            self._waiting -= 1
        if not is_mine:
            raise DatabaseUnavailable("another thread of this process has not ended its transaction in time")
        try:
            yield
        finally:
            # Without the pause the next thread of this process has the lock before any other process has
            # looked.
            if self._waiting:
                time.sleep(_SECONDS_BETWEEN_TURNS)
            self._lock.release()


def _make_private_file(path: Path) -> None:
    """Make the file, empty, where there is none: it holds addresses and subjects, and only its owner may read
    it.

    A file that exists is never opened (see the module's docstring); the lock keeps one thread from connecting
    between another's making the file and closing it."""
    with _MAKING_THE_FILE:
        if path.exists():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _file_identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _must_be_the_same(path: Path, identity: tuple[int, int]) -> None:
    """Raises OSError. A process that went on with a file that was moved away would write where no other
    process reads."""
    try:
        is_same = _file_identity(path) == identity
    except FileNotFoundError as error:
        raise OSError(
            f"{path} is gone; stop every process, put the file back, and start them again"
        ) from error
    if not is_same:
        raise OSError(f"{path} was replaced while this process ran; restart every process")


def _into_wal(connection: Any) -> None:
    """Several processes that open a new database at once: who is not first is told at once that it is locked,
    whatever its time-out (SQLite, "Write-Ahead Logging", section 2.3)."""
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
            "options": f"-c statement_timeout={MILLISECONDS_FOR_A_STATEMENT} -c timezone=UTC",
        },
    )

"""A copy of the SQLite database, made while everything runs.

Copying the file would miss what is in the WAL, and reading it beside SQLite drops SQLite's locks (see
`core.database.engine`); SQLite's own backup does neither ("Using the SQLite Online Backup API")."""

import contextlib
import os
import sqlite3
import uuid
from pathlib import Path
from typing import cast

from sqlalchemy.engine import make_url

from core.database.engine import Database, DatabaseUnavailable
from core.database.installation import mark_as_copy
from core.refusal import Refusal


class NoBackup(Refusal):
    """The backup was not made."""


def back_up(database: Database, url: str, path: Path) -> int:
    """Copy the database to `path`, which must not exist; how many bytes the copy has. It is one moment's
    database, in one file, for its owner only, and knows that it is a copy. Raises NoBackup,
    DatabaseUnavailable."""
    if database.sqlite_file is None:
        raise NoBackup("PostgreSQL makes its own backups: %(command)s", command=_pg_dump(url, path))
    if path.exists():
        raise NoBackup("%(path)s exists already, and nothing is overwritten; name a new file", path=str(path))
    database.migrate()
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _copy(database, part)
        os.link(part, path)  # fails if a file of this name has appeared in the meantime
    except FileExistsError as error:
        raise NoBackup(
            "%(path)s exists already, and nothing is overwritten; name a new file", path=str(path)
        ) from error
    except (OSError, sqlite3.Error) as error:
        raise NoBackup("%(path)s cannot be written: %(cause)s", path=str(path), cause=str(error)) from error
    finally:
        for left in (part, part.with_name(f"{part.name}-journal")):
            with contextlib.suppress(OSError):
                left.unlink()
    return path.stat().st_size


def _copy(database: Database, part: Path) -> None:
    """All pages in one go: in several steps every write of another process would begin it anew."""
    target = sqlite3.connect(part)
    try:
        with contextlib.closing(database.engine.raw_connection()) as source:
            cast("sqlite3.Connection", source.driver_connection).backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # one file, without a WAL beside it
        [(said,)] = target.execute("PRAGMA quick_check").fetchall()
        if said != "ok":
            raise DatabaseUnavailable(f"the copy is damaged, and so is the database: {said}")
    finally:
        target.close()
    copy = Database(f"sqlite:///{part}")
    try:
        with copy.writing() as session:
            mark_as_copy(session)
        with contextlib.closing(copy.engine.raw_connection()) as opened:
            opened.cursor().execute("PRAGMA journal_mode=DELETE")
    finally:
        copy.close()
    descriptor = os.open(part, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pg_dump(url: str, path: Path) -> str:
    """The line to type; it asks for the password, or takes it from ~/.pgpass."""
    parts = make_url(url)
    options = [
        "--format=custom",
        f"--file={path}",
        f"--dbname={parts.database}",
        *([f"--host={parts.host}"] if parts.host else []),
        *([f"--port={parts.port}"] if parts.port else []),
        *([f"--username={parts.username}"] if parts.username else []),
    ]
    return " ".join(["pg_dump", *options])

"""Signs of life: every process says now and then that it is there, by the database's clock."""

import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from core.database.models import ProcessRow
from core.findings import Finding, from_plain, to_plain

SILENCE = timedelta(seconds=30)
"""A process that has said nothing for this long is gone."""

_REMEMBERED = timedelta(days=1)
_NOW = "now"


@dataclass(frozen=True)
class Condition:
    """How a process says that it is: what is wrong with its upstream, how many bytes of its journal the
    database does not have, how many rows it has lost, and what else it has found that is not as it should
    be."""

    upstream_trouble: str | None = None
    journal_bytes: int = 0
    rows_lost: int = 0
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Process:
    """A process that has beaten within the last day."""

    kind: str
    host: str
    pid: int
    started_at: datetime
    beat_at: datetime
    is_alive: bool
    settings_revision: int
    listeners: tuple[str, ...]
    condition: Condition


@dataclass(frozen=True)
class Beat:
    """A running process; `listeners` are texts like `submission 127.0.0.1:2587`."""

    id: str
    kind: str
    started_at: datetime
    settings_revision: int
    listeners: tuple[str, ...] = ()
    condition: Condition = Condition()


def database_now(session: Session) -> datetime:
    """The time by the one clock that all processes share."""
    if session.get_bind().dialect.name == "postgresql":
        if _NOW not in session.info:  # it is the transaction's, however often it is asked for
            session.info[_NOW] = session.scalars(select(func.now())).one().astimezone(UTC)
        now: datetime = session.info[_NOW]
        return now
    return datetime.now(UTC)  # SQLite's clock is this machine's


def beat(session: Session, sign: Beat) -> None:
    """Say that this process is alive."""
    now = database_now(session)
    row = session.get(ProcessRow, sign.id)
    if row is None:
        row = ProcessRow(
            id=sign.id,
            kind=sign.kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            started_at=sign.started_at,
            home=pid_namespace(),
        )
        session.add(row)
    row.beat_at = now
    row.settings_revision = sign.settings_revision
    row.listeners = list(sign.listeners)
    row.upstream_trouble = sign.condition.upstream_trouble
    row.journal_bytes = sign.condition.journal_bytes
    row.rows_lost = sign.condition.rows_lost
    row.findings = [to_plain(finding) for finding in sign.condition.findings]


def farewell(session: Session, process_id: str) -> None:
    """This process stops of its own accord; long-gone ones are forgotten with it."""
    long_ago = database_now(session) - _REMEMBERED
    session.execute(delete(ProcessRow).where((ProcessRow.id == process_id) | (ProcessRow.beat_at < long_ago)))


def bury(session: Session) -> None:
    """Workers that were killed where this process runs are gone at once: what they had claimed waits for no
    silence."""
    home = pid_namespace()
    if home is None:
        return
    for row in session.scalars(
        select(ProcessRow).where(ProcessRow.home == home, ProcessRow.kind == "worker")
    ):
        if not Path(f"/proc/{row.pid}").exists():
            session.delete(row)


def pid_namespace() -> str | None:
    """Identifies the PID namespace: one boot of one machine, one namespace. None where it cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def alive(now: datetime) -> Select[str]:
    """The ids of the processes that are there."""
    return select(ProcessRow.id).where(ProcessRow.beat_at >= now - SILENCE)


def has_other_relays(session: Session, process_id: str) -> bool:
    """Whether a relay other than this one is there."""
    query = select(ProcessRow.id).where(
        ProcessRow.kind == "relay",
        ProcessRow.id != process_id,
        ProcessRow.beat_at >= database_now(session) - SILENCE,
    )
    return session.scalars(query.limit(1)).first() is not None


def listeners(session: Session) -> list[str]:
    """What the relays that are there listen on."""
    query = select(ProcessRow.listeners).where(ProcessRow.beat_at >= database_now(session) - SILENCE)
    return sorted({listener for row in session.scalars(query) for listener in row})


def processes(session: Session) -> list[Process]:
    """Every process of the last day, those that are alive first."""
    now = database_now(session)
    rows = session.scalars(
        select(ProcessRow)
        .where(ProcessRow.beat_at >= now - _REMEMBERED)
        .order_by(ProcessRow.kind, ProcessRow.id)
    )
    found = [
        Process(
            kind=row.kind,
            host=row.host,
            pid=row.pid,
            started_at=row.started_at,
            beat_at=row.beat_at,
            is_alive=row.beat_at >= now - SILENCE,
            settings_revision=row.settings_revision,
            listeners=tuple(row.listeners),
            condition=Condition(
                row.upstream_trouble,
                row.journal_bytes,
                row.rows_lost,
                tuple(from_plain(plain) for plain in row.findings),
            ),
        )
        for row in rows
    ]
    return sorted(found, key=lambda process: not process.is_alive)

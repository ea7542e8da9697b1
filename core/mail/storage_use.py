"""How much was written to Salesforce for mails, month by month: its storage is dear, and mails fill it."""

from dataclasses import astuple, dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from core.database.dialect import insert
from core.database.models import WrittenRow


@dataclass
class StorageUse:
    """Bytes, in UTF-8. `whole`: what the records would have taken with all of the mails' text."""

    records: int = 0
    bytes: int = 0
    whole: int = 0
    file_bytes: int = 0


def add(session: Session, use: StorageUse, now: datetime) -> None:
    """Count this too."""
    if not any(astuple(use)):
        return
    statement = insert(session.get_bind().dialect, WrittenRow).values(
        month=_month(now),
        records=use.records,
        bytes=use.bytes,
        whole=use.whole,
        file_bytes=use.file_bytes,
    )
    changed = {
        name: getattr(WrittenRow, name) + statement.excluded[name]
        for name in ("records", "bytes", "whole", "file_bytes")
    }
    session.execute(statement.on_conflict_do_update(index_elements=["month"], set_=changed))


def in_month(session: Session, now: datetime) -> StorageUse:
    """In the month of this moment, UTC."""
    row = session.get(WrittenRow, _month(now))
    return StorageUse() if row is None else StorageUse(row.records, row.bytes, row.whole, row.file_bytes)


def _month(now: datetime) -> str:
    return f"{now:%Y-%m}"

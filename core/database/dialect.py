"""What the two databases do not say alike, and what both can hold."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Session

LONGEST_TEXT = 2000


def insert(dialect: Dialect, table: Any) -> Any:
    """The dialect's own INSERT, which knows ON CONFLICT; the other dialect is not read (2 MB of memory)."""
    return import_module(f"sqlalchemy.dialects.{dialect.name}").insert(table)


def there(session: Session, table: Any, key: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    """The row of this key, locked; made with these values where there is none, whoever else makes it just
    now."""
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

"""What lies encrypted in the database, and the keys of this process with which it is opened.

A session carries the keys; a process that was given none can work with everything else."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from core import logs
from core.config import ConfigurationError
from core.database.models import ConnectionRow, PreferenceRow
from core.secrets import Box, Undecryptable
from core.settings.catalogue import Setting

_BOX = "box"


def set_box(session: Session, box: Box | None) -> None:
    """From now on this session opens and closes with these keys."""
    session.info[_BOX] = box


def closed(session: Session, plain: str) -> str:
    """The text encrypted. Raises ConfigurationError."""
    return box(session).closed(plain.encode()).decode("ascii")


def opened(session: Session, text: str) -> str:
    """The plain text. Raises ConfigurationError, Undecryptable."""
    return box(session).opened(text.encode()).decode()


def opened_or_lost(session: Session, text: str, what: str) -> str | None:
    """The plain text; None, with an alarm, where no key of ours fits it. Raises ConfigurationError."""
    try:
        return opened(session, text)
    except Undecryptable:
        logs.undecryptable(what)
        return None


def unreadable(session: Session, most: int = 200) -> tuple[int, int]:
    """How many of up to so many stored secrets no key of ours opens, and how many were looked at."""
    found = [_is_readable(session, one) for one in islice(secrets(session, is_locked=False), most)]
    return found.count(False), len(found)


def has_old(session: Session) -> bool:
    """Whether anything is not yet under the first key."""
    return any(_renewed(session, one) is not None for one in secrets(session))


def renew(session: Session) -> None:
    """Bring everything under the first key, so that older ones can be taken away."""
    for one in list(secrets(session)):
        if (text := _renewed(session, one)) is not None:
            setattr(one.row, one.attribute.key, text)


@dataclass(frozen=True)
class _Secret:
    row: Any
    attribute: InstrumentedAttribute[Any]

    @property
    def text(self) -> str:
        return str(getattr(self.row, self.attribute.key))


def _is_readable(session: Session, secret: _Secret) -> bool:
    try:
        return "@" in secret.text or bool(opened(session, secret.text))
    except Undecryptable:
        return False


def secrets(session: Session, *, is_locked: bool = True) -> Iterator[_Secret]:
    secret_names = [one.value for one in Setting if one.definition.is_secret]
    columns: list[tuple[type[Any], InstrumentedAttribute[Any], Any]] = [
        (PreferenceRow, PreferenceRow.value, PreferenceRow.name.in_(secret_names)),
        (ConnectionRow, ConnectionRow.access_token, ConnectionRow.access_token.is_not(None)),
        (ConnectionRow, ConnectionRow.refresh_token, ConnectionRow.refresh_token.is_not(None)),
    ]
    for table, attribute, condition in columns:
        query = select(table).where(condition).order_by(table.person_id)
        query = query.with_for_update() if is_locked else query
        for row in session.scalars(query, execution_options={"populate_existing": True}):
            yield _Secret(row, attribute)


def _renewed(session: Session, secret: _Secret) -> str | None:
    """The text under the first key; None where it is so, or cannot be opened any more."""
    if "@" in secret.text:  # an address of before they were encrypted, which no encrypted text can look like
        return closed(session, secret.text)
    try:
        renewed = box(session).renewed(secret.text.encode())
    except Undecryptable:
        return None
    return None if renewed is None else renewed.decode("ascii")


def box(session: Session) -> Box:
    """The keys of this process. Raises ConfigurationError."""
    found: Box | None = session.info.get(_BOX)
    if found is None:
        raise ConfigurationError(
            ["BLINDCOPY_SECRET_KEY: is not set; this needs the key that opens what is encrypted"]
        )
    return found

"""What mails said and what was attached to them, encrypted, for as long as they wait to be logged."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import cast

from sqlalchemy import Table, and_, delete, exists, func, or_, select
from sqlalchemy.orm import Session

from core import logs
from core.database import sealed
from core.database.dialect import insert
from core.database.models import MailFileRow, MailRow, MailTextRow
from core.mail.kept import FileChunk
from core.mail.row import KEEPS_TEXT, State
from core.secrets import Undecryptable

_MAIL_TEXT = cast("Table", MailTextRow.__table__)
_MAIL_FILE = cast("Table", MailFileRow.__table__)
_STATES = tuple(state.value for state in KEEPS_TEXT)


class FileLost(Exception):
    """The file is not there as a whole, or no key of this process opens it."""


def keep(session: Session, texts: Mapping[str, bytes]) -> None:
    """The texts of these mails, of those that may still be logged, whatever state a worker has brought them
    to by now; a text that is there already is the same."""
    kept = set(session.scalars(select(MailRow.id).where(MailRow.id.in_(texts), MailRow.state.in_(_STATES))))
    box = sealed.box(session)
    rows = [
        {"mail_id": mail_id, "content": box.closed(text)}
        for mail_id, text in texts.items()
        if mail_id in kept
    ]
    if rows:
        session.execute(insert(session.get_bind().dialect, MailTextRow).on_conflict_do_nothing(), rows)


def keep_files(session: Session, chunks: Sequence[FileChunk]) -> None:
    """Pieces of files; the rows of their mails come later, or not at all."""
    if not chunks:
        return
    box = sealed.box(session)
    rows = [
        {
            "mail_id": one.mail_id,
            "file": one.file,
            "number": one.number,
            "size": len(one.data),
            "content": box.closed(one.data),
        }
        for one in chunks
    ]
    session.execute(insert(session.get_bind().dialect, MailFileRow).on_conflict_do_nothing(), rows)


def erase(session: Session, ids: Collection[str]) -> None:
    """All that is kept of what these mails say."""
    session.execute(delete(_MAIL_TEXT).where(_MAIL_TEXT.c.mail_id.in_(ids)))
    session.execute(delete(_MAIL_FILE).where(_MAIL_FILE.c.mail_id.in_(ids)))


def read(session: Session, ids: Collection[str], *, longest: int | None = None) -> dict[str, bytes | None]:
    """The texts of these mails that are there: None for one that no key of this process opens. `longest`:
    without texts that take more bytes in the database."""
    query = select(_MAIL_TEXT.c.mail_id, _MAIL_TEXT.c.content).where(_MAIL_TEXT.c.mail_id.in_(ids))
    if longest is not None:
        query = query.where(func.length(_MAIL_TEXT.c.content) <= longest)
    box, found = sealed.box(session), dict[str, bytes | None]()
    for mail_id, content in session.execute(query):
        try:
            found[mail_id] = box.opened(content)
        except Undecryptable:
            logs.undecryptable("a mail's text")
            found[mail_id] = None
    return found


def file(session: Session, mail_id: str, number: int, pieces: int) -> Iterator[bytes]:
    """The pieces of one file of a mail, in their order, each read when its turn comes. Raises FileLost."""
    box = sealed.box(session)
    of_it = (_MAIL_FILE.c.mail_id == mail_id, _MAIL_FILE.c.file == number)
    for piece in range(pieces):
        content = session.scalar(select(_MAIL_FILE.c.content).where(*of_it, _MAIL_FILE.c.number == piece))
        if content is None:
            raise FileLost
        try:
            yield box.opened(content)
        except Undecryptable as error:
            logs.undecryptable("a mail's file")
            raise FileLost from error


def file_bytes(session: Session) -> int:
    """How many bytes of files wait in the database."""
    return int(session.scalar(select(func.sum(_MAIL_FILE.c.size))) or 0)


def needless(session: Session, ids: Collection[str]) -> list[str]:
    """Those of these mails that are in a state that needs no text."""
    query = select(MailRow.id).where(MailRow.id.in_(ids), MailRow.state.not_in(_STATES))
    return list(session.scalars(query))


def after(session: Session, mail_id: str, most: int) -> list[str]:
    """The next ones of the mails of which a text is kept, in the order of their ids."""
    query = (
        select(_MAIL_TEXT.c.mail_id)
        .where(_MAIL_TEXT.c.mail_id > mail_id)
        .order_by(_MAIL_TEXT.c.mail_id)
        .limit(most)
    )
    return list(session.scalars(query))


def erase_files_left_behind(session: Session, before: str, long_before: str) -> None:
    """Files of mails that ended before their row came, or whose row is settled, and those of mails that have
    waited for a person for long. `before`: ids from which on mails may still be under way; `long_before`: ids
    from which on a person may still see to them."""
    is_young = _MAIL_FILE.c.mail_id >= long_before
    needing = or_(MailRow.state == State.WAITING.value, and_(MailRow.state.in_(_STATES), is_young))
    is_needed = exists().where(MailRow.id == _MAIL_FILE.c.mail_id, needing)
    session.execute(delete(_MAIL_FILE).where(_MAIL_FILE.c.mail_id < before, ~is_needed))

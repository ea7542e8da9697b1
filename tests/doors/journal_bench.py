"""A logbook, and journals that it or another one has left."""

import sqlite3

import pytest

from core.journal.entries import Begun, to_bytes
from core.journal.file import Append, Journal
from core.journal.loading import Orphans
from core.mail.store import unknown_senders
from relay.logbook import JournalOptions, Logbook
from tests.doors.conftest import BOX, add_anna

SIZE = 1 << 20


@pytest.fixture
def person(database):
    add_anna(database)
    return 1


def logbook(database, directory, seen=None, size=SIZE):
    return Logbook(database, JournalOptions(directory, size, BOX), (seen if seen is not None else []).append)


def counted(database):
    with database.reading() as session:
        return sum(sender.mails for sender in unknown_senders(session))


def no_loss(mail_id, cause):
    raise AssertionError(f"{mail_id} was lost: {cause}")


def left_behind(directory, *entries, box=BOX):
    """The journal of a relay that was killed; its path."""
    journal = Journal.made(directory, SIZE, box)
    assert journal.append([_append(entry) for entry in entries]) == [None] * len(entries)
    journal.close()
    return journal.path


def _append(entry):
    return Append(to_bytes(entry), hold=entry.row.id if isinstance(entry, Begun) else None, reserve=500)


def load_orphans(database, directory, box=BOX, on_lost=no_loss):
    orphans = Orphans(database, directory, box, on_lost)
    orphans.load()
    return orphans


class Lock:
    """Another process's transaction that holds SQLite's write lock."""

    def __init__(self, tmp_path):
        self.connection = sqlite3.connect(
            tmp_path / "blindcopy.db", isolation_level=None, check_same_thread=False
        )
        self.connection.execute("BEGIN IMMEDIATE")

    def release(self):
        self.connection.rollback()
        self.connection.close()

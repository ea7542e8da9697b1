"""Journals that relays have left behind, of this release and of the first."""

import base64
import fcntl
import json
from dataclasses import asdict, replace
from datetime import UTC, datetime

import pytest

from core.database.engine import Database, DatabaseUnavailable
from core.database.installation import restored_at
from core.database.models import InstallationRow, JournalRow, MailRow
from core.journal.entries import Begun, Ended, LostReply, UnknownSender
from core.journal.file import Journal
from core.journal.loading import Loader
from core.mail import texts as mail_texts
from core.mail.row import Decision, State
from core.secrets import Box
from tests.doors.conftest import BOX, add_anna
from tests.doors.journal_bench import (
    SIZE,
    _append,
    counted,
    left_behind,
    load_orphans,
    no_loss,
    person,  # noqa: F401
)
from tests.doors.rows import row, rows


class TestJournalsOfRelaysThatAreGone:
    def test_are_loaded_by_any_process_and_what_never_ended_is_unknown(self, database, person, tmp_path):
        ended, never = (
            row(person, text=b"Hello", decision=Decision.API),
            row(person, text=b"World", decision=Decision.API),
        )
        left_behind(
            tmp_path, Begun(ended), Begun(never), Ended(replace(ended, state=State.WAITING, text=None)),
            LostReply(ended.id, b"f" * 32), UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC)),
        )  # fmt: skip
        load_orphans(database, tmp_path)
        found = {one.id: one for one in rows(database)}
        assert {key: one.state for key, one in found.items()} == {
            ended.id: State.WAITING, never.id: State.UNKNOWN,
        }  # fmt: skip
        assert found[ended.id].fingerprint == b"f" * 32
        with database.reading() as session:
            assert (
                mail_texts.read(session, [ended.id]).get(ended.id),
                mail_texts.read(session, [never.id]).get(never.id),
            ) == (
                b"Hello",
                b"World",
            )
        load_orphans(database, tmp_path)
        assert counted(database) == 1

    def test_are_left_alone_while_their_relay_lives(self, database, person, tmp_path):
        journal = Journal.made(tmp_path, SIZE, BOX)
        journal.append([_append(Ended(row(person, state=State.COPIED)))])
        load_orphans(database, tmp_path)
        assert rows(database) == []
        journal.close()
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 1

    def test_what_was_loaded_before_a_crash_is_not_loaded_again(self, database, person, tmp_path):
        """Counts are exact, however often the loader dies between the database's commit and its own next
        step."""
        entries = [UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC)) for _ in range(5)]
        journal = Journal.opened(left_behind(tmp_path, *entries), BOX)
        Loader(database, journal, no_loss).load_all()
        journal.close()  # killed before it was cleared
        load_orphans(database, tmp_path)
        assert counted(database) == 5

    def test_that_never_ended_and_are_known_to_have_ended_stay_as_they_are(self, database, person, tmp_path):
        """The relay died after its loader had brought the end, or a worker had gone on with it."""
        one = row(person)
        path = left_behind(tmp_path, Begun(one), Ended(replace(one, state=State.COPIED)))
        journal = Journal.opened(path, BOX)
        Loader(database, journal, no_loss).load_all()
        journal.close()
        load_orphans(database, tmp_path)
        assert [one.state for one in rows(database)] == [State.COPIED]

    def test_a_power_cut_that_took_the_last_entries_costs_no_later_mail(self, database, person, tmp_path):
        """The database may have seen entries that the journal has lost; numbers never come twice."""
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(2)))
        before = path.read_bytes()
        journal = Journal.opened(path, BOX)
        journal.append([_append(Ended(row(person, state=State.COPIED))) for _ in range(3)])
        Loader(database, journal, no_loss).load_all()
        journal.close()
        path.write_bytes(before)
        journal = Journal.opened(path, BOX)
        journal.append([_append(Ended(row(person, state=State.COPIED)))])
        Loader(database, journal, no_loss).load_all()
        journal.close()
        assert len(rows(database)) == 6

    def test_a_beginning_that_was_carried_behind_its_loaded_end_is_held_for_nothing(
        self, database, person, tmp_path
    ):
        one = row(person)
        path = left_behind(tmp_path, Ended(replace(one, state=State.COPIED)), Begun(one))
        journal = Journal.opened(path, BOX)
        with database.writing() as session:
            session.add(JournalRow(id=path.stem, loaded=next(record.number for record in journal.after(0))))
        loader = Loader(database, journal, no_loss)
        loader.load_all()
        loader.show_slow()
        loader.show_slow()
        assert rows(database) == []
        assert journal.names_held() == []
        journal.close()

    def test_with_an_entry_that_cannot_be_read_back_give_the_others(self, database, person, tmp_path):
        """A bad sector under a running relay, or a key that is gone for the middle of a file."""
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        with path.open("r+b") as file:
            file.seek(half.offsets[2] + 60)
            file.write(b"????????")
        Loader(database, journal, no_loss).load_all()
        assert len(rows(database)) == 4
        assert journal.is_damaged
        journal.close()

    def test_whose_last_entry_cannot_be_read_back_come_to_an_end(self, database, person, tmp_path):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(3)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        with path.open("r+b") as file:
            file.seek(half.offsets[-1] + 60)
            file.write(b"????????")
        Loader(database, journal, no_loss).load_all()
        assert len(rows(database)) == 2
        assert journal.is_damaged
        journal.close()

    def test_counts_are_exact_though_the_answer_to_the_commit_was_lost(
        self, database, person, tmp_path, monkeypatch
    ):
        path = left_behind(tmp_path, *[UnknownSender("x@acme.test", "x@acme.test", datetime.now(UTC))] * 3)
        journal = Journal.opened(path, BOX)
        loader, real, lost = Loader(database, journal, no_loss), Loader.write, [True]

        def write(self, entries, last):
            real(self, entries, last)
            if lost:
                lost.pop()
                raise DatabaseUnavailable("the answer was lost")

        monkeypatch.setattr(Loader, "write", write)
        with pytest.raises(DatabaseUnavailable):
            loader.load()
        loader.load_all()
        assert counted(database) == 3
        journal.close()

    def test_come_back_after_a_restore_under_the_running_process(self, database, person, tmp_path):
        """What still stands in the journal is loaded into the older database again."""
        with database.writing() as session:
            database.installation.keep(database.installation.advance(session))
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(4)))
        journal = Journal.opened(path, BOX)
        loader = Loader(database, journal, no_loss)
        loader.load_all()
        with database.writing() as session:  # as pg_restore does it, with the relay running
            session.query(MailRow).delete()
            session.query(JournalRow).delete()
            session.get(InstallationRow, 1).tick = 0
        with database.writing() as session:
            marker = database.installation.advance(session)
            assert restored_at(session) is not None
        database.installation.keep(marker)
        loader.load_all()
        assert len(rows(database)) == 4
        journal.close()

    def test_are_done_with_though_a_restored_database_knows_of_fewer_entries(
        self, database, person, tmp_path
    ):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        load_orphans(database, tmp_path)
        with database.writing() as session:
            session.get(JournalRow, path.stem).loaded = 2
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 5

    def test_wait_while_the_database_is_away(self, sqlite, person_in_sqlite, tmp_path):
        path = left_behind(tmp_path, Ended(row(1, state=State.COPIED)))
        away = Database("postgresql+psycopg://nobody@127.0.0.1:1/x")
        with pytest.raises(DatabaseUnavailable):
            load_orphans(away, tmp_path)
        away.close()
        assert path.exists()
        load_orphans(sqlite, tmp_path)
        assert len(rows(sqlite)) == 1

    def test_that_are_damaged_give_what_is_whole_and_are_put_aside(self, database, person, tmp_path, caplog):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        journal.close()
        content = bytearray(path.read_bytes())
        content[half.offsets[2] + 60] ^= 1
        path.write_bytes(content)
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 4
        assert [one.suffix for one in tmp_path.glob(f"{path.stem}*")] == [".damaged"]
        assert "ALARM a journal was damaged" in caplog.text

    def test_that_were_cut_too(self, database, person, tmp_path):
        path = left_behind(tmp_path, *(Ended(row(person, state=State.COPIED)) for _ in range(5)))
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        journal.close()
        path.write_bytes(path.read_bytes()[: half.offsets[3] + 50])
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 3

    def test_of_another_key_wait_for_it_and_are_told_once(self, database, person, tmp_path, caplog):
        left_behind(tmp_path, Ended(row(person, state=State.COPIED)), box=Box(["another secret key"]))
        orphans = load_orphans(database, tmp_path)
        orphans.load()
        assert caplog.text.count("ALARM a journal cannot be read") == 1
        assert "BLINDCOPY_SECRET_KEY" in orphans.unreadable[0]
        load_orphans(database, tmp_path, Box(["0123456789abcdef", "another secret key"]))
        assert len(rows(database)) == 1

    @pytest.fixture
    def person_in_sqlite(self, sqlite):
        add_anna(sqlite)


class TestJournalsOfTheFirstRelease:
    """Files of encrypted lines, named journal-*.log, locked while their relay lives."""

    def line(self, entry, box=BOX):
        def plain(value):
            return value.isoformat() if isinstance(value, datetime) else base64.b64encode(value).decode()

        return box.closed(json.dumps({"kind": type(entry).__name__, **asdict(entry)}, default=plain).encode())

    def entries(self, person):
        waiting = row(
            person, decision=Decision.API, state=State.WAITING, text=b"Hello", fingerprint=b"f" * 32
        )
        return (
            waiting,
            LostReply(waiting.id, b"g" * 32),
            UnknownSender("a@x.test", "A@x.test", datetime.now(UTC)),
        )

    def test_are_taken_over(self, database, person, tmp_path):
        path = tmp_path / "journal-0193-1.log"
        waiting, *rest = self.entries(person)
        path.write_bytes(b"".join(self.line(one) + b"\n" for one in (waiting, *rest)))
        with path.open("rb") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            load_orphans(database, tmp_path)
            assert rows(database) == []
        load_orphans(database, tmp_path)
        assert rows(database) == [replace(waiting, fingerprint=b"g" * 32, text=None)]
        with database.reading() as session:
            assert mail_texts.read(session, [waiting.id]).get(waiting.id) == b"Hello"
        assert counted(database) == 1
        assert not path.exists()

    def test_with_lines_that_cannot_be_read_are_kept_aside(self, database, person, tmp_path):
        path = tmp_path / "journal-0193-1.log"
        waiting, *_ = self.entries(person)
        foreign = self.line(waiting, Box(["another secret key"]))
        path.write_bytes(foreign + b"\n" + self.line(waiting) + b"\n" + self.line(waiting)[:-20])
        load_orphans(database, tmp_path)
        assert len(rows(database)) == 1
        assert (tmp_path / "journal-0193-1.unreadable").exists()

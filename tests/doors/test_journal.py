"""The journal's file, on a real disk: what is appended is read back, whatever end its process came to."""

import fcntl
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.journal.file import Append, InUse, Journal, JournalFull, NotAJournal, journals, remove_unfinished
from core.secrets import Box
from tests.doors.conftest import BOX

SIZE = 256 * 1024


def made(directory, size=SIZE, box=BOX):
    return Journal.made(directory, size, box)


def contents(journal, number=0):
    return [record.data for record in journal.after(number)]


def the_file(directory):
    [path] = journals(directory)
    return path


class TestWhatIsAppended:
    def test_is_read_back_in_order_and_encrypted(self, tmp_path):
        journal = made(tmp_path)
        assert journal.append([Append(b"first secret"), Append(b"second")]) == [None, None]
        journal.append([Append(b"third")])
        assert contents(journal) == [b"first secret", b"second", b"third"]
        assert contents(journal, journal.last - 1) == [b"third"]
        path = the_file(tmp_path)
        assert b"secret" not in path.read_bytes()
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_size == SIZE
        assert path.stat().st_blocks * 512 >= SIZE, "allocated, so that a full disk takes nothing from it"
        journal.close()

    def test_survives_its_process(self, tmp_path):
        journal = made(tmp_path)
        journal.append([Append(b"one"), Append(b"two")])
        journal.close()
        again = Journal.opened(the_file(tmp_path), BOX)
        assert (contents(again), again.is_damaged, again.is_torn) == ([b"one", b"two"], False, False)
        again.append([Append(b"three")])
        numbers = [record.number for record in again.after(0)]
        assert (len(numbers), sorted(numbers)) == (3, numbers)
        again.close()

    def test_is_its_owners_alone(self, tmp_path):
        journal = made(tmp_path)
        with pytest.raises(InUse):
            Journal.opened(the_file(tmp_path), BOX)
        journal.close()
        Journal.opened(the_file(tmp_path), BOX).close()


class TestRoom:
    def test_is_used_again_once_everything_is_loaded(self, tmp_path):
        journal = made(tmp_path)
        for number in range(200):
            data = bytes([number]) * 3_000
            assert journal.append([Append(data)]) == [None]
            assert contents(journal, journal.loaded) == [data]
            journal.done(journal.last, ())
        journal.close()

    def test_ends_where_nothing_is_loaded_and_is_there_again_afterwards(self, tmp_path):
        journal = made(tmp_path)
        written = list(
            itertools.takewhile(lambda _: journal.append([Append(b"x" * 2_000)]) == [None], itertools.count())
        )
        assert SIZE // 2_000 * 0.4 < len(written) < SIZE // 2_000
        assert isinstance(journal.append([Append(b"x" * 2_000)])[0], JournalFull)
        assert not journal.is_roomy()
        assert len(contents(journal)) == len(written)
        journal.done(journal.last, ())
        assert journal.append([Append(b"y" * 2_000)]) == [None]
        assert contents(journal, journal.loaded) == [b"y" * 2_000]
        journal.close()

    def test_for_the_end_of_what_was_begun_is_kept(self, tmp_path):
        journal = made(tmp_path)
        begun = []
        while journal.append([Append(b"b" * 1_000, hold=str(len(begun)), reserve=1_500)]) == [None]:
            begun.append(str(len(begun)))
        assert isinstance(journal.append([Append(b"n" * 60_000)])[0], JournalFull), (
            "a stranger takes no reserve"
        )
        assert begun
        assert journal.append([Append(b"e" * 1_400, ends=name) for name in begun]) == [None] * len(begun)
        journal.close()

    def test_is_not_kept_by_a_slow_mail(self, tmp_path):
        """What is held is carried along from half to half, and can always be read."""
        journal = made(tmp_path)
        journal.append([Append(b"slow", hold="slow", reserve=100)])
        for number in range(500):
            assert journal.append([Append(b"x" * 2_000)]) == [None], number
            journal.done(journal.last, ())
            assert journal.held("slow") == b"slow"
        journal.close()
        again = Journal.opened(the_file(tmp_path), BOX)
        assert b"slow" in contents(again)
        again.close()

    def test_is_all_there_when_it_was_cleared_and_numbers_rise_on(self, tmp_path):
        journal = made(tmp_path)
        journal.append([Append(b"x")] * 50)
        journal.done(journal.last, ())
        journal.clear()
        last = journal.last
        journal.close()
        again = Journal.opened(the_file(tmp_path), BOX)
        assert contents(again) == []
        again.append([Append(b"new")])
        assert [record.data for record in again.after(last)] == [b"new"]
        again.close()

    def test_that_a_disk_does_not_have_is_refused_at_once_and_leaves_nothing(self, tmp_path):
        with pytest.raises(OSError, match=r".*"):
            made(tmp_path, 1 << 60)
        assert list(tmp_path.iterdir()) == []


def test_what_a_process_left_that_was_killed_while_it_made_one_is_removed(tmp_path):
    (tmp_path / "x.making").write_bytes(bytes(1000))
    with (tmp_path / "y.making").open("wb") as being_made:
        fcntl.flock(being_made, fcntl.LOCK_EX)
        remove_unfinished(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["y.making"]


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        journal = made(tmp_path)
        journal.append([Append(b"entry %d" % number) for number in range(9)])
        journal.close()
        return the_file(tmp_path)

    def places(self, path):
        journal = Journal.opened(path, BOX)
        [half] = [half for half in journal.halves if half.numbers]
        journal.close()
        return list(zip(half.offsets, half.lengths, strict=True))

    def test_a_flipped_byte_costs_one_entry(self, path):
        for where in (3, 12, 18, 22, 30):  # in its mark, its number, its length, its checksum, its text
            content = bytearray(path.read_bytes())
            offset, _ = self.places(path)[4]
            content[offset + where] ^= 0x10
            path.write_bytes(content)
            journal = Journal.opened(path, BOX)
            assert contents(journal) == [b"entry %d" % number for number in range(9) if number != 4], where
            assert journal.is_damaged
            journal.close()
            content[offset + where] ^= 0x10
            path.write_bytes(content)

    def test_a_torn_last_entry_is_no_damage(self, path):
        content = bytearray(path.read_bytes())
        offset, length = self.places(path)[-1]
        content[offset + length // 2 : offset + length] = bytes(length - length // 2)
        path.write_bytes(content)
        journal = Journal.opened(path, BOX)
        assert (len(contents(journal)), journal.is_damaged, journal.is_torn) == (8, False, True)
        journal.append([Append(b"after")])
        assert contents(journal)[-1] == b"after"
        journal.close()

    def test_a_file_that_was_cut_gives_what_is_whole(self, path):
        offset, length = self.places(path)[5]
        path.write_bytes(path.read_bytes()[: offset + length // 2])
        journal = Journal.opened(path, BOX)
        assert (contents(journal), journal.is_damaged) == (
            [b"entry %d" % number for number in range(5)],
            True,
        )
        aside = journal.put_aside()
        assert (aside.suffix, journals(path.parent)) == (".damaged", [])

    def test_a_file_that_is_none_is_said_to_be(self, tmp_path):
        for number, content in enumerate((b"", b"x" * 10_000, bytes(SIZE))):
            path = tmp_path / f"{number}.journal"
            path.write_bytes(content)
            with pytest.raises((NotAJournal, OSError), match=r".*"):
                Journal.opened(path, BOX)

    def test_without_its_key_it_waits_for_it(self, path):
        with pytest.raises(NotAJournal, match="BLINDCOPY_SECRET_KEY"):
            Journal.opened(path, Box(["another secret key"]))
        journal = Journal.opened(path, Box(["another secret key", "0123456789abcdef"]))
        assert len(contents(journal)) == 9
        journal.append([Append(b"under the new key")])
        assert contents(journal)[-1] == b"under the new key"
        journal.close()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_whatever_is_not_loaded_is_found_again(tmp_path_factory, seed):
    """A relay and its loader at random, killed at any moment."""
    chance = random.Random(seed)
    directory = tmp_path_factory.mktemp("journal")
    journal = made(directory, 64 * 1024 * chance.choice([3, 4, 6]))
    waiting, held = {}, {}
    for step in range(chance.randrange(400)):
        what = chance.random()
        if what < 0.6:
            data = b"%d:" % step + b"x" * chance.randrange(1, 4_000)
            name = f"m{step}" if chance.random() < 0.3 else None
            if journal.append([Append(data, hold=name, reserve=100 if name else 0)]) == [None]:
                waiting[journal.last] = data
                if name:
                    held[name] = data
        elif what < 0.9 and waiting:
            number = chance.choice(sorted(waiting))
            released = [name for name in held if chance.random() < 0.5]
            journal.done(number, released)
            waiting = {key: data for key, data in waiting.items() if key > number}
            held = {name: data for name, data in held.items() if name not in released}
        else:
            assert {name: journal.held(name) for name in held} == held
    expected = list(waiting.values())
    loaded = journal.loaded
    journal.close()
    again = Journal.opened(the_file(directory), BOX)
    found = contents(again, loaded)
    assert not again.is_damaged
    assert [data for data in found if data not in held.values()] == [
        data for data in expected if data not in held.values()
    ]
    assert set(held.values()) <= set(contents(again))
    again.close()

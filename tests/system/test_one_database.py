"""One SQLite database that nobody splits: every process's locks are held for as long as its connections
are."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from core.database.engine import Database
from core.secrets import Box
from tests.system.conftest import CHECKOUT, mail, send, until
from tests.system.mail_servers import free_port

SHARED_BYTES = range(0x40000002, 0x40000002 + 510)
"""What every connection in WAL mode holds a read lock on (SQLite, os.h: SHARED_FIRST, SHARED_SIZE)."""


def connections_of(pid, path):
    """How many descriptors of the database file a process has, and whether any is of a deleted file beside
    it."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return links.count(str(path)), [link for link in links if path.name in link and "(deleted)" in link]


def holds_the_lock(pid, path):
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, owner, place, first, _ = line.split()[:8]
        if (
            kind == "POSIX"
            and int(owner) == pid
            and int(place.rpartition(":")[2]) == inode
            and int(first) in SHARED_BYTES
        ):
            return True
    return False


@pytest.fixture
def all_of_them(installation):
    """Relay, worker and web process, as the Procfile starts them."""
    relay = installation.start_relay()
    log = (installation.directory / "relay-worker.log").open("wb")
    worker = subprocess.Popen(
        [sys.executable, "-m", "sync"], cwd=CHECKOUT, env=installation.env, stdout=subprocess.PIPE, stderr=log
    )
    log.close()
    installation.processes.append(worker)
    port = free_port()
    web = installation.start_web(port)
    children = [int(one) for one in Path(f"/proc/{web.pid}/task/{web.pid}/children").read_text().split()]
    return relay, [relay.pid, worker.pid, *children], port


def test_every_process_that_has_the_file_open_holds_its_lock(installation, all_of_them, tmp_path):
    """Closing any other descriptor of the file would drop it ("How To Corrupt An SQLite Database File",
    2.2)."""
    relay, pids, port = all_of_them
    path = tmp_path / "blindcopy.db"
    stop = threading.Event()

    def read_pages():
        import urllib.request

        while not stop.is_set():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/sign-in", timeout=20) as answer:
                answer.read()

    readers = [threading.Thread(target=read_pages) for _ in range(4)]
    for reader in readers:
        reader.start()
    looks = 0
    try:
        with installation.client(relay) as client:
            for number in range(12):
                send(client, mail(number))
                installation.command("admin", "preference", "anna@acme.test", "set", "first", "lead")
                for pid in pids:
                    count, deleted = connections_of(pid, path)
                    assert deleted == []
                    if count:
                        assert until(
                            lambda pid=pid: holds_the_lock(pid, path) or not connections_of(pid, path)[0], 5
                        ), pid
                        looks += 1
        until(lambda: len(installation.rows()) == 12)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert looks > 20


def test_nothing_of_ours_opens_the_file_beside_sqlite(tmp_path):
    """Traced by the interpreter itself: every open of the database, its WAL or its index by Python code is a
    fault."""
    program = """
import sys
seen = []
def watch(event, arguments):
    if event in {"open", "os.open", "shutil.copyfile"} and arguments and ".db" in str(arguments[0]) and ".migrating" not in str(arguments[0]):
        seen.append((event, str(arguments[0])))
sys.addaudithook(watch)
from core.database.engine import Database
from core.secrets import Box
from core.database.backup import back_up
from pathlib import Path
import threading
url = sys.argv[1]
made = Database(url, Box(["0123456789abcdef"]))
made.migrate()
first = len(seen)
def work():
    other = Database(url, Box(["0123456789abcdef"]))
    other.migrate()
    for _ in range(20):
        with other.writing(): pass
        with other.reading(): pass
    other.close()
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
back_up(made, url, Path(sys.argv[2]))
made.close()
own = url.removeprefix("sqlite:///")
print(first, [one for one in seen[first:] if one[1].startswith(own)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, f"sqlite:///{tmp_path}/own.db", str(tmp_path / "copy.backup")],
        cwd=CHECKOUT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "1 []", "made once, before SQLite has it, and never opened again"


def test_a_wal_that_a_killed_process_of_another_clock_left_is_read(installation, tmp_path):
    relay = installation.start_relay()
    with installation.client(relay) as client:
        for number in range(5):
            send(client, mail(number))
        until(lambda: len(installation.rows()) == 5)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        relay.kill()
        relay.wait(10)
        for path in tmp_path.glob("blindcopy.db*"):
            shutil.copy(path, elsewhere)  # no process has it open any more
    assert (elsewhere / "blindcopy.db-wal").exists()
    in_three_years = time.time() + 3 * 365 * 86_400
    for path in elsewhere.iterdir():
        os.utime(path, (in_three_years, in_three_years))
    opened = Database(f"sqlite:///{elsewhere}/blindcopy.db", Box([installation.env["BLINDCOPY_SECRET_KEY"]]))
    opened.migrate()
    from core.mail.store import Filter, entries

    with opened.reading() as session:
        assert len(entries(session, Filter(), 100)) == 5
    opened.close()


def test_what_gunicorn_says_is_said_without_an_error_of_logging(installation, tmp_path):
    port = free_port()
    web = installation.start_web(port)
    web.terminate()
    web.wait(20)
    said = (tmp_path / f"web-{port}.log").read_text()
    assert "Listening at" in said
    assert "Handling signal: term" in said
    assert "Logging error" not in said
    assert "TypeError" not in said


class TestBackup:
    def backup(self, installation, path, expect=0):
        return installation.command("core", "backup", str(path), expect=expect)

    def test_while_everything_runs_is_one_moments_database(self, installation, all_of_them, tmp_path):
        """And the copy is whole, private, and in one file."""
        relay, _, _ = all_of_them
        installation.command("admin", "policy", "set", "mails-per-minute", "100000")
        time.sleep(2)
        stop, sent = threading.Event(), []

        def send_on():
            with installation.client(relay) as client:
                while not stop.is_set():
                    send(client, mail(len(sent)))
                    sent.append(time.monotonic())

        sender = threading.Thread(target=send_on)
        sender.start()
        try:
            until(lambda: len(sent) > 100)
            before = len(installation.rows())
            copy = tmp_path / "backup.db"
            said = self.backup(installation, copy)
            after = len(installation.rows())
        finally:
            stop.set()
            sender.join()
        assert "Journals and BLINDCOPY_SECRET_KEY are not in it" in said
        assert copy.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in tmp_path.glob("backup*")] == ["backup.db"]
        opened = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(number,)] = opened.execute("SELECT count(*) FROM mail").fetchall()
        opened.close()
        assert before <= number <= after

    def test_never_overwrites(self, installation, tmp_path):
        path = tmp_path / "precious"
        path.write_text("precious")
        with pytest.raises(AssertionError, match="exists already, and nothing is overwritten"):
            self.backup(installation, path)
        self.backup(installation, path, expect=1)
        assert path.read_text() == "precious"
        assert list(tmp_path.glob("*.part")) == []

    def test_where_it_cannot_be_written_is_one_sentence(self, installation, tmp_path):
        with pytest.raises(AssertionError, match=r"cannot be written: .*No such file or directory"):
            self.backup(installation, tmp_path / "nowhere" / "backup.db")

    def test_of_postgresql_is_pg_dumps_business(self, installation):
        installation.env["DATABASE_URL"] = "postgresql+psycopg://blind:secret@db.acme.test:5433/blindcopy"
        with pytest.raises(AssertionError) as refused:
            self.backup(installation, "/backups/today")
        line = (
            "pg_dump --format=custom --file=/backups/today --dbname=blindcopy --host=db.acme.test "
            "--port=5433 --username=blind"
        )
        assert line in str(refused.value)
        assert "secret" not in str(refused.value)

"""The relay as a process: configuration, stopping, kill -9, several of them, memory."""

import json
import resource
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest

from core.mail.row import State
from tests.conftest import needs
from tests.system.conftest import BCC, CHECKOUT, Installation, mail, send, until
from tests.system.mail_servers import free_port
from tests.system.probes import figure, get


def exits_with(env, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", *(arguments or ("relay",))],
        check=False,
        cwd=CHECKOUT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr.splitlines()


class TestConfiguration:
    def test_three_mistakes_are_three_lines_and_exit_status_2(self, tmp_path):
        env = Installation(tmp_path, 1).env | {
            "BLINDCOPY_LISTEN": "submission://0.0.0.0:587",
            "BLINDCOPY_UPSTREAM": "smtp.acme.test",
            "BLINDCOPY_SECRET_KEY": "",
        }
        status, out, err = exits_with(env)
        assert (status, out) == (2, "")
        assert [line.partition(":")[0] for line in err] == [
            "BLINDCOPY_LISTEN",
            "BLINDCOPY_SECRET_KEY",
            "BLINDCOPY_UPSTREAM",
        ]

    def test_a_port_that_is_taken_is_a_mistake(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            env = Installation(tmp_path, 1).env | {
                "BLINDCOPY_LISTEN": f"submission://127.0.0.1:{taken.getsockname()[1]}"
            }
            status, _, err = exits_with(env)
        assert (status, err[-1].partition(":")[0]) == (2, "BLINDCOPY_LISTEN")

    def test_an_upstream_that_is_our_own_listener_is_a_mistake(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        env = Installation(tmp_path, port).env | {"BLINDCOPY_LISTEN": f"submission://127.0.0.1:{port}"}
        status, _, err = exits_with(env)
        assert (status, err[0].partition(":")[0]) == (2, "BLINDCOPY_UPSTREAM")

    def test_the_pages_have_theirs_too(self, tmp_path):
        env = Installation(tmp_path, 1).env | {"BLINDCOPY_SECRET_KEY": "", "PORT": "http"}
        status, _, err = exits_with(env, "gunicorn", "--check-config", "admin:create_app()")
        assert status != 0
        assert [line.partition(":")[0] for line in err if line.startswith(("BLINDCOPY_", "PORT"))] == [
            "BLINDCOPY_SECRET_KEY",
            "PORT",
        ]


class TestStopping:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_is_clean(self, installation, number):
        relay = installation.start_relay()
        idle = installation.client(relay)
        relay.send_signal(number)
        assert idle.getreply() == (421, b"4.3.2 Shutting down, try again in a moment")
        idle.close()
        assert relay.wait(20) == 0
        assert len(json.loads((installation.directory / "state" / "usual-sources.json").read_text())) == 1

    def test_sees_a_mail_through(self, installation, sink):
        sink.sink.script.replies["dot"] = ["delay:2:250 2.0.0 Ok"]
        relay = installation.start_relay()
        client = installation.client(relay)
        threading.Timer(0.5, relay.send_signal, [signal.SIGTERM]).start()
        send(client, mail())
        client.close()
        assert relay.wait(20) == 0
        assert [row.state for row in installation.rows()] == [State.COPIED]

    def test_is_bounded_even_where_the_database_hangs(self, installation, tmp_path):
        relay = installation.start_relay()
        lock = sqlite3.connect(tmp_path / "blindcopy.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with installation.client(relay) as client:
            send(client, mail())
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(30) == 0
        lock.rollback()
        lock.close()
        second = installation.start_relay()
        [row] = until(installation.rows)
        assert row.state is State.COPIED
        assert second.poll() is None


class TestKill:
    def test_between_dot_and_verdict_leaves_unknown_and_no_second_try(self, installation, sink):
        sink.sink.script.replies["dot"] = ["delay:5:250 2.0.0 Ok"]
        relay = installation.start_relay()
        client = installation.client(relay)
        failed = []

        def try_it():
            try:
                send(client, mail())
            except (smtplib.SMTPException, OSError) as error:
                failed.append(error)

        thread = threading.Thread(target=try_it)
        thread.start()
        until(lambda: [row.state for row in installation.rows()] == [State.PENDING])
        relay.kill()
        relay.wait(10)
        thread.join(10)
        client.close()
        assert len(failed) == 1
        installation.start_relay()
        until(lambda: [row.state for row in installation.rows()] == [State.UNKNOWN], 60)
        assert [command for command in sink.sink.commands if command == "DATA"] == ["DATA"]
        [shown] = installation.activity()
        assert (shown["state"], shown["upstream"]) == ("unknown", None)
        installation.command("admin", "activity", "dismiss", shown["id"])

    def test_with_a_journal_is_made_good_by_the_next_relay(self, installation, tmp_path):
        relay = installation.start_relay()
        lock = sqlite3.connect(tmp_path / "blindcopy.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with installation.client(relay) as client:
            send(client, mail())
        relay.kill()
        relay.wait(10)
        lock.rollback()
        lock.close()
        assert installation.rows() == []
        installation.start_relay()
        until(lambda: [row.state for row in installation.rows()] == [State.COPIED])
        assert len(list((tmp_path / "state").glob("*.journal"))) == 1, "the next relay has taken it"


class TestDatabaseAway:
    def test_at_the_start_a_relay_serves_by_its_last_settings(self, installation, sink, tmp_path):
        installation.start_relay().send_signal(signal.SIGTERM)
        installation.processes[0].wait(20)
        (tmp_path / "blindcopy.db").rename(tmp_path / "away.db")
        (tmp_path / "blindcopy.db").mkdir()
        relay = installation.start_relay()
        with installation.client(relay) as client:
            send(client, mail())
        assert [len(taken.rcpts) for taken in sink.sink.taken] == [2], "the copy, too"
        (tmp_path / "blindcopy.db").rmdir()
        (tmp_path / "away.db").rename(tmp_path / "blindcopy.db")
        until(lambda: [row.state for row in installation.rows()] == [State.COPIED])
        assert relay.poll() is None

    def test_that_is_newer_than_the_code_stops_no_mail(self, installation, sink, tmp_path):
        with sqlite3.connect(tmp_path / "blindcopy.db") as database:
            database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.close()
        with installation.client(installation.start_relay()) as client:
            send(client, mail())
        assert [len(taken.rcpts) for taken in sink.sink.taken] == [2]
        assert "is newer than this code" in installation.log()

    def test_at_the_very_first_start_nobody_is_told_that_the_password_is_wrong(self, tmp_path, sink):
        (tmp_path / "blindcopy.db").mkdir()
        one = Installation(tmp_path, sink.port)
        try:
            with smtplib.SMTP("127.0.0.1", one.start_relay().port) as client:
                client.ehlo()
                assert client.docmd("AUTH PLAIN AGFubmEAeA==")[0] == 454
            gateway = one.start_relay_raw(
                "gateway", BLINDCOPY_LISTEN="gateway://127.0.0.1:0", BLINDCOPY_TRUSTED="127.0.0.0/8"
            )
            with smtplib.SMTP("127.0.0.1", gateway.port) as client:
                client.ehlo()
                assert client.mail("anna@acme.test")[0] == 451
            assert "no settings" in one.log()
        finally:
            one.stop()


class TestAFullDisk:
    """Of the database and of the state directory: two megabytes, mounted by root."""

    @pytest.fixture
    def small(self, tmp_path, sink):
        place = tmp_path / "small"
        place.mkdir()
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=False).returncode:
            needs("a right to mount")
        one = Installation(place, sink.port)
        one.env["BLINDCOPY_JOURNAL_MB"] = "1"
        one.env["BLINDCOPY_MONITOR"] = f"127.0.0.1:{free_port()}"
        one.add_anna()
        one.command("admin", "policy", "set", "mails-per-minute", "100000")
        yield one
        one.stop()
        subprocess.run(["umount", "-l", place], check=True)

    def fill(self, place):
        with (place / "filling").open("wb", buffering=0) as filling:
            for size in (1 << 16, 4096):
                try:
                    while True:
                        filling.write(bytes(size))
                except OSError:
                    continue

    def test_what_was_accepted_is_recorded_as_long_as_the_journal_has_room(self, small, sink):
        relay = small.start_relay()
        monitor = f"http://{small.env['BLINDCOPY_MONITOR']}"
        with small.client(relay) as client:
            send(client, mail(0))
            until(lambda: len(small.rows()) == 1)
            self.fill(small.directory)
            for number in range(1, 41):
                send(client, mail(number))
        assert len(sink.sink.taken) == 41
        _, said = until(lambda: (found := get(f"{monitor}/readyz"))[0] == 503 and found)
        assert "the disk of the state directory" in said
        assert get(f"{monitor}/readyz?for=mail")[0] == 200
        (small.directory / "filling").unlink()
        until(lambda: len(small.rows()) == 41)
        until(lambda: get(f"{monitor}/readyz")[0] == 200)
        assert figure(monitor, "blindcopy_rows_lost_total") == 0

    def test_that_is_still_full_after_a_kill_loses_nothing_either(self, small, sink):
        relay = small.start_relay()
        with small.client(relay) as client:
            send(client, mail(0))
            until(lambda: len(small.rows()) == 1)
            self.fill(small.directory)
            for number in range(1, 21):
                send(client, mail(number))
        relay.kill()
        relay.wait(10)
        again = small.start_relay()
        with small.client(again) as client:
            for number in range(21, 41):
                send(client, mail(number))
        (small.directory / "filling").unlink()
        until(lambda: [row.state for row in small.rows()] == [State.COPIED] * 41)

    def test_past_the_journals_room_mail_goes_on_and_each_loss_is_counted_and_named(
        self, small, sink, tmp_path
    ):
        log = tmp_path / "relay.log"  # on a disk that has room
        relay = small.start_relay_raw("submission", log.open("wb"))
        monitor = f"http://{small.env['BLINDCOPY_MONITOR']}"
        with small.client(relay) as client:
            send(client, mail(0))
            until(lambda: len(small.rows()) == 1)
            self.fill(small.directory)
            number = 0
            while figure(monitor, "blindcopy_rows_lost_total") < 5:
                for _ in range(50):
                    number += 1
                    send(client, mail(number))
            status, said = get(f"{monitor}/readyz")
            assert (status, "journal: rows are lost: the journal is full" in said) == (503, True)
            assert get(f"{monitor}/readyz?for=mail")[0] == 200
            (small.directory / "filling").unlink()
            until(lambda: get(f"{monitor}/readyz")[0] == 200, 60)
            send(client, mail(number + 1))
        lost = int(figure(monitor, "blindcopy_rows_lost_total"))
        until(lambda: len(small.rows()) == number + 2 - lost)
        assert len(sink.sink.taken) == number + 2, "each was delivered"
        assert log.read_text().count("ALARM the row of a mail is lost") == lost
        health = until(
            lambda: (said := small.command("core", "check", expect=None)) and "lost rows" in said and said
        )
        assert f"since the relays were started: {lost}" in health


class TestTheStateDirectory:
    def test_that_is_removed_loses_nothing_and_is_said(self, installation, sink, tmp_path):
        import shutil

        installation.env["BLINDCOPY_MONITOR"] = f"127.0.0.1:{free_port()}"
        monitor = f"http://{installation.env['BLINDCOPY_MONITOR']}"
        relay = installation.start_relay()
        with installation.client(relay) as client:
            send(client, mail(1))
            shutil.rmtree(tmp_path / "state")
            for number in range(2, 10):
                send(client, mail(number))
            until(lambda: len(installation.rows()) == 9)
            until((tmp_path / "state").is_dir)
            until(lambda: get(f"{monitor}/readyz")[0] == 200)
        assert "ALARM the row" not in installation.log()

    def test_of_another_installation_is_refused_with_a_sentence(self, installation, tmp_path, sink):
        installation.start_relay()
        other_directory = tmp_path / "other"
        other_directory.mkdir()
        other = Installation(other_directory, sink.port)
        other.env["BLINDCOPY_STATE_DIR"] = installation.env["BLINDCOPY_STATE_DIR"]
        other.add_anna()
        refused = subprocess.run(
            [sys.executable, "-m", "relay"], cwd=CHECKOUT, env=other.env, capture_output=True, text=True, timeout=60, check=False
        )  # fmt: skip
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "belongs to another installation (another database)" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "belongs to another installation" in subprocess.run(
            [sys.executable, "-m", "sync", "--once"], cwd=CHECKOUT, env=other.env, capture_output=True, text=True, timeout=60,
            check=False,
        ).stderr  # fmt: skip
        other.stop()

    def test_of_an_installation_that_has_ended_is_taken_over(self, installation, tmp_path, sink):
        with installation.client(installation.start_relay()) as client:
            send(client, mail(1))
        installation.stop()
        other_directory = tmp_path / "other"
        other_directory.mkdir()
        other = Installation(other_directory, sink.port)
        other.env["BLINDCOPY_STATE_DIR"] = installation.env["BLINDCOPY_STATE_DIR"]
        other.add_anna()
        try:
            with other.client(other.start_relay()) as client:
                send(client, mail(2))
            until(lambda: [row.subject for row in other.rows()] == ["Mail 2"])
        finally:
            other.stop()


def test_what_a_killed_relay_has_left_is_loaded_by_a_worker(installation, sink, tmp_path):
    """There need not be a next relay."""
    relay = installation.start_relay()
    lock = sqlite3.connect(tmp_path / "blindcopy.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with installation.client(relay) as client:
        send(client, mail(1))
        relay.kill()
        relay.wait(10)
    lock.rollback()
    lock.close()
    installation.command("sync", "--once")
    assert [row.state for row in installation.rows()] == [State.COPIED]


@pytest.mark.parametrize("jump", ["+25h", "-25h"])
def test_a_clock_that_is_set_ends_no_session(installation, sink, tmp_path, jump):
    """All our timers go by a clock that only runs on."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        needs("faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0h")
    relay = installation.start_relay(
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(clock),
        FAKETIME_NO_CACHE="1",
        DONT_FAKE_MONOTONIC="1",
    )
    with installation.client(relay) as client:
        send(client, mail(1))
        clock.write_text(jump)
        send(client, mail(2))
        time.sleep(2.5)
        send(client, mail(3))
    times = {
        row.subject: row.time for row in until(lambda: len(installation.rows()) == 3 and installation.rows())
    }
    assert abs(times["Mail 2"] - times["Mail 1"]) > timedelta(hours=24), "the clock was set"
    assert [len(taken.rcpts) for taken in sink.sink.taken] == [2, 2, 2]


class TestSeveral:
    def test_share_a_port_and_a_database(self, installation, sink):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for _ in range(2):
            installation.start_relay(BLINDCOPY_LISTEN=f"submission://127.0.0.1:{port}")
        for number in range(20):
            with installation.client(installation.processes[0]) as client:
                send(client, mail(number))
        assert len(sink.sink.taken) == 20
        rows = installation.ended(at_least=20)
        assert [row.state for row in rows] == [State.COPIED] * 20
        assert len({row.process for row in rows}) == 2

    def test_follow_a_setting_within_two_seconds(self, installation, sink):
        relay = installation.start_relay()
        with installation.client(relay) as client:
            installation.command("admin", "policy", "set", "own-domains", "client.test")
            time.sleep(2)
            send(client, mail())
        assert [len(taken.rcpts) for taken in sink.sink.taken] == [1]


def resident_kilobytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
class TestMemory:
    def test_does_not_grow_with_a_line_of_fifty_megabytes(self, installation, sink):
        relay = installation.start_relay()
        client = installation.client(relay)
        send(client, mail())
        before = resident_kilobytes(relay)
        client.mail("anna@acme.test")
        client.rcpt("bob@client.test")
        client.docmd("DATA")
        client.sock.sendall(b"From: anna@acme.test\r\n\r\n")
        for _ in range(800):
            client.sock.sendall(b"x" * 65_536)
        client.sock.sendall(b"\r\n.\r\n")
        assert client.getreply()[0] == 250
        client.close()
        assert len(sink.sink.taken[-1].raw) > 50_000_000
        assert resident_kilobytes(relay) - before < 8_192

    def test_does_not_grow_with_an_endless_command(self, installation):
        relay = installation.start_relay()
        with socket.create_connection(("127.0.0.1", relay.port)) as raw:
            raw.recv(1000)
            before = resident_kilobytes(relay)
            for _ in range(200):
                raw.sendall(b"x" * 65_536)
            raw.sendall(b"\r\nNOOP\r\n")
            heard = b""
            while heard.count(b"\r\n") < 2:
                heard += raw.recv(1000)
        assert heard == b"500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"
        assert resident_kilobytes(relay) - before < 8_192


def test_nothing_private_is_in_the_log(installation, sink):
    relay = installation.start_relay()
    with installation.client(relay) as client:
        send(client, mail(body="a secret\r\n"))
    with smtplib.SMTP("127.0.0.1", relay.port) as client, pytest.raises(smtplib.SMTPAuthenticationError):
        client.login("anna@acme.test", "wrong-password-here")
    log = until(lambda: installation.log() if "relayed" in installation.log() else "")
    assert 'reason="copy"' in log
    for secret in (
        BCC,
        installation.password,
        "Mail 1",
        "a secret",
        "bob@client.test",
        "wrong-password-here",
    ):
        assert secret not in log


class TestKillAtEachStep:
    """What the client knows, what the mail provider has, and what the logbook says agree, wherever the relay
    dies."""

    STEPS = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "half the data")

    @pytest.mark.parametrize("step", STEPS)
    def test_before_the_dot_nothing_is_sent(self, installation, sink, step):
        relay = installation.start_relay()
        client = smtplib.SMTP("127.0.0.1", relay.port, timeout=20)
        said = {
            "greeting": lambda: None,
            "EHLO": lambda: client.login("anna@acme.test", installation.password),
            "MAIL": lambda: client.mail("anna@acme.test"),
            "RCPT": lambda: client.rcpt("bob@client.test"),
            "DATA": lambda: client.docmd("DATA"),
            "half the data": lambda: client.send(mail().encode() + b"half\r\n" * 50_000),
        }
        for name in self.STEPS[: self.STEPS.index(step) + 1]:
            said[name]()
        time.sleep(0.3)
        relay.kill()
        relay.wait(10)
        client.close()
        assert not any(taken.complete for taken in sink.sink.taken)
        assert installation.rows() == []
        second = installation.start_relay()
        with installation.client(second) as again:
            send(again, mail())
        until(lambda: [row.state for row in installation.rows()] == [State.COPIED])

    def test_after_the_250_the_row_is_there(self, installation):
        relay = installation.start_relay()
        client = installation.client(relay)
        send(client, mail())
        relay.kill()
        relay.wait(10)
        client.close()
        assert [one["state"] for one in installation.activity()] == ["copied"], (
            "a command is enough to load it"
        )

    def test_at_random_everything_is_accounted_for(self, installation, sink):
        """Clients that try again until they hear a 250; relays that are killed again and again."""
        import random

        installation.command("admin", "policy", "set", "mails-per-minute", "100000")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        listen = {"BLINDCOPY_LISTEN": f"submission://127.0.0.1:{port}"}
        installation.start_relay(**listen)
        heard, stop = set(), threading.Event()

        def client(number):
            for count in range(15):
                identity = number * 100 + count
                while not stop.is_set():
                    try:
                        with smtplib.SMTP("127.0.0.1", port, timeout=20) as connection:
                            connection.login("anna@acme.test", installation.password)
                            send(connection, mail(identity))
                        heard.add(f"<{identity}@acme.test>")
                        break
                    except (OSError, smtplib.SMTPException):
                        time.sleep(0.1)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        kills = 0
        while any(thread.is_alive() for thread in threads) and kills < 6:
            time.sleep(random.uniform(0.2, 0.6))
            installation.processes[-1].kill()
            installation.processes[-1].wait(10)
            kills += 1
            installation.start_relay(**listen)
        for thread in threads:
            thread.join(90)
        stop.set()
        assert len(heard) == 60
        rows = installation.ended(at_least=60, seconds=60)
        delivered = [
            taken.raw.partition(b"Message-ID: ")[2].partition(b"\r\n")[0].decode()
            for taken in sink.sink.taken
            if taken.complete
        ]
        logged = [row.message_id for row in rows if row.state is State.COPIED]
        unknown = [row for row in rows if row.state is State.UNKNOWN]
        assert set(logged) >= heard, "what a client heard as accepted is in the logbook"
        assert set(delivered) >= set(logged), "what the logbook calls copied is with the mail provider"
        assert len(delivered) <= len(logged) + len(unknown), "nothing was delivered that no row accounts for"
        assert len(unknown) <= kills * 4, "unknown only where a relay died between dot and record"


def test_two_relays_share_a_postgresql(postgresql, tmp_path, sink):
    postgresql.psql("CREATE DATABASE shared;")
    uri = postgresql.get_uri(database="shared")
    installation = Installation(tmp_path, sink.port, "postgresql+psycopg" + uri[uri.index("://") :])
    try:
        installation.add_anna()
        relays = [installation.start_relay(), installation.start_relay()]
        for number, relay in enumerate(relays * 3):
            with installation.client(relay) as client:
                send(client, mail(number))
        rows = installation.ended(at_least=6)
        assert [row.state for row in rows] == [State.COPIED] * 6
        assert len({row.process for row in rows}) == 2
    finally:
        installation.stop()


def test_the_soft_limit_of_open_files_is_raised(installation):

    relay = installation.start_relay()
    limits = Path(f"/proc/{relay.pid}/limits").read_text()
    soft, hard = (int(number) for number in limits.partition("Max open files")[2].split()[:2])
    assert soft == min(hard, 65_536) or soft == resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 65_536

"""Whole processes, started as an operator starts them."""

import asyncio
import json
import os
import signal
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from core.database.engine import Database
from core.mail.row import State
from core.mail.store import Filter, entries
from core.secrets import Box
from tests.sandbox.sink import Sink

CHECKOUT = Path(__file__).resolve().parents[2]
BCC = "emailtosalesforce@x.le.salesforce.com"


class SinkThread:
    """A sink on an event loop of its own, so that tests may be written straight on."""

    def __init__(self, script=None):
        self.sink = Sink(script)
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.port = asyncio.run_coroutine_threadsafe(self.sink.start(), self.loop).result(10)

    def stop(self):
        asyncio.run_coroutine_threadsafe(self.sink.stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        while self.loop.is_running():
            time.sleep(0.01)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()


class Installation:
    """One installation: its environment, its processes, its operator's commands."""

    def __init__(self, directory, upstream_port, database_url=None):
        self.directory = directory
        self.database_url = database_url or f"sqlite:///{directory}/blindcopy.db"
        self.processes = []
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BLINDCOPY_")},
            "DATABASE_URL": self.database_url,
            "BLINDCOPY_STATE_DIR": str(directory / "state"),
            "BLINDCOPY_SECRET_KEY": "0123456789abcdef0123456789abcdef",
            "BLINDCOPY_HOSTNAME": "relay.test",
            "BLINDCOPY_LISTEN": "submission://127.0.0.1:0",
            "BLINDCOPY_MONITOR": "off",
            "BLINDCOPY_WORKER_MONITOR": "off",
            "BLINDCOPY_JOURNAL_MB": "4",
            "BLINDCOPY_UPSTREAM": f"smtp://127.0.0.1:{upstream_port}",
        }
        self.password = ""

    def command(self, *arguments, stdin=None, expect=0):
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            check=False,
            cwd=CHECKOUT,
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert expect is None or done.returncode == expect, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def add_anna(self):
        self.command("admin", "user", "add", "anna@acme.test", "--admin")
        self.command("admin", "preference", "anna@acme.test", "set", "bcc-address", BCC)
        self.command("admin", "preference", "anna@acme.test", "set", "logging", "bcc")
        self.password = self.command("admin", "user", "app-password", "anna@acme.test").strip()

    def start_relay(self, **env):
        """A relay that is ready on a submission listener."""
        return self.start_relay_raw("submission", **env)

    def start_web(self, port):
        """The web process, once it answers; `port`: a free one."""
        log = (self.directory / f"web-{port}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "admin:create_app()"],
            cwd=CHECKOUT, env=self.env, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        log.close()
        self.processes.append(process)
        until(lambda: _answers(port))
        return process

    def start_relay_raw(self, kind, log=None, program=("relay",), **env):
        """A relay that is ready; `port` is that of its first listener, `log` where its stderr goes."""
        log = log or (self.directory / f"relay-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", *program],
            cwd=CHECKOUT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        log.close()
        self.processes.append(process)
        line = process.stdout.readline().decode()
        assert line.startswith(f"ready {kind} 127.0.0.1:"), self.log()
        process.port = int(line.rpartition(":")[2])
        return process

    def log(self):
        return "\n".join(path.read_text() for path in sorted(self.directory.glob("relay-*.log")))

    def client(self, relay, timeout=60):
        client = smtplib.SMTP("127.0.0.1", relay.port, timeout=timeout)
        client.login("anna@acme.test", self.password)
        return client

    def rows(self):
        database = Database(self.database_url, Box([self.env["BLINDCOPY_SECRET_KEY"]]))
        try:
            with database.reading() as session:
                return [entry.row for entry in entries(session, Filter(), 10_000)]
        finally:
            database.close()

    def ended(self, at_least, seconds=30):
        """The rows, once so many mails are in the database and none is under way; the loader takes a
        moment."""

        def rows():
            found = self.rows()
            return (
                found
                if len(found) >= at_least and all(row.state is not State.PENDING for row in found)
                else None
            )

        return until(rows, seconds)

    def activity(self):
        return [
            json.loads(line)
            for line in self.command("admin", "activity", "--json", "--limit", "10000").splitlines()
        ]

    def stop(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)
            process.stdout.close()


def _answers(port):
    import urllib.request

    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def until(claim, seconds=30):
    """Wait for a claim to come true; what it gave then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := claim():
            return result
        time.sleep(0.1)
    raise AssertionError("it never came true")


@pytest.fixture
def sink():
    thread = SinkThread()
    yield thread
    thread.stop()


@pytest.fixture
def installation(tmp_path, sink):
    one = Installation(tmp_path, sink.port)
    one.add_anna()
    yield one
    one.stop()


def mail(number=1, body="Hello\r\n"):
    return (
        f"From: Anna <anna@acme.test>\r\nTo: bob@client.test\r\nSubject: Mail {number}\r\nMessage-ID: "
        f"<{number}@acme.test>\r\n\r\n{body}"
    )


def send(client, content, recipients=("bob@client.test",)):
    return client.sendmail("anna@acme.test", list(recipients), content)


@pytest.fixture
def server_directory():
    """A directory that the users of mail servers may get into."""
    with tempfile.TemporaryDirectory(prefix="blindcopy-mta-") as name:
        yield Path(name)

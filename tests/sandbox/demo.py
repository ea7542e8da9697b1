"""`make demo`: everything on this machine, on loopback: mail sink, pretend Salesforce, relay, admin and worker, a demo
person who is connected, and a first mail.

It plays the operator: what it sets up, it sets up by the documented commands and variables."""

import contextlib
import fcntl
import itertools
import os
import secrets
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

from tests.sandbox.org.oauth import Client, allow

CHECKOUT = Path(__file__).resolve().parents[2]
EMAIL = "dana@acme.example"
_SECONDS_TO_START = 30
_SECONDS_TO_FOLLOW = 2
"""A relay follows a setting within this."""


class Demo:
    """The processes of the demo, and the environment that they share."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.children: list[subprocess.Popen] = []
        self.sink_port, self.page_port = _port(2525), _port(8025)
        self.relay_port, self.admin_port = _port(2587), _port(8000)
        self.org_port = _port(8443)
        self.org = f"https://127.0.0.1:{self.org_port}"
        self.ca_file = state / "org-ca.pem"
        self.env = os.environ | {
            "DATABASE_URL": f"sqlite:///{state}/blindcopy.db",
            "BLINDCOPY_STATE_DIR": str(state),
            "BLINDCOPY_SECRET_KEY": secrets.token_hex(32),
            "BLINDCOPY_HOSTNAME": "relay.acme.example",
            "BLINDCOPY_LISTEN": f"submission://127.0.0.1:{self.relay_port}",
            "BLINDCOPY_UPSTREAM": f"smtp://127.0.0.1:{self.sink_port}",
            "BLINDCOPY_PUBLIC_URL": f"http://127.0.0.1:{self.admin_port}",
            "BLINDCOPY_WEB_HOST": "127.0.0.1",
            "BLINDCOPY_SALESFORCE_CLIENT_ID": Client.client_id,
            "BLINDCOPY_SALESFORCE_CLIENT_SECRET": Client.client_secret,
            "BLINDCOPY_SALESFORCE_LOGIN_URL": self.org,
            "BLINDCOPY_SALESFORCE_CA_FILE": str(self.ca_file),
            "PORT": str(self.admin_port),
        }

    def start_sandbox(self) -> None:
        """What stands in for the mail provider and for Salesforce."""
        self._spawn(
            "sink",
            "-m",
            "tests.sandbox.sink",
            "--smtp-port",
            str(self.sink_port),
            "--web-port",
            str(self.page_port),
        )
        self._spawn(
            "org", "-m", "tests.sandbox.org", "--port", str(self.org_port), "--ca-file", str(self.ca_file),
            "--sink", f"http://127.0.0.1:{self.page_port}", "--user", EMAIL,
            "--callback", f"http://127.0.0.1:{self.admin_port}/salesforce/callback",
        )  # fmt: skip
        for port in (self.sink_port, self.org_port):
            _wait_for(port, self.children)

    def start(self) -> None:
        """The product."""
        self._spawn("relay", "-m", "relay")
        self._spawn("worker", "-m", "sync")
        self._spawn("admin", "-m", "gunicorn", "--bind", f"127.0.0.1:{self.admin_port}", "admin:create_app()")
        for port in (self.relay_port, self.admin_port):
            _wait_for(port, self.children)

    def set_up_person(self) -> tuple[str, str]:
        """The demo person's page password and app password."""
        self._admin("user", "add", EMAIL, "--name", "Dana Demo", "--admin")
        self._admin("policy", "set", "own-domains", ".acme.example")
        self._connect()
        password = secrets.token_urlsafe(9)
        self._admin("user", "password", EMAIL, "--password-stdin", stdin=password)
        return password, self._admin("user", "app-password", EMAIL, "--label", "demo").strip()

    def _connect(self) -> None:
        """As the person's click on Allow would; the worker then finds the Email to Salesforce address."""
        user, refresh_token = allow(
            self.org, self.ca_file, f"http://127.0.0.1:{self.admin_port}/salesforce/callback"
        )
        self._admin("preference", EMAIL, "set", "logging", "bcc")
        self._admin("user", "connect", EMAIL, "--instance-url", self.org, "--salesforce-user", user,
                    "--refresh-token-stdin", stdin=refresh_token)  # fmt: skip
        self._admin("preference", EMAIL, "set", "task-sync", "both-ways")
        self._command("sync", "--once")

    def send_first_mails(self, app_password: str) -> None:
        """One that is logged by its blind copy, and one that is logged through the API, as it is from then on."""
        self._send(app_password, "Our offer")
        self._admin("preference", EMAIL, "set", "logging", "api")
        time.sleep(_SECONDS_TO_FOLLOW)
        self._send(app_password, "Our second offer")

    def _send(self, app_password: str, subject: str) -> None:
        mail = EmailMessage()
        mail["From"] = f"Dana Demo <{EMAIL}>"
        mail["To"] = "Bob Buyer <bob@customer.example>"
        mail["Subject"] = subject
        mail["Message-ID"] = f"<{secrets.token_hex(8)}@acme.example>"
        mail.set_content("Dear Bob,\n\nhere is the offer that we spoke about.\n\nDana\n")
        with smtplib.SMTP("127.0.0.1", self.relay_port, timeout=30) as client:
            client.login(EMAIL, app_password)
            client.send_message(mail)

    def watch(self) -> None:
        """Until somebody stops us, or one of ours ends."""
        while all(child.poll() is None for child in self.children):
            time.sleep(0.5)
        raise SystemExit("A process of the demo has ended; its lines are above.")

    def stop(self) -> None:
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            child.wait(timeout=60)

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.state / f"{name}.log").open("wb") as log:
            self.children.append(
                subprocess.Popen(
                    [sys.executable, *arguments],
                    cwd=CHECKOUT,
                    env=self.env,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def _admin(self, *arguments: str, stdin: str = "") -> str:
        return self._command("admin", *arguments, stdin=stdin)

    def _command(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=CHECKOUT, env=self.env, input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"python -m {' '.join(arguments)}: {done.stderr}")
        return done.stdout


def main() -> None:
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # a shell that starts us in the background would have us ignore SIGINT
        signal.signal(number, _as_interrupt)
    with _state_of_ones_own() as state:
        _run(Demo(state))


def _run(demo: Demo) -> None:
    try:
        demo.start_sandbox()
        password, app_password = demo.set_up_person()
        demo.start()
        demo.send_first_mails(app_password)
        print(
            f"""
Blindcopy runs on this machine, and two mails have gone through it: one with a blind copy, one logged through the API.
Three tasks came from Salesforce into the Command Center; from now on they are the same on both sides.

  Admin        http://127.0.0.1:{demo.admin_port}   sign in as {EMAIL} with {password}
  Mail client  SMTP host 127.0.0.1, port {demo.relay_port}, no encryption, name {EMAIL}, password {app_password}
  Mail sink    http://127.0.0.1:{demo.page_port}   where the mail and its blind copy arrived
  Salesforce   {demo.org}   the pretend org, where both are logged (its certificate is its own)

Logs are in {demo.state.relative_to(CHECKOUT)}. Ctrl-C ends everything.""",
            flush=True,
        )
        demo.watch()
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        demo.stop()


@contextlib.contextmanager
def _state_of_ones_own() -> Iterator[Path]:
    """An empty directory: sink and pretend org begin anew with every run, so what referred to them goes as well. A demo
    beside another has its own."""
    for number in itertools.count(1):
        state = CHECKOUT / ".blindcopy" / ("demo" if number == 1 else f"demo-{number}")
        state.parent.mkdir(exist_ok=True)
        with state.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            yield state
            return


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _port(wanted: int) -> int:
    """This port, or a free one where it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise SystemExit("There is no free port on 127.0.0.1.")


def _wait_for(port: int, children: list[subprocess.Popen] | None = None) -> None:
    for _ in range(_SECONDS_TO_START * 10):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
        if any(child.poll() is not None for child in children or []):
            break
    raise SystemExit(f"Nothing answers on port {port}; see the logs in .blindcopy.")


if __name__ == "__main__":
    main()

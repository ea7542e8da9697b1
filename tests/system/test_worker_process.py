"""The worker as a process, as the Procfile and an operator start it."""

import os
import signal
import subprocess
import sys

import pytest

from tests.sandbox.org.faults import Fault
from tests.system.conftest import CHECKOUT, until
from tests.system.connected import (
    ADDRESS,
    connect,
    knows_salesforce,
    org,  # noqa: F401
    start_worker,
)


@pytest.fixture
def connected(installation, org):
    """Anna, connected by the operator's command, copied, and without an address."""
    knows_salesforce(installation, org)
    installation.command("admin", "preference", "anna@acme.test", "set", "bcc-address", "")
    connect(installation, org)
    return installation


def address(installation):
    return installation.command("admin", "preference", "anna@acme.test", "show", "bcc-address").split()[1:]


def test_finds_the_address_of_who_is_connected_and_stops_cleanly(connected):
    worker = start_worker(connected)
    until(lambda: address(connected) == [ADDRESS], seconds=120)  # every look is a process of its own
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(30) == 0
    assert "worker stopped" in connected.log()


def test_once_says_whether_anything_is_left(connected, org):
    org.faults.order(Fault.HTML, "query")
    connected.command("sync", "--once", expect=3)
    connected.command("sync", "--once")
    assert address(connected) == [ADDRESS]


def test_check_is_green_and_red(connected, org):
    said = connected.command("core", "check")
    assert "green  connection: anna@acme.test is connected as anna@acme.test" in said
    assert "BLINDCOPY_SALESFORCE_CLIENT_SECRET  set, not shown" in said
    assert "blindcopy-secret" not in said
    org.tokens.revoke_all()
    assert "red    connection" in connected.command("core", "check", expect=1)


def test_connecting_with_a_token_that_is_dead_stores_nothing(connected, org):
    connected.command("admin", "user", "disconnect", "anna@acme.test")
    connected.command(
        "admin", "user", "connect", "anna@acme.test", "--instance-url", org.url, "--salesforce-user", org.anna,
        "--refresh-token-stdin", stdin="rubbish\n", expect=1,
    )  # fmt: skip
    said = connected.command("core", "check", expect=1)
    assert "nobody is connected" in said
    assert "no Email to Salesforce address is known for anna@acme.test" in said


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["--once"], {"BLINDCOPY_SECRET_KEY": ""}, "BLINDCOPY_SECRET_KEY: is not set"),
        (["--twice"], {}, "No such option"),
        (
            ["--once"],
            {"BLINDCOPY_SALESFORCE_LOGIN_URL": "http://login.salesforce.com"},
            "BLINDCOPY_SALESFORCE_LOGIN_URL",
        ),
        (["--once"], {"BLINDCOPY_SALESFORCE_CLIENT_SECRET": "x"}, "BLINDCOPY_SALESFORCE_CLIENT_ID"),
    ],
)
def test_mistakes_end_it_with_one_line(installation, arguments, env, said):
    done = subprocess.run(
        [sys.executable, "-m", "sync", *arguments],
        cwd=CHECKOUT, env=installation.env | env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr


def test_without_salesforce_it_lives_all_the_same(installation):
    worker = start_worker(installation)
    until(lambda: "worker started" in installation.log())
    assert worker.poll() is None
    installation.command("sync", "--once")
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait(30) == 0

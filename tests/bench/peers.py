"""Who is measured: the relay as an operator starts it, Postfix in two shapes, and a naive relay."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench.load import SENDER
from tests.system.conftest import BCC, CHECKOUT, Installation
from tests.system.mail_servers import Postfix, free_port

_HONEST = f"""
in_flow_delay = 0
sender_bcc_maps = static:{BCC}
default_destination_concurrency_limit = 100
smtp_destination_concurrency_limit = 100
initial_destination_concurrency = 100
smtpd_client_connection_count_limit = 0
"""


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """A directory that Postfix's own users may get into."""
    with tempfile.TemporaryDirectory(prefix="blindcopy-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def blindcopy(
    upstream_port: int,
    *,
    program: tuple[str, ...] = ("relay",),
    kind: str = "gateway",
    prepare: Callable[[Installation], None] | None = None,
    **env: str,
) -> Iterator[Installation]:
    """One relay process behind a gateway listener, with the copy and the row of every mail; `relay` is the
    process."""
    with directory() as place:
        installation = Installation(place, upstream_port)
        try:
            installation.command("admin", "user", "add", SENDER)
            installation.command("admin", "preference", SENDER, "set", "bcc-address", BCC)
            installation.command("admin", "preference", SENDER, "set", "logging", "bcc")
            installation.command("admin", "policy", "set", "own-domains", "acme.test")
            installation.command("admin", "policy", "set", "mails-per-minute", "100000")
            if prepare is not None:
                prepare(installation)
            listener = {"BLINDCOPY_LISTEN": "gateway://127.0.0.1:0", "BLINDCOPY_TRUSTED": "127.0.0.0/8"}
            installation.relay = installation.start_relay_raw(kind, program=program, **(listener | env))
            installation.port = installation.relay.port
            yield installation
        finally:
            installation.stop()


@contextlib.contextmanager
def postfix(upstream_port: int) -> Iterator[Postfix]:
    """Queue, blind copies by map, unthrottled."""
    with directory() as place:
        peer = Postfix(place, relayhost=upstream_port, settings=_HONEST)
        try:
            yield peer
        finally:
            peer.stop()


@contextlib.contextmanager
def postfix_proxy(upstream_port: int) -> Iterator[Postfix]:
    """No queue and no copy: every command is passed on, as a before-queue filter's client."""
    with directory() as place:
        peer = Postfix(
            place,
            settings="smtpd_client_connection_count_limit = 0",
            smtpd=f"  -o smtpd_proxy_filter=127.0.0.1:{upstream_port}\n  -o smtpd_proxy_timeout=100s",
        )
        try:
            yield peer
        finally:
            peer.stop()


class Naive:
    """The two libraries' quick starts, put together."""

    def __init__(self, upstream_port: int) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.naive", str(self.port), str(upstream_port)],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
        )
        self.process.stdout.readline()


@contextlib.contextmanager
def naive(upstream_port: int) -> Iterator[Naive]:
    peer = Naive(upstream_port)
    try:
        yield peer
    finally:
        peer.process.send_signal(signal.SIGTERM)
        peer.process.wait(10)
        peer.process.stdout.close()

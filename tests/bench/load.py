"""Load by Postfix's `smtp-source`, an upstream by its `smtp-sink`: what is counted is what arrived."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass

from tests.conftest import needs
from tests.system.mail_servers import free_port

SENDER = "anna@acme.test"
_COUNTER = re.compile(rb"mesg=(\d+)")
_SECONDS_WITHOUT_PROGRESS = 20


@dataclass(frozen=True)
class Load:
    """So many mails of `size` bytes over so many sessions, each kept or made anew for every mail."""

    name: str
    sessions: int
    mails: int
    size: int
    keeps: bool = True

    @property
    def in_megabytes(self) -> bool:
        return self.size >= 100_000


class Sink:
    """An upstream that takes everything and counts it."""

    def __init__(self) -> None:
        self.port = free_port()
        self._count = 0
        self._process = subprocess.Popen(
            [needs("smtp-sink"), "-u", "nobody", "-c", "-m", "1000", f"127.0.0.1:{self.port}", "1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._read, daemon=True).start()
        time.sleep(0.3)

    def _read(self) -> None:
        tail = b""
        while piece := self._process.stdout.read1(65536):
            tail = (tail + piece)[-200:]
            if counted := _COUNTER.findall(tail):
                self._count = int(counted[-1])

    @property
    def count(self) -> int:
        return self._count

    def wait_for(self, count: int) -> None:
        """Until so many mails have arrived in all."""
        seen, since = self._count, time.monotonic()
        while self._count < count:
            if self._count > seen:
                seen, since = self._count, time.monotonic()
            if time.monotonic() - since > _SECONDS_WITHOUT_PROGRESS:
                raise AssertionError(f"{count - self._count} mails did not arrive")
            time.sleep(0.002)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def delivered_per_second(port: int, sink: Sink, load: Load) -> float:
    """Mails that arrived per second; megabytes per second for big ones."""
    before = sink.count
    started = time.monotonic()
    subprocess.run(
        [
            needs("smtp-source"), "-s", str(load.sessions), "-m", str(load.mails), "-l", str(load.size),
            *(["-d"] if load.keeps else []), "-f", SENDER, "-t", "bob@client.test", f"127.0.0.1:{port}",
        ],
        check=True,
        timeout=300,
    )  # fmt: skip
    sink.wait_for(before + load.mails)
    seconds = time.monotonic() - started
    return load.mails * (load.size / 1e6 if load.in_megabytes else 1) / seconds

"""What one mail waits longer for a relay in between: one session, one mail after the other."""

import contextlib
import smtplib
import statistics
import time

from tests.bench import speed
from tests.bench.load import SENDER, Sink

_MAILS = 200
_ROUNDS = 4
_CONTENT = (
    b"From: %b\r\nTo: bob@client.test\r\nSubject: x\r\nMessage-ID: <1@x>\r\n\r\n" % SENDER.encode()
    + (b"x" * 78 + b"\r\n") * 50
)


def measure(names):
    """peer -> median milliseconds that a mail of 4 kB takes longer than without a relay."""
    with contextlib.ExitStack() as stack:
        sink = Sink()
        stack.callback(sink.stop)
        ports = {"direct": sink.port}
        for name in names:
            ports[name] = stack.enter_context((speed.PEERS | speed.VARIANTS)[name](sink.port)).port
        clients = {}
        for name, port in ports.items():
            clients[name] = stack.enter_context(smtplib.SMTP("127.0.0.1", port))
            clients[name].ehlo()
        taken = {name: [] for name in ports}
        for number in range(_ROUNDS + 1):
            for name, client in clients.items():
                times = [_seconds(client) for _ in range(_MAILS)]
                taken[name] += times if number else []
        medians = {name: statistics.median(times) * 1000 for name, times in taken.items()}
        return {name: median - medians["direct"] for name, median in medians.items() if name != "direct"}


def _seconds(client):
    began = time.perf_counter()
    client.mail(SENDER)
    client.rcpt("bob@client.test")
    code, _ = client.data(_CONTENT)
    if code != 250:
        raise AssertionError(code)
    return time.perf_counter() - began

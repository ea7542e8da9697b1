"""Throughput beside the peers, all in one run and in turns, so that the machine's moods hit everybody."""

import contextlib
import statistics
from collections.abc import Sequence
from functools import partial

from tests.bench import peers
from tests.bench.load import Load, Sink, delivered_per_second

LOADS = (
    Load("4 kB, 1 session, kept", 1, 2000, 4096),
    Load("4 kB, 20 sessions, new each", 20, 4000, 4096, keeps=False),
    Load("4 kB, 20 sessions, kept", 20, 8000, 4096),
    Load("4 kB, 100 sessions, kept", 100, 8000, 4096),
    Load("100 kB, 20 sessions, kept (MB/s)", 20, 1000, 100_000),
    Load("10 MB, 4 sessions, kept (MB/s)", 4, 40, 10_000_000),
)
PEERS = {
    "Blindcopy": peers.blindcopy,
    "Postfix": peers.postfix,
    "Postfix proxy": peers.postfix_proxy,
    "naive": peers.naive,
}
VARIANTS = {
    "without rows": partial(peers.blindcopy, program=("tests.bench.variant", "no-rows")),
    "2 ms per commit": partial(peers.blindcopy, program=("tests.bench.variant", "commit-ms=2")),
}
_ROUNDS = 3
_SLOWER = 5
"""The naive relay gets a fifth of the mails: its figure is a rate, and it would take minutes."""


def measure(names: Sequence[str] = tuple(PEERS), loads: Sequence[Load] = LOADS, rounds: int = _ROUNDS):
    """load name -> peer -> median rate; "direct" is the load without a relay."""
    with contextlib.ExitStack() as stack:
        sinks = {name: Sink() for name in ("direct", *names)}
        for sink in sinks.values():
            stack.callback(sink.stop)
        ports = {"direct": sinks["direct"].port}
        for name in names:
            ports[name] = stack.enter_context((PEERS | VARIANTS)[name](sinks[name].port)).port
        result = {}
        for load in loads:
            rates = {name: [] for name in ports}
            for number in range(rounds + 1):
                for name, port in ports.items():
                    rate = delivered_per_second(port, sinks[name], _fit(load, name))
                    if number:  # the first round warms up
                        rates[name].append(rate)
            result[load.name] = {name: statistics.median(found) for name, found in rates.items()}
        return result


def _fit(load: Load, name: str) -> Load:
    if name != "naive":
        return load
    return Load(load.name, load.sessions, max(load.sessions, load.mails // _SLOWER), load.size, load.keeps)

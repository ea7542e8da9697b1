"""`make bench`: how fast the relay is beside its peers, what a mail waits longer for it, and what memory it
takes.

Everything on loopback, bounded, and over by itself. Only ratios from one run mean anything."""

import argparse
import os
import platform
import tempfile
import time
from datetime import UTC, datetime

from tests.bench import api, attachments, latency, memory, scale, speed, tasks, tls

PARTS = ("speed", "commits", "latency", "memory", "attachments", "tls", "api", "tasks", "scale")
_FSYNCS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="all, unless some are named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--load", default="", help="only loads whose name holds this")
    parser.add_argument("--rows", type=int, default=1_000_000, help="that lie in the table, for scale")
    arguments = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python "
        f"{platform.python_version()}, "
        f"an fsync takes {_fsync_milliseconds():.2f} ms\n"
    )
    loads = [load for load in speed.LOADS if arguments.load in load.name]
    if "speed" in arguments.parts:
        _print_rates(speed.measure(loads=loads, rounds=arguments.rounds), "Blindcopy")
    if "commits" in arguments.parts:
        names = ("Blindcopy", *speed.VARIANTS)
        crowd = [load for load in speed.LOADS if load.sessions == 100]
        _print_rates(speed.measure(names, crowd, arguments.rounds), "without rows")
    if "latency" in arguments.parts:
        names = (*speed.PEERS, "without rows")
        _print("Added by a relay, 4 kB, one session, p50 (ms)", latency.measure(names))
    if "memory" in arguments.parts:
        _print("Memory", memory.measure())
    if "attachments" in arguments.parts:
        _print("Attachments", attachments.measure())
    if "tls" in arguments.parts:
        _print("4 kB, 20 sessions, kept, own load (mails/s)", tls.measure())
    if "api" in arguments.parts:
        _print("Logging through the API", api.measure())
    if "tasks" in arguments.parts:
        _print("Task sync", tasks.measure())
    if "scale" in arguments.parts:
        for kind in ("SQLite", "PostgreSQL"):
            _print(f"What lies in the table, {kind}", scale.measure(kind, arguments.rows))
        _print("Beside a busy worker", scale.lock_waits())


def _print_rates(found, ours):
    """A row a load: each rate, and how many times the peer's ours is."""
    peers = list(next(iter(found.values())))
    print(f"| mails/s (or MB/s), in brackets {ours} to it |", " | ".join(peers), "|")
    print("|---|" + "--:|" * len(peers))
    for name, rates in found.items():
        cells = [f"{rate:.0f} ({rates[ours] / rate:.2f})" if peer != ours else f"**{rate:.0f}**"
                 for peer, rate in rates.items()]  # fmt: skip
        print(f"| {name} |", " | ".join(cells), "|", flush=True)
    print()


def _print(title, figures):
    print(f"| {title} | |\n|---|--:|")
    for name, figure in figures.items():
        print(f"| {name} | {figure:.2f} |", flush=True)
    print()


def _fsync_milliseconds():
    with tempfile.NamedTemporaryFile(prefix="blindcopy-bench-") as file:
        began = time.perf_counter()
        for _ in range(_FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - began) / _FSYNCS * 1000


if __name__ == "__main__":
    main()

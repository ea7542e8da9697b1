"""`make bench`: how fast the relay is beside its peers, what a mail waits longer for it, and what memory it takes.

Everything on loopback, bounded, and over by itself. Only ratios from one run mean anything."""

import argparse
import platform
from datetime import UTC, datetime

from tests.bench import speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one load, by a part of its name")
    parser.add_argument("--peers", default=",".join(speed.PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, Python {platform.python_version()}\n")
    loads = [load for load in speed.LOADS if not arguments.only or arguments.only in load.name]
    for name, rates in speed.measure(arguments.peers.split(","), loads, arguments.rounds).items():
        ours = rates.get("Blindcopy", 0)
        print(
            name,
            *(f"{peer} {rate:.0f} ({ours / rate:.2f})" for peer, rate in rates.items()),
            sep=" | ",
            flush=True,
        )


if __name__ == "__main__":
    main()

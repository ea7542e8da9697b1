"""`python -m tests.bench.endurance --minutes 30 --rate 600`: a steady load, and the relay's memory minute by minute."""

import argparse
import time

from tests.bench import peers
from tests.bench.load import Load, Sink, delivered_per_second
from tests.bench.memory import resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=int, default=600, help="mails a second")
    arguments = parser.parse_args()
    sink = Sink()
    try:
        with peers.blindcopy(sink.port) as relay:
            ends_at = time.monotonic() + arguments.minutes * 60
            minute = 0
            while time.monotonic() < ends_at:
                began = time.monotonic()
                delivered_per_second(relay.port, sink, Load("", 20, arguments.rate, 4096))
                if time.monotonic() >= ends_at - (arguments.minutes - minute) * 60:
                    print(
                        f"minute {minute}: {sink.count} mails, {resident(relay.relay.pid) / 1e6:.1f} MB",
                        flush=True,
                    )
                    minute += 1
                time.sleep(max(0.0, 1 - (time.monotonic() - began)))
            print(f"end: {sink.count} mails, {resident(relay.relay.pid) / 1e6:.1f} MB")
    finally:
        sink.stop()


if __name__ == "__main__":
    main()

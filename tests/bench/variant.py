"""The relay as it is, but for one thing: `python -m tests.bench.variant no-rows`, or `commit-ms=2` for a slow disk."""

import sys
import time
from contextlib import contextmanager

from core.storage.database import Database
from relay.__main__ import main
from relay.logbook import HandedOver, Logbook


def _without_rows() -> None:
    async def nothing(self, *_):
        return None

    Logbook.write = Logbook.written_unless_answered = nothing
    Logbook.hand_over = lambda self, row, *_: HandedOver(row, None)


def _slow_commits(milliseconds: float) -> None:
    driving = Database.driving

    @contextmanager
    def slowly(self):
        with driving(self) as cursor:
            yield cursor
            time.sleep(milliseconds / 1000)

    Database.driving = slowly


if __name__ == "__main__":
    what, _, value = sys.argv.pop().partition("=")
    if what == "no-rows":
        _without_rows()
    else:
        _slow_commits(float(value))
    main()

"""The relay as it is, but for one thing: `python -m tests.bench.variant no-rows`, or `commit-ms=2` for a slow disk."""

import sys
import time

from core.journal.file import Journal
from relay.__main__ import main
from relay.logbook import Logbook


def _without_rows() -> None:
    async def nothing(self, *_):
        return False

    Logbook.begin = lambda self, row: None
    Logbook.wait = Logbook.end = nothing


def _slow_commits(milliseconds: float) -> None:
    sync = Journal.sync

    def slowly(self):
        sync(self)
        time.sleep(milliseconds / 1000)

    Journal.sync = slowly


if __name__ == "__main__":
    what, _, value = sys.argv.pop().partition("=")
    if what == "no-rows":
        _without_rows()
    else:
        _slow_commits(float(value))
    main()

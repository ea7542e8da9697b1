"""Several people's work at once, so that one Salesforce that does not answer delays no other person's
work."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def at_once(
    work: Callable[[Item], Result], items: Iterable[Item], stop: threading.Event | None = None
) -> list[Result]:
    """What the work gives for each that was begun, in their order; the first error is raised when all have
    come to their end. Once `stop` is set nothing more is begun."""

    def unless_stopped(item: Item) -> list[Result]:
        return [] if stop is not None and stop.is_set() else [work(item)]

    with ThreadPoolExecutor(THREADS, thread_name_prefix="worker") as pool:
        begun = [pool.submit(unless_stopped, item) for item in items]
    return [result for future in begun for result in future.result()]

"""Several persons' work at once, so that one whose Salesforce does not answer keeps nobody waiting."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_HANDS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What the work gives for each, in their order; the first error is raised when all have come to their end."""
    with ThreadPoolExecutor(_HANDS, thread_name_prefix="hand") as pool:
        return list(pool.map(work, items))

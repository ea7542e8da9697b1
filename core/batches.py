"""Values in portions.

Pure: values in, values out."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def batches(values: Sequence[T], most: int) -> Iterator[list[T]]:
    """All values in their order, at most so many at once."""
    for start in range(0, len(values), most):
        yield list(values[start : start + most])

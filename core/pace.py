"""How often a person's tasks are looked at in Salesforce.

Pure: numbers in, seconds out."""

from dataclasses import dataclass
from datetime import timedelta

ACTIVE = timedelta(minutes=10)
"""Who has looked at the tasks, or changed one, within this time is not kept waiting."""
SLOWEST = 600.0
_SECONDS_OF_A_DAY = 86_400.0
_CALLS_OF_A_LOOK = 1.1
"""One for what has changed, and now and then one for what is known."""


@dataclass(frozen=True)
class Budget:
    """The calls that an organisation has in a day (0: not known yet), the per cent of them that are for looking, and by
    how many persons they are shared."""

    calls: int
    share: int
    persons: int


def seconds_between_looks(interval: int, idle: timedelta, budget: Budget) -> float:
    """The pace in force: the fastest while the person is active, half as fast for every further ten minutes of idleness
    down to ten minutes, and never more than the budget allows."""
    doublings = min(int(idle / ACTIVE), 20) if idle > timedelta(0) else 0
    by_idleness = max(float(interval), min(SLOWEST, interval * 2.0**doublings))
    return max(by_idleness, least_seconds(budget))


def least_seconds(budget: Budget) -> float:
    """What the budget allows at the most; 0 where nothing is known of it."""
    if budget.calls <= 0:
        return 0.0
    calls = budget.calls * budget.share / 100
    return _SECONDS_OF_A_DAY if calls <= 0 else _SECONDS_OF_A_DAY * budget.persons * _CALLS_OF_A_LOOK / calls

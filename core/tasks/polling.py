"""How often a person's tasks are looked at in Salesforce.

Pure: numbers in, seconds out."""

import math
from dataclasses import dataclass
from datetime import timedelta

ACTIVE = timedelta(minutes=10)
"""Who has looked at the tasks, or changed one, within this time is not kept waiting."""
SLOWEST = 600.0
_SECONDS_OF_A_DAY = 86_400.0
_SECONDS_OF_A_ROUND = 1_500.0
"""Within it every known link is verified, so that with the slowest pace it is done in half an hour."""
_LINKS_OF_A_CALL = 2_000
_MOST_OF_IT = 0.5
"""So much of what there is for looking may go into known links."""


@dataclass(frozen=True)
class Budget:
    """The calls that an organisation has in a day (0: not known yet), the per cent of them that are for
    looking, by how many persons they are shared, and how many known links this person has to be verified."""

    calls: int
    share: int
    persons: int
    links: int = 0

    @property
    def calls_of_a_round(self) -> int:
        """How many calls it takes to verify all links."""
        return math.ceil(self.links / _LINKS_OF_A_CALL)

    @property
    def a_day(self) -> float:
        """The calls that this person's looking may cost."""
        return self.calls * self.share / 100 / max(1, self.persons)


def seconds_between_looks(interval: int, idle: timedelta, budget: Budget) -> float:
    """The pace in force: the fastest while the person is active, half as fast for every further ten minutes
    of idleness down to ten minutes, and never more than the budget allows."""
    doublings = min(int(idle / ACTIVE), 20) if idle > timedelta(0) else 0
    by_idleness = max(float(interval), min(SLOWEST, interval * 2.0**doublings))
    return max(by_idleness, least_seconds(budget))


def least_seconds(budget: Budget) -> float:
    """What the budget allows at the most; 0 where nothing is known of it."""
    if budget.calls <= 0:
        return 0.0
    for_links = budget.calls_of_a_round * _SECONDS_OF_A_DAY / seconds_of_a_round(budget)
    calls = budget.a_day - for_links
    return _SECONDS_OF_A_DAY if calls <= 0 else min(_SECONDS_OF_A_DAY, _SECONDS_OF_A_DAY / calls)


def seconds_of_a_round(budget: Budget) -> float:
    """Within how long every known link is verified once: in half an hour, unless the budget is too small for
    that."""
    if budget.calls <= 0 or budget.a_day <= 0:
        return _SECONDS_OF_A_ROUND
    least = budget.calls_of_a_round * _SECONDS_OF_A_DAY / (budget.a_day * _MOST_OF_IT)
    return max(_SECONDS_OF_A_ROUND, least)

"""When to try again.

Pure: numbers in, seconds out."""

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 3600.0
_MOST_DOUBLINGS = 12


def seconds_until_next(attempts: int, chance: float) -> float:
    """How long to wait after so many tries that came to nothing: doubled each time up to an hour, and by
    `chance` (from 0 to 1) anything from half of that to all of it, so that those who failed together do not
    come back together."""
    doublings = min(max(attempts, 1) - 1, _MOST_DOUBLINGS)
    longest = min(LONGEST_SECONDS, FIRST_SECONDS * (1 << doublings))
    return longest * (0.5 + chance / 2)

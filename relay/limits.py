"""Who may come in, how often, and how fast: counted in this process, bounded in memory.

Several relays share the counts of mails per minute through the logbook's rows; all other limits are each
process's own."""

import ipaddress
from collections import Counter, OrderedDict, deque

from core.endpoints import ListenerLimits, Network, is_loopback
from relay.usual_sources import UsualSources

_FAILURES_COUNT_FOR = 600.0
MOST_FAILURES_PER_SOURCE = 50
_MOST_FAILURES_PER_ACCOUNT = 20
_MOST_FAILURES_OF_STRANGERS = 100
_MOST_REMEMBERED = 10_000
FIRST_DELAY = 0.5
_LONGEST_DELAY = 5.0
_LONGEST_LOGIN = 320
MINUTE = 60.0
MOST_SECONDS_TO_WAIT = 45.0
"""Mail clients give up after 60 seconds and more."""
MOST_SECONDS_TO_WAIT_AT_A_GATEWAY = 120.0
"""Mail servers after five minutes (RFC 5321 section 4.5.3.2.2)."""


class Sessions:
    """How many clients are connected, in all and from each source."""

    def __init__(self) -> None:
        self._sources: Counter[str] = Counter()

    def may_enter(self, source: str, limits: ListenerLimits) -> bool:
        """Whether there is room for one more; clients on this machine are counted in all only."""
        if self._sources.total() >= limits.sessions:
            return False
        return is_loopback(source) or self._sources[source] < limits.sessions_per_source

    def enter(self, source: str) -> None:
        self._sources[source] += 1

    def leave(self, source: str) -> None:
        self._sources[source] -= 1
        if self._sources[source] <= 0:
            del self._sources[source]


class FailedSignIns:
    """Wrong passwords: each makes the next try from there, or for that account, wait longer."""

    def __init__(self, usual_sources: UsualSources) -> None:
        self.failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._usual_sources = usual_sources

    def is_barred(self, source: str, login: str, now: float) -> bool:
        """Whether so much has failed, from this source, or with this account here or anywhere, that nobody is
        heard.

        Where the owner of an account has signed in within 30 days, it stays open: colleagues behind one
        address whose clients try old passwords do not lock it, nor does who guesses at it from elsewhere."""
        if self._usual_sources.has(source, login[:_LONGEST_LOGIN]):
            return False
        in_all, anywhere, here = (self._recent(key, now) for key in _keys(source, login))
        return (
            len(in_all) >= MOST_FAILURES_PER_SOURCE
            or len(here) >= _MOST_FAILURES_PER_ACCOUNT
            or len(anywhere) >= _MOST_FAILURES_OF_STRANGERS
        )

    def note(self, source: str, login: str, now: float) -> float:
        """One more failure; how many seconds its answer waits."""
        count = 0
        for key in _keys(source, login):
            recent = self._recent(key, now)
            recent.append(now)
            self.failures[key] = recent
            self.failures.move_to_end(key)
            count = max(count, len(recent))
        while len(self.failures) > _MOST_REMEMBERED:
            self.failures.popitem(last=False)
        return float(min(_LONGEST_DELAY, FIRST_DELAY * 2 ** min(count - 1, 10)))

    def forget(self, source: str, login: str, now: float) -> None:
        """A right password: the slate of that source is clean, and that of the account there.

        What strangers failed with elsewhere is not forgotten: it is still being guessed at."""
        of_source, of_account, here = _keys(source, login)
        forgotten = self.failures.pop(here, deque())
        self.failures.pop(of_source, None)
        if of_account in self.failures:
            kept = [time for time in self.failures[of_account] if time not in forgotten]
            self.failures[of_account] = deque(kept, maxlen=_MOST_FAILURES_OF_STRANGERS)
        self._usual_sources.note(source, login[:_LONGEST_LOGIN])

    def _recent(self, key: str, now: float) -> deque[float]:
        times = self.failures.get(key, deque(maxlen=_MOST_FAILURES_OF_STRANGERS))
        while times and now - times[0] > _FAILURES_COUNT_FOR:
            times.popleft()
        return times


def _keys(source: str, login: str) -> tuple[str, str, str]:
    """What failures are counted by: the source, the account, and the account from there."""
    account = login[:_LONGEST_LOGIN]
    return source, f"{account} ", f"{source} {account}"


class Pace:
    """Mails per person and minute: a minute's worth at once, from then on evenly (the generic cell rate
    algorithm). A mail merge waits its turn instead of being refused."""

    def __init__(self) -> None:
        self._next: dict[int, float] = {}
        """When each person's next mail would be due if all were sent evenly."""

    def wait(
        self, person: int, most: int, elsewhere: int, now: float, patience: float = MOST_SECONDS_TO_WAIT
    ) -> float | None:
        """How many seconds this person's next mail has to wait; the turn is taken. None: longer than
        `patience`, and no turn is taken. `elsewhere`: how many mails other relays passed on in the
        last minute, which leave that much less here."""
        left = max(1, most - elsewhere)
        interval = MINUTE / left
        due = max(self._next.get(person, 0.0), now)
        seconds = max(0.0, due - (MINUTE - interval) - now)
        if seconds > patience:
            return None
        self._next[person] = due + interval
        return seconds


def is_trusted(source: str, networks: tuple[Network, ...]) -> bool:
    """Whether a source address lies in one of the networks; an IPv4 address in IPv6 clothes counts as what it
    is."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)

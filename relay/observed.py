"""What is seen of a relay from outside: which figures it gives, when it is alive, and when it is ready."""

from relay.journal import Journal
from relay.meters import Meters
from relay.monitor import Holds, Monitor
from relay.pool import Pool
from relay.server import Server
from relay.snapshot import Snapshot

_MOST_SECONDS_OF_LAG = 10.0


def observed(server: Server, pool: Pool, journal: Journal, snapshot: Snapshot, meters: Meters) -> Monitor:
    """The monitor of these, not started yet."""
    gauge = meters.gauge
    gauge("blindcopy_relays", "Relays that are running on this machine.", lambda: 1)
    gauge("blindcopy_sessions", "Clients that are connected.", lambda: server.session_count)
    gauge("blindcopy_upstream_links_busy", "Links to the upstream that have a mail.", lambda: pool.busy)
    gauge("blindcopy_upstream_links_idle", "Links to the upstream that wait for a mail.", lambda: pool.idle)
    gauge(
        "blindcopy_upstream_troubled",
        "Relays that have trouble with the upstream.",
        lambda: pool.trouble is not None,
    )
    meters.gauge_of_the_machine(
        "blindcopy_journal_bytes", "What waits for the database, of all relays.", journal.length_of_all
    )

    def lives() -> list[Holds]:
        return [
            Holds("event loop", server.seconds_since_the_last_look() < _MOST_SECONDS_OF_LAG, "stands still")
        ]

    def is_ready() -> list[Holds]:
        return [
            *lives(),
            Holds("settings", snapshot.people is not None, "neither the database nor a snapshot has them"),
            Holds("load", not server.is_overloaded, "behind, new sessions are asked to come again"),
            Holds("listeners", not server.is_stopping, "stopping"),
        ]

    return Monitor(meters, lives, is_ready)

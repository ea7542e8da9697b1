"""What is seen of a relay from outside: its figures, whether it is alive, and whether it is ready."""

from collections.abc import Sequence

from core.config import Config
from core.database.engine import Database
from core.database.heartbeats import Condition
from core.findings import Finding, Light, facts
from core.health import Watch, look_at_installation, look_at_machine
from core.monitor import Monitor
from relay.certificate import Certificate
from relay.logbook import Logbook
from relay.meters import Meters
from relay.pool import Pool
from relay.server import Server
from relay.snapshot import Snapshot

_MOST_SECONDS_OF_LAG = 10.0
_MOST_SECONDS_WITHOUT_A_LOOK = 10.0


class RelayHealth:
    """How this relay is; what it says in its beats, and to whoever asks its monitor."""

    def __init__(
        self,
        config: Config,
        database: Database,
        server: Server,
        pool: Pool,
        logbook: Logbook,
        snapshot: Snapshot,
        certificate: Certificate | None = None,
    ) -> None:
        self._config = config
        self._server = server
        self._pool = pool
        self._logbook = logbook
        self._snapshot = snapshot
        self._certificate = certificate
        self._watch = Watch(lambda: look_at_installation(database, without_relays=True))

    def condition(self) -> Condition:
        """For the beats: what is not as it should be."""
        findings = (finding for finding in self._look_at_relay() if finding.light is not Light.GREEN)
        return Condition(
            self._pool.trouble, self._logbook.waiting_bytes(), self._logbook.rows_lost, tuple(findings)
        )

    def monitor(self, meters: Meters) -> Monitor:
        """Its answers to operators' tools, not started yet."""
        gauge = meters.gauge
        gauge("blindcopy_relays", "Relays that are running on this machine.", lambda: 1)
        gauge("blindcopy_sessions", "Clients that are connected.", lambda: self._server.session_count)
        gauge(
            "blindcopy_upstream_links_busy",
            "Links to the upstream that have a mail.",
            lambda: self._pool.busy,
        )
        gauge(
            "blindcopy_upstream_links_idle",
            "Links to the upstream that wait for a mail.",
            lambda: self._pool.idle,
        )
        gauge(
            "blindcopy_upstream_waiting",
            "Mails that wait for a link to the upstream.",
            lambda: self._pool.waiting,
        )
        gauge(
            "blindcopy_upstream_troubled",
            "Relays that have trouble with the upstream.",
            lambda: self._pool.trouble is not None,
        )
        gauge(
            "blindcopy_journal_bytes",
            "What the journals hold that the database does not have yet.",
            self._logbook.waiting_bytes,
        )
        gauge(
            "blindcopy_journals_troubled",
            "Relays whose journal takes nothing, so that rows are lost.",
            lambda: self._logbook.trouble is not None,
        )
        gauge(
            "blindcopy_settings_age_seconds",
            "How long ago the database was last looked at, added up over the relays.",
            lambda: max(0.0, min(self._snapshot.seconds_old(), 1e9)),
        )
        return Monitor(meters.text, self._look_at_event_loop, self._is_ready)

    def _look_at_event_loop(self) -> Sequence[Finding]:
        is_alive = self._server.seconds_since_the_last_look() < _MOST_SECONDS_OF_LAG
        return [_finding("event loop", is_alive, "stands still", "restart the relay")]

    def _is_ready(self) -> Sequence[Finding]:
        return [
            *self._look_at_event_loop(),
            _finding(
                "load",
                not self._server.is_overloaded,
                "behind, new sessions are asked to come again",
                "start another relay",
            ),
            _finding("listeners", not self._server.is_stopping, "stopping", ""),
            *self._look_at_relay(),
            *self._watch.findings(),
        ]

    def _look_at_relay(self) -> list[Finding]:
        return [
            _finding(
                "settings",
                self._snapshot.people is not None,
                "neither the database nor a snapshot has them",
                "look at the database",
            ),
            _finding(
                "mail provider",
                self._pool.unreachable is None,
                self._pool.unreachable or "",
                "look at BLINDCOPY_UPSTREAM and at the provider",
            ),
            *self._refusal(),
            *self._waiting(),
            *self._record(),
            *self._new_certificate(),
            *look_at_machine(self._config, uses_state=True),
        ]

    def _new_certificate(self) -> list[Finding]:
        """What lies in the files and cannot be used; mail goes on with the former one until that ends."""
        trouble = None if self._certificate is None else self._certificate.trouble
        if trouble is None:
            return []
        said = f"the new certificate cannot be used, and the former one is still shown: {trouble}"
        return [facts(Light.RED, "certificate", said, "put a certificate and its own key in place")]

    def _refusal(self) -> list[Finding]:
        """No reason to take the relay away: only a mail can show that it is over."""
        refusal = self._pool.refusal
        remedy = "look at the name and password in BLINDCOPY_UPSTREAM and at the provider"
        return [] if refusal is None else [facts(Light.RED, "mail provider", refusal, remedy)]

    def _waiting(self) -> list[Finding]:
        """Mails that wait for a connection to the provider; nothing is wrong, and nothing is lost."""
        if not self._pool.waiting:
            return []
        return [
            Finding(
                Light.YELLOW,
                "waiting for the mail provider",
                "%(number)d mails wait for their turn, as the provider bears only so many at once",
                {"number": self._pool.waiting},
                remedy="if the provider bears more, say so by connections= and rate= in BLINDCOPY_UPSTREAM",
            )
        ]

    def _record(self) -> list[Finding]:
        """Whether mails are written down, and come into the database."""
        found = [facts(Light.RED, "old journal", said) for said in self._logbook.unreadable]
        if (trouble := self._logbook.trouble) is not None:
            found.append(facts(Light.RED, "journal", f"rows are lost: {trouble}"))
        else:
            found.append(Finding(Light.GREEN, "journal", "takes what happens to each mail"))
        if (cause := self._logbook.loading_trouble) is not None:
            found.append(facts(Light.RED, "loader", f"the journal does not come into the database: {cause}"))
        if self._snapshot.seconds_old() > _MOST_SECONDS_WITHOUT_A_LOOK:
            found.append(
                facts(
                    Light.RED,
                    "database",
                    "has not answered this relay; its records wait in its journal",
                    "look at the database",
                )
            )
        return found


def _finding(what: str, holds: bool, otherwise: str, remedy: str) -> Finding:  # noqa: FBT001  the thing itself
    if holds:
        return facts(Light.GREEN, what, "ok", stops_mail=True)
    return facts(Light.RED, what, otherwise, remedy, stops_mail=True)

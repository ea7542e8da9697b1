"""`python -m relay`: read the configuration, listen, and stop cleanly on SIGTERM or SIGINT."""

import asyncio
import gc
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvloop

from core import logs
from core.background import off_loop
from core.config import Config, ConfigurationError, read_config
from core.database.engine import Database, DatabaseUnavailable
from core.endpoints import Listener, Upstream
from core.secrets import Box
from core.smtp import Route
from core.state_directory import StateDirectory
from core.upstream_tokens import kept_refresh_token
from relay.certificate import Certificate
from relay.daily import DailyMails
from relay.entrance import Entrance
from relay.health import RelayHealth
from relay.heartbeat import Pulse
from relay.limits import FailedSignIns
from relay.logbook import JournalOptions, Logbook
from relay.meters import Meters
from relay.offers import Offers
from relay.places import MachinePlaces
from relay.pool import Pool
from relay.process import Relay
from relay.record import new_mail_id
from relay.same_mails import SameMails
from relay.server import Server
from relay.snapshot import Snapshot
from relay.under_way import UnderWay
from relay.usual_sources import UsualSources

_SECONDS_TO_MIGRATE = 10
_SECONDS_TO_LEARN = 3
_MOST_OPEN_FILES = 65_536


def main() -> None:
    """Exit status 0 after a clean stop, 2 for a mistake in the configuration."""
    try:
        config = read_config(needs=("BLINDCOPY_UPSTREAM", "BLINDCOPY_SECRET_KEY"))
        logs.to_stderr()
        uvloop.run(_run(config))
    except ConfigurationError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(2)


async def _run(config: Config) -> None:
    upstream = config.upstream
    if upstream is None:
        raise ConfigurationError(["BLINDCOPY_UPSTREAM: is not set"])
    _raise_open_files()
    asyncio.get_running_loop().set_exception_handler(_one_line)
    stop = asyncio.Event()
    certificate = _certificate(config)
    _obey_signals(stop, certificate)
    state = StateDirectory(config.state_dir)
    _make_directory(state)
    process_id = new_mail_id()
    box = Box(config.secret_keys)
    database = Database(config.database_url, box, state, uses_state=True)
    await _migrate(database)
    snapshot = Snapshot(database, config.state_dir, box, process_id)
    await snapshot.start()
    meters = Meters(config.state_dir, process_id)
    tls = None if certificate is None else certificate.context
    entrances = [Entrance(listener, config.sign_in, tls, listener.trusted) for listener in config.listeners]
    pool = Pool(_route(upstream, config), Offers(config.state_dir, str(upstream)), _places(config, upstream))
    logbook = Logbook(database, JournalOptions(config.state_dir, config.journal_bytes, box), meters.note)
    usual_sources = UsualSources(config.state_dir, config.secret_keys)
    under_way = UnderWay(config.state_dir / "under-way", snapshot, logbook.note)
    server = Server(
        Relay(
            config.hostname,
            process_id,
            pool,
            logbook,
            snapshot,
            under_way,
            FailedSignIns(usual_sources),
            SameMails(database, lambda: snapshot.has_other_relays),
            count=meters.note,
            daily=DailyMails(database),
        )
    )
    health = RelayHealth(config, database, server, pool, logbook, snapshot, certificate)
    pulse = Pulse(database, snapshot, process_id, health.condition)
    await pulse.start()
    await _learn_what_the_upstream_offers(pool)
    bound = await _listen(server, entrances)
    await _refuse_circles(upstream, bound)
    await pulse.start(tuple(str(listener) for listener in bound))
    logs.relay_started(config.hostname, str(upstream))
    monitor = health.monitor(meters)
    if config.monitor is not None:
        monitor.start(config.monitor)
    for listener in bound:
        print(f"ready {listener}", flush=True)  # noqa: T201
    chores = [
        asyncio.ensure_future(chore)
        for chore in (
            snapshot.keep_fresh(),
            pulse.go_on(),
            server.watch(),
            pool.tidy(),
            under_way.watch(),
            usual_sources.keep_fresh(),
            _keep_figures(meters),
            *([] if certificate is None else [certificate.watch()]),
        )
    ]
    gc.collect()
    # What is there now stays: a full collection would look at it all, and halt every mail for 40 ms, as
    # was measured.
    gc.freeze()
    await stop.wait()
    unfinished = await _stop(server, under_way, chores)
    await pool.close()
    await logbook.stop()
    await pulse.stop()
    monitor.stop()
    meters.stop()
    await off_loop(usual_sources.keep)
    database.close()
    logs.relay_stopped(unfinished)


def _obey_signals(stop: asyncio.Event, certificate: Certificate | None) -> None:
    """SIGTERM and SIGINT end the relay. SIGHUP asks for the certificate to be looked at; where there is none
    it ends nothing either."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _ignore if certificate is None else certificate.look_soon)


async def _stop(server: Server, under_way: UnderWay, chores: Sequence[asyncio.Future[None]]) -> int:
    """Let mails come to their end; how many did not."""
    under_way.is_stopping = True
    unfinished = await server.stop()
    for chore in chores:
        chore.cancel()
    return unfinished


def _make_directory(state: StateDirectory) -> None:
    """A state directory that cannot be made stops no mail; what is wrong with it is shown."""
    try:
        state.make()
    except OSError as error:
        logs.journal_unavailable(f"the state directory {state.path} cannot be made: {error.strerror}")


async def _keep_figures(meters: Meters) -> None:
    while True:
        await off_loop(meters.keep)
        await asyncio.sleep(1)


def _ignore() -> None:
    """A signal that asks for nothing here."""


def _raise_open_files() -> None:
    """Each mail under way takes two sockets; the soft limit of 1024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        most = _MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _one_line(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A scanner's failed handshake is worth a line, not two tracebacks."""
    error = context.get("exception")
    if isinstance(error, OSError):
        logs.handshake_failed("?", f"{context.get('message')}: {error}")
    else:
        loop.default_exception_handler(context)


async def _migrate(database: Database) -> None:
    """A relay whose database is away serves with what it last knew."""
    try:
        async with asyncio.timeout(_SECONDS_TO_MIGRATE):
            await off_loop(database.migrate)
    except (DatabaseUnavailable, TimeoutError) as error:
        logs.database_unavailable(str(error))


def _route(upstream: Upstream, config: Config) -> Route:
    try:
        return Route(
            upstream, config.hostname, kept=kept_refresh_token(upstream, config.state_dir, config.secret_keys)
        )
    except OSError as error:
        what = f"BLINDCOPY_UPSTREAM_CA_FILE: {upstream.ca_file} holds no certificates"
        if upstream.client_certificate is not None:
            what = "BLINDCOPY_UPSTREAM: the files of cert=, key= or BLINDCOPY_UPSTREAM_CA_FILE cannot be used"
        raise ConfigurationError([f"{what}: {error}"]) from error


async def _learn_what_the_upstream_offers(pool: Pool) -> None:
    """Offer clients what the upstream offers. A slow answer does not delay the start."""
    try:
        async with asyncio.timeout(_SECONDS_TO_LEARN):
            await pool.learn()
    except TimeoutError:
        return


def _places(config: Config, upstream: Upstream) -> MachinePlaces | None:
    """What the relays of this machine share, where the provider bears only so many connections."""
    number = upstream.limits.connections
    return None if number is None else MachinePlaces(config.state_dir / "places", number)


def _certificate(config: Config) -> Certificate | None:
    """What the listeners show. Raises ConfigurationError where certificate and key do not fit."""
    try:
        return Certificate(config.tls) if config.tls is not None else None
    except OSError as error:
        raise ConfigurationError(
            [
                (
                    f"BLINDCOPY_TLS_CERT: certificate and key cannot be used: {error}; name a PEM "
                    f"certificate and its own key"
                )
            ]
        ) from error


async def _listen(server: Server, entrances: Sequence[Entrance]) -> list[Listener]:
    try:
        return await server.listen(entrances)
    except OSError as error:
        raise ConfigurationError(
            [f"BLINDCOPY_LISTEN: cannot listen: {error}; choose another address or port"]
        ) from error


async def _refuse_circles(upstream: Upstream, bound: Sequence[Listener]) -> None:
    """An upstream that resolves to one of our own listeners would get every mail back for ever."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            upstream.host, upstream.port, type=socket.SOCK_STREAM
        )
    except OSError:
        return  # a name that does not resolve now is the pool's trouble
    places = {(address[4][0], address[4][1]) for address in found}
    if any((listener.host, listener.port) in places for listener in bound):
        raise ConfigurationError(
            [f"BLINDCOPY_UPSTREAM: {upstream} is one of our own listeners; name your mail provider's server"]
        )


if __name__ == "__main__":
    main()

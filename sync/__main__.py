"""`python -m sync`: the worker, until it is stopped; `--once`: everything that waits is treated as due, then
it ends."""

import signal
import sys
import threading

import click

from core import logs
from core.commands import Commands
from core.config import Config, ConfigurationError, read_config
from core.database.engine import Database, DatabaseUnavailable
from sync.worker import Worker

_SOMETHING_LEFT = 3
_MISCONFIGURED = 2
_UNAVAILABLE = 3
_SECONDS_OF_A_TURN = 0.0005
"""Of a thread: one that is in the middle of a transaction, and so holds SQLite's lock, must not wait 5 ms,
which is usual, for each of the others after each statement."""


@click.group(cls=Commands, invoke_without_command=True, help=__doc__)
@click.option(
    "--once",
    is_flag=True,
    help="One cycle in which everything is due. Exit 0: nothing is left, 3: something is.",
)
def main(*, once: bool) -> None:
    try:
        config = read_config(needs=("BLINDCOPY_SECRET_KEY",))
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(_MISCONFIGURED)
    logs.to_stderr()
    sys.setswitchinterval(_SECONDS_OF_A_TURN)
    sys.exit(_once(config) if once else _go_on(config))


def _once(config: Config) -> int:
    database = Database.of(config, uses_state=True)
    try:
        database.migrate()
        is_all_done = Worker(database, config).once()
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return _MISCONFIGURED
    except DatabaseUnavailable as error:
        click.echo(f"The database cannot be used: {error}", err=True)
        return _UNAVAILABLE
    finally:
        database.close()
    return 0 if is_all_done else _SOMETHING_LEFT


def _go_on(config: Config) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = Database.of(config, uses_state=True)
    try:
        database.migrate()
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        return _MISCONFIGURED
    except DatabaseUnavailable as error:
        logs.database_unavailable(str(error))  # the worker goes on, and works once it is there
    worker = Worker(database, config)
    monitor = worker.health.monitor()
    if config.worker_monitor is not None:
        monitor.start(config.worker_monitor)
    worker.go_on(stop)
    monitor.stop()
    database.close()
    return 0


if __name__ == "__main__":
    main(prog_name="python -m sync")

"""How commands print: JSON Lines with times in UTC, or `name value` lines; and where they find the
database."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

import click

from core.commands import troubles_as_exit_status
from core.config import ConfigurationError, read_config
from core.database.engine import Database

if TYPE_CHECKING:
    from core.salesforce.connections import Connections

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")


@contextmanager
def database() -> Iterator[Database]:
    """The database, brought up to date; troubles end the command with one sentence."""
    with troubles_as_exit_status():
        opened = Database.of(read_config())
        opened.migrate()
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def connections() -> "Iterator[Connections]":
    """The connections to Salesforce; troubles, and an app that is not registered, end the command."""
    from core.salesforce.connections import Connections  # noqa: PLC0415  a fifth of a second that other commands do without

    with database() as opened:
        app = read_config().salesforce
        if app is None:
            raise ConfigurationError(
                [
                    (
                        "BLINDCOPY_SALESFORCE_CLIENT_ID: is not set; set it to the consumer key of the "
                        "External Client App"
                    )
                ]
            )
        yield Connections(opened, app)


def json_line(fields: dict[str, object]) -> None:
    """Print one object; times as RFC 3339 in UTC with milliseconds."""
    click.echo(json.dumps(fields, ensure_ascii=False, default=_plain))


def rfc3339(time: datetime) -> str:
    """2026-11-21T09:30:00.123Z"""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, Enum):
        return str(value.value)
    raise TypeError(value)

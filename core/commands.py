"""What the commands of all packages have in common: refusals and configuration mistakes become one sentence
on stderr and an exit status, never a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from core.config import ConfigurationError
from core.database.engine import DatabaseUnavailable
from core.refusal import Refusal

REFUSED = 1
MISCONFIGURED = 2


@contextmanager
def troubles_as_exit_status() -> Iterator[None]:
    """Exit 1 with one sentence where something is refused, 2 with a line per mistake in the configuration."""
    try:
        yield
    except Refusal as refusal:
        click.echo(str(refusal), err=True)
        sys.exit(REFUSED)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
        sys.exit(MISCONFIGURED)
    except DatabaseUnavailable as error:
        click.echo(f"The database cannot be used: {error}", err=True)
        sys.exit(REFUSED)


class Commands(click.Group):
    """A group of commands. A usage error is one line on stderr, and exit status 2."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and exit."""
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError:
            click.echo("A command is missing; --help lists them", err=True)
            sys.exit(MISCONFIGURED)
        except click.UsageError as error:
            click.echo(" ".join(error.format_message().split()), err=True)
            sys.exit(MISCONFIGURED)
        except click.Abort:
            sys.exit(REFUSED)
        sys.exit(status if isinstance(status, int) else 0)

"""`python -m core check` and `python -m core migrate`."""

import asyncio
import sys

import click

from core.commands import REFUSED, Commands, troubles_as_exit_status
from core.config import Config, masked_url, read_config
from core.endpoints import Upstream
from core.smtp import Connected, RefusesUs, Route, Unavailable
from core.storage.database import Database, DatabaseUnavailable, newest_revision


@click.group(cls=Commands, help="Look after the installation.")
def main() -> None: ...


@main.command(help="Bring the database up to date.")
def migrate() -> None:
    with troubles_as_exit_status():
        database = Database(read_config().database_url)
        database.migrate()
        click.echo(f"The database is at revision {database.revision()}.")
        database.close()


@main.command(help="Say which configuration is in force, and look at upstream and database.")
def check() -> None:
    with troubles_as_exit_status():
        config = read_config(needs=("BLINDCOPY_UPSTREAM", "BLINDCOPY_SECRET_KEY"))
    _say_configuration(config)
    results = [_check_database(config.database_url)]
    if config.upstream is not None:
        results.append(_check_upstream(config.upstream, config.hostname))
    sys.exit(0 if all(results) else REFUSED)


def _say_configuration(config: Config) -> None:
    lines = {
        "DATABASE_URL": masked_url(config.database_url),
        "BLINDCOPY_STATE_DIR": config.state_dir,
        "BLINDCOPY_SECRET_KEY": f"{len(config.secret_keys)} set, not shown",
        "BLINDCOPY_HOSTNAME": config.hostname,
        "BLINDCOPY_LISTEN": ", ".join(str(listener) for listener in config.listeners),
        "BLINDCOPY_TLS_CERT": config.tls.certificate if config.tls else "none",
        "BLINDCOPY_AUTH": config.sign_in,
        "BLINDCOPY_TRUSTED": " ".join(str(network) for network in config.trusted) or "none",
        "BLINDCOPY_UPSTREAM": config.upstream,
        "BLINDCOPY_UPSTREAM_CA_FILE": config.upstream.ca_file
        if config.upstream and config.upstream.ca_file
        else "the system's",
        "BLINDCOPY_MONITOR": config.monitor or "off",
        "BLINDCOPY_WEB_HOST": config.web_host,
        "PORT": config.web_port,
        "BLINDCOPY_PUBLIC_URL": config.public_url,
    }
    for name, value in lines.items():
        click.echo(f"{name}  {value}")


def _check_database(url: str) -> bool:
    database = Database(url)
    try:
        revision = database.revision()
    except DatabaseUnavailable as error:
        return _red("database", str(error))
    finally:
        database.close()
    if revision != "none" and revision > newest_revision():
        return _red("database", f"its schema, revision {revision}, is newer than this code; update Blindcopy")
    if revision != newest_revision():
        return _red(
            "database",
            f"its schema is at revision {revision}, not {newest_revision()}; run `python -m core migrate`",
        )
    return _green("database", f"answers, schema revision {revision}")


def _check_upstream(upstream: Upstream, hostname: str) -> bool:
    try:
        connected = asyncio.run(_connect(upstream, hostname))
    except OSError as error:
        return _red("upstream", f"the file of BLINDCOPY_UPSTREAM_CA_FILE cannot be used: {error}")
    except (Unavailable, RefusesUs) as error:
        return _red("upstream", f"{upstream}: {error}")
    offers = " ".join(sorted(name.upper() for name in connected.extensions)) or "nothing"
    _green("upstream", f"{upstream} answers and offers {offers}")
    if connected.tls_version is not None:
        _green("upstream", f"{connected.tls_version}, certificate {_certificate(connected)}")
    if upstream.user is not None:
        _green("upstream", f"takes the credentials of {upstream.user}")
    return True


async def _connect(upstream: Upstream, hostname: str) -> Connected:
    connected = await Route(upstream, hostname).connect()
    connected.transport.close()
    return connected


def _certificate(connected: Connected) -> str:
    certificate = connected.certificate
    names = [value for _, value in certificate.get("subjectAltName", ())]  # type: ignore[attr-defined]  # ssl's own shape
    return f"for {', '.join(names)}, valid until {certificate.get('notAfter')}"


def _green(what: str, said: str) -> bool:
    click.echo(f"green  {what}: {said}")
    return True


def _red(what: str, said: str) -> bool:
    click.echo(f"red    {what}: {said}")
    return False


if __name__ == "__main__":
    main(prog_name="python -m core")

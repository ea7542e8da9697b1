"""`python -m core check`, `migrate` and `backup`."""

import sys
from pathlib import Path

import click

from core.commands import REFUSED, Commands, troubles_as_exit_status
from core.config import Config, masked_url, read_config
from core.database.backup import back_up
from core.database.engine import Database, DatabaseUnavailable, newest_revision
from core.diagnostics import Examined, look_at_salesforce, look_at_upstream
from core.endpoints import SalesforceApp
from core.findings import Finding, Light
from core.health import look_at_installation, look_at_machine
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.in_force import policy_settings


@click.group(cls=Commands, help="Look after the installation.")
def main() -> None: ...


@main.command(help="Bring the database up to date.")
def migrate() -> None:
    with troubles_as_exit_status():
        database = Database.of(read_config())
        try:
            database.migrate()
            click.echo(f"The database is at revision {database.revision()}.")
        finally:
            database.close()


@main.command(help="Copy the SQLite database to PATH while everything runs; for PostgreSQL, say how.")
@click.argument("path", type=click.Path(path_type=Path))
def backup(path: Path) -> None:
    with troubles_as_exit_status():
        config = read_config()
        database = Database.of(config)
        try:
            size = back_up(database, config.database_url, path)
        finally:
            database.close()
        click.echo(
            f"{path}: {size} bytes. Journals and BLINDCOPY_SECRET_KEY are not in it: keep the key apart "
            f"from it, and safe."
        )


@main.command(help="Say which configuration is in force, and look at upstream, database and Salesforce.")
def check() -> None:
    with troubles_as_exit_status():
        config = read_config(needs=("BLINDCOPY_UPSTREAM", "BLINDCOPY_SECRET_KEY"))
        _say_configuration(config)
        database = Database.of(config)
        try:
            stored = _look_at_database(database)
            results = [
                _print_finding(finding)
                for finding in (*stored, *look_at_machine(config), *look_at_upstream(config))
            ]
            if stored[0].light is Light.GREEN:
                results += _check_salesforce(config, database)
        finally:
            database.close()
    sys.exit(0 if all(results) else REFUSED)


def _look_at_database(database: Database) -> list[Finding]:
    """A look changes nothing: a schema that is old is said, and brought up to date by `migrate` or by any
    process."""
    try:
        revision = database.revision()
    except DatabaseUnavailable as error:
        return [Finding(Light.RED, "database", "%(said)s", {"said": str(error)})]
    if revision < newest_revision() or revision == "none":
        return [
            Finding(
                Light.RED,
                "database",
                "its schema is at revision %(found)s, not %(wanted)s",
                {"found": revision, "wanted": newest_revision()},
                remedy="run `python -m core migrate`",
            )
        ]
    return look_at_installation(database, may_not_run_yet=True)


def _check_salesforce(config: Config, database: Database) -> list[bool]:
    if config.salesforce is None:
        return []
    with database.reading() as session:
        reserve = policy_settings(settings_store.policy(session)).api_reserve
    persons = _persons(database)
    if not persons:
        return [_print_finding(Finding(Light.YELLOW, "connection", "nobody is connected to Salesforce yet"))]
    found = Connections(database, config.salesforce)
    return [
        _print_finding(finding)
        for person in persons
        for finding in look_at_salesforce(found, person, reserve)
    ]


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
        "BLINDCOPY_WORKER_MONITOR": config.worker_monitor or "off",
        "BLINDCOPY_JOURNAL_MB": config.journal_bytes >> 20,
        "BLINDCOPY_WEB_HOST": config.web_host,
        "PORT": config.web_port,
        "BLINDCOPY_PUBLIC_URL": config.public_url,
        **_salesforce_lines(config.salesforce),
    }
    for name, value in lines.items():
        click.echo(f"{name}  {value}")


def _salesforce_lines(app: SalesforceApp | None) -> dict[str, object]:
    prefix = "BLINDCOPY_SALESFORCE"
    if app is None:
        return {f"{prefix}_CLIENT_ID": "none: nothing is asked of Salesforce"}
    return {
        f"{prefix}_CLIENT_ID": app.client_id,
        f"{prefix}_CLIENT_SECRET": "set, not shown" if app.client_secret else "none",
        f"{prefix}_LOGIN_URL": app.login_url,
        f"{prefix}_CA_FILE": app.ca_file or "the system's",
        f"{prefix}_JWT_KEY_FILE": app.jwt_key_file or "none",
    }


def _print_finding(finding: Finding) -> bool:
    """One line; whether it is not red."""
    click.echo(f"{finding.light:<6} {finding.what}: {finding.advice}")
    return finding.light is not Light.RED


def _persons(database: Database) -> list[Examined]:
    """Everybody who is connected, or was."""
    with database.reading() as session:
        return [
            Examined(account.email, connection, tuple(people_store.addresses(session, account.id)))
            for account, connection in connection_store.connections(session)
        ]


if __name__ == "__main__":
    main(prog_name="python -m core")

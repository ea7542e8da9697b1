"""`user …` and `address …`"""

import sys

import click

from admin.commands.printing import as_json, connections, database, json_line
from admin.passwords import hashed
from core.people import store as people_store
from core.secrets import new_password

_password_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of stdin."
)


@click.group(help="People and their passwords.")
def user() -> None: ...


@user.command("add", help="Add a person. Without a password one is made and printed, alone, once.")
@click.argument("email")
@click.option("--name", default="", help="The person's name.")
@click.option("--admin", "is_admin", is_flag=True, help="May change everything.")
@_password_stdin
def add(email: str, name: str, is_admin: bool, password_stdin: bool) -> None:
    with database() as opened:
        password = _read_password() if password_stdin else new_password()
        with opened.writing() as session:
            people_store.add_person(
                session, email, name=name, is_admin=is_admin, password_hash=hashed(password), actor=None
            )
    if not password_stdin:
        click.echo(password)


@user.command("list", help="Everybody.")
@as_json
def list_(as_json: bool) -> None:
    with database() as opened, opened.reading() as session:
        accounts = people_store.all_persons(session)
    for account in accounts:
        if as_json:
            json_line(
                {
                    "email": account.email,
                    "name": account.name,
                    "admin": account.is_admin,
                    "active": account.is_active,
                    "created": account.created_at,
                }
            )
        else:
            marks = ["admin"] * account.is_admin + ["disabled"] * (not account.is_active)
            click.echo("  ".join([account.email, account.name, *marks]).rstrip())


@user.command("password", help="Set a page password, read from stdin.")
@click.argument("email")
@click.option("--password-stdin", is_flag=True, required=True)
def password(email: str, password_stdin: bool) -> None:
    with database() as opened:
        password_hash = hashed(_read_password())
        with opened.writing() as session:
            people_store.set_password_hash(session, email, password_hash, actor=None)


@user.command("disable", help="Bar a person from pages and relay.")
@click.argument("email")
def disable(email: str) -> None:
    with database() as opened, opened.writing() as session:
        people_store.set_active(session, email, active=False, actor=None)


@user.command("enable", help="Admit a person again.")
@click.argument("email")
def enable(email: str) -> None:
    with database() as opened, opened.writing() as session:
        people_store.set_active(session, email, active=True, actor=None)


@user.command("app-password", help="Make a password for a mail client and print it, alone, once.")
@click.argument("email")
@click.option("--label", default="", help="Which client it is for.")
def app_password(email: str, label: str) -> None:
    with database() as opened, opened.writing() as session:
        _, made = people_store.add_app_password(session, email, label=label, actor=None)
    click.echo(made)


@user.command("app-passwords", help="List app passwords, or revoke one.")
@click.argument("email")
@click.option(
    "--revoke", type=click.IntRange(1, 2**31 - 1), metavar="ID", help="The one that is to work no longer."
)
@as_json
def app_passwords(email: str, revoke: int | None, as_json: bool) -> None:
    with database() as opened, opened.writing() as session:
        account = people_store.person_by_email(session, email)
        if revoke is not None:
            people_store.revoke_app_password(session, email, revoke, actor=None)
            return
        entries = people_store.app_passwords(session, account.id)
    for entry in entries:
        if as_json:
            json_line(
                {
                    "id": entry.id,
                    "label": entry.label,
                    "created": entry.created_at,
                    "last_used": entry.last_used_at,
                }
            )
        else:
            used = entry.last_used_at.isoformat(" ", "seconds") if entry.last_used_at else "never used"
            click.echo(f"{entry.id}  {entry.label or '-'}  {used}")


@user.command("connect", help="Connect to Salesforce with a refresh token, or by the team's key.")
@click.argument("email")
@click.option("--instance-url", metavar="URL", help="The org, as in https://acme.my.salesforce.com.")
@click.option(
    "--salesforce-user", metavar="ID", help="The id of the Salesforce user, which the token must be of."
)
@click.option("--refresh-token-stdin", is_flag=True, help="Read the token from the first line of stdin.")
@click.option(
    "--salesforce-username", metavar="NAME", help="Instead of these: the user whom the team's key speaks for."
)
def connect(
    email: str,
    instance_url: str | None,
    salesforce_user: str | None,
    refresh_token_stdin: bool,
    salesforce_username: str | None,
) -> None:
    by_token = bool(instance_url and salesforce_user and refresh_token_stdin)
    if by_token == bool(salesforce_username):
        raise click.UsageError(
            "Name --instance-url, --salesforce-user and --refresh-token-stdin together, or "
            "--salesforce-username"
        )
    with connections() as found:
        with found.database.reading() as session:
            account = people_store.person_by_email(session, email)
        if salesforce_username:
            who = found.by_key(account, salesforce_username, actor=None)
        else:
            who = found.by_refresh_token(
                account,
                _read_password().strip(),
                instance_url=str(instance_url),
                user_id=str(salesforce_user),
                actor=None,
            )
    click.echo(f"{account.email} is connected as {who.username}.")


@user.command("disconnect", help="End the connection to Salesforce; nothing is deleted.")
@click.argument("email")
def disconnect(email: str) -> None:
    with connections() as found:
        with found.database.reading() as session:
            account = people_store.person_by_email(session, email)
        if not found.disconnect(account, actor=None):
            click.echo("Salesforce could not be told; end the session there as well.", err=True)


@click.group(help="The addresses that a person sends from.")
def address() -> None: ...


@address.command("add", help="Add an acceptable address of this person.")
@click.argument("email")
@click.argument("address")
def add_address(email: str, address: str) -> None:
    with database() as opened, opened.writing() as session:
        people_store.add_address(session, email, address, actor=None)


@address.command("remove", help="Mail from this address is this person's no longer.")
@click.argument("email")
@click.argument("address")
def remove_address(email: str, address: str) -> None:
    with database() as opened, opened.writing() as session:
        people_store.remove_address(session, email, address, actor=None)


@address.command("list", help="One a line.")
@click.argument("email")
def list_addresses(email: str) -> None:
    with database() as opened, opened.reading() as session:
        for one in people_store.addresses(session, people_store.person_by_email(session, email).id):
            click.echo(one)


def _read_password() -> str:
    return sys.stdin.readline().rstrip("\r\n")

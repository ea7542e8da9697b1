"""`preference …` and `policy …`"""

from collections.abc import Callable, Mapping

import click

from admin.commands.printing import as_json, database, json_line
from core.people.store import person_by_email
from core.settings import store as settings_store
from core.settings.catalogue import Setting, UnknownSetting, policy_name, preference_name
from core.settings.in_force import InForce, in_force, policy_in_force


def _preference_name(context: click.Context, parameter: click.Parameter, text: str | None) -> Setting | None:
    return None if text is None else _known(preference_name, text)


def _policy_name(context: click.Context, parameter: click.Parameter, text: str | None) -> Setting | None:
    return None if text is None else _known(policy_name, text)


def _known(lookup: Callable[[str], Setting], text: str) -> Setting:
    try:
        return lookup(text)
    except UnknownSetting as error:
        raise click.BadParameter(str(error)) from error


@click.group(help="What one person chose.")
@click.argument("email")
@click.pass_context
def preference(context: click.Context, email: str) -> None:
    context.obj = email


@preference.command("show", help="What applies to this person, and who said so.")
@click.argument("name", required=False, callback=_preference_name)
@as_json
@click.pass_obj
def show_preference(email: str, name: Setting | None, as_json: bool) -> None:
    with database() as opened, opened.reading() as session:
        account = person_by_email(session, email)
        settings = in_force(settings_store.policy(session), settings_store.preference(session, account.id))
        _show(settings, name, as_json=as_json)


@preference.command("set", help="Choose.")
@click.argument("name", callback=_preference_name)
@click.argument("value")
@as_json
@click.pass_obj
def set_preference(email: str, name: Setting, value: str, as_json: bool) -> None:
    with database() as opened, opened.writing() as session:
        account = person_by_email(session, email)
        settings_store.set_preference(session, account, name, value, actor=None)
        if as_json:
            _show(
                in_force(settings_store.policy(session), settings_store.preference(session, account.id)),
                name,
                as_json=True,
            )


@click.group(help="The organisation's defaults, and whether persons may differ.")
def policy() -> None: ...


@policy.command("show", help="What applies to everybody.")
@click.argument("name", required=False, callback=_policy_name)
@as_json
def show_policy(name: Setting | None, as_json: bool) -> None:
    with database() as opened, opened.reading() as session:
        _show(policy_in_force(settings_store.policy(session)), name, as_json=as_json)


@policy.command("set", help="Set the organisation's value.")
@click.argument("name", callback=_policy_name)
@click.argument("value")
@as_json
def set_policy(name: Setting, value: str, as_json: bool) -> None:
    with database() as opened, opened.writing() as session:
        settings_store.set_policy(session, name, value, actor=None)
        if as_json:
            _show(policy_in_force(settings_store.policy(session)), name, as_json=True)


@policy.command("lock", help="Persons may not differ.")
@click.argument("name", callback=_policy_name)
@as_json
def lock(name: Setting, as_json: bool) -> None:
    _lock(name, locked=True, as_json=as_json)


@policy.command("unlock", help="Persons may differ.")
@click.argument("name", callback=_policy_name)
@as_json
def unlock(name: Setting, as_json: bool) -> None:
    _lock(name, locked=False, as_json=as_json)


def _lock(name: Setting, *, locked: bool, as_json: bool) -> None:
    with database() as opened, opened.writing() as session:
        settings_store.lock_policy(session, name, locked=locked, actor=None)
        if as_json:
            _show(policy_in_force(settings_store.policy(session)), name, as_json=True)


def _show(settings: Mapping[Setting, InForce], name: Setting | None, *, as_json: bool) -> None:
    """All of them, or the one that is asked for."""
    for setting in settings.values():
        if name is not None and setting.name is not name:
            continue
        if as_json:
            json_line(
                {
                    "name": setting.name,
                    "value": setting.value,
                    "source": setting.source,
                    "locked": setting.locked,
                }
            )
        else:
            click.echo(f"{setting.name} {setting.value}".rstrip())

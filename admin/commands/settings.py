"""`preference …` and `policy …`"""

from collections.abc import Callable, Iterable

import click

from admin.commands.printing import as_json, database, json_line
from core import settings as rules
from core.settings import InForce, Name, UnknownSetting
from core.storage import settings
from core.storage.people import person_by_email


def _preference_name(context: click.Context, parameter: click.Parameter, text: str) -> Name:
    return _known(rules.preference_name, text)


def _policy_name(context: click.Context, parameter: click.Parameter, text: str) -> Name:
    return _known(rules.policy_name, text)


def _known(lookup: Callable[[str], Name], text: str) -> Name:
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
@as_json
@click.pass_obj
def show_preference(email: str, as_json: bool) -> None:
    with database() as opened, opened.reading() as session:
        account = person_by_email(session, email)
        _show(
            rules.in_force(settings.policy(session), settings.preference(session, account.id)),
            as_json=as_json,
        )


@preference.command("set", help="Choose.")
@click.argument("name", callback=_preference_name)
@click.argument("value")
@as_json
@click.pass_obj
def set_preference(email: str, name: Name, value: str, as_json: bool) -> None:
    with database() as opened, opened.writing() as session:
        account = person_by_email(session, email)
        settings.set_preference(session, account, name, value, actor=None)
        if as_json:
            chosen = rules.in_force(settings.policy(session), settings.preference(session, account.id))
            _show([setting for setting in chosen if setting.name is name], as_json=True)


@click.group(help="The organisation's defaults, and whether persons may differ.")
def policy() -> None: ...


@policy.command("show", help="What applies to everybody.")
@as_json
def show_policy(as_json: bool) -> None:
    with database() as opened, opened.reading() as session:
        _show(rules.policy_in_force(settings.policy(session)), as_json=as_json)


@policy.command("set", help="Set the organisation's value.")
@click.argument("name", callback=_policy_name)
@click.argument("value")
@as_json
def set_policy(name: Name, value: str, as_json: bool) -> None:
    with database() as opened, opened.writing() as session:
        settings.set_policy(session, name, value, actor=None)
        if as_json:
            _show(
                [one for one in rules.policy_in_force(settings.policy(session)) if one.name is name],
                as_json=True,
            )


@policy.command("lock", help="Persons may not differ.")
@click.argument("name", callback=_policy_name)
def lock(name: Name) -> None:
    with database() as opened, opened.writing() as session:
        settings.lock_policy(session, name, locked=True, actor=None)


@policy.command("unlock", help="Persons may differ.")
@click.argument("name", callback=_policy_name)
def unlock(name: Name) -> None:
    with database() as opened, opened.writing() as session:
        settings.lock_policy(session, name, locked=False, actor=None)


def _show(chosen: Iterable[InForce], *, as_json: bool) -> None:
    for setting in chosen:
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

"""The operator's commands: the same rules and the same storage as the pages. A command's changes are noted as
made by nobody in particular."""

import click

from admin.commands.activity import activity, senders
from admin.commands.people import address, user
from admin.commands.settings import policy, preference
from admin.commands.tasks import task
from core.commands import Commands


@click.group(cls=Commands, help="Look after people, settings and the record of mails.")
def main() -> None: ...


for _command in (user, address, preference, policy, activity, senders, task):
    main.add_command(_command)

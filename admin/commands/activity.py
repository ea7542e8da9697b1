"""`activity …` and `senders`"""

import click

from admin.commands.printing import as_json, database, json_line, rfc3339
from core.commands import troubles_as_exit_status
from core.mail import Row, State
from core.refusal import Refusal
from core.storage import logbook
from core.storage.logbook import Entry, Filter
from core.storage.people import person_by_email


class NothingToLogBy(Refusal):
    """There is no way left by which this mail could be logged."""


@click.group(invoke_without_command=True, help="What happened to each mail, newest first.")
@click.option("--person", metavar="EMAIL", help="Only this person's.")
@click.option(
    "--state", type=click.Choice([state.value for state in State]), help="Only those in this state."
)
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@as_json
@click.pass_context
def activity(
    context: click.Context, person: str | None, state: str | None, limit: int, as_json: bool
) -> None:
    if context.invoked_subcommand is not None:
        return
    with database() as opened, opened.reading() as session:
        person_id = person_by_email(session, person).id if person is not None else None
        which = Filter(person_id=person_id, state=State(state) if state is not None else None)
        entries = logbook.entries(session, which, limit)
    for entry in entries:
        if as_json:
            json_line(_fields(entry))
        else:
            click.echo(_line(entry.row, entry.person))


@activity.command("dismiss", help="Nothing is to be done about this mail.")
@click.argument("mail_id", metavar="ID")
def dismiss(mail_id: str) -> None:
    with database() as opened, opened.writing() as session:
        logbook.dismiss(session, mail_id)


@activity.command("log-again", help="Try once more to log this mail.")
@click.argument("mail_id", metavar="ID")
def log_again(mail_id: str) -> None:
    with database() as opened, opened.reading() as session:
        entry = logbook.entry(session, mail_id)
    with troubles_as_exit_status():
        raise NothingToLogBy(
            "This mail is “%(state)s” and its text was not kept, so it cannot be logged again; send it once more",
            state=entry.row.state,
        )


@click.command(help="Senders that nobody knows, those with most mails first.")
@as_json
def senders(as_json: bool) -> None:
    with database() as opened, opened.reading() as session:
        unknown = logbook.unknown_senders(session)
    for sender in unknown:
        if as_json:
            json_line(
                {
                    "sender": sender.address,
                    "count": sender.mails,
                    "first": sender.first_seen,
                    "last": sender.last_seen,
                }
            )
        else:
            click.echo(f"{sender.mails}  {sender.address}  {rfc3339(sender.last_seen)}")


def _fields(entry: Entry) -> dict[str, object]:
    """A line of `activity --json`; what a mail of this kind does not have is null."""
    row = entry.row
    return {
        "id": row.id,
        "time": row.time,
        "sender": row.sender,
        "person": entry.person,
        "recipients": None if row.recipients is None else list(row.recipients),
        "subject": row.subject,
        "message_id": row.message_id,
        "mode": row.mode,
        "decision": row.decision,
        "reason": row.reason,
        "upstream": row.upstream,
        "bcc": row.bcc,
        "bcc_reply": row.bcc_reply,
        "state": row.state,
        "records": [],
        "attempts": 0,
    }


def _line(row: Row, person: str) -> str:
    return f"{row.id}  {rfc3339(row.time)}  {row.state}  {row.reason}  {person}  {row.recipient_count} rcpt  {row.upstream or '-'}"

"""`activity …` and `senders`"""

import click

from admin.commands.printing import as_json, database, json_line, rfc3339
from core.mail import Row, State
from core.mail_log import MailLog
from core.storage import logbook, work
from core.storage.logbook import Entry, Filter
from core.storage.people import person_by_email


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
        logs = work.logs_of(session, [entry.row.id for entry in entries])
    for entry in entries:
        if as_json:
            json_line(_fields(entry, logs.get(entry.row.id, MailLog())))
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
    with database() as opened, opened.writing() as session:
        work.log_again(session, mail_id)


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


def _fields(entry: Entry, log: MailLog) -> dict[str, object]:
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
        "records": [{"type": one.kind, "id": one.id, "on": list(one.on)} for one in log.written],
        "attempts": entry.attempts,
    }


def _line(row: Row, person: str) -> str:
    return f"{row.id}  {rfc3339(row.time)}  {row.state}  {row.reason}  {person}  {row.recipient_count} rcpt  {row.upstream or '-'}"

"""`activity …` and `senders`"""

from collections.abc import Callable

import click

from admin.commands.printing import as_json, database, json_line, rfc3339
from core.config import read_config
from core.database.engine import Session
from core.journal.loading import load_left_behind
from core.mail import queue as mail_queue
from core.mail import requests as mail_requests
from core.mail import store as mail_store
from core.mail.progress import MailLog
from core.mail.row import Row, State
from core.mail.store import Entry, Filter
from core.people.store import person_by_email


@click.group(invoke_without_command=True, help="What happened to each mail, newest first.")
@click.option("--person", metavar="EMAIL", help="Only this person's.")
@click.option(
    "--state", type=click.Choice([state.value for state in State]), help="Only those in this state."
)
@click.option("--by-others", is_flag=True, help="Only what another tool has logged as well.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@as_json
@click.pass_context
def activity(
    context: click.Context, person: str | None, state: str | None, by_others: bool, limit: int, as_json: bool
) -> None:
    if context.invoked_subcommand is not None:
        return
    with database() as opened:
        load_left_behind(opened, read_config())
        with opened.reading() as session:
            person_id = person_by_email(session, person).id if person is not None else None
            which = Filter(person_id, State(state) if state is not None else None, by_others=by_others)
            entries = mail_store.entries(session, which, limit)
            logs = mail_queue.logs_of(session, [entry.row.id for entry in entries])
    for entry in entries:
        if as_json:
            json_line(_fields(entry, logs.get(entry.row.id, MailLog())))
        else:
            click.echo(_line(entry.row, entry.person))


_all_of = click.option(
    "--all-of", metavar="CODE", help="All failed mails of this kind of trouble instead of one."
)
_of_person = click.option("--of", "email", metavar="EMAIL", help="Only this person's, with --all-of.")


@activity.command("dismiss", help="Nothing is to be done about this mail.")
@click.argument("mail_id", metavar="ID", required=False)
@_all_of
@_of_person
def dismiss(mail_id: str | None, all_of: str | None, email: str | None) -> None:
    _change_mails(mail_id, all_of, email, mail_store.dismiss)


@activity.command("log-again", help="Try once more to log this mail.")
@click.argument("mail_id", metavar="ID", required=False)
@_all_of
@_of_person
def log_again(mail_id: str | None, all_of: str | None, email: str | None) -> None:
    _change_mails(mail_id, all_of, email, mail_requests.log_again)


def _change_mails(
    mail_id: str | None, code: str | None, email: str | None, what: Callable[[Session, str], None]
) -> None:
    """Change one mail, or all with one kind of trouble; prints how many."""
    if (mail_id is None) == (code is None):
        raise click.UsageError("Name either an ID or --all-of CODE")
    with database() as opened:
        if mail_id is not None:
            with opened.writing() as session:
                what(session, mail_id)
            return
        with opened.reading() as session:
            person_id = person_by_email(session, email).id if email is not None else None
            ids = mail_requests.ids_in_trouble(session, person_id, str(code))
        click.echo(str(mail_requests.each(opened, ids, what)))


@click.command(help="Unknown senders, those with most mails first.")
@as_json
def senders(as_json: bool) -> None:
    with database() as opened:
        load_left_behind(opened, read_config())
        with opened.reading() as session:
            unknown = mail_store.unknown_senders(session)
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
        "detail": row.detail,
        "upstream": row.upstream,
        "bcc": row.bcc,
        "bcc_reply": row.bcc_reply,
        "state": row.state,
        "records": [{"type": one.kind, "id": one.id, "on": list(one.on)} for one in log.written],
        "same_as": row.same_as,
        "attempts": entry.attempts,
    }


def _line(row: Row, person: str) -> str:
    return (
        f"{row.id}  {rfc3339(row.time)}  {row.state}  {row.reason}  {person}  {row.recipient_count} "
        f"rcpt  {row.upstream or '-'}"
    )

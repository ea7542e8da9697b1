"""`task …`"""

from collections.abc import Callable
from datetime import UTC, datetime

import click

from admin.commands.printing import as_json, database, json_line
from core.database.engine import Session
from core.people.store import person_by_email
from core.salesforce import connection_store
from core.settings import store as settings_store
from core.settings.in_force import time_zone
from core.tasks import picklists
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field
from core.tasks.lists import Which, listed
from core.tasks.store import Task
from core.tasks.task import Choices, Values, checked_comments, checked_due, checked_priority, checked_subject


@click.group(help="A person's tasks.")
def task() -> None: ...


@task.command("list", help="Open and due today or tomorrow, by the person's clock.")
@click.argument("email")
@click.option("--all", "is_all", is_flag=True, help="Everything outside the bin.")
@click.option("--bin", "is_bin", is_flag=True, help="What was deleted within 15 days.")
@as_json
def list_tasks(email: str, is_all: bool, is_bin: bool, as_json: bool) -> None:
    if is_all and is_bin:
        raise click.UsageError("Choose --all or --bin")
    which = Which.ALL if is_all else Which.BIN if is_bin else Which.NOW
    with database() as opened, opened.reading() as session:
        person_id = person_by_email(session, email).id
        found = listed(session, person_id, which, _now(session, person_id), _choices(session, person_id))
    for one in found:
        if as_json:
            json_line(_fields(one))
        else:
            click.echo(_line(one))


@task.command("add", help="A new task; prints its id, alone.")
@click.argument("email")
@click.argument("subject")
@click.option("--due", default="", metavar="DATE", help="Like 2026-12-31.")
@click.option("--priority", default="", metavar="P")
@click.option("--comments", default="", metavar="TEXT")
def add(email: str, subject: str, due: str, priority: str, comments: str) -> None:
    with database() as opened, opened.writing() as session:
        person_id = person_by_email(session, email).id
        choices = _choices(session, person_id)
        values = Values(
            checked_subject(subject),
            checked_due(due),
            choices.open_status(),
            checked_priority(priority, choices),
            checked_comments(comments),
        )
        is_wanted = settings_store.syncs_tasks_of(session, person_id)
        made = task_store.add(session, person_id, values, is_wanted=is_wanted)
    click.echo(str(made))


@task.command("edit", help="Change what is named; an empty value clears.")
@click.argument("email")
@click.argument("task_id", metavar="ID")
@click.option("--subject")
@click.option("--due", metavar="DATE")
@click.option("--priority", metavar="P")
@click.option("--comments", metavar="TEXT")
def edit(
    email: str, task_id: str, subject: str | None, due: str | None, priority: str | None, comments: str | None
) -> None:
    def change(session: Session, person_id: int, number: int) -> None:
        choices = _choices(session, person_id)
        current = task_store.task(session, person_id, number).values.priority
        changes: dict[Field, object] = {}
        if subject is not None:
            changes[Field.SUBJECT] = checked_subject(subject)
        if due is not None:
            changes[Field.DUE] = checked_due(due)
        if priority is not None:
            changes[Field.PRIORITY] = checked_priority(priority, choices, current)
        if comments is not None:
            changes[Field.COMMENTS] = checked_comments(comments)
        task_store.edit(session, person_id, number, changes)

    _change_task(email, task_id, change)


@task.command("complete", help="It is done.")
@click.argument("email")
@click.argument("task_id", metavar="ID")
def complete(email: str, task_id: str) -> None:
    _change_task(
        email,
        task_id,
        lambda session, person_id, number: task_store.complete(
            session, person_id, number, _choices(session, person_id)
        ),
    )


@task.command("reopen", help="It is not done after all.")
@click.argument("email")
@click.argument("task_id", metavar="ID")
def reopen(email: str, task_id: str) -> None:
    _change_task(
        email,
        task_id,
        lambda session, person_id, number: task_store.reopen(
            session, person_id, number, _choices(session, person_id)
        ),
    )


@task.command("delete", help="Into the bin, for 15 days; in Salesforce too.")
@click.argument("email")
@click.argument("task_id", metavar="ID")
def delete(email: str, task_id: str) -> None:
    _change_task(email, task_id, task_store.remove)


@task.command("restore", help="Out of the bin; as a new task where Salesforce has it no more.")
@click.argument("email")
@click.argument("task_id", metavar="ID")
def restore(email: str, task_id: str) -> None:
    def back(session: Session, person_id: int, number: int) -> None:
        task_store.restore(
            session, person_id, number, is_wanted=settings_store.syncs_tasks_of(session, person_id)
        )

    _change_task(email, task_id, back)


@task.command("send", help="Have it in Salesforce too; where that failed, once more.")
@click.argument("email")
@click.argument("task_id", metavar="ID")
def send(email: str, task_id: str) -> None:
    def sent(session: Session, person_id: int, number: int) -> None:
        task_store.send(
            session, person_id, number, is_syncing=settings_store.syncs_tasks_of(session, person_id)
        )

    _change_task(email, task_id, sent)


@task.command("confirm", help="Accept a plan, or end a Halt.")
@click.argument("email")
def confirm(email: str) -> None:
    with database() as opened, opened.writing() as session:
        task_queue.confirm(session, person_by_email(session, email).id)


def _change_task(email: str, task_id: str, what: Callable[[Session, int, int], None]) -> None:
    if not (task_id.isascii() and task_id.isdecimal()):
        raise click.BadParameter(f"{task_id!r} is not the id of a task; it is a number")
    with database() as opened, opened.writing() as session:
        person_id = person_by_email(session, email).id
        what(session, person_id, int(task_id) if len(task_id) < 10 else 0)  # no database counts so far


def _choices(session: Session, person_id: int) -> Choices:
    sync = task_queue.task_sync(session, person_id)
    return picklists.choices(session, None if sync is None else sync.organisation_id)


def _now(session: Session, person_id: int) -> datetime:
    zone = time_zone(
        settings_store.policy(session),
        settings_store.preference(session, person_id),
        connection_store.time_zone_in_salesforce(session, person_id),
    )
    return datetime.now(UTC).astimezone(zone)


def _fields(one: Task) -> dict[str, object]:
    """A line of `task list --json`."""
    values = one.values
    return {
        "id": one.id,
        "salesforce_id": one.salesforce_id,
        "subject": values.subject,
        "due": None if values.due is None else values.due.isoformat(),
        "status": values.status.name,
        "open": values.status.is_open,
        "priority": values.priority,
        "comments": values.comments,
        "state": one.state,
    }


def _line(one: Task) -> str:
    values = one.values
    due = "-" if values.due is None else values.due.isoformat()
    subject = "".join(
        letter if letter.isprintable() else " " for letter in values.subject
    )  # a terminal obeys what is not
    return f"{one.id}  {due}  {values.priority}  {values.status.name}  {one.state}  {subject}"

"""Rows of the record."""

from dataclasses import replace
from datetime import UTC, datetime

from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Decision, Row, State
from core.mail.store import Filter
from core.people import store as people_store
from relay.record import new_mail_id

NOW = datetime(2026, 11, 21, 9, 30, 0, 123000, tzinfo=UTC)


def add(database, email="anna@acme.test", *, admin=False):
    with database.writing() as session:
        return people_store.add_person(
            session, email, name="A", is_admin=admin, password_hash="h", actor="boss@acme.test"
        )


def row(person, **fields):
    usual = Row(
        id=new_mail_id(), time=NOW, process="p1", person=person, sender="anna@acme.test", recipient_count=1,
        recipients=("bob@client.test",), subject="Grüße 📨", message_id="<1@x>", mode="bcc", decision=Decision.COPY,
        reason=Reason.COPY, state=State.PENDING,
    )  # fmt: skip
    return replace(usual, **fields)


def write(database, *rows):
    with database.writing() as session:
        write_rows(session, rows)


def rows(database, which=Filter(), limit=100):  # noqa: B008
    with database.reading() as session:
        return [entry.row for entry in mail_store.entries(session, which, limit)]

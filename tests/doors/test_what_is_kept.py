"""What each reason leaves of a mail: in the row of the relay, in its journal, and in the database."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from core.database import sealed
from core.database.models import MailTextRow
from core.journal.entries import Begun, Ended, to_bytes
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.people.person import Person
from core.settings.catalogue import Logging
from core.settings.in_force import PersonSettings
from relay.decide import Plan
from relay.masking import kept_in_record
from relay.message import Message
from relay.record import MailRecord
from relay.replies import Reply
from tests.doors.conftest import add_anna
from tests.doors.journal_bench import left_behind, load_orphans

COPY_ADDRESS = "emailtosalesforce@x.le.salesforce.com"
ANNA = Person(
    1, "anna@acme.test", frozenset({"anna@acme.test"}), (), PersonSettings(Logging.API, COPY_ADDRESS)
)
CONTENT = ("bob@client.test", "Our secret offer", "secret-id@acme.test", "the secret words", "secret answer")


def record_of(reason):
    """A mail that a decision for this reason would have kept as much of as can be."""
    record = MailRecord("a relay", ANNA, recipient_count=1, receipt_after=timedelta(minutes=5))
    record.message = Message(author="anna@acme.test", message_id="<secret-id@acme.test>")
    record.plan = Plan(Decision.API, reason)
    record.recipients = ("bob@client.test",)
    record.subject = "Our secret offer"
    record.text = b"Subject: Our secret offer\r\n\r\nthe secret words\r\n"
    return record


def everything_in(database):
    """All that stands in any column of any table, and what stands in the texts."""
    with database.reading() as session:
        found = []
        for table in ("mail", "mail_log", "mail_text", "unknown_sender", "journal"):
            found += [str(dict(row._mapping)) for row in session.execute(text(f"SELECT * FROM {table}"))]  # noqa: SLF001  SQLAlchemy's documented way
        box = sealed.box(session)
        found += [box.opened(row.content).decode() for row in session.query(MailTextRow)]
    return "\n".join(found)


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_keeps_content_or_nothing_of_it(database, tmp_path, reason):
    add_anna(database)
    record = record_of(reason)
    verdict = kept_in_record(
        Reply(250, (b"2.0.0 secret answer",)), COPY_ADDRESS, keeps_content=reason.keeps_content
    )
    begun = Begun(record.row(ANNA, State.PENDING, with_text=True))
    ended = Ended(record.row(ANNA, State.WAITING, verdict))
    journal = (to_bytes(begun) + to_bytes(ended)).decode("utf-8", "replace")
    left_behind(tmp_path, begun, ended)
    load_orphans(database, tmp_path)
    stored = everything_in(database)
    assert "anna@acme.test" in stored
    for words in CONTENT:
        assert (words in stored) is reason.keeps_content, words
        assert (words in journal) is reason.keeps_content, words


@pytest.mark.parametrize("reason", list(Reason))
def test_no_reason_keeps_the_copys_address(reason):
    answer = Reply(550, (b"5.1.1 <" + COPY_ADDRESS.encode() + b"> unknown",))
    assert COPY_ADDRESS not in (
        kept_in_record(answer, COPY_ADDRESS, keeps_content=reason.keeps_content) or ""
    )
    record = record_of(reason)
    record.copy = Copy.REFUSED
    assert COPY_ADDRESS not in str(record.row(ANNA, State.COPY_REFUSED))

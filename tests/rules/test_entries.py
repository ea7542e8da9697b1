"""What a relay writes in its journal is what is read back."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.journal.entries import (
    Begun,
    Ended,
    LostReply,
    PasswordUsed,
    ReplyHeard,
    UnknownSender,
    Void,
    from_bytes,
    is_begun,
    to_bytes,
)
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, Row, State

NOW = datetime(2026, 11, 26, 9, 30, 0, 123456, tzinfo=UTC)
ROW = Row(
    id="0193-1", time=NOW, process="p", person=7, sender="anna@acme.test", recipient_count=2, recipients=("b@x.test", "ü@x.test"),
    subject="Grüße \ud800 📨\0", message_id="<1@x>", mode="api", decision=Decision.COPY_AND_API, reason=Reason.COPY, state=State.COPIED,
    upstream="250 2.0.0 Ok", bcc=Copy.REFUSED, bcc_reply="550", fingerprint=b"f" * 32, copy_refusal=b"\xff" * 32, due_at=NOW,
    text=b"\x00\xffFrom: x\r\n\r\n{}",
)  # fmt: skip
ENTRIES = [
    Begun(ROW), Ended(replace(ROW, text=None)), Ended(replace(ROW, text=b"", recipients=None, due_at=None, fingerprint=None)),
    Void("0193-2"), LostReply("0193-3", b"\x00" * 32), ReplyHeard("0193-4"), UnknownSender("a@x", "A@x", NOW), PasswordUsed(3, NOW),
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_is_read_back_as_it_was(entry):
    data = to_bytes(entry)
    assert from_bytes(data) == entry
    assert is_begun(data) is isinstance(entry, Begun)


@pytest.mark.parametrize(
    "data", [b"", b"\x01", b"\xff\0\0\0\x02{}", b"\x02\0\0\0\x02{}", b"\x02\0\0\0\x02[]"]
)
def test_nonsense_is_said_to_be(data):
    with pytest.raises(ValueError, match=r".*"):
        from_bytes(data)


def test_what_a_later_release_adds_is_left_alone():
    data = to_bytes(Void("x"))
    head = data[5:].replace(b"}", b',"more":1}')
    assert from_bytes(data[:1] + len(head).to_bytes(4) + head) == Void("x")


@settings(max_examples=30, deadline=None)
@given(st.text(), st.binary(max_size=100), st.datetimes(timezones=st.just(UTC)))
def test_any_text_goes_through(subject, text, time):
    row = replace(ROW, subject=subject, text=text, time=time)
    assert from_bytes(to_bytes(Ended(row))) == Ended(row)

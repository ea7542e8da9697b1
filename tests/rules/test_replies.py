"""Replies: put together from pieces, made fit for clients, told apart by whose fault they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import replies
from relay.replies import Garbage, Reply, ReplyReader

TWO = b"250-first\r\n250 second\r\n354 go\r\n"


@pytest.mark.parametrize("cut", range(len(TWO)))
def test_replies_come_in_any_pieces(cut):
    reader = ReplyReader()
    assert reader.feed(TWO[:cut]) + reader.feed(TWO[cut:]) == [
        Reply(250, (b"first", b"second")),
        Reply(354, (b"go",)),
    ]


@pytest.mark.parametrize(
    "junk",
    [
        b"hello\r\n",
        b"25 x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250_x\r\n",
        b"\r\n\r\nx\r\n",
        b"999 x\r\n",
        b"x" * 40000,
    ],
)
def test_what_is_no_reply_is_garbage(junk):
    with pytest.raises(Garbage):
        ReplyReader().feed(junk)


@given(st.lists(st.binary(max_size=700), min_size=1, max_size=30), st.integers(200, 599))
def test_a_reply_on_the_wire_is_safe_whatever_the_upstream_said(lines, code):
    wire = Reply(code, tuple(lines)).wire()
    assert wire.endswith(b"\r\n")
    sent = wire[:-2].split(b"\r\n")
    assert len(sent) <= 20
    assert all(len(line) <= 510 and all(32 <= byte < 127 for byte in line) for line in sent)
    assert all(line[:4] == b"%d-" % code for line in sent[:-1])
    assert sent[-1][:4] == b"%d " % code


def test_a_text_that_names_the_copy_is_replaced():
    reply = Reply(550, (b"5.1.1 <EmailToSalesforce@x.LE.salesforce.com> unknown",))
    assert reply.names(b"emailtosalesforce@x.le.salesforce.com")
    assert reply.without_text() == Reply(550, (b"5.1.1 Not accepted by the mail provider",))


def test_what_is_kept_of_a_private_mail_has_no_text():
    assert Reply(250, (b"2.0.0 Ok: <bob@c.test> queued",)).bare() == "250 2.0.0"
    assert Reply(550, (b"User bob unknown",)).bare() == "550"


def test_every_reply_of_ours_has_an_enhanced_code_where_rfc_2034_wants_one():
    ours = [value for value in vars(replies).values() if isinstance(value, Reply) and value.kind in {4, 5}]
    assert all(reply.lines[0].startswith(b"%d." % reply.kind) for reply in ours)


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n", b"\n"])
def test_an_empty_line_before_a_reply_is_skipped(before):
    reader = ReplyReader()
    assert reader.feed(before + b"250 Ok\r\n") == [Reply(250, (b"Ok",))]
    assert reader.feed(before) == []
    assert reader.feed(b"354 go\r\n") == [Reply(354, (b"go",))]


def test_an_empty_line_within_a_reply_is_garbage():
    with pytest.raises(Garbage):
        ReplyReader().feed(b"250-first\r\n\r\n250 last\r\n")

"""What a header says."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.message import Message, read_message


def author(value):
    return read_message(b"Subject: x\r\nFrom:" + value + b"\r\n").author


AUTHORS = [
    (b" anna@acme.test", "anna@acme.test"),
    (b" Anna <anna@acme.test>", "anna@acme.test"),
    (b"<anna@acme.test>", "anna@acme.test"),
    (b' "Doe, Anna" <anna@acme.test>', "anna@acme.test"),
    (b' "Anna \\"A\\" Doe" <anna@acme.test>', "anna@acme.test"),
    (b" =?utf-8?q?Anna_D=C3=B6?= <anna@acme.test>", "anna@acme.test"),
    (b" Anna (sales) <anna@acme.test> (again)", "anna@acme.test"),
    (b" anna@acme.test (Anna, Sales)", "anna@acme.test"),
    (b" boss@acme.test <anna@acme.test>", "anna@acme.test"),
    (b' "boss@acme.test" <anna@acme.test>', "anna@acme.test"),
    (b" Anna\r\n <anna@acme.test>", "anna@acme.test"),
    (b" < anna@acme.test >", "anna@acme.test"),
    (b' "a b"@acme.test', None),
    (b" Doe, Anna <anna@acme.test>", "anna@acme.test"),
    (" Änna <änna@acme.test>".encode(), "änna@acme.test"),
    (b" anna@acme.test, carl@acme.test", None),
    (b" Anna <anna@acme.test>, Carl <carl@acme.test>", None),
    (b" Sales: anna@acme.test;", None),
    (b" Anna", None),
    (b"", None),
    (b" <>", None),
    (b" anna@acme.test carl@acme.test", None),
    (b" Anna <anna@acme.test", None),
    (b" Anna <anna@acme.test><carl@acme.test>", None),
    (b" \xff\xfe <\xff@acme.test>", None),
    (b" anna@@acme.test", None),
]


@pytest.mark.parametrize(("value", "expected"), AUTHORS, ids=[repr(value) for value, _ in AUTHORS])
def test_the_author_is_the_one_address_in_from(value, expected):
    assert author(value) == expected


def test_two_from_fields_name_nobody():
    assert read_message(b"From: anna@acme.test\r\nFrom: anna@acme.test\r\n").author is None


KINDS = [
    (b"Auto-Submitted: auto-replied", {"is_automatic": True}),
    (b"AUTO-SUBMITTED: auto-generated; x=y", {"is_automatic": True}),
    (b"Auto-Submitted: no", {}),
    (b"Auto-Submitted: No (really)", {}),
    (b"Precedence: Bulk", {"bulk_field": "Precedence"}),
    (b"Precedence: auto_reply", {"is_automatic": True}),
    (b"X-Autoreply: yes", {"is_automatic": True}),
    (b"X-Autorespond: Re: Our offer", {"is_automatic": True}),
    (b"X-Auto-Response-Suppress: All", {}),
    (b'Content-Type: text/calendar; charset="utf-8"; method=REPLY', {"is_automatic": True}),
    (b'Content-Type: text/calendar;\r\n\tmethod="reply"', {"is_automatic": True}),
    (b"Content-Type: text/calendar; method=REQUEST", {}),
    (b"Precedence: first-class", {}),
    (b"List-Id: <sales.acme.test>", {"bulk_field": "List-Id"}),
    (b"List-Unsubscribe: <mailto:x@y.test>", {"bulk_field": "List-Unsubscribe"}),
    (b"List-Unsubscribe-Post: List-Unsubscribe=One-Click", {}),
    (
        b"Content-Type: multipart/report; report-type=disposition-notification; boundary=x",
        {"is_read_receipt": True},
    ),
    (
        b'Content-Type: multipart/report;\r\n\treport-type="disposition-notification"',
        {"is_read_receipt": True},
    ),
    (b"Content-Type: multipart/report; report-type=delivery-status", {}),
    (b"X-Blindcopy: no", {"is_opted_out": True}),
    (b"x-blindcopy:  NO ", {"is_opted_out": True}),
    (b"X-Blindcopy: yes", {}),
    (b"X-SFDC-LK: 00D", {"is_by_salesforce": True}),
    (b"Received: from a\r\n by b\r\nreceived: c\r\nX-Received: d", {"hops": 2}),
    (b"Message-ID: <a@b>", {"message_id": "<a@b>"}),
    (b"Message-ID:\r\n <a@b>", {"message_id": "<a@b>"}),
]


@pytest.mark.parametrize(("header", "expected"), KINDS, ids=[repr(header) for header, _ in KINDS])
def test_a_header_says_what_kind_of_mail_it_is(header, expected):
    assert read_message(header + b"\r\n") == Message(**expected)


@given(st.binary(max_size=400))
@example(b"From: (((((\\")
@example(b'From: "\\')
@example(b'From: <"')
def test_nothing_makes_it_raise(header):
    assert isinstance(read_message(header), Message)
    assert isinstance(read_message(b"From:" + header), Message)

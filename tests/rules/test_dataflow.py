"""Where a mail ends, over every split; and what must not be in it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.dataflow import HEADER_CAP, DataScanner, HeaderPeek

ODD = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\0", b"a", b"\r\n", b"\r\n.\r\n"]), max_size=24).map(
    b"".join
)


def scan(pieces):
    scanner, out = DataScanner(), []
    for piece in pieces:
        if scanner.done:
            return scanner, b"".join(out), scanner.rest + b"".join(pieces[pieces.index(piece) :])
        out.append(scanner.feed(piece))
    return scanner, b"".join(out), scanner.rest


def reference(stream):
    """The same, naively, on the whole stream."""
    whole = b"\r\n" + stream
    end = whole.find(b"\r\n.\r\n")
    if end < 0:
        return None
    body = whole[: end + 2]
    return body[2:], whole[end + 5 :], bool(re.search(rb"\r(?!\n)|(?<!\r)\n", body)), b"\0" in body


@given(ODD, st.lists(st.integers(1, 4), min_size=1, max_size=60))
def test_any_split_gives_what_the_whole_gives(stream, sizes):
    pieces, position = [], 0
    for size in sizes * (len(stream) // len(sizes) + 1):
        pieces.append(stream[position : position + size])
        position += size
    scanner = DataScanner()
    out, rest = b"", b""
    for piece in pieces:
        if scanner.done:
            rest += piece
        else:
            out += scanner.feed(piece)
            rest = scanner.rest if scanner.done else b""
    expected = reference(stream)
    if expected is None:
        assert not scanner.done
    else:
        assert (out, rest, scanner.has_bare_newline, scanner.has_nul) == expected


SMUGGLING = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n", b"\r\n.\0\r\n",
]  # fmt: skip


@pytest.mark.parametrize("sequence", SMUGGLING, ids=repr)
def test_only_crlf_dot_crlf_ends_a_mail(sequence):
    stream = b"Subject: x\r\n\r\nbody" + sequence + b"MAIL FROM:<evil@x>\r\n.\r\nNOOP\r\n"
    for first in range(len(stream)):
        for second in range(first, len(stream), 7):
            scanner = DataScanner()
            rest = b""
            for piece in (stream[:first], stream[first:second], stream[second:]):
                rest = rest + piece if scanner.done else (scanner.feed(piece), scanner.rest)[1]
            assert scanner.done
            assert not scanner.is_clean
            assert rest == b"NOOP\r\n"


def test_a_bare_cr_and_a_bare_lf_apart_are_no_pair():
    scanner = DataScanner()
    scanner.feed(b"a\rb\nc\r\n.\r\n")
    assert scanner.has_bare_newline


def test_an_odd_byte_is_seen_before_it_is_given_out():
    scanner = DataScanner()
    scanner.feed(b"clean line\r\nbare\n.\nline")
    assert scanner.has_bare_newline


def test_a_dot_at_once_is_an_empty_mail():
    scanner = DataScanner()
    assert (scanner.feed(b".\r\nQUIT\r\n"), scanner.done, scanner.rest) == (b"", True, b"QUIT\r\n")


def test_a_stuffed_dot_stays():
    scanner = DataScanner()
    assert scanner.feed(b"..\r\n.\r\n") == b"..\r\n"


@given(st.binary(max_size=300).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), st.integers(1, 50))
def test_the_header_ends_at_the_empty_line(value, size):
    mail = b"A: " + value + b"\r\nB: c\r\n\r\nbody\r\n\r\nmore"
    peek = HeaderPeek()
    for start in range(0, len(mail), size):
        peek.feed(mail[start : start + size])
    assert (bytes(peek.block), peek.complete) == (b"A: " + value + b"\r\nB: c\r\n", True)


def test_a_mail_may_have_no_header():
    peek = HeaderPeek()
    peek.feed(b"\r\nbody")
    assert (bytes(peek.block), peek.complete) == (b"", True)


def test_an_endless_header_is_read_to_its_cap():
    peek = HeaderPeek()
    peek.feed(b"A: " + b"x" * 2 * HEADER_CAP)
    assert (len(peek.block), peek.complete) == (HEADER_CAP, True)

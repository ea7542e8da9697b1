"""What is kept of a mail's parts, over every split of its bytes."""

import base64
import email
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.mail.kept import (
    FILE_CHUNK,
    MOST_OF_A_TEXT,
    MOST_OF_TEXTS,
    PART_FIELD,
    PARTS_FIELD,
    Left,
    left_out,
)
from relay.parts import Parts
from sync.mail.attached import decoded
from sync.mail.content import read_content
from tests.rules.keeping import keep

TEXT = b"Content-Type: text/plain; charset=utf-8\r\n\r\nHello Bob"
PDF = (
    b"Content-Type: application/pdf; name=offer.pdf\r\nContent-Disposition: attachment; "
    b"filename=offer.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
)


def in_base64(data):
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def mixed(*parts, boundary=b"b", kind=b"mixed"):
    lines = b"".join(b"\r\n--" + boundary + b"\r\n" + part for part in parts)
    return (
        b"Content-Type: multipart/"
        + kind
        + b'; boundary="'
        + boundary
        + b'"\r\n'
        + lines
        + b"\r\n--"
        + boundary
        + b"--\r\n"
    )


def in_pieces(size):
    return lambda body: [body[at : at + size] for at in range(0, len(body), size)]


def mail(*parts, header=b"From: a@b\r\nSubject: x\r\n", **more):
    return header + mixed(*parts, **more)


class TestTexts:
    def test_are_kept_wherever_they_stand(self):
        kept, _ = keep(mail(PDF + in_base64(bytes(1_000_000)), TEXT))
        assert len(kept) < 1_000
        content = read_content(kept)
        assert content.text == "Hello Bob"
        [file] = content.attachments
        assert (file.name, file.left, round(file.size, -3)) == ("offer.pdf", Left.NOT_WANTED, 1_000_000)

    def test_of_a_mail_in_one_part_stay_as_they_came(self):
        raw = b"From: a@b\r\nSubject: x\r\n\r\nHello\r\n.. dots\r\n"
        kept, _ = keep(raw)
        assert kept == f"{PARTS_FIELD}: 1\r\n".encode() + raw

    def test_are_cut_where_there_is_no_room_and_say_so(self):
        long = b"Content-Type: text/plain\r\n\r\n" + b"a" * (MOST_OF_A_TEXT + 10)
        kept, _ = keep(mail(long, long, long))
        assert len(kept) < MOST_OF_TEXTS + 1_000
        assert read_content(kept).is_cut

    def test_of_a_forwarded_mail_are_kept(self):
        inner = b"From: c@d\r\nSubject: Yours\r\nDate: Mon, 3 Nov 2026 10:00:00 +0100\r\n" + mixed(
            b"Content-Type: text/plain\r\n\r\nThe old words", PDF + in_base64(b"x" * 5000), boundary=b"inner"
        )
        kept, _ = keep(
            mail(TEXT, b"Content-Type: message/rfc822\r\nContent-Disposition: attachment\r\n\r\n" + inner)
        )
        content = read_content(kept)
        assert content.text == "Hello Bob"
        assert content.forwarded.startswith(
            "[Attached mail]\nFrom: c@d\nDate: Mon, 3 Nov 2026 10:00:00 +0100\nSubject: Yours"
        )
        assert content.forwarded.endswith("The old words")
        assert [one.name for one in content.attachments] == ["offer.pdf"]

    def test_of_a_mail_that_is_nothing_but_a_forwarded_one(self):
        kept, _ = keep(b"From: a@b\r\nContent-Type: message/rfc822\r\n\r\nFrom: c@d\r\n\r\nThe old words\r\n")
        assert "The old words" in read_content(kept).forwarded

    def test_are_not_taken_for_ours_when_a_client_writes_our_field(self):
        forged = b"Content-Type: application/pdf; name=a.pdf\r\nX-Blindcopy-Part: 5 file 7 1\r\n\r\nxx"
        kept, _ = keep(mail(TEXT, forged, header=b"X-Blindcopy-Parts: 9 more\r\n 3\r\nFrom: a@b\r\n"))
        parsed = email.message_from_bytes(kept)
        assert parsed.get_all(PARTS_FIELD) == ["3"]
        [part] = [one for one in parsed.walk() if one.get(PART_FIELD)]
        assert left_out(part[PART_FIELD]).what is Left.NOT_WANTED

    @pytest.mark.parametrize("boundary", ["b'()+_,-./:=?", "with space", "a" * 70, "=_b1.2"])
    def test_are_told_apart_by_any_boundary(self, boundary):
        kept, _ = keep(mail(PDF + in_base64(bytes(9000)), TEXT, boundary=boundary.encode()))
        assert read_content(kept).text == "Hello Bob"

    def test_are_told_apart_by_a_boundary_in_the_spelling_of_rfc_2231(self):
        raw = mail(PDF + in_base64(bytes(9000)), TEXT, boundary=b"longer-one")
        raw = raw.replace(b'boundary="longer-one"', b"boundary*0=longer;\r\n boundary*1=-one")
        kept, _ = keep(raw)
        assert read_content(kept).text == "Hello Bob"

    def test_of_a_mail_with_the_longest_header_are_kept(self):
        kept, _ = keep(mail(TEXT, header=b"From: a@b\r\n" + b"X-Long: x\r\n" * 30_000))
        assert read_content(kept).text == "Hello Bob"


class TestFiles:
    def files(self, *parts, most=10_000_000, **more):
        kept, files = keep(mail(*parts), files=most, **more)
        return read_content(kept), files

    @pytest.mark.parametrize("size", [0, 1, 57, 5_000, 3 * FILE_CHUNK + 11])
    @pytest.mark.parametrize("step", [100, 4_096, 65_536])
    def test_come_out_in_pieces_and_whole(self, size, step):
        if size > FILE_CHUNK and step == 100:
            step = 1_000
        data = random.Random(size).randbytes(size)
        content, files = self.files(TEXT, PDF + in_base64(data), pieces=in_pieces(step))
        [file] = content.attachments
        assert (file.left, file.file) == (Left.FILE, 0)
        assert all(len(one) == FILE_CHUNK for one in files[0][:-1])
        assert len(files[0]) == file.pieces
        assert b"".join(decoded(files[0], file.encoding)) == data

    @pytest.mark.parametrize(
        ("encoding", "sent", "meant"),
        [
            (b"7bit", b"..a\r\n..\r\nb..\r\n", b".a\r\n.\r\nb..\r\n"),
            (b"quoted-printable", b"caf=C3=A9 =\r\nand\r\n.. x=3D1\r\n", "café and\r\n. x=1\r\n".encode()),
            (b"base64", in_base64(b"caf\xc3\xa9" * 40), b"caf\xc3\xa9" * 40),
        ],
    )
    @pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
    def test_are_decoded_over_every_split(self, encoding, sent, meant, step):
        pieces = [sent[at : at + step] for at in range(0, len(sent), step)]
        assert b"".join(decoded(pieces, encoding.decode())) == meant

    def test_that_are_too_large_are_only_named_and_smaller_ones_are_kept(self):
        content, files = self.files(
            PDF + in_base64(bytes(2_000_000)), PDF + in_base64(b"small"), TEXT, most=1_000_000
        )
        assert [one.left for one in content.attachments] == [Left.TOO_LARGE, Left.FILE]
        assert b"".join(decoded(files[content.attachments[1].file], "base64")) == b"small"

    def test_in_all_take_no_more_than_there_is_room(self):
        content, files = self.files(*[PDF + in_base64(bytes(400_000))] * 20, most=1_000_000)
        assert [one.left for one in content.attachments].count(Left.FILE) == 2
        assert sum(len(one) for of_it in files.values() for one in of_it) <= 1_600_000

    def test_are_given_up_in_the_middle(self):
        raw = mail(PDF + in_base64(bytes(2_000_000)), PDF + in_base64(b"small"), TEXT)
        header, _, body = raw.partition(b"\r\n\r\n")
        parts = Parts(header + b"\r\n", 10_000_000)
        parts.feed(b"\r\n" + body[:1_000_000])
        parts.give_up_files()
        assert parts.feed(body[1_000_000:]) == []
        kept, last = parts.end()
        assert last == []
        assert [one.left for one in read_content(kept).attachments] == [Left.NO_ROOM, Left.NO_ROOM]

    def test_for_which_there_is_no_room_are_named_with_that(self):
        content, _ = self.files(PDF + in_base64(b"small"), most=0, without=Left.NO_ROOM)
        assert [one.left for one in content.attachments] == [Left.NO_ROOM]

    @pytest.mark.parametrize(
        ("size", "disposition", "kind", "is_file"),
        [
            (5_000, b"inline", b"related", False),
            (5_000, b"attachment", b"related", False),
            (5_000, b"inline", b"mixed", False),
            (5_000, b"attachment", b"mixed", True),
            (90_000, b"inline", b"related", True),
        ],
    )
    def test_are_not_the_small_pictures_of_the_text(self, size, disposition, kind, is_file):
        logo = (
            b"Content-Type: image/png; name=logo.png\r\nContent-ID: "
            b"<logo@x>\r\nContent-Disposition: " + disposition
            + b"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + in_base64(bytes(size))
        )  # fmt: skip
        kept, files = keep(mail(b"Content-Type: text/html\r\n\r\n<p>Hello", logo, kind=kind), files=1_000_000)
        assert [one.name for one in read_content(kept).attachments] == ["logo.png"] * is_file
        assert bool(files) is is_file

    @pytest.mark.parametrize("kind", [b"application/pkcs7-signature", b"application/pgp-signature"])
    def test_are_no_signatures(self, kind):
        content, _ = self.files(TEXT, b"Content-Type: " + kind + b"; name=smime.p7s\r\n\r\nxx")
        assert content.attachments == ()


PIECES = [
    b"\r\n", b"--b", b"\r\n--b\r\n", b"\r\n--b--\r\n", b"\r\n--inner\r\n", b"\r\n--inner--", b"--", b"x", b"..",
    b"Content-Type: text/plain\r\n", (b"Content-Type: application/pdf; "
                                     b"name=a.pdf\r\n"), b"Content-Type: message/rfc822\r\n",
    (b'Content-Type: multipart/mixed; '
    b'boundary="inner"\r\n'), b"Content-Transfer-Encoding: base64\r\n", b"aGVsbG8=", b" \t",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join), st.lists(st.integers(1, 60), max_size=60)
)
def test_every_split_gives_the_same(body, cuts):
    raw = b'From: a@b\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n' + body + b"\r\n"

    def split(data):
        pieces, at = [], 0
        for cut in cuts:
            # the scanner before us holds back what may begin a line end
            end = at + cut
            while data[end - 1 : end] == b"\r" and end < len(data):
                end += 1
            pieces.append(data[at:end])
            at = end
        return [*pieces, data[at:]]

    assert keep(raw, files=10_000, pieces=split) == keep(raw, files=10_000)


WHOLE = [
    b"\r\n--b\r\nContent-Type: text/plain\r\n\r\n", b"\r\n--inner\r\nContent-Type: text/plain\r\n\r\n",
    (b"\r\n--b\r\nContent-Type: application/pdf; "
    b"name=a.pdf\r\n\r\n"), b"\r\n--b\r\n\r\n", b"\r\n--inner--", b"\r\n--b--",
    (b"\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: "
    b"x\r\n\r\n"), b"\r\n--", b"some words", b"\r\n", b"..",
    b'\r\n--b\r\nContent-Type: multipart/mixed; boundary="inner"\r\n\r\n',
]  # fmt: skip


@given(st.lists(st.sampled_from(WHOLE), max_size=40).map(b"".join))
def test_the_texts_that_are_kept_are_those_that_the_mail_has(body):
    """As the email package of the standard library tells the parts apart."""
    raw = b'From: a@b\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n' + body + b"\r\n"
    kept, _ = keep(raw)
    assert plain_texts(kept) == plain_texts(raw)


def plain_texts(raw):
    parts = [
        re.sub(rb"\s+$", b"", part.get_payload(decode=True) or b"")
        for part in email.message_from_bytes(raw).walk()
        if part.get_content_type() == "text/plain" and not part.is_multipart()
    ]
    return [one for one in parts if one]


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n--" * 400_000,
        b"\r\n--b\r\n" * 200_000,
        b"\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n" * 30_000,
        b'\r\n--b\r\nContent-Type: multipart/mixed; boundary="b"\r\n' * 30_000,
        b"\r\n--b\r\n" + b"Content-Type: text/plain\r\n" * 60_000,
    ],
)
def test_hostile_mails_keep_little(body):
    kept, _ = keep(b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + body, pieces=in_pieces(65_536))
    assert len(kept) <= 2 * MOST_OF_TEXTS

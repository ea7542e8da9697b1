"""What Outlook packs into winmail.dat."""

import base64
import struct

import pytest
from compressed_rtf import compress
from hypothesis import given
from hypothesis import strategies as st

from core.mail.kept import Left
from sync.mail.content import read_content
from sync.mail.tnef import read_tnef
from tests.rules.tnef_bytes import CODE_PAGE, attribute, file, properties, tnef

RTF = rb"{\rtf1\ansi\ansicpg1252 The price is 25.00\par Gr\'fc\'dfe}"


class TestTexts:
    def test_plain(self):
        assert read_tnef(tnef(CODE_PAGE, attribute(0x800C, "Grüße\0".encode("cp1252")))).text == "Grüße"

    @pytest.mark.parametrize(("kind", "encoding"), [(0x1F, "utf-16-le"), (0x1E, "cp1252")])
    def test_among_the_properties(self, kind, encoding):
        found = read_tnef(
            tnef(CODE_PAGE, attribute(0x9003, properties((0x1000, kind, "Grüße\0".encode(encoding)))))
        )
        assert found.text == "Grüße"

    def test_of_a_page_in_its_own_code_page(self):
        known = properties((0x3FDE, 3, b"")).replace(
            struct.pack("<HHII", 3, 0x3FDE, 1, 0), struct.pack("<HHI", 3, 0x3FDE, 65001)
        )
        page = properties((0x1013, 0x102, "<p>Grüße</p>".encode()))
        value = struct.pack("<I", 2) + known[4:] + page[4:]
        assert read_tnef(tnef(CODE_PAGE, attribute(0x9003, value))).html == "<p>Grüße</p>"

    def test_packed_as_rtf(self):
        found = read_tnef(tnef(CODE_PAGE, attribute(0x9003, properties((0x1009, 0x102, compress(RTF))))))
        assert found.text == "The price is 25.00\nGrüße"


def test_files_are_named():
    assert read_tnef(tnef(CODE_PAGE, file("Angebot Größe.pdf"), file("b.xlsx"))).files == (
        "Angebot Größe.pdf",
        "b.xlsx",
    )


def mail(text, packed):
    data = base64.encodebytes(packed).replace(b"\n", b"\r\n")
    return (
        b"From: a@b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: "
        b"text/plain\r\n\r\n" + text
        + b"\r\n--b\r\nContent-Type: application/ms-tnef; name=winmail.dat\r\nContent-Disposition: "
          b"attachment; "
        b"filename=winmail.dat\r\nContent-Transfer-Encoding: base64\r\n\r\n" + data + b"--b--\r\n"
    )  # fmt: skip


@pytest.mark.parametrize(("beside", "text"), [(b"", "The price is 25.00\nGrüße"), (b"Hello", "Hello")])
def test_the_text_beside_it_counts_where_there_is_one(beside, text):
    packed = tnef(CODE_PAGE, attribute(0x9003, properties((0x1009, 0x102, compress(RTF)))), file("a.pdf"))
    content = read_content(mail(beside, packed))
    assert content.text == text
    assert [(one.name, one.left) for one in content.attachments] == [("a.pdf", Left.PACKED)]


def test_a_large_one_is_read_as_far_as_it_was_kept():
    packed = tnef(CODE_PAGE, attribute(0x800C, b"Hello\0"), attribute(0x800F, bytes(500_000), level=2))
    assert read_tnef(packed[:200_000]).text == "Hello"


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data):
    read_tnef(tnef(data))
    read_tnef(tnef(attribute(0x9003, data), attribute(0x9005, data)))


MANY = 0xFFFFFFFF


@pytest.mark.parametrize(
    "data",
    [
        tnef(attribute(0x9004, struct.pack("<I", MANY))),
        tnef(attribute(0x9003, struct.pack("<IHHI", MANY, 0x101E, 0x1000, MANY))),
        tnef(attribute(0x9003, struct.pack("<IHHI", MANY, 0x1003, 0x1000, MANY) * 1000)),
        tnef(*[struct.pack("<BHHI", 1, 1, 1, 0) + b"\0\0"] * 20_000),
        tnef(
            attribute(
                0x9003,
                properties((0x1009, 0x102, compress(rb"{\rtf1 " + rb"{\field{\*\fldinst{HYPERLINK " * 800))),
            )
        ),
    ],
)
def test_what_was_made_to_take_for_ever_comes_to_an_end(data):
    read_tnef(data)

"""What the record says of thirty mails, each of another client's or another kind's shape."""

import pytest

from core.mail.kept import PARTS_FIELD
from sync.mail.content import read_content
from tests.mails.shapes import SHAPES
from tests.rules.keeping import keep


def test_there_are_thirty():
    assert len({shape.name for shape in SHAPES}) == 30


# a relay of the first release kept the beginning only
CASES = [(shape, True) for shape in SHAPES] + [
    (shape, False) for shape in SHAPES if shape.name != "a large file before the text"
]


@pytest.mark.parametrize(
    ("shape", "is_new"),
    CASES,
    ids=[f"{shape.name}, {'kept' if is_new else 'as it came'}" for shape, is_new in CASES],
)
def test_the_record_says_what_the_mail_says(shape, is_new):
    """Also of a mail that a relay of the first release has kept, as far as that kept it."""
    raw = keep(shape.raw)[0] if is_new else shape.raw
    assert (PARTS_FIELD.encode() in raw) is is_new
    content = read_content(raw)
    assert content.text == shape.text
    assert tuple(one.name for one in content.attachments) == shape.files
    assert bool(content.html) is shape.page
    assert content.forwarded.endswith(shape.forwarded)
    assert bool(content.forwarded) is bool(shape.forwarded)
    assert not content.is_cut

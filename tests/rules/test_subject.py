"""Subjects as people read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.mail.subject import readable_subject


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        (b"Our offer", "Our offer"),
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?= aus =?utf-8?b?S8O2bG4=?=", "Grüße aus Köln"),
        ("Grüße".encode(), "Grüße"),
        (b"=?iso-8859-1?q?Gr=FC=DFe?=", "Grüße"),
        (b"=?iso-2022-jp?b?GyRCRnxLXBsoQg==?=", "日本"),
        (b"=?unheard-of?q?abc?=", "abc"),
        (b"=?utf-8?b?broken", "=?utf-8?b?broken"),
        (b"=?utf-8?b?!!!?=", "=?utf-8?b?!!!?="),
        (b"a\r\n b\tc", "a b c"),
        (b"a\x00b\x1bc", "abc"),
        (b"", ""),
    ],
)
def test_a_subject_is_decoded(raw, read):
    assert readable_subject(raw) == read


@given(st.binary(max_size=200))
def test_no_subject_is_too_odd(raw):
    text = readable_subject(raw)
    assert text.isprintable()
    assert readable_subject(b"=?utf-8?q?" + raw + b"?=").isprintable()

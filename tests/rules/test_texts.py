"""The text of a record: pages as lines, and what is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cuts import ELLIPSIS, cut, length
from sync.mail.page_text import text_of_page


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<table><tr><td>Licences 10</td><td>25.00</td></tr></table>", "Licences 10  25.00"),
        (
            "<table><tr><th>Item</th><th>Price</th></tr><tr><td>A</td><td>1,000.00</td></tr></table>",
            "Item  Price\nA  1,000.00",
        ),
        ("<table><tr><td><table><tr><td>10</td><td>20</td></tr></table></td></tr></table>", "10  20"),
        ("<ul><li>one<li>two</ul>", "  * one\n  * two".strip()),
        ('See <a href="https://x.test/a?b=1">the offer</a>', "See [the offer](https://x.test/a?b=1)"),
        ('<a href="https://x.test/">x.test</a>', "x.test"),
        ('<a href="mailto:Bob@x.test">bob@x.test</a>', "bob@x.test"),
        ('<a href="https://x.test/"><img src="logo.png"></a>', ""),
        ("Hi<blockquote>old<br>lines<blockquote>older</blockquote></blockquote>end", "Hi\n> old\n> lines\n> > older\nend"),
        ('<div style="display: none">peek</div>Hello', "Hello"),
        ('<span style="max-height:0px;overflow:hidden">peek</span>Hello', "Hello"),
        (('<p style="visibility:hidden">peek</p><p hidden>peek</p><i '
         'style="mso-hide:all">peek</i>Hello'), "Hello"),
        ('<td style="font-size:0px"><div style="font-size:13px">seen</div></td>', "seen"),
        ('<div style="opacity:0.9">seen</div>', "seen"),
        ("<style>x</style><script>y</script><title>z</title><p>a&amp;b &lt;c&gt;</p>", "a&b <c>"),
        ("one&nbsp;&nbsp;&nbsp;&nbsp;two", "one two"),
        ("<meta charset=utf-16><?xml version='1.0' encoding='utf-16'?>Grüße 你好 📨", "Grüße 你好 📨"),
        ("<p>a<!-- no -->b</p><![if !mso]>c<![endif]>", "ab\n\nc"),
        ("no page at all", "no page at all"),
        ("", ""),
        ("<!-- -->", ""),
    ],
)  # fmt: skip
def test_a_page_is_what_a_reader_sees(page, text):
    assert text_of_page(page) == text


@pytest.mark.parametrize(
    "page",
    [
        "<div>" * 50_000 + "deep",
        "<table><tr><td>" * 20_000 + "deep",
        "<blockquote>" * 20_000 + "deep",
        "<ul><li>" * 20_000 + "deep",
        "<a href=x>" * 20_000,
        "<" * 200_000,
        "<!--" * 50_000,
        "<td>" * 60_000,
        "<blockquote>x</blockquote>" * 10_000,
        "<p>a</p>" * 2_000_000,
        "\0\ud800<p>x",
        "&" * 200_000,
    ],
    ids=range(12),
)
def test_a_page_that_was_made_to_take_for_ever_ends(page):
    assert isinstance(text_of_page(page), str)


@given(
    st.lists(
        st.sampled_from(
            ["<p>", "</p>", "<td>", "<table>", "<blockquote>", "</div>", "a", "&lt;", "<a href=x>", "\n", "<"]
        )
    )
)
def test_whatever_the_page_a_text_comes_of_it(parts):
    text = text_of_page("".join(parts))
    assert text == text.strip()


def test_words_of_a_page_that_goes_too_deep_are_there():
    assert text_of_page("<div>" * 5_000 + "deep" + "</div>" * 5_000) == "deep"


@given(st.text(max_size=200), st.integers(0, 300), st.booleans())
def test_what_is_cut_fits_and_is_a_beginning(text, most, in_bytes):
    fitted = cut(text, most, in_bytes=in_bytes)
    assert length(fitted, in_bytes=in_bytes) <= most
    assert fitted == text or text.startswith(fitted.removesuffix(ELLIPSIS))


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("你好世界", 4, "你好世界"),
        ("你好世界", 3, "你好…"),
        ("Привет", 4, "При…"),
        ("📨📨📨", 5, "📨📨…"),
        ("📨📨📨", 6, "📨📨📨"),
        ("ae\u0301x", 3, "a…"),
        ("a👨‍👩‍👧b", 6, "a…"),
        ("🇩🇪🇨🇳", 6, "🇩🇪…"),
        ("one two", 5, "one…"),
        ("abc", 0, ""),
    ],
)
def test_salesforce_counts_units_of_utf_16_and_letters_stay_whole(text, most, expected):
    assert cut(text, most) == expected


def test_where_an_organisation_counts_bytes_less_is_left():
    assert cut("你好世界", 9, in_bytes=True) == "你好…"

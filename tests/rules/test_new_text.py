"""What is new in a mail: without what it answers, the signature and disclaimers, where that is certain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.mail.new_text import EARLIER_MAIL, new_text

ENGLISH = "On Mon, 3 Nov 2026 at 10:00, Bob <bob@client.test> wrote:\n> Hello\n> price?\n"
GERMAN = "Am Mo., 3. Nov. 2026 um 10:00 Uhr schrieb Bob <bob@client.test>:\n> Hallo\n> Preis?\n"
OUTLOOK = (
    "From: Bob <bob@client.test>\nSent: Monday, 3 November 2026 10:00\nTo: Dana\nSubject: Price\n\nHello\n"
)
OUTLOOK_GERMAN = (
    "Von: Bob <bob@client.test>\nGesendet: Montag, 3. November 2026\nAn: Dana\nCc: "
    "Eva\nBetreff: Preis\n\nHallo\n"
)
CHINESE = "在 2026-11-03 10:00:00, Bob <bob@client.test> 写道：\n\n> 你好\n> 价格?\n"
FOXMAIL = "发件人: Bob <bob@client.test>\n发送时间: 2026年11月3日 10:00\n收件人: Dana\n主题: 价格\n\n你好"
QQ = "------------------ 原始邮件 ------------------\n你好\n"


@pytest.mark.parametrize(
    "earlier",
    [ENGLISH, ENGLISH.replace(" wrote", "\nwrote"), GERMAN, OUTLOOK, OUTLOOK_GERMAN, CHINESE, FOXMAIL, QQ,
     "-----Original Message-----\nHello\n", "________________________________\n" + OUTLOOK],
)  # fmt: skip
@pytest.mark.parametrize(
    "text", ["The price is 25.00.\n- one\n- two", "Der Preis ist 25,00.", "价格是25.00。"]
)
def test_the_mail_that_is_answered_is_not_repeated(earlier, text):
    found = new_text(f"{text}\n\n{earlier}")
    assert (found.text, found.left_out) == (f"{text}\n\n{EARLIER_MAIL}", {"earlier"})


@pytest.mark.parametrize(
    "signature",
    [("Best regards\nDana Doe\nSales, Acme Ltd\nTel "
     "1234"), "Mit freundlichen Grüßen\nDana Doe", "Viele Grüße\nDana",
     "-- \nDana Doe", "Sent from my iPhone", "祝好，\nDana"],
)  # fmt: skip
def test_the_signature_is_left_out(signature):
    found = new_text(f"The price is 25.00.\n\n{signature}\n\n{ENGLISH}")
    assert found.text == f"The price is 25.00.\n\n{EARLIER_MAIL}"
    assert found.left_out == {"earlier", "signature"}


def test_a_disclaimer_is_left_out():
    text = (
        "CONFIDENTIALITY: This email message is for the sole use of the intended recipient and may "
        "hold secrets."
    )
    assert new_text(f"The price is 25.00.\n\n{text}").text == "The price is 25.00."


@pytest.mark.parametrize(
    "text",
    [
        "On Mon, 3 Nov 2026 at 10:00, Bob <bob@client.test> wrote:\n> price?\nIt is 25.\n> when?\nMonday",
        "> price?\n\nIt is 25.",
        "Hello\n\nBest regards\nDana\n\nP.S. the price is 5",
        (
            "Hello,\nBest regards to your wife! The price is 5.\nThe contract is attached.\nSign it until "
            "Monday.\nDana"
        ),
        "Hello,\n\nFrom: Berlin\nTo: Paris\nDate: Monday\n\nOk?",
        (
            "CAUTION: the mail room is closed, so send the mail to Berlin and not to Paris, where nobody "
            "is.\nThanks"
        ),
        "---------- Forwarded message ---------\nThe words that are sent on",
        "Best regards\nDana",
        "> only what was said",
        "Please build this:\n> chair, blue\n> 20 pieces",
        "Ja.\n\nMit freundlichen Grüßen\nAnna\nPreis: 500 EUR\nGültig bis Freitag",
        "Hallo,\n\nViele Grüße an das Team\nBitte liefert 20 Stühle",
        "Yes.\n\nBest regards\nAnna\n\nNote: the price is valid until Friday only",
        "Yes.\n\nSent from my iPhone\n\nAlso the price is 400 EUR",
        "Table:\n--\nrow one\nrow two",
        "Plan:\n\nFrom: Berlin\nDate: 5 May\nSubject: site visit\nPlease confirm",
        (
            "See below\n\nBegin forwarded message:\n\nFrom: Bob <bob@client.test>\nDate: 5 May\nSubject: "
            "x\n\nThe words"
        ),
        "",
    ],
)
def test_where_the_cut_is_uncertain_the_whole_stays(text):
    assert (new_text(text).text, new_text(text).left_out) == (text.strip(), frozenset())


@given(st.text(alphabet=st.sampled_from("ab >\n:-_.On wroteFrom写道："), max_size=400))
def test_nothing_is_said_that_was_not_written(text):
    found = new_text(text)
    own = found.text.removesuffix(EARLIER_MAIL).strip()
    assert "".join(text.split()).startswith("".join(own.split()))


@pytest.mark.parametrize(
    "text",
    ["On " * 13_000, " \n" * 20_000, "a" + " " * 39_000, ("On " * 300 + "\n") * 40, "--\n" * 13_000, "On a\n" * 8_000,
     "> \n" * 13_000, "Von: a\n" * 5_000, "写道：" * 13_000, "_" * 40_000, "Best regards\n" * 3_000],
)  # fmt: skip
def test_texts_that_were_made_to_take_for_ever_come_to_an_end(text):
    assert new_text(text[:40_000]).text is not None

"""What may be kept of a mail, reason by reason."""

from core.mail.reasons import Reason


def test_a_reason_that_says_nothing_keeps_nothing():
    assert {reason for reason in Reason if reason.keeps_content} == {
        Reason.NOT_OWN_ADDRESS,
        Reason.AUTOMATIC,
        Reason.BULK,
        Reason.ALREADY_COPIED,
        Reason.NO_BCC_ADDRESS,
        Reason.NOT_CONNECTED,
        Reason.TOO_LARGE_TO_COPY,
        Reason.SAME_MAIL,
        Reason.COPY,
        Reason.API,
    }

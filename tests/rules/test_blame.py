"""Whose fault a refusal is: providers' own words, as they are published or were seen."""

import pytest

from relay.blame import Stage, is_our_fault
from relay.replies import Reply


def reply(text):
    code, _, words = text.partition(" ")
    return Reply(int(code), tuple(words.encode().split(b" | ")))


OURS_ANYWHERE = [
    "530 5.7.0 Authentication required",
    "530 5.7.57 Client not authenticated to send mail",
    "534 5.7.9 Application-specific password required",
    "535 5.7.8 Bad credentials",
    "538 5.7.11 Encryption required",
    "550 5.7.64 TenantAttribution; Relay Access Denied",
    "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
    "550 5.7.1 Unable to relay",
    "550 relay not permitted",
    "550 5.7.1 Invalid credentials for relay [192.0.2.1]. | 5.7.1 The IP address you've registered",
    "554 5.7.1 <bob@c.test>: Relay access denied",
    "550 5.7.1 <bob@c.test>... Relaying denied",
    "554 5.7.1 <host>: Client host rejected: Access denied",
]
OURS_BEFORE_THE_MAIL = [
    "504 5.5.2 <relay>: Helo command rejected: need fully-qualified hostname",
    "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
]
THE_MAILS = [
    "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
    "550 5.7.1 This looks like spam",
    "550 5.1.1 User unknown",
    "552 5.3.4 Too big",
    "452 4.5.3 Too many recipients",
    "451 4.7.1 Relay access denied for now",
    "250 2.0.0 Ok",
]


@pytest.mark.parametrize("text", OURS_ANYWHERE)
@pytest.mark.parametrize("stage", list(Stage))
def test_a_refusal_of_us_is_ours_at_any_stage(text, stage):
    assert is_our_fault(reply(text), stage)


@pytest.mark.parametrize("text", OURS_BEFORE_THE_MAIL)
def test_some_words_are_about_us_before_the_mail_and_about_the_mail_at_its_dot(text):
    assert is_our_fault(reply(text), Stage.ENVELOPE)
    assert not is_our_fault(reply(text), Stage.DATA)


@pytest.mark.parametrize("text", THE_MAILS)
@pytest.mark.parametrize("stage", list(Stage))
def test_what_is_the_mails_or_unknown_passes_as_it_is(text, stage):
    assert not is_our_fault(reply(text), stage)

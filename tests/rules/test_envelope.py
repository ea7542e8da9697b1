"""Paths and parameters: accepted as they stand or refused, never changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import replies
from relay.envelope import BadCommand, parse_mail, parse_rcpt

AS_SENT = [
    b"<bob@client.test>", b"<BOB@Client.TEST>", b'<"b b"@c.test>', b'<"simple"@c.test>', b'<"a\\b"@c.test>', b"<a,b@c.test>",
    b"<a:b@c.test>", b"<o'brien@c.test>", b"<a+tag@c.test>", b"<bob@[192.0.2.1]>", b"<bob@[IPv6:2001:db8::1]>",
    b"<@relay.test,@two.test:bob@c.test>", b"<postmaster>", b"<a..b@c.test>", b"<.a.@c.test>", b"<bob@c.test.>",
    b"<=?utf-8?q?victim=40evil.example=3E?=@good.test>", b"<a%b@c.test>", b"<a!b@c.test>", b"<bob@under_score.test>",
]  # fmt: skip


@pytest.mark.parametrize("path", AS_SENT, ids=repr)
@pytest.mark.parametrize("space", [b"", b" "])
def test_a_path_is_passed_on_as_it_was_sent(path, space):
    assert parse_rcpt(b"TO:" + space + path, smtputf8=False).line(b"RCPT TO:") == b"RCPT TO:" + path


REFUSED = [
    b"TO:bob@client.test", b"TO:<bob@client.test", b"TO:bob@client.test>", b"TO:<b b@c.test>", b"TO:<a@b@c.test>", b"TO:<>",
    b"TO:<bob@>", b"TO:<@c.test>", b"TO:<bob@c.test>x", b"TO:<user@c.test>x>", b"TO:<a\tb@c.test>", b"TO:<a\x00@c.test>",
    b'TO:<"a\r\nb"@c.test>', b"TO:<a@c.test\r\nRCPT TO:<b@c.test>", b"TO:<" + b"a" * 300 + b"@c.test>", b"<bob@c.test>", b"",
    b"FROM:<bob@c.test>", b"TO:<bob@c .test>", b"TO:<bob@-c.test>", b"TO:<@relay.test:>",
]  # fmt: skip


@pytest.mark.parametrize("arguments", REFUSED, ids=repr)
def test_what_is_no_path_is_refused(arguments):
    with pytest.raises(BadCommand) as caught:
        parse_rcpt(arguments, smtputf8=False)
    assert caught.value.reply.code == 501


@pytest.mark.parametrize("path", ["<bøb@client.test>", "<bob@klïent.test>", "<用户@例子.test>"])
def test_an_internationalised_path_needs_smtputf8(path):
    assert parse_rcpt(b"TO:" + path.encode(), smtputf8=True).wire == path.encode()
    with pytest.raises(BadCommand) as caught:
        parse_rcpt(b"TO:" + path.encode(), smtputf8=False)
    assert caught.value.reply == replies.NEEDS_SMTPUTF8
    with pytest.raises(BadCommand):
        parse_mail(b"FROM:" + path.encode())
    assert parse_mail(b"FROM:" + path.encode() + b" SMTPUTF8").extensions == {"smtputf8"}


def test_bytes_that_are_no_utf8_are_refused():
    with pytest.raises(BadCommand):
        parse_rcpt(b"TO:<b\xff\xfeb@c.test>", smtputf8=True)


def test_the_null_sender():
    path = parse_mail(b"FROM:<>")
    assert (path.wire, path.address) == (b"<>", b"")


def test_parameters_keep_their_case():
    path = parse_mail(b"FROM:<a@b.test> size=1000 Body=8BitMime ENVID=QQ314159+2B RET=hdrs")
    assert (
        path.line(b"MAIL FROM:") == b"MAIL FROM:<a@b.test> size=1000 Body=8BitMime ENVID=QQ314159+2B RET=hdrs"
    )
    assert (path.declared_size, path.extensions) == (1000, {"size", "8bitmime", "dsn"})


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        (b"FOO=bar", 555), (b"MT-PRIORITY=3", 555), (b"SIZE", 501), (b"SIZE=x", 501), (b"SIZE=-1", 501),
        (b"BODY=BINARYMIME", 501), (b"SMTPUTF8=yes", 501), (b"SIZE=1 SIZE=2", 501), (b"=x", 501), (b"SIZE=1\x01", 501),
    ],
    ids=repr,
)  # fmt: skip
def test_a_parameter_that_is_not_right_is_refused(parameters, code):
    with pytest.raises(BadCommand) as caught:
        parse_mail(b"FROM:<a@b.test> " + parameters)
    assert caught.value.reply.code == code


def test_auth_of_a_mail_is_taken_and_dropped():
    assert (
        parse_mail(b"FROM:<a@b.test> AUTH=<> SIZE=1 auth=e+3Dmc2@x.test").line(b"MAIL FROM:")
        == b"MAIL FROM:<a@b.test> SIZE=1"
    )


@given(st.binary(max_size=60))
def test_nothing_gets_through_that_could_end_a_command(junk):
    for parse in (lambda b: parse_mail(b"FROM:" + b), lambda b: parse_rcpt(b"TO:" + b, smtputf8=True)):
        try:
            path = parse(junk)
        except BadCommand:
            continue
        line = path.line(b"")
        assert not any(byte < 32 or byte == 127 for byte in line)
        assert line.split() == [part for part in junk.split() if part[:5].upper() != b"AUTH="]

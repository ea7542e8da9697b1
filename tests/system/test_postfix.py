"""Postfix before the relay, as a smart host's client and as a proxy, and a Postfix behind it that is open to
smuggling."""

import smtplib
import socket
import time

import pytest

from tests.system.conftest import BCC, Installation, mail, until
from tests.system.postfix import Postfix, free_port


@pytest.fixture
def gateway(installation):
    """A relay with a gateway listener for this machine."""
    installation.command("admin", "policy", "set", "own-domains", "acme.test")
    installation.command("admin", "policy", "set", "mails-per-minute", "1000")
    port = free_port()
    process = installation.start_relay_raw(
        "gateway", BLINDCOPY_LISTEN=f"gateway://127.0.0.1:{port}", BLINDCOPY_TRUSTED="127.0.0.0/8"
    )
    return process, port


def arrived(sink, number):
    return until(lambda: sink.sink.taken if len(sink.sink.taken) >= number else None)


def test_postfix_with_the_relay_as_its_relayhost(installation, gateway, sink, postfix_directory):
    _, port = gateway
    postfix = Postfix(postfix_directory, relayhost=port)
    try:
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            for number in range(5):
                client.sendmail(
                    "anna@acme.test", ["bob@client.test"], mail(number), ["BODY=8BITMIME"], ["NOTIFY=SUCCESS"]
                )
        taken = arrived(sink, 5)
        for one in taken:
            assert one.rcpts[0].startswith("RCPT TO:<bob@client.test> ORCPT=rfc822;bob@client.test")
            assert one.rcpts[-1].startswith(f"RCPT TO:<{BCC}>")
            assert BCC.encode() not in one.raw
        until(lambda: [row.state for row in installation.rows()] == ["copied"] * 5)
    finally:
        postfix.stop()


def test_postfix_with_the_relay_as_its_proxy_filter(installation, gateway, sink, postfix_directory):
    """Before-queue: the client hears what the mail provider says, through both. The first 5xx to a mail with
    a copy is said as 451, once: the copy may be the cause."""
    _, port = gateway
    postfix = Postfix(
        postfix_directory,
        smtpd=f"  -o smtpd_proxy_filter=127.0.0.1:{port}\n  -o smtpd_proxy_timeout=100s\n  -o "
        f"smtpd_client_restrictions=",
    )
    sink.sink.script.replies["dot"] = ["", "554 5.7.1 Looks like spam", "554 5.7.1 Looks like spam", ""]
    try:
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            client.sendmail("anna@acme.test", ["bob@client.test"], mail(1))
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail("anna@acme.test", ["bob@client.test"], mail(2))
            assert caught.value.smtp_code == 451
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail("anna@acme.test", ["bob@client.test"], mail(2))
            assert b"Looks like spam" in caught.value.smtp_error
            client.sendmail("anna@acme.test", ["bob@client.test"], mail(3))
        taken = arrived(sink, 2)
        assert [one.rcpts[-1].partition(">")[0] for one in taken] == [f"RCPT TO:<{BCC}"] * 2
    finally:
        postfix.stop()


SMUGGLING = [
    b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\n", b"\n.\r", b"\r\n.\r", b"\r.\r\n", b"\r\n.\r\r\n",
    b"\r\r\n.\r\r\n", b"\r\n\0.\r\n", b"\r\n.\0\r\n", b"\n\n.\r\n", b"\n\r.\r\n", b"\r\n.\n\r\n",
]  # fmt: skip
"""Facts of smuggling, section 4.2: every row that is no end of data, and some of its neighbours."""


def test_nothing_is_smuggled_through_to_a_postfix_that_would_let_it(sink, tmp_path, postfix_directory):
    """Every sequence, cut in two at every byte."""
    postfix = Postfix(
        postfix_directory,
        relayhost=sink.port,
        settings="smtpd_forbid_bare_newline = no\nsmtpd_client_connection_count_limit = 0",
    )
    installation = Installation(tmp_path, postfix.port)
    evil = (
        b"MAIL FROM:<evil@acme.test>\r\nRCPT TO:<victim@client.test>\r\nDATA\r\nSubject: "
        b"smuggled\r\n\r\nevil\r\n"
    )
    try:
        installation.add_anna()
        installation.command("admin", "policy", "set", "mails-per-minute", "100000")
        client = installation.client(installation.start_relay())
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for sequence in SMUGGLING:
            for cut in range(len(sequence) + 1):
                client.mail("anna@acme.test")
                client.rcpt("bob@client.test")
                client.docmd("DATA")
                client.send(b"From: anna@acme.test\r\n\r\nhello" + sequence[:cut])
                time.sleep(0.01)  # the pieces arrive apart
                client.send(sequence[cut:] + evil + b".\r\n")
                assert client.getreply()[0] == 550, (sequence, cut)
        client.sendmail("anna@acme.test", ["bob@client.test"], mail())
        client.close()
        taken = arrived(sink, 1)
        assert [one.raw.count(b"Hello") for one in taken] == [1]
        assert not any("victim" in rcpt for one in taken for rcpt in one.rcpts)
        assert not any(b"smuggled" in one.raw for one in taken)
    finally:
        installation.stop()
        postfix.stop()


def test_a_gateway_is_no_open_relay(installation, gateway):
    _, port = gateway
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.recv(1000)
        raw.sendall(b"EHLO x\r\nMAIL FROM:<evil@other.test>\r\nQUIT\r\n")
        said = b""
        while b"221" not in said:
            said += raw.recv(1000)
    assert b"550 5.7.1" in said

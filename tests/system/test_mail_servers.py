"""Real mail servers before the relay, as a smart host's clients and as a proxy, and behind it, one of them
open to smuggling."""

import smtplib
import socket
import time

import pytest

from tests.system.conftest import BCC, Installation, mail, until
from tests.system.mail_servers import Exim, OpenSmtpd, Postfix, free_port


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


def test_postfix_with_the_relay_as_its_relayhost(installation, gateway, sink, server_directory):
    _, port = gateway
    postfix = Postfix(server_directory, relayhost=port)
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


QUICK_TO_TRY_AGAIN = """
minimal_backoff_time = 1s
maximal_backoff_time = 2s
queue_run_delay = 1s
"""


class TestPostfixAndTheVerdict:
    """How long a provider may take, and what a server in front makes of it."""

    def test_that_comes_after_95_seconds_is_one_delivery(self, installation, gateway, sink, server_directory):
        _, port = gateway
        sink.sink.script.replies["dot"] = ["delay:95:250 2.0.0 Ok: queued at last"]
        postfix = Postfix(server_directory, relayhost=port, settings=QUICK_TO_TRY_AGAIN)
        try:
            with smtplib.SMTP("127.0.0.1", postfix.port) as client:
                client.sendmail("anna@acme.test", ["bob@client.test"], mail())
            until(lambda: "queued at last" in postfix.log(), 150)
            assert "status=sent" in postfix.log()
            assert "status=deferred" not in postfix.log()
            assert len(sink.sink.taken) == 1
            rows = installation.ended(at_least=1)
            assert [(row.state, row.bcc) for row in rows] == [("copied", "accepted")]
        finally:
            postfix.stop()

    def test_that_it_does_not_wait_for_is_what_its_next_try_hears(
        self, installation, gateway, sink, server_directory
    ):
        _, port = gateway
        sink.sink.script.replies["dot"] = ["delay:14:250 2.0.0 Ok: queued at last", "250 2.0.0 A second time"]
        postfix = Postfix(
            server_directory,
            relayhost=port,
            settings=f"{QUICK_TO_TRY_AGAIN}smtp_data_done_timeout = 3s\n",
        )
        try:
            with smtplib.SMTP("127.0.0.1", postfix.port) as client:
                client.sendmail("anna@acme.test", ["bob@client.test"], mail())
            until(lambda: "status=sent" in postfix.log(), 60)
            assert "status=deferred" in postfix.log(), "it gave up before"
            assert "queued at last" in postfix.log()
            assert [one.complete for one in sink.sink.taken].count(True) == 1, "no second delivery"
        finally:
            postfix.stop()


def test_a_copy_that_the_provider_refuses_costs_postfix_no_mail(
    installation, gateway, sink, server_directory
):
    """A 5xx at the dot would be a bounce: it is said as 451 once, and the next try goes without the copy."""
    _, port = gateway
    sink.sink.script.replies["dot"] = ["554 5.7.1 Too many recipients of this kind", "250 2.0.0 Ok"]
    postfix = Postfix(server_directory, relayhost=port, settings=QUICK_TO_TRY_AGAIN)
    try:
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            client.sendmail("anna@acme.test", ["bob@client.test"], mail())
        taken = arrived(sink, 1)
        assert [len(one.rcpts) for one in taken] == [1]
        assert "status=bounced" not in postfix.log()
        until(lambda: "status=sent" in postfix.log())
        rows = installation.ended(at_least=2)
        assert sorted((row.state, row.bcc) for row in rows) == [
            ("copy-refused", "refused"),
            ("refused", "accepted"),
        ]
    finally:
        postfix.stop()


def test_what_the_provider_offers_changes_and_postfix_bounces_nothing(
    installation, gateway, sink, server_directory
):
    """It asked for what the relay offered; the node that the mail then meets has less."""
    _, port = gateway
    # It keeps its connections, and with them what it was offered when they were opened.
    settings = f"{QUICK_TO_TRY_AGAIN}smtp_connection_cache_destinations = 127.0.0.1\n"
    postfix = Postfix(server_directory, relayhost=port, settings=settings)
    extensions = sink.sink.script.extensions
    all_of_them = list(extensions)

    def offer(some):
        extensions[:] = some
        sink.loop.call_soon_threadsafe(sink.sink.cut_all)

    def pass_on(number):
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            client.sendmail(
                "anna@acme.test",
                ["bob@client.test"],
                mail(number, "Grüße\r\n").encode(),
                ["BODY=8BITMIME", "RET=HDRS"],
                ["NOTIFY=FAILURE"],
            )
        subject = f"Subject: Mail {number}\r\n".encode()
        until(lambda: any(one.complete and subject in one.raw for one in sink.sink.taken))

    try:
        for number, lost in enumerate(["SIZE 52428800", "DSN", "8BITMIME", "ENHANCEDSTATUSCODES"]):
            pass_on(2 * number)  # the relay knows that the provider offers all
            offer([one for one in all_of_them if one != lost])
            pass_on(2 * number + 1)
            offer(all_of_them)
            pass_on(100 + number)  # and learns it anew
        assert "status=bounced" not in postfix.log()
        assert "dsn=5" not in postfix.log()
        assert "dsn=4" in postfix.log(), "what the node cannot do was said, for now"
        assert "conn_use=" in postfix.log(), "connections were kept"
        held = [line for line in postfix.log().splitlines() if "dsn=4" in line]
        assert len(held) <= 8, "and were given up for one where it hears what is offered now"
        assert len(installation.ended(at_least=12)) >= 12
    finally:
        postfix.stop()


OTHERS = pytest.mark.parametrize("server", [Exim, OpenSmtpd])


@OTHERS
def test_others_with_the_relay_as_their_smart_host(installation, gateway, sink, server_directory, server):
    """A refusal for now is tried again by the server, and each mail arrives once, with its copy."""
    _, port = gateway
    sink.sink.script.replies["RCPT TO:<bob"] = ["", "451 4.3.0 Not just now", ""]
    front = server(server_directory, relayhost=port)
    try:
        with smtplib.SMTP("127.0.0.1", front.port) as client:
            for number in range(5):
                client.sendmail("anna@acme.test", ["bob@client.test"], mail(number))
        taken = until(lambda: front.try_again() or (len(sink.sink.taken) >= 5 and sink.sink.taken))
        assert sorted(one.raw.partition(b"Subject: ")[2][:6] for one in taken) == [
            f"Mail {number}".encode() for number in range(5)
        ]
        for one in taken:
            assert [rcpt.partition(">")[0] for rcpt in one.rcpts] == [
                "RCPT TO:<bob@client.test",
                f"RCPT TO:<{BCC}",
            ]
            assert BCC.encode() not in one.raw
        until(lambda: [row.state for row in installation.rows()].count("copied") == 5)
    finally:
        front.stop()


@OTHERS
def test_others_behind_the_relay(sink, tmp_path, server_directory, server):
    """Their own verdicts, their extensions only, and a content that arrives as it was sent."""
    behind = server(server_directory, relayhost=sink.port)
    installation = Installation(tmp_path, behind.port)
    content = mail(1, "Grüße\r\n..\r\n" + "x" * 900 + "\r\n").encode()
    try:
        installation.add_anna()
        with installation.client(installation.start_relay()) as client:
            assert not client.has_extn("chunking")
            client.sendmail("anna@acme.test", ["bob@client.test"], content, ["BODY=8BITMIME"])
            assert client.mail("anna@acme.test")[0] == 250
            assert client.docmd("RCPT", "TO:<no at sign>")[0] // 100 == 5
        arrived(sink, 1)
        until(lambda: {BCC, "bob@client.test"} <= addresses(sink))
        for one in sink.sink.taken:
            assert one.raw.partition(b"\r\n\r\n")[2] == content.partition(b"\r\n\r\n")[2].replace(
                b"\r\n..", b"\r\n..."
            )
        rows = installation.ended(at_least=1)
        assert [(row.state, row.bcc) for row in rows] == [("copied", "accepted")]
    finally:
        installation.stop()
        behind.stop()


def addresses(sink):
    return {rcpt.partition("<")[2].partition(">")[0].lower() for one in sink.sink.taken for rcpt in one.rcpts}


def test_postfix_with_the_relay_as_its_proxy_filter(installation, gateway, sink, server_directory):
    """Before-queue: the client hears what the mail provider says, through both. The first 5xx to a mail with
    a copy is said as 451, once: the copy may be the cause."""
    _, port = gateway
    postfix = Postfix(
        server_directory,
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


def test_nothing_is_smuggled_through_to_a_postfix_that_would_let_it(sink, tmp_path, server_directory):
    """Every sequence, cut in two at every byte."""
    postfix = Postfix(
        server_directory,
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

"""Other people's programs on both sides: mail clients before the relay, Postfix behind it."""

import base64
import functools
import os
import subprocess

import pytest

from tests.conftest import ALL, needs
from tests.system.conftest import BCC, CHECKOUT, Installation, SinkThread, mail, send, until
from tests.system.mail_servers import Postfix

CONTENT = (
    b"From: Anna <anna@acme.test>\r\nTo: bob@client.test\r\nSubject: "
    b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nMessage-ID: <c@acme.test>\r\n"
    b"Date: Sat, 21 Nov 2026 09:30:00 +0000\r\nMIME-Version: 1.0\r\n\r\nHello\r\n..a line that begins "
    b"with a dot\r\n\r\nBye\r\n"
)


def content(client):
    """Each client's mail is one of its own."""
    return CONTENT.replace(b"<c@acme.test>", f"<{client}@acme.test>".encode())


def unstuffed(client):
    return content(client).replace(b"\r\n..a", b"\r\n.a")


def run(*arguments, stdin=b"", seconds=60, **env):
    done = subprocess.run(
        arguments, check=False, input=stdin, capture_output=True, timeout=seconds, env=os.environ | env
    )
    assert done.returncode == 0, done
    return done.stdout.decode()


def swaks(port, password, directory):
    data = directory / "mail.eml"
    data.write_bytes(unstuffed("swaks").replace(b"\r\n", b"\n"))
    run(
        needs("swaks"), "--server", f"127.0.0.1:{port}", "--auth", "LOGIN", "--auth-user", "anna@acme.test", "--auth-password", password,
        "--from", "anna@acme.test", "--to", "bob@client.test", "--data", f"@{data}",
    )  # fmt: skip


def msmtp(port, password, directory):
    run(
        needs("msmtp"), "--host=127.0.0.1", f"--port={port}", "--auth=plain", "--tls=off", "--user=anna@acme.test",
        f"--passwordeval=echo {password}", "--from=anna@acme.test", "bob@client.test", stdin=unstuffed("msmtp").replace(b"\r\n", b"\n"),
    )  # fmt: skip


def s_nail(port, password, directory):
    run(
        needs("s-nail"), "-:/", "-S", "v15-compat=yes", "-S", f"mta=smtp://127.0.0.1:{port}", "-S", "smtp-auth=login", "-S", "user=anna@acme.test",
        "-S", f"password={password}", "-S", "from=Anna <anna@acme.test>", "-S", "nosmtp-use-starttls", "-S", "hostname=acme.test",
        "-s", "From s-nail", "bob@client.test", stdin=b"Hello\n.a line that begins with a "
                                                      b"dot\n", HOME=str(directory),
    )  # fmt: skip


def curl(port, password, directory):
    data = directory / "mail.eml"
    data.write_bytes(unstuffed("curl"))
    run(
        needs("curl"), "-sS", f"smtp://127.0.0.1:{port}", "--user", f"anna@acme.test:{password}", "--login-options", "AUTH=PLAIN",
        "--mail-from", "anna@acme.test", "--mail-rcpt", "bob@client.test", "-T", str(data),
    )  # fmt: skip


def modules():
    """Where npm has put nodemailer."""
    path = CHECKOUT / ".blindcopy" / "npm" / "node_modules"
    if not (path / "nodemailer").is_dir():
        (pytest.fail if ALL else pytest.skip)("nodemailer is not installed")
    return path


def nodemailer(port, password, directory):
    run(
        needs("node"), "-e",
        """
        const mailer = require('nodemailer');
        const transport = mailer.createTransport({host: '127.0.0.1', port: +process.argv[1], secure: false, pool: true,
            auth: {user: 'anna@acme.test', pass: process.argv[2]}});
        const raw = Buffer.from(process.argv[3], 'base64');
        transport.sendMail({envelope: {from: 'anna@acme.test', to: ['bob@client.test']}, raw})
            .then(() => process.exit(0), error => { console.error(error); process.exit(1); });
        """,
        str(port), password, base64.b64encode(unstuffed("nodemailer")).decode(), NODE_PATH=str(modules()),
    )  # fmt: skip


CLIENTS = [swaks, msmtp, s_nail, curl, nodemailer]
EXACT = {swaks, msmtp, curl, nodemailer}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Two relays for the same person: one before a sink, one before a Postfix that has a sink behind it."""
    direct, behind = SinkThread(), SinkThread()
    first = Installation(tmp_path_factory.mktemp("direct"), direct.port)
    first.add_anna()
    first.relay = first.start_relay()
    yield first, direct, behind
    first.stop()
    direct.stop()
    behind.stop()


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_mail_of_this_client_arrives_exactly_with_its_copy_in_the_envelope_only(chain, client, tmp_path):
    first, direct, _ = chain
    before = len(direct.sink.taken)
    client(first.relay.port, first.password, tmp_path)
    until(lambda: len(direct.sink.taken) == before + 1)
    taken = direct.sink.taken[-1]
    assert [rcpt.partition(">")[0] for rcpt in taken.rcpts] == ["RCPT TO:<bob@client.test", f"RCPT TO:<{BCC}"]
    assert BCC.encode() not in taken.raw
    if client in EXACT:
        assert taken.raw.rstrip(b"\r\n") == content(client.__name__).rstrip(b"\r\n")
    until(lambda: first.rows() and first.rows()[0].state == "copied")


def test_a_mail_merge_over_five_connections_passes_whole(tmp_path):
    """nodemailer's pool of five with five hundred mails, well above the pace: each MAIL waits its turn, and
    nothing is refused. (Five times the default pace, so that it takes a minute and not eight.)"""
    sink = SinkThread()
    installation = Installation(tmp_path, sink.port)
    try:
        installation.add_anna()
        installation.command("admin", "policy", "set", "mails-per-minute", "300")
        relay = installation.start_relay()
        said = run(
            needs("node"), "-e",
            """
            const mailer = require('nodemailer');
            const transport = mailer.createTransport({host: '127.0.0.1', port: +process.argv[1], secure: false, pool: true,
                maxConnections: 5, auth: {user: 'anna@acme.test', pass: process.argv[2]}});
            const mails = [...Array(500).keys()].map(number => transport.sendMail({from: 'anna@acme.test',
                to: `customer${number}@client.test`, subject: `Offer ${number}`, text: 'Hello'}));
            Promise.allSettled(mails).then(ends => {
                console.log(ends.filter(end => end.status === 'fulfilled').length);
                ends.filter(end => end.status !== 'fulfilled').slice(0, 3).forEach(end => console.log(String(end.reason)));
                process.exit(0);
            });
            """,
            str(relay.port), installation.password, NODE_PATH=str(modules()), seconds=400,
        )  # fmt: skip
        assert said.split("\n")[0] == "500", said
        assert len(sink.sink.taken) == 500
        rows = installation.ended(at_least=500)
        assert {(row.state, row.bcc) for row in rows} == {("copied", "accepted")}
        assert len({row.subject for row in rows}) == 500
    finally:
        installation.stop()
        sink.stop()


def test_all_of_them_through_a_real_postfix(chain, server_directory, tmp_path):
    _, _, behind = chain
    postfix = Postfix(server_directory, relayhost=behind.port)
    installation = Installation(tmp_path, postfix.port)
    try:
        installation.add_anna()
        relay = installation.start_relay()
        for client in CLIENTS:
            before = len(behind.sink.taken)
            client(relay.port, installation.password, tmp_path)
            for taken in until(functools.partial(_arrived, behind.sink, before)):
                assert BCC.encode() not in taken.raw.lower()
                if client in EXACT:
                    assert taken.raw.rstrip(b"\r\n").endswith(content(client.__name__).rstrip(b"\r\n"))
        with installation.client(relay) as client:
            assert "pipelining" in client.esmtp_features
            send(client, mail(body="x" * 5_000_000 + "\r\n"))
        rows = installation.ended(at_least=len(CLIENTS) + 1)
        assert {(row.state, row.bcc) for row in rows} == {("copied", "accepted")}
        assert all("queued as" in row.upstream for row in rows)
    finally:
        installation.stop()
        postfix.stop()


def _arrived(sink, before):
    """The mails since then, once both the recipient's and the copy are there."""
    mails = sink.taken[before:]
    rcpts = " ".join(rcpt for taken in mails for rcpt in taken.rcpts)
    return mails if "bob@client.test" in rcpts and BCC in rcpts else None

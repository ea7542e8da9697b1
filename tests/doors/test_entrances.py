"""Who comes in, how: encryption, gateways, sign-in at the upstream, tokens, limits."""

import asyncio
import base64
import contextlib
import http.server
import json
import socketserver
import ssl
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
import trustme

from core.endpoints import Limits, Listener, ListenerKind, SignIn, TokenSource, Upstream, UpstreamTls
from core.mail.reasons import Reason
from core.mail.row import State
from core.mail.store import unknown_senders
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.smtp import RefusesUs, Route, Unavailable
from relay import limits, server, session
from relay.entrance import Entrance
from tests.doors.conftest import BCC, Client, mail, running, until
from tests.sandbox.sink import Script, Sink

NETWORKS = ip_network("127.0.0.0/8"), ip_network("2001:db8::/32")


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def start(sqlite, tmp_path):
    return lambda script=None, **options: running(sqlite, tmp_path, Sink(script), **options)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("relay.test", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def trusting(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def everywhere(tls, kind=ListenerKind.SUBMISSION, **fields):
    """A listener that is not on loopback; the tests reach it there all the same."""
    return Entrance(Listener(kind, "0.0.0.0", 0), tls=tls, **fields)


def token(relay, password=None):
    return base64.b64encode(f"\0anna@acme.test\0{password or relay.password}".encode()).decode()


async def start_tls(client, context):
    assert (await client.command("STARTTLS")).startswith("220")
    await client.writer.start_tls(context, server_hostname="relay.test")


class TestEncryption:
    def test_comes_before_passwords_beyond_this_machine(self, start, tls, trusting):
        async def claim():
            async with start(entrance=everywhere(tls)) as relay:
                client = await relay.connect(sign_in=False)
                offered = await client.command("EHLO client.test")
                assert "STARTTLS" in offered
                assert "AUTH" not in offered
                assert (await client.command(f"AUTH PLAIN {token(relay)}")).startswith("538 5.7.11")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("530 5.7.0")
                await start_tls(client, trusting)
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("503"), (
                    "EHLO is forgotten"
                )
                offered = await client.command("EHLO client.test")
                assert "AUTH PLAIN LOGIN" in offered
                assert "STARTTLS" not in offered
                assert (await client.command("STARTTLS")).startswith("502")
                assert (await client.command(f"AUTH PLAIN {token(relay)}")).startswith("235")
                content = mail(body=b"line\r\n" * 100_000)
                assert (await client.mail(content)).startswith("250")
                assert relay.sink.taken[0].raw == content

        run(claim())

    def test_is_there_from_the_start_on_a_listener_for_it(self, start, tls, trusting):
        async def claim():
            async with start(entrance=everywhere(tls, ListenerKind.SUBMISSIONS)) as relay:
                streams = await asyncio.open_connection(
                    "127.0.0.1", relay.port, ssl=trusting, server_hostname="relay.test"
                )
                client = Client(*streams)
                relay.clients.append(client)
                assert (await client.reply()).startswith("220")
                offered = await client.command("EHLO client.test")
                assert "AUTH" in offered
                assert "STARTTLS" not in offered
                assert (await client.command(f"AUTH PLAIN {token(relay)}")).startswith("235")
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    def test_takes_nothing_that_was_sent_ahead_in_clear(self, start, tls):
        async def claim():
            async with start(entrance=everywhere(tls)) as relay:
                client = await relay.connect(sign_in=False)
                client.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
                assert (await client.reply()).startswith("503")
                assert await client.reader.read() == b""

        run(claim())

    def test_takes_nothing_that_was_sent_while_the_reply_was_under_way(self, start, tls):
        """Somebody in the middle lets our 220 wait, and speaks in clear till then (CVE-2011-0411)."""

        class Slow:
            def __init__(self, transport):
                self.transport = transport

            def __getattr__(self, name):
                return getattr(self.transport, name)

            def get_write_buffer_size(self):
                return 1

        async def claim():
            async with start(entrance=everywhere(tls)) as relay:
                client = await relay.connect(sign_in=False)
                [session] = relay.server.connections
                session.transport = Slow(session.transport)
                session.pause_writing()
                client.send(b"STARTTLS\r\n")
                assert (await client.reply()).startswith("220")
                client.send(b"EHLO evil\r\nNOOP\r\n")
                await until(session.buffer.has_more)
                session.resume_writing()
                assert await client.reader.read() == b""

        run(claim())

    def test_is_tls_1_2_or_newer(self, start, tls, trusting):
        async def claim():
            async with start(entrance=everywhere(tls, ListenerKind.SUBMISSIONS)) as relay:
                old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
                old.set_ciphers("ALL:@SECLEVEL=0")
                with pytest.warns(DeprecationWarning, match="TLSv1_1"):
                    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await asyncio.open_connection("127.0.0.1", relay.port, ssl=old)

        run(claim())

    @pytest.mark.parametrize("how", ["vanish", "close", "garbage"])
    def test_that_breaks_off_leaves_no_session(self, start, tls, how):
        async def claim():
            async with start(entrance=everywhere(tls)) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command("STARTTLS")).startswith("220")
                if how == "garbage":
                    client.send(b"GET / HTTP/1.1\r\n\r\n")
                else:
                    getattr(client, how)()
                await until(lambda: not relay.server.connections)

        run(claim())

    @pytest.mark.parametrize("kind", [ListenerKind.SUBMISSION, ListenerKind.SUBMISSIONS])
    def test_does_not_hide_that_a_250_was_not_heard(self, start, tls, trusting, kind):
        async def claim():
            async with start(
                Script(replies={"dot": ["delay:0.5:250 2.0.0 Ok: queued as 9", ""]}),
                entrance=everywhere(tls, kind),
            ) as relay:

                async def encrypted():
                    implicit = trusting if kind is ListenerKind.SUBMISSIONS else None
                    streams = await asyncio.open_connection(
                        "127.0.0.1",
                        relay.port,
                        ssl=implicit,
                        server_hostname="relay.test" if implicit else None,
                    )
                    client = Client(*streams)
                    relay.clients.append(client)
                    await client.reply()
                    await client.command("EHLO x")
                    if not implicit:
                        await start_tls(client, trusting)
                        await client.command("EHLO x")
                    assert (await client.command(f"AUTH PLAIN {token(relay)}")).startswith("235")
                    return client

                client = await encrypted()
                await client.envelope()
                client.send(mail() + b".\r\n")
                await client.writer.drain()
                await asyncio.sleep(0.2)
                client.close()
                await until(lambda: relay.rows() and relay.rows()[0].fingerprint)
                assert await (await encrypted()).mail(mail()) == "250 2.0.0 Ok: queued as 9"
                assert [taken.complete for taken in relay.sink.taken].count(True) == 1

        run(claim())

    def test_that_fails_harms_nobody_else(self, start, tls):
        async def claim():
            async with start(entrance=everywhere(tls)) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command("STARTTLS")).startswith("220")
                client.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
                assert b"220" not in await client.reader.read()
                assert (await (await relay.connect(sign_in=False)).command("NOOP")).startswith("250")

        run(claim())


class TestGateway:
    def entrance(self, networks=NETWORKS):
        return Entrance(Listener(ListenerKind.GATEWAY, "127.0.0.1", 0), trusted=networks)

    def own_domain(self, relay):
        with relay.database.writing() as opened:
            settings_store.set_policy(opened, Setting.OWN_DOMAINS, "acme.test", actor=None)
        return relay.snapshot.look()

    def test_takes_mail_of_own_domains_from_trusted_networks_and_knows_the_person_by_from(self, start):
        async def claim():
            async with start(entrance=self.entrance()) as relay:
                await self.own_domain(relay)
                client = await relay.connect(sign_in=False)
                assert "AUTH" not in await client.command("EHLO mail.acme.test")
                assert (await client.command("AUTH PLAIN AAA=")).startswith("502")
                assert (await client.mail(mail(), sender="bounce+x@acme.test")).startswith("250")
                assert [rcpt.partition(">")[0] for rcpt in relay.sink.taken[0].rcpts] == [
                    "RCPT TO:<bob@client.test",
                    f"RCPT TO:<{BCC}",
                ]
                await relay.row(state=State.COPIED)

        run(claim())

    def test_passes_on_what_is_nobodys_without_a_row(self, start):
        async def claim():
            async with start(entrance=self.entrance()) as relay:
                await self.own_domain(relay)
                client = await relay.connect(sign_in=False)
                assert (await client.mail(mail(sender="info@acme.test"), sender="info@acme.test")).startswith(
                    "250"
                )
                assert (
                    await client.mail(b"Subject: no author\r\n\r\nx\r\n", sender="info@acme.test")
                ).startswith("250")
                assert [len(taken.rcpts) for taken in relay.sink.taken] == [1, 1]

                def counted():
                    with relay.database.reading() as opened:
                        return [(one.address, one.mails) for one in unknown_senders(opened)] == [
                            ("info@acme.test", 1)
                        ]

                await until(counted)
                assert await relay.all_rows() == []

        run(claim())

    def test_takes_the_null_sender(self, start):
        async def claim():
            async with start(entrance=self.entrance()) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.mail(mail(), sender="")).startswith("250")
                await relay.row(state=State.NOT_LOGGED, reason=Reason.NULL_SENDER)

        run(claim())

    @pytest.mark.parametrize(
        "sender", ["anna@other.test", "anna@sub.acme.test", "anna@acme.test.evil.test", "anna"]
    )
    def test_refuses_senders_of_other_domains(self, start, sender):
        async def claim():
            async with start(entrance=self.entrance()) as relay:
                await self.own_domain(relay)
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"MAIL FROM:<{sender}>")).startswith("550 5.7.1")

        run(claim())

    def test_refuses_other_networks(self, start):
        async def claim():
            async with start(entrance=self.entrance(NETWORKS[1:])) as relay:
                await self.own_domain(relay)
                client = await relay.connect(sign_in=False)
                for sender in ("anna@acme.test", ""):
                    assert (await client.command(f"MAIL FROM:<{sender}>")).startswith("550 5.7.1")
                assert relay.sink.commands == ["EHLO relay.test", "QUIT"] or "MAIL" not in str(
                    relay.sink.commands
                )

        run(claim())


@pytest.mark.parametrize(
    ("source", "trusted"),
    [
        ("127.0.0.1", True),
        ("::ffff:127.0.0.1", True),
        ("2001:db8::1", True),
        ("2001:db8::1%eth0", True),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_networks(source, trusted):
    assert limits.is_trusted(source, NETWORKS) is trusted


class TestSigningInAtTheUpstream:
    ENTRANCE = Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0), SignIn.UPSTREAM)
    EXTENSIONS = ("PIPELINING", "AUTH PLAIN LOGIN", "DSN")

    def script(self, **replies):
        return Script(
            extensions=list(self.EXTENSIONS), replies={key: list(value) for key, value in replies.items()}
        )

    def test_uses_the_clients_own_password_once_on_a_link_of_its_own(self, start):
        async def claim():
            async with start(self.script(), entrance=self.ENTRANCE) as relay:
                before = relay.sink.connections
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'mail password')}")).startswith("235")
                assert relay.sink.connections == before + 1
                said = base64.b64encode(b"\0anna@acme.test\0mail password").decode()
                assert [command for command in relay.sink.commands if command.startswith("AUTH")] == [
                    f"AUTH PLAIN {said}"
                ]
                for number in range(3):
                    assert (await client.mail(mail(message_id=f"<{number}@x>"))).startswith("250")
                await client.command("MAIL FROM:<anna@acme.test>")
                await client.command("RSET")
                assert (await client.mail(mail(message_id="<4@x>"))).startswith("250")
                assert relay.sink.connections == before + 1
                assert {row.state for row in await relay.all_rows()} == {State.COPIED}
                assert relay.pool.idle_links == [] or all(
                    link.mails == 0 for link in relay.pool.idle_links
                ), "never pooled"
                client.close()
                await until(lambda: relay.sink.commands[-1] == "QUIT")

        run(claim())

    def test_refused_there_is_refused_here_after_one_try(self, start):
        async def claim():
            async with start(self.script(AUTH=["535 5.7.8 No"]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'wrong')}")).startswith("535 5.7.8")
                assert len([command for command in relay.sink.commands if command.startswith("AUTH")]) == 1

        run(claim())

    @pytest.mark.parametrize(
        "replies", [{"AUTH": ["454 4.7.0 Later"]}, {"greeting": ["", "421 4.3.2 Busy"]}, {"AUTH": ["close"]}]
    )
    def test_that_cannot_be_tried_is_454_never_535(self, start, replies):
        async def claim():
            async with start(self.script(**replies), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("454 4.7.0")

        run(claim())

    @pytest.mark.parametrize("said", ["500 5.5.2 What?", "503 5.5.1 Not now", "530 5.7.0 No"])
    def test_an_upstream_that_is_confused_has_not_said_that_the_password_is_wrong(self, start, said):
        async def claim():
            async with start(self.script(AUTH=[said]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("454 4.7.0")

        run(claim())

    @pytest.mark.parametrize("how", ["421 4.3.2 Closing", "close"])
    def test_a_copy_that_breaks_the_own_link_costs_one_retry(self, start, how):
        async def claim():
            async with start(self.script(**{"RCPT TO:<email": [how]}), entrance=self.ENTRANCE) as relay:
                for expected in ("451 4.4.2", "250"):
                    client = await relay.connect(sign_in=False)
                    await client.command(f"AUTH PLAIN {token(relay, 'x')}")
                    assert (await client.mail(mail())).startswith(expected)
                assert [taken.rcpts for taken in relay.sink.taken] == [["RCPT TO:<bob@client.test>"]]

        run(claim())

    @pytest.mark.parametrize("how", ["close", "550 5.5.1 No"])
    def test_a_reset_that_fails_ends_the_sign_in(self, start, how):
        async def claim():
            async with start(self.script(RSET=[how]), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                await client.command(f"AUTH PLAIN {token(relay, 'x')}")
                await client.command("MAIL FROM:<anna@acme.test>")
                await client.command("RSET")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("421 4.4.2")

        run(claim())

    def test_ends_with_its_link(self, start):
        async def claim():
            async with start(self.script(), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                await client.command(f"AUTH PLAIN {token(relay, 'x')}")
                relay.sink.cut_all()
                await asyncio.sleep(0.1)
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("421 4.4.2")
                assert await client.reader.read() == b""

        run(claim())

    def test_ends_with_starttls(self, start, tls, trusting):
        """What was said in clear counts for nothing afterwards (RFC 3207 section 4.2), nor does its link."""

        async def claim():
            entrance = replace(self.ENTRANCE, tls=tls)
            async with start(self.script(), entrance=entrance) as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("235")
                await start_tls(client, trusting)
                await client.command("EHLO again")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("530 5.7.0")
                await until(lambda: relay.sink.commands[-1] == "QUIT")
                assert (await client.command(f"AUTH PLAIN {token(relay, 'x')}")).startswith("235")
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    def test_somebody_whom_we_do_not_know_is_not_logged(self, start):
        async def claim():
            async with start(self.script(), entrance=self.ENTRANCE) as relay:
                client = await relay.connect(sign_in=False)
                stranger = base64.b64encode(b"\0carl@acme.test\0x").decode()
                assert (await client.command(f"AUTH PLAIN {stranger}")).startswith("235")
                assert (await client.mail(mail())).startswith("250")
                assert [len(taken.rcpts) for taken in relay.sink.taken] == [1], "Anna's From is not Carl's"
                assert await relay.all_rows() == []

        run(claim())


class TokenEndpoint:
    """Issues tokens, or what it is told to."""

    def __init__(self, status=200, answer=None):
        self.asked = []
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                endpoint.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                body = json.dumps(answer or {"access_token": "t" * 3000, "expires_in": 3600}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class TestTokens:
    def connect(self, script, endpoint, times=1):
        async def connecting():
            sink = Sink(script)
            port = await sink.start()
            source = TokenSource(endpoint.url, "https://outlook.test/.default", "client-1")
            route = Route(
                Upstream(UpstreamTls.NONE, "127.0.0.1", port, "sales@acme.test", "s3cret", token=source),
                "relay.test",
            )
            try:
                for _ in range(times):
                    (await route.connect()).transport.close()
            finally:
                await sink.stop()
                endpoint.close()
                await asyncio.sleep(0.05)
            return sink

        return run(connecting())

    def test_long_ones_go_in_two_steps_and_are_asked_for_once(self):
        endpoint = TokenEndpoint()
        sink = self.connect(
            Script(replies={"AUTH XOAUTH2": ["334 "], "dXNl": ["235 2.7.0 Ok"]}), endpoint, times=2
        )
        said = base64.b64encode(b"user=sales@acme.test\x01auth=Bearer " + b"t" * 3000 + b"\x01\x01").decode()
        assert [command for command in sink.commands if command != "EHLO relay.test"] == [
            "AUTH XOAUTH2",
            said,
        ] * 2
        assert len(endpoint.asked) == 1
        assert (
            "grant_type=client_credentials&client_id=client-1&client_secret=s3cret&scope=https"
            in endpoint.asked[0]
        )

    def test_refused_are_asked_for_anew(self):
        endpoint = TokenEndpoint()
        script = Script(replies={"AUTH XOAUTH2": ["334 "], "dXNl": ["535 5.7.3 No", "235 2.7.0 Ok"]})
        with pytest.raises(RefusesUs):
            self.connect(script, endpoint)
        assert len(endpoint.asked) == 1

    def test_refused_are_answered_with_an_empty_line_and_ours_to_mend(self):
        endpoint = TokenEndpoint()
        replies = {"AUTH XOAUTH2": ["334 "], "dXNl": ["334 eyJzdGF0dXMiOiI0MDAifQ=="], "": ["535 5.7.3 No"]}
        replies = {"EHLO": [""], "greeting": [""]} | replies
        with pytest.raises(RefusesUs):
            self.connect(Script(replies=replies), endpoint)

    @pytest.mark.parametrize(
        ("status", "answer", "trouble"),
        [
            (401, {"error": "x"}, RefusesUs),
            (200, ["no"], RefusesUs),
            (200, {"a": 1}, RefusesUs),
            (503, {"a": 1}, Unavailable),
            (200, {"access_token": None}, RefusesUs),
        ],
    )
    def test_that_are_not_given_are_ours_to_mend_or_to_wait_for(self, status, answer, trouble):
        with pytest.raises(trouble):
            self.connect(Script(), TokenEndpoint(status, answer))

    def test_of_an_endpoint_that_speaks_no_http_are_to_wait_for(self):
        with contextlib.closing(NoHttp()) as endpoint, pytest.raises(Unavailable):
            self.connect(Script(), endpoint)


class NoHttp:
    """A token endpoint's port on which something else answers."""

    def __init__(self):
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"* OK IMAP4rev1 at your service\r\n")

        self.server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/token"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class TestLimits:
    def limited(self, **fields):
        return Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, Limits(**fields)))

    def test_of_size_declared_and_counted(self, start):
        async def claim():
            async with start(entrance=self.limited(size=100_000)) as relay:
                client = await relay.connect()
                assert "SIZE 100000" in await client.command("EHLO again")
                assert (await client.command("MAIL FROM:<anna@acme.test> SIZE=100001")).startswith(
                    "552 5.3.4"
                )
                assert (await client.mail(mail(body=b"x" * 150_000 + b"\r\n"))).startswith("552 5.3.4")
                assert not any(taken.complete for taken in relay.sink.taken)
                assert (await client.mail(mail(body=b"x" * 90_000 + b"\r\n"))).startswith("250")

        run(claim())

    def test_of_size_are_not_read_for_ever(self, start):
        async def claim():
            async with start(entrance=self.limited(size=10_000)) as relay:
                client = await relay.connect()
                await client.envelope()
                for _ in range(100):
                    client.send(b"x" * 65_536)
                    await asyncio.sleep(0)
                await until(lambda: not relay.server.connections)

        run(claim())

    def test_of_size_are_the_upstreams_where_that_is_smaller(self, start):
        async def claim():
            async with start(Script(extensions=["SIZE 5000"])) as relay:
                assert "SIZE 5000" in await (await relay.connect()).command("EHLO again")

        run(claim())

    def test_of_recipients(self, start):
        async def claim():
            async with start(entrance=self.limited(recipients=2)) as relay:
                client = await relay.connect()
                await client.command("MAIL FROM:<anna@acme.test>")
                replies = [(await client.command(f"RCPT TO:<{name}@client.test>"))[:9] for name in "abc"]
                assert replies == ["250 2.1.5", "250 2.1.5", "452 4.5.3"]
                assert (await client.command("DATA")).startswith("354")
                client.send(mail() + b".\r\n")
                assert (await client.reply()).startswith("250")

        run(claim())

    def test_of_sessions(self, start):
        async def claim():
            async with start(entrance=self.limited(sessions=2)) as relay:
                clients = [await relay.connect(sign_in=False) for _ in range(2)]
                third = Client(*await asyncio.open_connection("127.0.0.1", relay.port))
                relay.clients.append(third)
                assert (await third.reply()).startswith("421 4.3.2")
                await clients[0].command("QUIT")
                await until(lambda: len(relay.server.connections) == 1)
                await relay.connect(sign_in=False)

        run(claim())

    def test_of_mails_per_minute(self, start):
        async def claim():
            async with start() as relay:
                with relay.database.writing() as opened:
                    settings_store.set_policy(opened, Setting.MAILS_PER_MINUTE, "2", actor=None)
                await relay.snapshot.look()
                client = await relay.connect()
                for _ in range(2):
                    assert (await client.mail(mail())).startswith("250")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("450 4.7.1")

        run(claim())

    def test_of_errors(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                for _ in range(20):
                    assert (await client.command("NONSENSE")).startswith("500")
                assert (await client.reply()).startswith("421 4.7.0")
                assert await client.reader.read() == b""

        run(claim())

    def test_of_time_until_the_first_mail(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_UNTIL_THE_SIGN_IN", 0.2)

        async def claim():
            async with start() as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.reply()).startswith("421 4.4.2")

        run(claim())

    def test_of_time_until_the_first_mail_are_not_put_off_by_idle_talk(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_UNTIL_THE_SIGN_IN", 1.0)

        async def claim():
            async with start() as relay:
                client = await relay.connect(sign_in=False)
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    for _ in range(100):
                        if (said := await client.command("NOOP")).startswith("421"):
                            break
                        await asyncio.sleep(0.1)
                assert said.startswith("421 4.4.2") or client.reader.at_eof()

        run(claim())

    def test_of_a_sessions_time_let_a_mail_come_to_its_end(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_FOR_A_SESSION", 1.0)

        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.envelope()
                await asyncio.sleep(2.5)
                client.send(mail() + b".\r\n")
                assert (await client.reply()).startswith("250")
                assert (await client.reply()).startswith("421 4.4.2")

        run(claim())

    def test_of_an_app_passwords_life_hold_within_a_session(self, start, monkeypatch):
        async def claim():
            async with start() as relay:
                expires = datetime.now(UTC) + timedelta(seconds=2)
                with relay.database.writing() as opened:
                    _, relay.password = people_store.add_app_password(
                        opened, "anna@acme.test", label="", actor=None, expires_at=expires
                    )
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                await asyncio.sleep(2.5)
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("530 5.7.0")

        run(claim())

    def test_of_a_relay_that_is_held_up(self, start, monkeypatch):
        """Who is connected is served; who comes is asked to come again, until the relay has caught up."""
        monkeypatch.setattr(server, "SECONDS_OF_LAG", 0.5)

        async def claim():
            async with start() as relay:
                client = await relay.connect()
                time.sleep(3)
                await until(lambda: relay.server.is_overloaded)
                newcomer = Client(*await asyncio.open_connection("127.0.0.1", relay.port))
                relay.clients.append(newcomer)
                assert (await newcomer.reply()).startswith("421 4.3.2")
                assert (await client.mail(mail())).startswith("250")
                await until(lambda: not relay.server.is_overloaded)
                await relay.connect()

        run(claim())

    def test_of_time_for_the_data(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_FOR_THE_DATA", 1.0)

        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.envelope()
                for _ in range(40):
                    client.send(b"drip\r\n")
                    await asyncio.sleep(0.1)
                    if client.reader.at_eof() or client.reader._buffer:  # noqa: SLF001  what has come, without waiting for a line
                        break
                assert (await client.reply()).startswith("421 4.4.2")
                await relay.row(state=State.ABORTED)

        run(claim())

    def test_of_guessing(self, start, monkeypatch):
        monkeypatch.setattr(limits, "FIRST_DELAY", 0.01)
        monkeypatch.setattr(limits, "MOST_FAILURES_PER_SOURCE", 3)

        async def claim():
            async with start() as relay:
                client = await relay.connect(sign_in=False)
                for _ in range(3):
                    assert (await client.command(f"AUTH PLAIN {token(relay, 'wrong')}")).startswith(
                        "535 5.7.8"
                    )
                assert (await client.command(f"AUTH PLAIN {token(relay)}")).startswith("454 4.7.0")

        run(claim())


class TestCounting:
    def test_each_failure_waits_longer_and_a_success_clears(self):
        failed = limits.FailedSignIns()
        assert [failed.note("10.0.0.1", "anna", 0.0) for _ in range(5)] == [0.5, 1, 2, 4, 5]
        assert failed.note("10.0.0.2", "anna", 0.0) == 5, "the account is guessed at from elsewhere"
        failed.forget("10.0.0.1", "anna")
        assert failed.note("10.0.0.1", "anna", 0.0) == 0.5
        assert not failed.is_barred("10.0.0.1", "anna", 0.0)

    def test_an_account_is_barred_where_it_is_guessed_at_only(self):
        failed = limits.FailedSignIns()
        for _ in range(20):
            failed.note("10.0.0.1", "anna", 0.0)
        assert failed.is_barred("10.0.0.1", "anna", 1.0)
        assert not failed.is_barred("10.0.0.1", "carl", 1.0)
        assert not failed.is_barred("10.0.0.2", "anna", 1.0)

    def test_an_account_that_many_guess_at_stays_open_to_its_owner(self):
        failed = limits.FailedSignIns()
        failed.forget("10.0.0.1", "anna")
        for number in range(100):
            assert not failed.is_barred(f"s{number}", "anna", 0.0)
            failed.note(f"s{number}", "anna", 0.0)
        assert failed.is_barred("elsewhere", "anna", 1.0)
        assert not failed.is_barred("elsewhere", "carl", 1.0)
        assert not failed.is_barred("10.0.0.1", "anna", 1.0), "the owner's own place"
        failed.forget("10.0.0.1", "anna")
        assert failed.is_barred("elsewhere", "anna", 1.0), "it is guessed at all the same"
        assert not failed.is_barred("elsewhere", "anna", 601.0)

    def test_failures_are_forgotten_with_time_and_bounded(self):
        failed = limits.FailedSignIns()
        for _ in range(50):
            failed.note("10.0.0.1", "anna", 0.0)
        assert failed.is_barred("10.0.0.1", "carl", 1.0)
        assert not failed.is_barred("10.0.0.1", "carl", 601.0)
        for number in range(20_000):
            failed.note(f"s{number}", "x", 0.0)
        assert len(failed.failures) <= 10_000

    def test_sessions_of_one_source(self):
        sessions, most = limits.Sessions(), Limits(sessions=10, sessions_per_source=2)
        for _ in range(2):
            sessions.enter("10.0.0.1")
        assert not sessions.may_enter("10.0.0.1", most)
        assert sessions.may_enter("10.0.0.2", most)
        sessions.leave("10.0.0.1")
        assert sessions.may_enter("10.0.0.1", most)
        for _ in range(9):
            sessions.enter("127.0.0.1")
        assert not sessions.may_enter("127.0.0.1", most)

    def test_pace_counts_other_relays_too(self):
        pace = limits.Pace()
        assert [pace.take(1, 3, 1, now) for now in (0.0, 1.0, 2.0)] == [True, True, False]
        assert pace.take(1, 3, 0, 2.0)
        assert not pace.take(1, 3, 0, 3.0)
        assert pace.take(1, 3, 0, 61.0)
        assert pace.take(2, 3, 2, 3.0)


def test_the_upstream_is_not_spoken_to_in_clear_where_tls_is_meant(authority, tmp_path):
    async def claim():
        sink = Sink(Script(extensions=["PIPELINING"]))
        port = await sink.start()
        route = Route(Upstream(UpstreamTls.STARTTLS, "127.0.0.1", port, "me", "s3cret"), "relay.test")
        with pytest.raises(Unavailable):
            await route.connect()
        assert not any("AUTH" in command for command in sink.commands)
        await sink.stop()

    run(claim())


@pytest.mark.parametrize("kind", [UpstreamTls.STARTTLS, UpstreamTls.IMPLICIT])
@pytest.mark.parametrize("trusted", [True, False])
def test_the_upstreams_certificate_is_checked(authority, tls, tmp_path, kind, trusted, sqlite):
    async def claim():
        sink = Sink(Script(extensions=["PIPELINING", "STARTTLS", "AUTH PLAIN"]), tls=tls)
        port = await sink.start(implicit_tls=kind is UpstreamTls.IMPLICIT)
        ca_file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(ca_file)
        upstream = Upstream(kind, "127.0.0.1", port, "me", "s3cret", ca_file=ca_file if trusted else None)
        if not trusted:
            with pytest.raises(RefusesUs):
                await Route(upstream, "relay.test").connect()
            assert not any("AUTH" in command for command in sink.commands)
        else:
            connected = await Route(upstream, "relay.test").connect()
            assert connected.tls_version == "TLSv1.3"
            assert connected.certificate["subjectAltName"]
            connected.transport.abort()
        await asyncio.sleep(0.05)
        await sink.stop()

    run(claim())


def test_a_mail_over_tls_to_the_upstream(sqlite, tmp_path, authority, tls):
    async def claim():
        sink = Sink(Script(extensions=["PIPELINING", "STARTTLS", "DSN"]), tls=tls)
        ca_file = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(ca_file)
        async with running(sqlite, tmp_path, sink) as relay:
            upstream = replace(relay.pool.route.upstream, tls=UpstreamTls.STARTTLS, ca_file=ca_file)
            await relay.pool.close()
            relay.pool.route = Route(upstream, "relay.test")
            relay.pool.idle_links.clear()
            client = await relay.connect()
            content = mail(body=b"line\r\n" * 300_000)
            assert (await client.mail(content)).startswith("250")
            assert relay.sink.taken[0].raw == content

    run(claim())

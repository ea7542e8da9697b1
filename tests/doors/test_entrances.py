"""Who may come in, and how: encryption and gateways; and the encryption of the upstream."""

import asyncio
import ssl
from dataclasses import replace

import pytest

from core.endpoints import Listener, ListenerKind, TlsFiles, Upstream, UpstreamTls
from core.mail.reasons import Reason
from core.mail.row import State
from core.mail.store import unknown_senders
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.smtp import RefusesUs, Route, UpstreamUnavailable
from relay import limits
from relay.entrance import Entrance
from tests.doors.conftest import BCC, Client, mail, running, until
from tests.doors.entrance_bench import (
    NETWORKS,
    authority,  # noqa: F401
    everywhere,
    run,
    start,  # noqa: F401
    start_tls,
    tls,  # noqa: F401
    token,
    trusting,  # noqa: F401
)
from tests.sandbox.sink import Script, Sink


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

    def test_a_first_5xx_to_a_mail_with_a_copy_is_said_as_451_once(self, start):
        """The server in front does not try again after a 5xx, and the copy may have been the cause."""

        async def claim():
            script = Script(replies={"dot": ["554 5.7.1 No copies", "554 5.7.1 Not this mail either"]})
            async with start(script, entrance=self.entrance()) as relay:
                await self.own_domain(relay)
                client = await relay.connect(sign_in=False)
                assert (await client.mail(mail())).startswith("451 4.3.0")
                assert await client.mail(mail()) == "554 5.7.1 Not this mail either"
                without = mail(message_id="<2@acme.test>", headers=b"X-Blindcopy: no\r\n")
                assert (await client.mail(without)).startswith("554"), "what has no copy is refused as it is"

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


def test_the_upstream_is_not_spoken_to_in_clear_where_tls_is_meant(authority, tmp_path):
    async def claim():
        sink = Sink(Script(extensions=["PIPELINING"]))
        port = await sink.start()
        route = Route(Upstream(UpstreamTls.STARTTLS, "127.0.0.1", port, "me", "s3cret"), "relay.test")
        with pytest.raises(UpstreamUnavailable):
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


@pytest.mark.parametrize("shows_one", [True, False])
def test_a_client_certificate_is_shown_to_the_upstream(authority, tmp_path, shows_one):
    """As a connector of Exchange Online wants it."""

    async def claim():
        wants_one = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(wants_one)
        authority.configure_trust(wants_one)
        wants_one.verify_mode = ssl.CERT_REQUIRED
        wants_one.maximum_version = ssl.TLSVersion.TLSv1_2  # the refusal comes within the handshake
        sink = Sink(Script(), tls=wants_one)
        port = await sink.start(implicit_tls=True)
        ca_file, own = tmp_path / "ca.pem", authority.issue_cert("relay.acme.test")
        authority.cert_pem.write_to_path(ca_file)
        own.cert_chain_pems[0].write_to_path(tmp_path / "own.pem")
        own.private_key_pem.write_to_path(tmp_path / "own.key")
        files = TlsFiles(tmp_path / "own.pem", tmp_path / "own.key") if shows_one else None
        upstream = Upstream(
            UpstreamTls.IMPLICIT, "127.0.0.1", port, ca_file=ca_file, client_certificate=files
        )
        if shows_one:
            connected = await Route(upstream, "relay.test").connect()
            connected.transport.abort()
        else:
            with pytest.raises((RefusesUs, UpstreamUnavailable)):
                await Route(upstream, "relay.test").connect()
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

"""Behind a balancer, and before old devices: listener options that say who speaks, and how."""

import asyncio
import ipaddress
import socket
import ssl
import struct

import pytest
import trustme

from core.endpoints import Listener, ListenerKind
from relay import proxied
from relay.entrance import Entrance
from tests.doors.conftest import Client, mail, running
from tests.sandbox.sink import Sink

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
V1 = b"PROXY TCP4 10.1.2.3 10.0.0.1 5000 25\r\n"
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def v2(source="10.1.2.3", command=1):
    addresses = socket.inet_aton(source) + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 5000, 25)
    return V2_SIGNATURE + bytes([0x20 | command, 0x11]) + struct.pack("!H", len(addresses)) + addresses


def gateway(**options):
    """For 10.1.0.0/16 only: whoever is taken for the balancer itself may not send."""
    return Entrance(
        Listener(ListenerKind.GATEWAY, "127.0.0.1", 0, **options),
        trusted=(ipaddress.ip_network("10.1.0.0/16"),),
    )


async def connected(relay, *parts, pause=0.0):
    client = Client(*await asyncio.open_connection("127.0.0.1", relay.port))
    relay.clients.append(client)
    for part in parts:
        client.send(part)
        await asyncio.sleep(pause)
    return client


async def heard_nothing(client):
    """The connection ended; what was sent and not read makes a reset of it."""
    try:
        return await client.reader.read() == b""
    except ConnectionResetError:
        return True


def run(claim, sqlite, tmp_path, **options):
    async def go():
        async with running(sqlite, tmp_path, Sink(), **options) as relay:
            from core.settings import store as settings_store
            from core.settings.catalogue import Setting

            with sqlite.writing() as session:
                settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
            await relay.snapshot.look()
            await claim(relay)

    asyncio.run(go())


class TestAProxyHeader:
    @pytest.mark.parametrize("header", [V1, v2()], ids=["v1", "v2"])
    @pytest.mark.parametrize("is_split", [False, True], ids=["at once", "byte by byte"])
    def test_says_whose_connection_it_is(self, sqlite, tmp_path, header, is_split):
        async def claim(relay):
            parts = [bytes([one]) for one in header] if is_split else [header]
            client = await connected(relay, *parts, pause=0.001 if is_split else 0)
            assert (await client.reply()).startswith("220")
            assert [session.source for session in relay.server.connections] == ["10.1.2.3"]
            await client.command("EHLO client.test")
            assert (await client.mail(mail())).startswith("250")

        run(claim, sqlite, tmp_path, entrance=gateway(proxies=LOOPBACK))

    def test_with_commands_right_behind_it_loses_none(self, sqlite, tmp_path):
        async def claim(relay):
            client = await connected(relay, V1 + b"EHLO client.test\r\nNOOP\r\n")
            assert (await client.reply()).startswith("220")
            assert "PIPELINING" in await client.reply()
            assert (await client.reply()).startswith("250")

        run(claim, sqlite, tmp_path, entrance=gateway(proxies=LOOPBACK))

    def test_comes_before_encryption(self, sqlite, tmp_path):
        authority = trustme.CA()
        tls, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("relay.test").configure_cert(tls)
        authority.configure_trust(trusting)
        entrance = Entrance(Listener(ListenerKind.SUBMISSIONS, "127.0.0.1", 0, proxies=LOOPBACK), tls=tls)

        async def claim(relay):
            connection = socket.create_connection(("127.0.0.1", relay.port))
            connection.sendall(v2())
            connection.setblocking(False)
            reader, writer = await asyncio.open_connection(
                sock=connection, ssl=trusting, server_hostname="relay.test"
            )
            client = Client(reader, writer)
            relay.clients.append(client)
            assert (await client.reply()).startswith("220")
            assert "AUTH PLAIN" in await client.command("EHLO client.test")
            assert [session.source for session in relay.server.connections] == ["10.1.2.3"]

        run(claim, sqlite, tmp_path, entrance=entrance)

    @pytest.mark.parametrize("header", [v2(command=0), b"PROXY UNKNOWN\r\n"], ids=["v2 LOCAL", "v1 UNKNOWN"])
    def test_of_a_health_check_speaks_of_the_balancer(self, sqlite, tmp_path, header):
        async def claim(relay):
            client = await connected(relay, header)
            assert (await client.reply()).startswith("220")
            assert [session.source for session in relay.server.connections] == ["127.0.0.1"]

        run(claim, sqlite, tmp_path, entrance=gateway(proxies=LOOPBACK))

    @pytest.mark.parametrize(
        "header",
        [
            b"EHLO client.test\r\n",
            b"PROXY nonsense\r\n",
            b"PROXY " + b"x" * 200,
            V2_SIGNATURE + b"\x21\x11\xff\xff",
        ],
    )
    def test_that_is_none_ends_the_connection_without_a_word(self, sqlite, tmp_path, header, caplog):
        async def claim(relay):
            client = await connected(relay, header)
            assert await heard_nothing(client)
            assert "from the balancer 127.0.0.1" in caplog.text

        run(claim, sqlite, tmp_path, entrance=gateway(proxies=LOOPBACK))

    def test_that_does_not_come_in_time_ends_it_too(self, sqlite, tmp_path, monkeypatch):
        monkeypatch.setattr(proxied, "_SECONDS_FOR_THE_HEADER", 0.1)

        async def claim(relay):
            client = await connected(relay, b"PRO")
            assert await heard_nothing(client)

        run(claim, sqlite, tmp_path, entrance=gateway(proxies=LOOPBACK))

    def test_is_taken_from_no_other_network(self, sqlite, tmp_path):
        elsewhere = (ipaddress.ip_network("192.0.2.0/24"),)

        async def claim(relay):
            client = await connected(relay, V1)
            assert (await client.reply()).startswith("220")
            assert (await client.reply()).startswith("500")
            assert [session.source for session in relay.server.connections] == ["127.0.0.1"]

        run(claim, sqlite, tmp_path, entrance=gateway(proxies=elsewhere))

    def test_is_a_command_like_any_other_where_no_balancer_is_named(self, sqlite, tmp_path):
        async def claim(relay):
            client = await connected(relay, V1)
            assert (await client.reply()).startswith("220")
            assert (await client.reply()).startswith("500")

        run(claim, sqlite, tmp_path, entrance=gateway())


class TestBareNewlines:
    def test_become_line_ends_on_a_listener_that_mends_them(self, sqlite, tmp_path):
        entrance = Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, fixes_bare_newlines=True))

        async def claim(relay):
            client = await relay.connect()
            await client.envelope()
            client.send(mail().replace(b"\r\n", b"\n") + b"a\r\nb\n.\nRSET\n")
            assert (await client.reply()).startswith("250")
            assert (await client.reply()).startswith("250"), "the command behind the mail"
            assert relay.sink.taken[0].raw == mail() + b"a\r\nb\r\n"
            assert b"\n" not in relay.sink.taken[0].raw.replace(b"\r\n", b"")

        run(claim, sqlite, tmp_path, entrance=entrance)

    def test_are_refused_on_every_other(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            assert (await client.mail(mail() + b"a\nb\r\n")).startswith("550 5.6.11")

        run(claim, sqlite, tmp_path)

"""From which addresses people may send, and to which domains nobody may."""

import asyncio
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest

from core.endpoints import Listener, ListenerKind, ListenerLimits
from core.mail.limits import ONE_DAY, refusals
from core.mail.row import State
from core.settings import store as settings_store
from core.settings.catalogue import SendAs, Setting
from relay.entrance import Entrance
from relay.snapshot import Snapshot
from tests.doors.conftest import BOX, mail, running, until

GATEWAY = Entrance(
    Listener(ListenerKind.GATEWAY, "127.0.0.1", 0, ListenerLimits()), trusted=(ip_network("127.0.0.0/8"),)
)


async def policy(relay, **settings):
    def save():
        with relay.database.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
            for name, value in settings.items():
                settings_store.set_policy(session, Setting(name.replace("_", "-")), value, actor=None)

    await asyncio.to_thread(save)
    await relay.snapshot.look()


def counted(relay):
    with relay.database.reading() as session:
        return [(one.person, one.limit, one.mails) for one in refusals(session, datetime.now(UTC) - ONE_DAY)]


@pytest.mark.parametrize("entrance", [None, GATEWAY])
def test_nobody_may_send_to_a_blocked_domain_and_who_tried_is_counted(sqlite, tmp_path, entrance):
    async def claim():
        options = {} if entrance is None else {"entrance": entrance}
        async with running(sqlite, tmp_path, **options) as relay:
            await policy(relay, blocked_domains="rival.test")
            client = await relay.connect(sign_in=entrance is None)
            assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("250")
            assert (await client.command("RCPT TO:<eve@Rival.test>")).startswith("550 5.7.1")
            assert (await client.command("RCPT TO:<bob@client.test>")).startswith("250")
            assert (await client.command("DATA")).startswith("354")
            client.send(mail() + b".\r\n")
            assert (await client.reply()).startswith("250")
            assert [one.rcpts[0] for one in relay.sink.taken] == ["RCPT TO:<bob@client.test>"]
            await until(lambda: counted(relay) == [("anna@acme.test", "blocked-domain", 1)])

    asyncio.run(claim())


def test_a_mail_to_blocked_domains_only_has_no_recipients(sqlite, tmp_path):
    async def claim():
        async with running(sqlite, tmp_path) as relay:
            await policy(relay, blocked_domains=".rival.test")
            client = await relay.connect()
            await client.command("MAIL FROM:<anna@acme.test>")
            assert (await client.command("RCPT TO:<eve@sales.rival.test>")).startswith("550 5.7.1")
            assert (await client.command("DATA")).startswith("554 5.5.1")
            assert relay.sink.taken == []

    asyncio.run(claim())


@pytest.mark.parametrize("sender", ["Boss <boss@acme.test>", "anna@acme.test, boss@acme.test", "nonsense"])
def test_who_may_send_from_their_own_addresses_only_sends_from_no_other(sqlite, tmp_path, sender):
    async def claim():
        async with running(sqlite, tmp_path) as relay:
            await policy(relay, send_as="own-addresses")
            client = await relay.connect()
            assert (await client.mail(mail(sender=sender))).startswith("550 5.7.60")
            row = await relay.row(state=State.ABORTED)
            assert row.upstream.startswith("550")
            assert not any(one.complete for one in relay.sink.taken)
            assert (await client.mail(mail())).startswith("250")

    asyncio.run(claim())


def test_a_server_at_a_gateway_sends_for_everybody(sqlite, tmp_path):
    async def claim():
        async with running(sqlite, tmp_path, entrance=GATEWAY) as relay:
            await policy(relay, send_as="own-addresses")
            client = await relay.connect(sign_in=False)
            assert (await client.mail(mail(sender="boss@acme.test"))).startswith("250")

    asyncio.run(claim())


def test_both_hold_while_the_database_is_away(sqlite, tmp_path):
    async def claim():
        async with running(sqlite, tmp_path) as relay:
            await policy(relay, send_as="own-addresses", blocked_domains="rival.test")
            kept = Snapshot(sqlite, tmp_path, BOX, "another")._from_disk().policy  # noqa: SLF001  what a relay starts with
            assert (kept.send_as, kept.blocked_domains) == (SendAs.OWN_ADDRESSES, ("rival.test",))

    asyncio.run(claim())

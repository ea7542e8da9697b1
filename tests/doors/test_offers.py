"""What the upstream can do is known before a client asks, and no mail is refused for good because of what we
know."""

import asyncio

import pytest

from core.endpoints import Upstream, UpstreamTls
from core.smtp import Route
from relay.offers import FILE, Offers
from relay.pool import Pool
from tests.doors.conftest import mail, running
from tests.sandbox.sink import Script, Sink

FULL = ["PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN"]
DAMAGED = ["", "{", "[]", '{"upstream": "smtp://x:25"}', '{"upstream": "smtp://x:25", "extensions": 1}']
DOWN = Upstream(UpstreamTls.NONE, "127.0.0.1", 9)


def run(claim, sqlite, tmp_path, script=None, **options):
    async def go():
        async with running(sqlite, tmp_path, Sink(script), **options) as relay:
            await claim(relay)

    asyncio.run(go())


class TestWhatIsKept:
    def test_is_offered_by_a_relay_that_starts_while_the_provider_is_down(self, tmp_path):
        Offers(tmp_path, "smtp://x:25").keep({"size": "1000", "8bitmime": ""})

        async def claim():
            pool = Pool(Route(DOWN, "relay.test"), Offers(tmp_path, "smtp://x:25"))
            await pool.learn()
            assert pool.is_known
            assert pool.extensions == {"size": "1000", "8bitmime": ""}
            await pool.close()

        asyncio.run(claim())

    def test_of_another_provider_does_not_count(self, tmp_path):
        Offers(tmp_path, "smtp://x:25").keep({"size": "1000"})
        assert Offers(tmp_path, "smtp://y:25").known() is None

    @pytest.mark.parametrize("content", DAMAGED)
    def test_damaged_says_nothing(self, tmp_path, content):
        (tmp_path / FILE).write_text(content)
        assert Offers(tmp_path, "smtp://x:25").known() is None

    def test_is_written_as_soon_as_it_is_learnt(self, sqlite, tmp_path):
        async def claim(relay):
            for _ in range(100):
                if (tmp_path / FILE).exists():
                    break
                await asyncio.sleep(0.05)
            assert Offers(tmp_path, str(relay.pool)).known() == dict(relay.pool.extensions)

        run(claim, sqlite, tmp_path)

    def test_that_is_nothing_sends_clients_away_until_the_provider_was_reached(self, sqlite, tmp_path):
        async def claim(relay):
            relay.pool.is_known = False
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
            assert (await reader.read()).startswith(b"421 4.4.1")
            writer.close()
            await relay.pool.learn()
            client = await relay.connect()
            assert (await client.mail(mail())).startswith("250")

        run(claim, sqlite, tmp_path)


class TestANodeOfTheProviderThatOffersLess:
    """The extensions of the script change under the relay, which has offered its clients all of them."""

    def less(self, relay):
        relay.sink.script.extensions[:] = ["PIPELINING"]
        for link in relay.pool.idle_links:
            link.quit()
        relay.pool.idle_links.clear()

    def test_is_not_told_a_size_nor_that_a_body_is_plain(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            self.less(relay)
            assert (await client.command("MAIL FROM:<anna@acme.test> SIZE=100 BODY=7BIT")).startswith("250")
            assert [one for one in relay.sink.commands if one.startswith("MAIL")] == [
                "MAIL FROM:<anna@acme.test>"
            ]

        run(claim, sqlite, tmp_path, Script(extensions=list(FULL)))

    @pytest.mark.parametrize("parameter", ["BODY=8BITMIME", "SMTPUTF8", "RET=HDRS"])
    def test_is_left_for_another_connection_and_451_where_there_is_none(self, sqlite, tmp_path, parameter):
        async def claim(relay):
            client = await relay.connect()
            self.less(relay)
            before = relay.sink.connections
            assert (await client.command(f"MAIL FROM:<anna@acme.test> {parameter}")).startswith("451 4.3.0")
            assert relay.sink.connections == before + 2
            relay.sink.script.extensions[:] = FULL
            for link in relay.pool.idle_links:
                link.quit()
            relay.pool.idle_links.clear()
            assert (await client.command(f"MAIL FROM:<anna@acme.test> {parameter}")).startswith("250")

        run(claim, sqlite, tmp_path, Script(extensions=list(FULL)))

    def test_does_not_matter_where_another_one_takes_the_mail(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            self.less(relay)
            held = await relay.pool.take()  # a link to the poor node
            relay.pool.give_back(held)
            relay.sink.script.extensions[:] = FULL
            assert (await client.command("MAIL FROM:<anna@acme.test> BODY=8BITMIME")).startswith("250")
            assert [one for one in relay.sink.commands if one.startswith("MAIL")] == [
                "MAIL FROM:<anna@acme.test> BODY=8BITMIME"
            ]

        run(claim, sqlite, tmp_path, Script(extensions=list(FULL)))

"""The provider's limits are ours to keep: connections, rate, recipients; said by the operator, or learnt from
refusals."""

import asyncio
import subprocess
import sys

import pytest

from core.endpoints import Upstream, UpstreamLimits, UpstreamTls
from core.mail.row import State
from core.smtp import Route
from relay.offers import Offers
from relay.places import MachinePlaces, NoPlace
from relay.pool import Pool
from tests.doors.conftest import mail, running
from tests.sandbox.sink import Script, Sink

COPY = "emailtosalesforce@x.le.salesforce.com"


def run(claim, sqlite, tmp_path, script=None, **limits):
    async def go():
        sink = Sink(script)
        async with running(sqlite, tmp_path, sink) as relay:
            port = relay.pool.route.upstream.port
            upstream = Upstream(UpstreamTls.NONE, "127.0.0.1", port, limits=UpstreamLimits(**limits))
            shared = (
                MachinePlaces(tmp_path / "places", limits["connections"]) if "connections" in limits else None
            )
            await relay.pool.close()
            relay.pool = Pool(Route(upstream, "relay.test"), Offers(tmp_path, "x"), shared)
            relay.server._relay.pool = relay.pool  # noqa: SLF001  the same relay with another provider
            await relay.pool.learn()
            await claim(relay)

    asyncio.run(go())


class TestConnections:
    def test_are_never_more_and_twelve_who_send_at_once_all_succeed(self, sqlite, tmp_path):
        async def claim(relay):
            most = 0

            async def watch():
                nonlocal most
                while True:
                    most = max(most, relay.sink.open)
                    await asyncio.sleep(0.002)

            watching = asyncio.ensure_future(watch())
            clients = [await relay.connect() for _ in range(12)]
            heard = await asyncio.gather(
                *(client.mail(mail(message_id=f"<{n}@x>")) for n, client in enumerate(clients))
            )
            watching.cancel()
            assert {reply[:3] for reply in heard} == {"250"}
            assert 1 <= most <= 3

        run(claim, sqlite, tmp_path, Script(replies={"dot": ["delay:0.02:250 2.0.0 Ok"]}), connections=3)

    def test_are_shared_by_all_relays_of_a_machine(self, tmp_path):
        async def claim():
            here, there = MachinePlaces(tmp_path, 2), MachinePlaces(tmp_path, 2)
            first, second = await here.take(1), await there.take(1)
            with pytest.raises(NoPlace):
                await here.take(0.1)
            there.give_back(second)
            third = await here.take(1)
            for place in (first, third):
                here.give_back(place)

        asyncio.run(claim())

    def test_of_a_relay_that_was_killed_are_free_at_once(self, tmp_path):
        program = (
            "import asyncio, sys, pathlib; from relay.places import MachinePlaces\n"
            f"asyncio.run(MachinePlaces(pathlib.Path({str(tmp_path)!r}), 1).take(1)); print('taken', "
            f"flush=True); sys.stdin.read()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"taken\n"

        async def claim(*, is_free):
            try:
                places = MachinePlaces(tmp_path, 1)
                places.give_back(await places.take(0.1))
            except NoPlace:
                assert not is_free
            else:
                assert is_free

        asyncio.run(claim(is_free=False))
        process.kill()
        process.communicate()
        asyncio.run(claim(is_free=True))

    def test_that_the_provider_finds_too_many_are_waited_for(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            for link in relay.pool.idle_links:
                link.quit()
            relay.pool.idle_links.clear()
            assert (await client.mail(mail())).startswith("250")
            assert relay.pool.unreachable is None, "it is no trouble with the provider"

        script = Script(replies={"greeting": ["", "", "421 4.3.2 Too many concurrent SMTP connections", ""]})
        run(claim, sqlite, tmp_path, script)

    def test_that_are_refused_at_mail_are_waited_for_too(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            assert (await client.mail(mail())).startswith("250")
            assert [one[:4] for one in relay.sink.commands].count("MAIL") == 2

        script = Script(replies={"MAIL": ["432 4.3.2 Concurrent connections limit exceeded", ""]})
        run(claim, sqlite, tmp_path, script)

    def test_that_are_too_many_for_one_domain_limit_nothing(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            await client.command("MAIL FROM:<anna@acme.test>")
            heard = [await client.command(f"RCPT TO:<r{n}@client.test>") for n in range(2)]
            assert heard[1].startswith("452")
            await client.command("RSET")
            relay.sink.script.replies.clear()
            assert (await client.mail(mail(), "a@client.test", "b@client.test")).startswith("250")
            assert COPY in " ".join(relay.sink.taken[0].rcpts)

        script = Script(replies={"RCPT": ["", "452 4.5.3 Too many recipients for this domain", ""]})
        run(claim, sqlite, tmp_path, script)


class TestRate:
    def test_above_it_a_mail_that_would_wait_too_long_is_told_so(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            assert (await client.mail(mail())).startswith("250")
            assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("451 4.3.2")

        run(claim, sqlite, tmp_path, rate=1)

    def test_below_it_nobody_waits(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            for number in range(5):
                assert (await client.mail(mail(message_id=f"<{number}@x>"))).startswith("250")

        run(claim, sqlite, tmp_path, rate=10)


class TestRecipients:
    def test_beyond_what_the_provider_takes_are_for_another_mail(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            await client.command("MAIL FROM:<anna@acme.test>")
            heard = [await client.command(f"RCPT TO:<r{n}@client.test>") for n in range(3)]
            assert [one[:9] for one in heard] == ["250 2.1.5", "250 2.1.5", "452 4.5.3"]

        run(claim, sqlite, tmp_path, recipients=2)

    def test_leave_the_copy_out_and_never_the_mail(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            assert (await client.mail(mail(), "a@client.test", "b@client.test")).startswith("250")
            assert (await client.mail(mail(message_id="<2@x>"), "a@client.test")).startswith("250")
            assert [COPY in " ".join(taken.rcpts) for taken in relay.sink.taken] == [False, True]
            states = [row.state for row in await relay.all_rows()]
            assert sorted(states) == [State.COPIED, State.COPY_REFUSED]

        run(claim, sqlite, tmp_path, recipients=2)

    def test_are_learnt_from_a_refusal(self, sqlite, tmp_path):
        async def claim(relay):
            client = await relay.connect()
            await client.command("MAIL FROM:<anna@acme.test>")
            heard = [await client.command(f"RCPT TO:<r{n}@client.test>") for n in range(11)]
            assert heard[10].startswith("452 4.5.3 Too many")
            await client.command("RSET")
            relay.sink.script.replies.clear()
            ten = [f"r{n}@client.test" for n in range(10)]
            assert (await client.mail(mail(), *ten)).startswith("250")
            assert (await client.mail(mail(message_id="<2@x>"), *ten, "one@more.test")).startswith("250")
            assert (await client.mail(mail(message_id="<3@x>"), "a@client.test")).startswith("250")
            assert [COPY in " ".join(taken.rcpts) for taken in relay.sink.taken] == [False, False, True]

        script = Script(replies={"RCPT": [*[""] * 10, "452 4.5.3 Too many recipients", ""]})
        run(claim, sqlite, tmp_path, script)

"""A provider that has several addresses, some of which are dead."""

import asyncio
import socket

import pytest

from core import dialing
from core.endpoints import Upstream, UpstreamTls
from core.smtp import Route, UpstreamUnavailable
from tests.sandbox.sink import Script, Sink

V4, V6 = int(socket.AF_INET), int(socket.AF_INET6)


def names(*addresses):
    async def resolve(host, port):
        return list(addresses)

    return resolve


async def served(addresses, sinks, *, times=1):
    """Connect so often; which of these sinks were asked how often."""
    port = 0
    for host, sink in sinks.items():
        port = await sink.start(host, port)
    route = Route(Upstream(UpstreamTls.NONE, "smtp.acme.test", port), "relay.test", names(*addresses))
    try:
        for _ in range(times):
            (await route.connect()).transport.close()
        return [sink.connections for sink in sinks.values()]
    finally:
        for sink in sinks.values():
            await sink.stop()


class TestSeveralAddresses:
    def test_one_that_refuses_gives_way_to_the_next(self):
        addresses = [(V4, "127.0.0.9"), (V4, "127.0.0.1")]
        assert asyncio.run(served(addresses, {"127.0.0.1": Sink()})) == [1]

    def test_one_that_does_not_greet_is_remembered_as_dead(self, monkeypatch):
        monkeypatch.setattr("core.smtp._SECONDS_FOR_A_STEP", 0.3)
        silent, well = Sink(Script(replies={"greeting": ["hang"]})), Sink()
        addresses = [(V4, "127.0.0.2"), (V4, "127.0.0.1")]
        assert asyncio.run(served(addresses, {"127.0.0.2": silent, "127.0.0.1": well}, times=3)) == [1, 3]

    def test_one_that_closes_at_once_gives_way_too(self):
        closing, well = Sink(Script(replies={"greeting": ["close"]})), Sink()
        addresses = [(V4, "127.0.0.2"), (V4, "127.0.0.1")]
        assert asyncio.run(served(addresses, {"127.0.0.2": closing, "127.0.0.1": well}, times=2)) == [1, 2]

    def test_none_that_serves_is_unavailable(self):
        closing = {
            host: Sink(Script(replies={"greeting": ["421 4.3.2 No"]})) for host in ("127.0.0.1", "127.0.0.2")
        }
        with pytest.raises(UpstreamUnavailable, match="421"):
            asyncio.run(served([(V4, "127.0.0.1"), (V4, "127.0.0.2")], closing))
        with pytest.raises(UpstreamUnavailable):
            asyncio.run(served([(V4, "127.0.0.9"), (V4, "127.0.0.8")], {"127.0.0.1": Sink()}))
        with pytest.raises(UpstreamUnavailable):
            asyncio.run(served([], {"127.0.0.1": Sink()}))

    def test_a_slow_greeting_is_waited_for(self):
        slow = Sink(Script(replies={"greeting": ["delay:1.5:220 sink.test ESMTP"]}))
        assert asyncio.run(served([(V4, "127.0.0.1")], {"127.0.0.1": slow})) == [1]

    def test_a_wrong_password_is_tried_at_one_only(self):
        script = {"AUTH": ["535 5.7.8 No"]}
        sinks = {
            host: Sink(
                Script(extensions=["AUTH PLAIN"], replies={key: list(value) for key, value in script.items()})
            )
            for host in ("127.0.0.1", "127.0.0.2")
        }

        async def claim():
            port = 0
            for host, sink in sinks.items():
                port = await sink.start(host, port)
            upstream = Upstream(UpstreamTls.NONE, "smtp.acme.test", port, "a", "b")
            route = Route(upstream, "relay.test", names((V4, "127.0.0.1"), (V4, "127.0.0.2")))
            with pytest.raises(Exception, match="535"):
                await route.connect()
            for sink in sinks.values():
                await sink.stop()

        asyncio.run(claim())
        assert [sink.connections for sink in sinks.values()] == [1, 0]


class TestTheOrder:
    def test_is_the_families_in_turn_and_the_dead_last(self):
        dialer = dialing.Dialer("x", 25)
        addresses = [(V6, "::1"), (V6, "::2"), (V6, "::3"), (V4, "127.0.0.1"), (V4, "127.0.0.2")]
        dialer.note_dead("::1")
        assert [one for _, one in dialer._in_turn(addresses)] == [  # noqa: SLF001  the rule itself
            "127.0.0.1", "::2", "127.0.0.2", "::3", "::1",
        ]  # fmt: skip

    def test_a_dead_address_does_not_hold_up_the_next_one(self, monkeypatch):
        """It does not answer at all; the next is tried a quarter of a second later."""
        tried = []

        async def never(self, family, address):
            tried.append(address)
            if address == "127.0.0.9":
                await asyncio.sleep(3600)
            return socket.socketpair()[0]

        monkeypatch.setattr(dialing.Dialer, "_try", never)

        async def claim():
            dialer = dialing.Dialer("x", 25, names((V4, "127.0.0.9"), (V4, "127.0.0.1")))
            (await dialer.connect()).close()

        asyncio.run(claim())
        assert tried == ["127.0.0.9", "127.0.0.1"]

    @pytest.mark.parametrize(("seconds", "dead"), [(3600, ["127.0.0.9"]), (0.35, [])])
    def test_only_who_had_more_time_than_the_winner_counts_as_dead(self, monkeypatch, seconds, dead):
        """The first takes that long; the second, which begins 250 ms later, answers 200 ms after that."""

        async def slowly(self, family, address):
            await asyncio.sleep(seconds if address == "127.0.0.9" else 0.2)
            return socket.socketpair()[0]

        monkeypatch.setattr(dialing.Dialer, "_try", slowly)

        async def claim():
            dialer = dialing.Dialer("x", 25, names((V4, "127.0.0.9"), (V4, "127.0.0.1")))
            (await dialer.connect()).close()
            assert list(dialer._dead_until) == dead  # noqa: SLF001  the rule itself

        asyncio.run(claim())

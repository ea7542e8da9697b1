"""The same mail again while its first verdict is still out: one delivery, one answer."""

import asyncio
import fcntl

import pytest

from core.mail.row import State
from relay import under_way, upstream
from tests.doors.conftest import RunningRelay, mail, running, until
from tests.doors.relay_bench import (
    run,
    start,  # noqa: F401
)
from tests.sandbox.sink import Script, Sink

SLOW = "delay:1.5:250 2.0.0 Ok: queued as 77"


async def given_up(relay):
    """A client that sends a mail, waits a moment for the verdict, and hangs up."""
    client = await relay.connect()
    await client.envelope()
    client.send(mail() + b".\r\n")
    await client.writer.drain()
    await until(lambda: "DATA" in relay.sink.commands)
    await asyncio.sleep(0.3)
    client.close()
    await asyncio.sleep(0.2)


def deliveries(sink):
    return len([one for one in sink.taken if one.complete])


@pytest.mark.parametrize(
    "verdict", ["250 2.0.0 Ok: queued as 77", "554 5.7.1 Refused for its words", "452 4.3.1 Full"]
)
def test_a_client_that_gave_up_and_comes_again_hears_the_same_answer(start, verdict):
    async def claim():
        async with start(Script(replies={"dot": [f"delay:1.5:{verdict}", "250 a second one"]})) as relay:
            await given_up(relay)
            again = await relay.connect()
            assert await again.mail(mail()) == verdict
            assert deliveries(relay.sink) == verdict.startswith("2")
            assert len(await relay.all_rows()) == 1
            assert (await again.mail(mail(message_id="<2@acme.test>"))).startswith("250"), (
                "the session goes on"
            )

    run(claim())


def test_the_same_bytes_of_a_client_that_still_waits_are_a_mail_of_their_own(start):
    async def claim():
        async with start(Script(replies={"dot": [SLOW]})) as relay:
            one, two = await relay.connect(), await relay.connect()
            heard = await asyncio.gather(one.mail(mail()), two.mail(mail()))
            assert heard == ["250 2.0.0 Ok: queued as 77"] * 2
            assert deliveries(relay.sink) == 2

    run(claim())


def test_of_two_that_send_the_same_at_once_the_one_that_gave_up_is_joined(start):
    async def claim():
        script = Script(
            replies={"dot": ["delay:2:250 the first", "delay:1.5:250 the second", "250 a third one"]}
        )
        async with start(script) as relay:
            one, two = await relay.connect(), await relay.connect()
            for client in (one, two):
                await client.envelope()
                client.send(mail() + b".\r\n")
                await client.writer.drain()
                await asyncio.sleep(0.2)
            one.close()
            await asyncio.sleep(0.3)
            again = await relay.connect()
            assert await again.mail(mail()) == "250 the first"
            assert await two.reply() == "250 the second"
            assert deliveries(relay.sink) == 2

    run(claim())


def test_where_the_answer_never_comes_it_is_a_451_and_no_second_delivery(start, monkeypatch):
    monkeypatch.setattr(upstream, "SECONDS_FOR_THE_VERDICT", 1.5)

    async def claim():
        async with start(Script(replies={"dot": ["hang", "250 a second one"]})) as relay:
            await given_up(relay)
            again = await relay.connect()
            assert (await again.mail(mail())).startswith("451 4.4.2")
            row = await relay.row(state=State.UNKNOWN)
            assert row.state is State.UNKNOWN

    run(claim())


def test_another_relay_of_the_machine_waits_for_the_answer_too(sqlite, tmp_path):
    async def claim():
        sink = Sink(Script(replies={"dot": ["delay:3:250 2.0.0 Ok: queued as 77"]}))
        async with running(sqlite, tmp_path, sink) as first:
            second = RunningRelay(sqlite, tmp_path, Sink())
            second.password = first.password
            await second.start()
            try:
                await given_up(first)
                await until(lambda: list((tmp_path / "under-way").glob("*")))
                await asyncio.sleep(0.8)
                again = await second.connect()
                assert await again.mail(mail()) == "250 2.0.0 Ok: queued as 77"
                assert (deliveries(first.sink), deliveries(second.sink)) == (1, 0)
                await until(lambda: not list((tmp_path / "under-way").glob("*")))
            finally:
                await second.stop()

    run(claim())


@pytest.mark.parametrize(
    ("verdict", "heard", "delivered"),
    [
        ("250 2.0.0 Ok: queued as 77", "250 2.0.0 Ok: queued as 77", (1, 0)),
        ("554 5.7.1 Refused for its words", "451 4.4.2", (0, 0)),
    ],
)
def test_a_relay_of_another_machine_waits_or_says_451(
    database, tmp_path, monkeypatch, verdict, heard, delivered
):
    """They share nothing but the database. What was refused is to be tried again, and is then sent."""
    monkeypatch.setattr(under_way, "SECONDS_UNTIL_AN_ANSWER_IS_KNOWN_HERE", 2.0)

    async def claim():
        sink = Sink(Script(replies={"dot": [f"delay:6:{verdict}"]}))
        (tmp_path / "another").mkdir()
        async with running(database, tmp_path, sink) as first:
            second = RunningRelay(database, tmp_path / "another", Sink())
            second.password = first.password
            await second.start()
            try:
                await given_up(first)
                await until(lambda: second.snapshot.knows_unheard_mails)
                again = await second.connect()
                assert (await again.mail(mail())).startswith(heard)
                assert (deliveries(first.sink), deliveries(second.sink)) == delivered
                if not verdict.startswith("2"):
                    await until(lambda: not second.snapshot.knows_unheard_mails)
                    assert (await again.mail(mail())).startswith("250")
                    assert deliveries(second.sink) == 1
            finally:
                await second.stop()

    run(claim())


def test_what_a_relay_that_died_has_left_holds_up_no_mail(sqlite, tmp_path):
    async def claim():
        left = tmp_path / "under-way"
        left.mkdir()
        (left / ("ab" * 32)).touch()
        with (left / ("cd" * 32)).open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            async with running(sqlite, tmp_path) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                await until(lambda: [one.name for one in left.iterdir()] == ["cd" * 32])

    run(claim())

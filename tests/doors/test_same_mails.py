"""A mail that comes in several transactions: one blind copy, and an end to what goes in circles."""

import asyncio
from datetime import UTC, datetime
from ipaddress import ip_network

import pytest

from core.database.engine import DatabaseUnavailable
from core.database.models import ConnectionRow, MailTextRow
from core.endpoints import Listener, ListenerKind
from core.mail.first_mails import CopyClaim
from core.mail.reasons import Reason
from core.mail.row import Copy, State
from core.people.store import person_by_email
from core.salesforce.connection_store import Standing
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay import same_mails
from relay.entrance import Entrance
from tests.doors.conftest import BCC, RunningRelay, mail, running, until
from tests.doors.relay_bench import (
    run,
    start,  # noqa: F401
)
from tests.sandbox.sink import Script, Sink

DATE = b"Date: Thu, 26 Nov 2037 09:30:00 +0100\r\n"
"""After all that a relay remembers, so that nobody is asked."""
LONG_AGO = b"Date: Wed, 25 Nov 2026 09:30:00 +0100\r\n"


def part(number=1, headers=DATE, **more):
    return mail(message_id=f"<{number}@acme.test>", headers=headers, **more)


async def deliver(client, content, *recipients):
    assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("250")
    for recipient in recipients:
        assert (await client.command(f"RCPT TO:<{recipient}>")).startswith("250")
    await client.command("DATA")
    client.send(content + b".\r\n")
    return await client.reply()


def copies(*sinks):
    return [
        one.complete and any(BCC in rcpt for rcpt in one.rcpts) for sink in sinks for one in sink.taken
    ].count(True)


def test_split_in_three_it_has_one_copy_and_the_others_say_why(start):
    async def claim():
        async with start() as relay:
            client = await relay.connect()
            for number in range(3):
                assert (await deliver(client, part(), f"c{number}@client.test")).startswith("250")
            await until(lambda: len(relay.sink.taken) == 3)
            assert copies(relay.sink) == 1
            first, *others = sorted(await relay.all_rows(), key=lambda row: row.id)
            assert first.state is State.COPIED
            assert {(row.state, row.reason, row.same_as) for row in others} == {
                (State.NOT_LOGGED, Reason.SAME_MAIL, first.id)
            }

    run(claim())


def test_parts_at_the_same_time_have_one_copy(start):
    async def claim():
        async with start() as relay:
            clients = [await relay.connect() for _ in range(10)]
            heard = await asyncio.gather(
                *(deliver(one, part(), f"c{number}@client.test") for number, one in enumerate(clients))
            )
            assert all(reply.startswith("250") for reply in heard)
            assert copies(relay.sink) == 1

    run(claim())


@pytest.mark.parametrize("how", ["550 5.1.1 No", "close"])
def test_a_part_whose_mail_was_not_accepted_does_not_count(start, how):
    async def claim():
        async with start(Script(replies={"dot": [how, "250 2.0.0 Ok"]})) as relay:
            client = await relay.connect()
            await deliver(client, part(), "c1@client.test")
            client = await relay.connect()
            assert (await deliver(client, part(), "c2@client.test")).startswith("250")
            assert copies(relay.sink) == 1

    run(claim())


def test_a_copy_that_was_refused_does_not_count(start):
    async def claim():
        async with start(Script(replies={f"RCPT TO:<{BCC}": ["550 5.1.1 No", "250 2.1.5 Ok"]})) as relay:
            client = await relay.connect()
            for number in range(3):
                assert (await deliver(client, part(), f"c{number}@client.test")).startswith("250")
            assert copies(relay.sink) == 1

    run(claim())


@pytest.mark.parametrize("how", ["hangs up", "550 5.7.1 No"])
def test_a_part_that_comes_while_the_first_is_under_way_has_the_copy_if_that_fails(start, how):
    async def claim():
        script = Script(
            replies={"dot": ["delay:1:550 5.7.1 No", "250 2.0.0 Ok"]} if how != "hangs up" else {}
        )
        async with start(script) as relay:
            one, two = await relay.connect(), await relay.connect()
            await one.command("MAIL FROM:<anna@acme.test>")
            await one.command("RCPT TO:<c1@client.test>")
            await one.command("DATA")
            content = part(body=b"x" * 200_000 + b"\r\n")
            one.send(content[:100_000] if how == "hangs up" else content + b".\r\n")
            await until(lambda: any(BCC in said for said in relay.sink.commands))
            second = asyncio.ensure_future(deliver(two, content, "c2@client.test"))
            await asyncio.sleep(0.3)
            if how == "hangs up":
                one.close()
            assert (await second).startswith("250")
            assert copies(relay.sink) == 1

    run(claim())


def test_another_mail_has_its_own_copy(start):
    async def claim():
        async with start() as relay:
            client = await relay.connect()
            await deliver(client, part(1), "c1@client.test")
            await deliver(client, part(2), "c1@client.test")
            await deliver(client, part(1, subject="Another subject"), "c1@client.test")
            await deliver(client, part(1, headers=b""), "c1@client.test")  # nothing tells it from the next
            await deliver(client, part(1, headers=b""), "c1@client.test")
            assert copies(relay.sink) == 5

    run(claim())


def test_sent_again_days_later_after_a_restart_it_is_one_mail(database, tmp_path):
    async def claim():
        async with running(database, tmp_path) as former:
            await deliver(await former.connect(), part(headers=LONG_AGO), "c1@client.test")
            await former.all_rows()
            assert copies(former.sink) == 1
            password = former.password
        relay = RunningRelay(database, tmp_path, Sink())
        relay.password = password
        await relay.start()
        try:
            client = await relay.connect()
            await deliver(client, part(headers=LONG_AGO), "c2@client.test")
            await deliver(client, part(2, headers=LONG_AGO), "c2@client.test")
            await until(lambda: len(relay.sink.taken) == 2)
            assert copies(relay.sink) == 1, "the other mail's"
        finally:
            await relay.stop()

    run(claim())


@pytest.mark.parametrize("logging", ["bcc", "bcc+receipt"])
def test_where_the_first_may_still_be_refused_at_another_relay_a_receipt_tells(start, monkeypatch, logging):
    """The other relay has the copy, and no row yet; where Salesforce is connected it can be logged by API."""
    elsewhere = CopyClaim("01a21a41-4310-71ac-a2e7-000000000000", is_accepted=False)
    monkeypatch.setattr(same_mails.first_mails, "copy_of", lambda *_: None)
    monkeypatch.setattr(same_mails.SameMails, "_ask", answering(elsewhere))

    async def claim():
        async with start() as relay:
            with relay.database.writing() as session:
                anna = person_by_email(session, "anna@acme.test")
                settings_store.set_preference(session, anna, Setting.LOGGING, logging, actor=None)
                session.add(a_connection(anna.id))
            await relay.snapshot.look()
            await deliver(await relay.connect(), part(headers=LONG_AGO), "c1@client.test")
            [row] = await relay.all_rows()
            assert copies(relay.sink) == 0
            assert (row.reason, row.bcc, row.same_as) == (Reason.SAME_MAIL, Copy.NONE, elsewhere.mail_id)
            is_looked_for = logging == "bcc+receipt"
            assert row.state is (State.COPIED if is_looked_for else State.NOT_LOGGED)
            assert (row.due_at is not None) is is_looked_for
            with relay.database.reading() as session:
                texts = session.query(MailTextRow).count()
            assert texts == (1 if is_looked_for else 0)

    run(claim())


def a_connection(person_id):
    values = dict.fromkeys(("login_url", "instance_url", "organisation_id", "user_id", "username"), "x")
    return ConnectionRow(
        person_id=person_id, standing=Standing.CONNECTED.value, way="oauth", generation=1,
        connected_at=datetime.now(UTC), **values,
    )  # fmt: skip


def answering(found):
    async def ask(*_, **__):
        return found

    return ask


def test_where_the_database_does_not_answer_the_copy_goes(start, monkeypatch):
    def away(*_):
        raise DatabaseUnavailable("away")

    async def claim():
        async with start() as relay:
            monkeypatch.setattr(same_mails.first_mails, "copy_of", away)
            await deliver(await relay.connect(), part(headers=LONG_AGO), "c1@client.test")
            assert copies(relay.sink) == 1

    run(claim())


def test_split_over_two_relays_behind_a_gateway_it_has_one_copy(database, tmp_path, monkeypatch):
    """In parallel, as often as chance may have it; they share nothing but the database."""
    # where it answers later the copy goes twice, and this machine may have other things to do
    monkeypatch.setattr(same_mails, "SECONDS_TO_ASK", 10.0)
    entrance = Entrance(Listener(ListenerKind.GATEWAY, "127.0.0.1", 0), trusted=(ip_network("127.0.0.0/8"),))

    async def claim():
        (tmp_path / "another").mkdir()
        async with running(database, tmp_path, entrance=entrance) as first:
            with database.writing() as session:
                settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
            second = RunningRelay(database, tmp_path / "another", Sink(), entrance=entrance)
            await second.start()
            try:
                relays = (first, second)
                for relay in relays:
                    await until(lambda relay=relay: relay.snapshot.has_other_relays)
                    await relay.snapshot.look()
                for number in range(5):
                    clients = [await relay.connect(sign_in=False) for relay in (*relays, *relays)]
                    heard = await asyncio.gather(
                        *(
                            deliver(one, part(number), f"c{place}@client.test")
                            for place, one in enumerate(clients)
                        )
                    )
                    assert all(reply.startswith("250") for reply in heard)
                    assert copies(first.sink, second.sink) == number + 1
            finally:
                await second.stop()

    run(claim())


class TestALoop:
    def test_ends_at_the_fourth_delivery_and_says_so(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                for number in range(5):
                    received = b"".join(b"Received: by rule; %d\r\n" % hop for hop in range(number))
                    heard = await deliver(client, part(headers=DATE + received), "list@client.test")
                    assert heard.startswith("250" if number < 3 else "554 5.4.6")
                assert [one.complete for one in relay.sink.taken].count(True) == 3
                assert copies(relay.sink) == 1
                rows = await relay.all_rows()
                assert [row.reason for row in rows].count(Reason.LOOP) == 2
                assert {row.state for row in rows if row.reason is Reason.LOOP} == {State.ABORTED}
                assert (await client.command("NOOP")).startswith("250"), "the session goes on"

        run(claim())

    def test_is_none_where_tries_were_refused_or_deferred(self, start):
        async def claim():
            async with start(
                Script(replies={"dot": ["451 4.7.1 Greylisted"] * 20 + ["250 2.0.0 Ok"]})
            ) as relay:
                client = await relay.connect()
                for _ in range(20):
                    assert (await deliver(client, part(), "c1@client.test")).startswith("451")
                assert (await deliver(client, part(), "c1@client.test")).startswith("250")

        run(claim())

    def test_is_none_where_bodies_or_recipients_differ(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                for number in range(6):
                    body = b"Page %d\r\n" % number
                    assert (await deliver(client, part(body=body), "c1@client.test")).startswith("250")
                    assert (await deliver(client, part(), f"c{number}@client.test")).startswith("250")

        run(claim())

    def test_is_over_after_ten_minutes(self, start, monkeypatch):
        monkeypatch.setattr(same_mails, "SECONDS_OF_A_LOOP", 0.5)

        async def claim():
            async with start() as relay:
                client = await relay.connect()
                for _ in range(3):
                    assert (await deliver(client, part(), "c1@client.test")).startswith("250")
                await asyncio.sleep(0.6)
                assert (await deliver(client, part(), "c1@client.test")).startswith("250")

        run(claim())

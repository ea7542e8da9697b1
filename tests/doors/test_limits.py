"""How much one client, one source and all of them may take, and what is counted."""

import asyncio
import base64
import contextlib
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from core.endpoints import Listener, ListenerKind, ListenerLimits
from core.mail.row import State
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay import limits, server, session
from relay.entrance import Entrance
from relay.usual_sources import FILE, UsualSources
from tests.doors.conftest import Client, RunningRelay, mail, until
from tests.doors.entrance_bench import (
    run,
    start,  # noqa: F401
    token,
)
from tests.sandbox.sink import Script, Sink


class TestLimits:
    def limited(self, **fields):
        return Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, ListenerLimits(**fields)))

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
                    settings_store.set_policy(opened, Setting.MAILS_PER_MINUTE, "1", actor=None)
                await relay.snapshot.look()
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("450 4.7.1")

        run(claim())

    def test_above_the_pace_a_mail_waits_its_turn_over_any_number_of_connections(self, start, monkeypatch):
        monkeypatch.setattr(limits, "MINUTE", 1.0)

        async def claim():
            async with start() as relay:
                with relay.database.writing() as opened:
                    settings_store.set_policy(opened, Setting.MAILS_PER_MINUTE, "20", actor=None)
                await relay.snapshot.look()

                async def merge(number):
                    client = await relay.connect()
                    return [
                        await client.mail(mail(message_id=f"<{number}.{count}@acme.test>"))
                        for count in range(12)
                    ]

                heard = await asyncio.gather(*(merge(number) for number in range(5)))
                assert all(reply.startswith("250") for replies in heard for reply in replies)
                assert len(relay.sink.taken) == 60

        run(claim())

    def test_a_mail_that_waits_its_turn_is_told_to_come_again_when_the_relay_stops(self, start):
        async def claim():
            async with start() as relay:
                with relay.database.writing() as opened:
                    settings_store.set_policy(opened, Setting.MAILS_PER_MINUTE, "2", actor=None)
                await relay.snapshot.look()
                client = await relay.connect()
                for _ in range(2):
                    assert (await client.mail(mail())).startswith("250")
                client.send(b"MAIL FROM:<anna@acme.test>\r\n")
                await asyncio.sleep(0.3)
                stopping = asyncio.ensure_future(relay.server.stop())
                assert (await client.reply()).startswith("421")
                await stopping

        run(claim())

    @pytest.mark.parametrize("again", ["", "550 5.1.1 Gone meanwhile"])
    def test_a_mail_that_is_not_gone_on_with_keeps_no_link(self, start, monkeypatch, again):
        monkeypatch.setattr(session, "SECONDS_OF_SILENCE_ABOUT_A_MAIL", 0.5)

        async def claim():
            async with start(Script(replies={"RCPT TO:<bob": ["", again]})) as relay:
                client = await relay.connect()
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("250")
                assert (await client.command("RCPT TO:<bob@client.test>")).startswith("250")
                for _ in range(14):
                    assert (await client.command("NOOP")).startswith("250")
                    await asyncio.sleep(0.2)
                assert relay.pool.busy == 0, "the link is for others"
                assert (await client.command("DATA")).startswith("354")
                client.send(mail() + b".\r\n")
                heard = await client.reply()
                assert heard.startswith("451 4.4.2" if again else "250")
                assert len(relay.sink.taken) == (0 if again else 1)
                assert (await client.mail(mail(message_id="<2@acme.test>"), "carl@client.test")).startswith(
                    "250"
                )

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

    def test_of_silence_before_the_sign_in(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_OF_SILENCE_BEFORE_THE_SIGN_IN", 1.0)

        async def claim():
            async with start() as relay:
                client = await relay.connect(sign_in=False)
                for _ in range(4):
                    await asyncio.sleep(0.5)
                    assert (await client.command("NOOP")).startswith("250"), "who talks may take longer"
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
                heard = asyncio.ensure_future(client.reply())  # what is sent after the end makes a reset
                for _ in range(40):
                    client.send(b"drip\r\n")
                    if (await asyncio.wait([heard], timeout=0.1))[0]:
                        break
                assert (await heard).startswith("421 4.4.2")
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
    today = 20_000

    def test_each_failure_waits_longer_and_a_success_clears(self):
        failed = limits.FailedSignIns(UsualSources(None, ["key"], lambda: self.today))
        assert [failed.note("10.0.0.1", "anna", 0.0) for _ in range(5)] == [0.5, 1, 2, 4, 5]
        assert failed.note("10.0.0.2", "anna", 0.0) == 5, "the account is guessed at from elsewhere"
        failed.forget("10.0.0.1", "anna", 0.0)
        assert failed.note("10.0.0.1", "anna", 0.0) == 0.5
        assert not failed.is_barred("10.0.0.1", "anna", 0.0)

    def test_an_account_is_barred_where_it_is_guessed_at_only(self):
        failed = limits.FailedSignIns(UsualSources(None, ["key"], lambda: self.today))
        for _ in range(20):
            failed.note("10.0.0.1", "anna", 0.0)
        assert failed.is_barred("10.0.0.1", "anna", 1.0)
        assert not failed.is_barred("10.0.0.1", "carl", 1.0)
        assert not failed.is_barred("10.0.0.2", "anna", 1.0)

    def test_an_account_that_many_guess_at_stays_open_to_its_owner(self):
        failed = limits.FailedSignIns(UsualSources(None, ["key"], lambda: self.today))
        failed.forget("10.0.0.1", "anna", 0.0)
        for number in range(100):
            assert not failed.is_barred(f"s{number}", "anna", 0.0)
            failed.note(f"s{number}", "anna", 0.0)
        assert failed.is_barred("elsewhere", "anna", 1.0)
        assert not failed.is_barred("elsewhere", "carl", 1.0)
        assert not failed.is_barred("10.0.0.1", "anna", 1.0), "the owner's own place"
        failed.forget("10.0.0.1", "anna", 0.0)
        assert failed.is_barred("elsewhere", "anna", 1.0), "it is guessed at all the same"
        assert not failed.is_barred("elsewhere", "anna", 601.0)

    def test_failures_are_forgotten_with_time_and_bounded(self):
        failed = limits.FailedSignIns(UsualSources(None, ["key"], lambda: self.today))
        for _ in range(50):
            failed.note("10.0.0.1", "anna", 0.0)
        assert failed.is_barred("10.0.0.1", "carl", 1.0)
        assert not failed.is_barred("10.0.0.1", "carl", 601.0)

    def test_colleagues_with_old_passwords_lock_out_nobody_who_signs_in_well_from_there(self):
        failed = limits.FailedSignIns(UsualSources(None, ["key"], lambda: self.today))
        failed.forget("10.0.0.1", "dora", 0.0)
        for number in range(150):
            failed.note("10.0.0.1", ("anna", "bert", "carl")[number % 3], 1.0)
        assert failed.is_barred("10.0.0.1", "anna", 2.0)
        assert not failed.is_barred("10.0.0.1", "dora", 2.0)
        assert failed.is_barred("10.0.0.1", "emil", 2.0), "who was never seen there"
        self.today += 31
        a_month = 31 * 86_400.0
        failed.note("10.0.0.1", "anna", a_month)
        for _ in range(60):
            failed.note("10.0.0.1", "anna", a_month)
        assert failed.is_barred("10.0.0.1", "dora", a_month + 1), "that was long ago"
        for number in range(20_000):
            failed.note(f"s{number}", "x", 0.0)
        assert len(failed.failures) <= 10_000

    def test_sessions_of_one_source(self):
        sessions, most = limits.Sessions(), ListenerLimits(sessions=10, sessions_per_source=2)
        for _ in range(2):
            sessions.enter("10.0.0.1")
        assert not sessions.may_enter("10.0.0.1", most)
        assert sessions.may_enter("10.0.0.2", most)
        sessions.leave("10.0.0.1")
        assert sessions.may_enter("10.0.0.1", most)
        for _ in range(9):
            sessions.enter("127.0.0.1")
        assert not sessions.may_enter("127.0.0.1", most)

    def test_pace_is_a_minutes_worth_at_once_and_then_even(self):
        pace = limits.Pace()
        assert [pace.wait(1, 3, 0, 0.0) for _ in range(5)] == [0.0, 0.0, 0.0, 20.0, 40.0]
        assert pace.wait(1, 3, 0, 0.0) is None, "longer than a client waits; no turn is taken"
        assert pace.wait(1, 3, 0, 15.0) == 45.0
        assert pace.wait(2, 3, 0, 0.0) == 0.0, "another person's"
        assert pace.wait(1, 3, 0, 1000.0) == 0.0

    def test_pace_counts_other_relays_too(self):
        pace = limits.Pace()
        assert [pace.wait(1, 3, 1, 0.0) for _ in range(3)] == [0.0, 0.0, 30.0]
        assert [pace.wait(2, 3, 5, 0.0) for _ in range(2)] == [0.0, None], "one a minute is always left"


class TestUsualSources:
    """From where people sign in is known for 30 days, over restarts and in all relays of the machine."""

    today = 20_000

    def sources(self, directory, *keys):
        made = UsualSources(directory, keys or ["key"], lambda: self.today)
        made.load()
        return made

    def test_are_known_to_the_next_relay_and_tell_nobody_who_was_where(self, tmp_path):
        here = self.sources(tmp_path)
        here.note("10.0.0.1", "anna@acme.test")
        here.keep()
        assert self.sources(tmp_path).has("10.0.0.1", "anna@acme.test")
        assert not self.sources(tmp_path).has("10.0.0.2", "anna@acme.test")
        assert not self.sources(tmp_path).has("10.0.0.1", "carl@acme.test")
        said = (tmp_path / FILE).read_text()
        assert "anna" not in said
        assert "10.0.0.1" not in said
        assert (tmp_path / FILE).stat().st_mode & 0o077 == 0

    def test_of_two_relays_are_put_together(self, tmp_path):
        one, other = self.sources(tmp_path), self.sources(tmp_path)
        one.note("10.0.0.1", "anna")
        other.note("10.0.0.1", "bert")
        one.keep()
        other.keep()
        assert other.has("10.0.0.1", "anna")
        one.keep()
        assert one.has("10.0.0.1", "bert")

    def test_end_after_thirty_days_without_a_sign_in(self, tmp_path):
        here = self.sources(tmp_path)
        here.note("10.0.0.1", "anna")
        here.note("10.0.0.1", "bert")
        here.keep()
        self.today += 29
        later = self.sources(tmp_path)
        later.note("10.0.0.1", "bert")
        later.keep()
        self.today += 1
        last = self.sources(tmp_path)
        assert not last.has("10.0.0.1", "anna")
        assert last.has("10.0.0.1", "bert")
        last.note("10.0.0.1", "carl")
        last.keep()
        assert len(json.loads((tmp_path / FILE).read_text())) == 2

    def test_outlive_a_new_key_as_long_as_the_former_one_is_known(self, tmp_path):
        here = self.sources(tmp_path, "old")
        here.note("10.0.0.1", "anna")
        here.keep()
        assert self.sources(tmp_path, "new", "old").has("10.0.0.1", "anna")
        assert not self.sources(tmp_path, "new").has("10.0.0.1", "anna")

    @pytest.mark.parametrize("damaged", ["", "[]", '{"a": "b"}', "\x00"])
    def test_damaged_say_nothing_and_are_replaced(self, tmp_path, damaged):
        (tmp_path / FILE).write_text(damaged)
        here = self.sources(tmp_path)
        here.note("10.0.0.1", "anna")
        here.keep()
        assert self.sources(tmp_path).has("10.0.0.1", "anna")

    def test_that_cannot_be_written_are_written_later(self, tmp_path):
        here = self.sources(tmp_path)
        here.note("10.0.0.1", "anna")
        (tmp_path / FILE).with_suffix(".new").mkdir()
        here.keep()
        assert not (tmp_path / FILE).exists()
        (tmp_path / FILE).with_suffix(".new").rmdir()
        here.keep()
        assert self.sources(tmp_path).has("10.0.0.1", "anna")

    def test_are_bounded(self, tmp_path):
        here = self.sources(tmp_path)
        for number in range(50_010):
            here.note(f"s{number}", "x")
        here.keep()
        assert len(json.loads((tmp_path / FILE).read_text())) == 50_000

    def test_of_a_relay_that_was_restarted_keep_its_people_in(self, start, sqlite, tmp_path, monkeypatch):
        """Three colleagues with old passwords behind one address, and a relay that has just been
        restarted."""
        monkeypatch.setattr(limits, "FIRST_DELAY", 0.01)
        monkeypatch.setattr(limits, "MOST_FAILURES_PER_SOURCE", 3)

        async def claim():
            async with start() as former:
                await former.connect()
                former.usual_sources.keep()
            relay = RunningRelay(sqlite, tmp_path, Sink())
            relay.password = former.password
            await relay.start()
            try:
                client = await relay.connect(sign_in=False)
                said = base64.b64encode(b"\0carl@acme.test\0old").decode()
                for _ in range(3):
                    assert (await client.command(f"AUTH PLAIN {said}")).startswith("535 5.7.8")
                assert (await client.command(f"AUTH PLAIN {said}")).startswith("454 4.7.0")
                assert (await client.command(f"AUTH PLAIN {token(relay)}")).startswith("235")
            finally:
                await relay.stop()

        run(claim())

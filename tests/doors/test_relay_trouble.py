"""The conversation when the upstream, the client or the process itself fails."""

import asyncio
from dataclasses import replace

import pytest

from core.endpoints import Listener, ListenerKind, SignIn, Upstream, UpstreamTls
from core.mail.reasons import Reason
from core.mail.row import State
from relay import pool, replies, session, upstream
from relay.entrance import Entrance
from tests.doors.conftest import mail, until
from tests.doors.relay_bench import (
    run,
    start,  # noqa: F401
)
from tests.sandbox.sink import Script


class TestTroubleWithTheUpstream:
    def test_a_used_link_that_says_nothing_to_mail_is_replaced_before_the_client_gives_up(
        self, start, monkeypatch
    ):
        """A firewall has dropped it without a word."""
        monkeypatch.setattr(upstream, "SECONDS_FOR_A_USED_LINK", 0.5)

        async def claim():
            async with start(Script(replies={"MAIL FROM": ["", "hang", ""]})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                assert (await client.mail(mail(message_id="<2@acme.test>"))).startswith("250")
                assert len(relay.sink.taken) == 2

        run(claim())

    def test_down_is_451_at_mail(self, start):
        async def claim():
            async with start(upstream=Upstream(UpstreamTls.NONE, "127.0.0.1", 1)) as relay:
                client = await relay.connect()
                assert "AUTH" in await client.command("EHLO again")
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("451 4.4.1")
                assert (await client.command("NOOP")).startswith("250")

        run(claim())

    def test_is_known_without_a_mail_and_forgotten_when_it_is_over(self, start, monkeypatch):
        monkeypatch.setattr(pool, "_SECONDS_BETWEEN_PROBES", 0.2)
        monkeypatch.setattr(pool, "_SECONDS_OF_SILENCE", 0.5)
        monkeypatch.setattr(pool, "_SECONDS_BETWEEN_LOOKS", 0.1)

        async def claim():
            async with start() as relay:
                relay.chores.append(asyncio.ensure_future(relay.pool.tidy()))
                assert relay.pool.trouble is None
                port = relay.pool.route.upstream.port
                await relay.sink.stop()
                await until(lambda: relay.pool.trouble is not None)
                await relay.sink.start(port=port)
                await until(lambda: relay.pool.trouble is None)

        run(claim())

    def test_is_known_from_clients_own_sign_ins(self, start):
        async def claim():
            entrance = Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0), SignIn.UPSTREAM)
            script = Script(extensions=["AUTH PLAIN"], replies={"AUTH": ["535 5.7.8 No", "454 4.7.0 Later"]})
            async with start(script, entrance=entrance) as relay:
                client = await relay.connect(sign_in=False)
                await client.command("AUTH PLAIN AGFubmEAeA==")
                assert relay.pool.trouble is None, "a wrong password is the client's"
                await client.command("AUTH PLAIN AGFubmEAeA==")
                assert relay.pool.trouble is not None

        run(claim())

    @pytest.mark.parametrize("greeting", ["554 5.7.1 Go away", "421 4.3.2 Too many", "close", "hello"])
    def test_an_unfriendly_greeting_is_a_451(self, start, greeting):
        async def claim():
            async with start(Script(replies={"greeting": [greeting]})) as relay:
                client = await relay.connect()
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("451 4.4.1")

        run(claim())

    @pytest.mark.parametrize("how", ["close", "garbage in the reply", "200-x\n300 y"])
    def test_lost_at_rcpt_is_a_451(self, start, how):
        async def claim():
            async with start(Script(replies={"RCPT": [how]})) as relay:
                client = await relay.connect()
                await client.command("MAIL FROM:<anna@acme.test>")
                assert (await client.command("RCPT TO:<bob@client.test>")).startswith("451 4.4.2")

        run(claim())

    def test_lost_while_the_data_comes_is_a_451_at_the_end(self, start):
        async def claim():
            async with start(Script(early={"after": 1000, "say": "close"})) as relay:
                client = await relay.connect()
                heard = await client.mail(mail(body=b"x" * 100 + b"\r\n" + b"y" * 9_000_000 + b"\r\n"))
                assert heard.startswith("451 4.4.2")
                await relay.row(state=State.ABORTED)
                relay.sink.script.early = {}
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    @pytest.mark.parametrize("how", ["close", "hang", "garbage", "354 what?"])
    def test_lost_after_the_dot_is_unknown_and_not_tried_again(self, start, how, monkeypatch):
        monkeypatch.setattr(upstream, "SECONDS_FOR_THE_VERDICT", 0.5)

        async def claim():
            async with start(Script(replies={"dot": [how]})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("451 4.4.2")
                assert len([command for command in relay.sink.commands if command == "DATA"]) == 1
                await relay.row(state=State.UNKNOWN)

        run(claim())

    @pytest.mark.parametrize("after", [3, 100, 60_000, 70_000, 1_000_000])
    def test_cut_at_any_byte_of_the_data_is_a_451_and_nothing_is_sent(self, start, after):
        async def claim():
            async with start(Script(early={"after": after, "say": "close"})) as relay:
                client = await relay.connect()
                # more than the sockets between hold: else the dot can be on its way before the cut is seen
                heard = await client.mail(mail(body=b"line\r\n" * 3_000_000))
                assert heard.startswith("451 4.4.2")
                assert not any(taken.complete for taken in relay.sink.taken)
                await relay.row(state=State.ABORTED)

        run(claim())

    @pytest.mark.parametrize("command", ["EHLO", "MAIL", "RCPT", "DATA", "dot"])
    def test_slow_at_any_step_is_waited_for(self, start, command):
        async def claim():
            async with start(Script(replies={command: ["delay:0.4:"]})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                await relay.row(state=State.COPIED)

        run(claim())

    def test_lost_before_the_dot_is_not_unknown(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.envelope()
                client.send(b"From: anna@acme.test\r\n\r\nbefore\r\n")
                await until(lambda: "DATA" in relay.sink.commands)
                await asyncio.sleep(0.1)
                relay.sink.cut_all()
                await asyncio.sleep(0.1)
                client.send(b".\r\n")
                assert (await client.reply()).startswith("451 4.4.2")
                await relay.row(state=State.ABORTED)

        run(claim())

    def test_a_size_that_is_no_number_is_not_offered(self, start):
        async def claim():
            async with start(Script(extensions=["SIZE \xff", "8BITMIME"])) as relay:
                client = await relay.connect()
                assert "SIZE" not in await client.command("EHLO again")

        run(claim())

    def test_a_connection_that_went_stale_is_replaced_silently(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.mail(mail())
                relay.sink.script.replies["MAIL"] = ["close", ""]
                assert (await client.mail(mail())).startswith("250")
                assert len(relay.sink.taken) == 2

        run(claim())

    def test_a_farewell_to_an_idle_connection_is_replaced_silently(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.mail(mail())
                relay.sink.script.replies["MAIL"] = ["421 4.4.2 Idle for too long", ""]
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    def test_wrong_credentials_are_ours_to_mend(self, start):
        async def claim():
            script = Script(extensions=["AUTH PLAIN LOGIN"], replies={"AUTH": ["535 5.7.8 Bad credentials"]})
            async with start(script) as relay:
                relay.pool.route.upstream = replace(relay.pool.route.upstream, user="me", password="wrong")
                await asyncio.sleep(0)
                client = await relay.connect()
                await relay.pool.close()
                heard = await client.command("MAIL FROM:<anna@acme.test>")
                assert heard.startswith("451 4.3.5")
                assert len([command for command in relay.sink.commands if command.startswith("AUTH")]) == 1

        run(claim())


class TestTheClient:
    def test_that_hangs_up_in_the_middle_leaves_nothing_upstream(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.envelope()
                client.send(mail(body=b"half\r\n" * 50_000))
                await client.writer.drain()
                await asyncio.sleep(0.2)
                client.close()
                await relay.row(state=State.ABORTED)
                assert not any(taken.complete for taken in relay.sink.taken)

        run(claim())

    @pytest.mark.parametrize("how", ["close", "vanish", "half-close"])
    def test_that_hangs_up_after_the_dot_changes_nothing(self, start, how):
        async def claim():
            async with start(Script(replies={"dot": ["delay:0.5:250 2.0.0 Ok"]})) as relay:
                client = await relay.connect()
                await client.envelope()
                client.send(mail() + b".\r\n")
                await client.writer.drain()
                await asyncio.sleep(0.1)
                if how == "half-close":
                    client.writer.write_eof()
                    assert await client.reply() == "250 2.0.0 Ok"
                else:
                    getattr(client, how)()
                await relay.row(state=State.COPIED)
                assert len(relay.sink.taken) == 1
                if how != "half-close":
                    await until(lambda: relay.rows() and relay.rows()[0].fingerprint)
                else:
                    await asyncio.sleep(1)
                    assert (await relay.all_rows())[0].fingerprint is None

        run(claim())

    @pytest.mark.parametrize("ahead", [b"", b"QUIT\r\n"])
    def test_that_missed_its_250_gets_it_again_without_a_second_delivery(self, start, ahead):
        async def claim():
            async with start(Script(replies={"dot": ["delay:0.3:250 2.0.0 Ok: queued as 77"]})) as relay:
                client = await relay.connect()
                await client.envelope()
                client.send(mail() + b".\r\n" + ahead)
                await client.writer.drain()
                await asyncio.sleep(0.1)
                client.vanish()
                await until(lambda: relay.rows() and relay.rows()[0].fingerprint)
                again = await relay.connect()
                assert await again.mail(mail()) == "250 2.0.0 Ok: queued as 77"
                assert [taken.complete for taken in relay.sink.taken].count(True) == 1
                assert len(await relay.all_rows()) == 1
                await again.command("NOOP")
                await until(lambda: not relay.rows()[0].fingerprint)
                assert (await again.mail(mail())).startswith("250")
                complete = [taken.complete for taken in relay.sink.taken].count(True)
                assert complete == 2, "once it has been heard, the same mail again is meant as such"

        run(claim())

    def test_that_heard_its_250_may_send_the_same_again_though_we_hung_up(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                for one in list(relay.server.connections):
                    one.dismiss(replies.IDLE)
                assert (await client.reply()).startswith("421")
                await asyncio.sleep(0.5)
                again = await relay.connect()
                assert (await again.mail(mail())).startswith("250")
                assert len(relay.sink.taken) == 2

        run(claim())

    def test_that_floods_does_not_keep_the_others_waiting(self, start):
        async def claim():
            async with start() as relay:
                flooding, other = await relay.connect(), await relay.connect()
                flooding.send(b"NOOP\r\n" * 100_000)
                reading = asyncio.ensure_future(
                    flooding.reader.readexactly(100_000 * len("250 2.0.0 Ok\r\n"))
                )
                await asyncio.sleep(0.05)
                await other.command("NOOP")
                assert not reading.done(), "the other was answered in between"
                await reading

        run(claim())

    def test_with_a_sender_of_a_hundred_thousand_blanks_is_served(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                content = b"From: Anna" + b" " * 100_000 + b"b\r\n\r\nHello\r\n"
                assert (await client.mail(content)).startswith("250")
                await relay.row(reason=Reason.UNREADABLE_AUTHOR)

        run(claim())

    def test_may_be_gone_when_it_is_told_to_go(self, start):
        async def claim():
            async with start() as relay:
                await relay.connect()
                [one] = relay.server.connections
                one.connection_lost(OSError(113, "No route to host"))
                one.dismiss(replies.IDLE)
                await until(lambda: not relay.server.connections)

        run(claim())

    def test_that_says_helo_and_login_in_lower_case_is_served(self, start):
        async def claim():
            import base64

            async with start() as relay:
                client = await relay.connect(sign_in=False)
                assert (await client.command("helo printer")).startswith("250")
                assert await client.command("auth login") == "334 VXNlcm5hbWU6"
                assert (
                    await client.command(base64.b64encode(b"anna@acme.test").decode()) == "334 UGFzc3dvcmQ6"
                )
                assert (
                    await client.command(base64.b64encode(relay.password.upper().encode()).decode())
                ).startswith("235")
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    def test_of_a_disabled_person_can_send_no_more(self, start):
        async def claim():
            from core.people.store import add_person, set_active

            async with start() as relay:
                client = await relay.connect()
                with relay.database.writing() as opened:
                    add_person(
                        opened, "boss@acme.test", name="", is_admin=True, password_hash="x", actor=None
                    )
                    set_active(opened, "anna@acme.test", active=False, actor=None)
                await asyncio.sleep(2)
                assert (await client.command("MAIL FROM:<anna@acme.test>")).startswith("530")

        run(claim())

    def test_that_is_silent_for_too_long_is_told_so(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_IDLE", 0.2)

        async def claim():
            async with start() as relay:
                client = await relay.connect()
                assert (await client.reply()).startswith("421 4.4.2")
                assert await client.reader.read() == b""

        run(claim())

    def test_that_pauses_in_its_data_is_not_silent(self, start, monkeypatch):
        monkeypatch.setattr(session, "SECONDS_FOR_A_CHUNK", 1.5)

        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.envelope()
                for piece in (b"From: anna@acme.test\r\n", b"\r\n", b"a\r\n", b"b\r\n"):
                    client.send(piece)
                    await asyncio.sleep(0.7)
                client.send(b".\r\n")
                assert (await client.reply()).startswith("250")

        run(claim())


class TestStopping:
    def test_lets_a_mail_come_to_its_end_and_sends_idle_clients_away(self, start):
        async def claim():
            async with start(Script(replies={"dot": ["delay:1:250 2.0.0 Ok"]})) as relay:
                busy, idle = await relay.connect(), await relay.connect()
                await busy.envelope()
                busy.send(mail() + b".\r\n")
                await asyncio.sleep(0.2)
                stopping = asyncio.ensure_future(relay.server.stop())
                assert (await idle.reply()).startswith("421 4.3.2")
                assert await busy.reply() == "250 2.0.0 Ok"
                assert (await busy.command("MAIL FROM:<anna@acme.test>")).startswith("421 4.3.2")
                assert await stopping == 0
                await relay.row(state=State.COPIED)

        run(claim())

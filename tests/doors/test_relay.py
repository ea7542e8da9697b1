"""The conversation, against a real SMTP server that does what it is told."""

import asyncio
from dataclasses import replace

import pytest

from core.endpoints import Listener, ListenerKind, SignIn, Upstream, UpstreamTls
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.mail.store import unknown_senders
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay import pool, replies, session, upstream
from relay.entrance import Entrance
from relay.record import new_mail_id
from tests.doors.conftest import BCC, mail, running, until
from tests.sandbox.sink import Script, Sink

COPY = f"RCPT TO:<{BCC}> NOTIFY=NEVER"


def run(coroutine):
    return asyncio.run(coroutine)


@pytest.fixture
def start(sqlite, tmp_path):
    """start(script) -> an async context with a relay in front of a sink."""
    return lambda script=None, **options: running(sqlite, tmp_path, Sink(script), **options)


def scripted(**replies):
    return Script(
        replies={
            key.replace("_", " "): value if isinstance(value, list) else [value]
            for key, value in replies.items()
        }
    )


class TestTheMail:
    def test_arrives_byte_for_byte_with_the_copy_in_the_envelope_only(self, start):
        async def claim():
            content = mail(body=b"..stuffed\r\n\xff\xfe 8-bit\r\n" + b"x" * 5000 + b"\r\n\ttail \r\n")
            async with start() as relay:
                client = await relay.connect()
                assert (
                    await client.mail(content, "bob@client.test", "eve@client.test")
                    == "250 2.0.0 Ok: queued as 1"
                )
                [taken] = relay.sink.taken
                assert taken.raw == content
                assert taken.mail == "MAIL FROM:<anna@acme.test>"
                assert taken.rcpts == ["RCPT TO:<bob@client.test>", "RCPT TO:<eve@client.test>", COPY]
                assert BCC.encode() not in taken.raw
                row = await relay.row(state=State.COPIED)
                assert row == replace(
                    row, sender="anna@acme.test", recipients=("bob@client.test", "eve@client.test"), recipient_count=2,
                    subject="Our offer", message_id="<1@acme.test>", mode="bcc", decision=Decision.COPY, reason=Reason.COPY,
                    upstream="250 2.0.0 Ok: queued as 1", bcc=Copy.ACCEPTED, bcc_reply="250 2.1.5 Ok", fingerprint=None,
                )  # fmt: skip

        run(claim())

    @pytest.mark.parametrize("size", [1, 7, 100, 65_536, 3_000_000])
    def test_arrives_whole_in_any_pieces(self, start, size):
        async def claim():
            content = mail(body=b"line of text\r\n" * (size * 5 // 14 if size > 1000 else 3))
            async with start() as relay:
                client = await relay.connect()
                await client.envelope()
                for position in range(0, len(content), size):
                    client.send(content[position : position + size])
                    await asyncio.sleep(0)
                for byte in b".\r\n":
                    client.send(bytes([byte]))
                    await asyncio.sleep(0.001)
                assert (await client.reply()).startswith("250")
                assert [taken.raw for taken in relay.sink.taken] == [content]

        run(claim())

    def test_several_on_one_connection_pipelined(self, start):
        async def claim():
            contents = [mail(subject=f"Mail {number}", message_id=f"<{number}@x>") for number in range(5)]
            async with start() as relay:
                client = await relay.connect()
                for content in contents:
                    client.send(b"MAIL FROM:<anna@acme.test>\r\nRCPT TO:<bob@client.test>\r\nDATA\r\n")
                    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
                    client.send(content + b".\r\nRSET\r\nNOOP\r\n")
                    assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "250"]
                assert [taken.raw for taken in relay.sink.taken] == contents
                assert relay.sink.connections == 1
                assert (await client.command("QUIT")).startswith("221")

        run(claim())

    @pytest.mark.parametrize(
        "content", [b"", b"\r\n", b"no header at all\r\n", b"..\r\n", b"From: x\r\n", b"\r\n..\r\n\r\n"]
    )
    def test_may_be_odd(self, start, content):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                assert (await client.mail(content)).startswith("250")
                assert [taken.raw for taken in relay.sink.taken] == [content]

        run(claim())

    def test_that_is_private_leaves_no_trace_of_its_content(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.mail(mail(headers=b"X-Blindcopy: no\r\n"))
                row = await relay.row(state=State.NOT_LOGGED)
                assert row == replace(
                    row, reason=Reason.OPTED_OUT, recipients=None, recipient_count=1, subject=None, message_id=None,
                    upstream="250 2.0.0", bcc=Copy.NONE, bcc_reply=None, fingerprint=None,
                )  # fmt: skip
                assert relay.sink.taken[0].rcpts == ["RCPT TO:<bob@client.test>"]
                assert b"X-Blindcopy: no" in relay.sink.taken[0].raw

        run(claim())

    def test_of_an_unknown_sender_is_counted(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                for _ in range(2):
                    await client.mail(mail(sender="Info <Info@acme.test>"))
                for _ in range(100):
                    with relay.database.reading() as opened:
                        counted = [(one.address, one.mails) for one in unknown_senders(opened)]
                    if counted == [("Info@acme.test", 2)]:
                        break
                    await asyncio.sleep(0.05)
                assert counted == [("Info@acme.test", 2)]
                assert {row.reason for row in await relay.all_rows()} == {Reason.NOT_OWN_ADDRESS}

        run(claim())

    def test_follows_a_changed_setting_within_two_seconds(self, start):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                await client.mail(mail())
                with relay.database.writing() as opened:
                    settings_store.set_policy(opened, Setting.OWN_DOMAINS, "client.test", actor=None)
                await asyncio.sleep(2)
                await client.mail(mail())
                assert [len(taken.rcpts) for taken in relay.sink.taken] == [2, 1]

        run(claim())


class TestTheUpstreamsVerdict:
    @pytest.mark.parametrize(
        ("command", "said"),
        [
            ("MAIL", "451 4.7.1 Greylisted\nCome back later"),
            ("MAIL", "552 5.3.4 Too big"),
            ("RCPT", "550 5.1.1 No such user"),
            ("RCPT", "450-4.2.1 First line\n450 4.2.1 Mailbox busy"),
            ("RCPT", "251 2.1.5 User not local; will forward"),
        ],
    )
    def test_is_passed_on_word_for_word(self, start, command, said):
        async def claim():
            said_rightly = (
                said
                if "-" in said[:4] or "\n" not in said
                else said.replace("451 ", "451-", 1).replace("\n", "\n451 ")
            )
            async with start(Script(replies={command: [said_rightly]})) as relay:
                client = await relay.connect()
                heard = await client.command("MAIL FROM:<anna@acme.test>")
                if command == "RCPT":
                    heard = await client.command("RCPT TO:<bob@client.test>")
                assert heard == said_rightly

        run(claim())

    @pytest.mark.parametrize(
        "said", ["554 5.7.1 Spam", "452 4.3.1 Disk full", "250-2.0.0 Ok\n250 2.0.0 really"]
    )
    def test_at_the_dot_is_passed_on(self, start, said):
        async def claim():
            async with start(Script(replies={"dot": [said]})) as relay:
                client = await relay.connect()
                assert await client.mail(mail()) == said
                await relay.row(state=State.COPIED if said.startswith("2") else State.REFUSED)

        run(claim())

    def test_to_data_is_said_at_the_end_and_nothing_is_sent(self, start):
        async def claim():
            async with start(Script(replies={"DATA": ["452 4.3.1 Not now", ""]})) as relay:
                client = await relay.connect()
                assert await client.mail(mail()) == "452 4.3.1 Not now"
                assert relay.sink.taken == []
                await relay.row(state=State.REFUSED)
                assert (await client.mail(mail())).startswith("250")

        run(claim())

    def test_that_comes_early_is_said_at_the_end(self, start):
        async def claim():
            script = Script(early={"after": 100_000, "say": "552 5.3.4 Too big already"})
            async with start(script) as relay:
                client = await relay.connect()
                assert (
                    await client.mail(mail(body=b"x" * 70 * 1000 + b"\r\n" + b"y" * 9_000_000 + b"\r\n"))
                    == "552 5.3.4 Too big already"
                )
                assert [taken.complete for taken in relay.sink.taken] in ([], [False])
                await relay.row(state=State.REFUSED)

        run(claim())

    @pytest.mark.parametrize("command", ["MAIL", "RCPT", "DATA", "dot"])
    def test_about_us_is_a_fault_of_ours(self, start, command):
        async def claim():
            async with start(Script(replies={command: ["554 5.7.1 <x>: Relay access denied"]})) as relay:
                client = await relay.connect()
                heard = await client.command("MAIL FROM:<anna@acme.test>")
                if heard.startswith("250"):
                    heard = await client.command("RCPT TO:<bob@client.test>")
                if heard.startswith("250"):
                    await client.command("DATA")
                    client.send(mail() + b".\r\n")
                    heard = await client.reply()
                assert heard.startswith("451 4.3.5")

        run(claim())

    def test_is_made_fit_for_clients(self, start):
        async def claim():
            async with start(Script(replies={"dot": ["250 2.0.0 K\xf6ln\x07 Ok"]})) as relay:
                client = await relay.connect()
                assert await client.mail(mail()) == "250 2.0.0 K?ln? Ok"

        run(claim())

    def test_421_is_passed_on_and_the_session_ends(self, start):
        async def claim():
            async with start(Script(replies={"RCPT": ["421 4.3.2 Closing"]})) as relay:
                client = await relay.connect()
                await client.command("MAIL FROM:<anna@acme.test>")
                assert await client.command("RCPT TO:<bob@client.test>") == "421 4.3.2 Closing"
                assert await client.reader.read() == b""

        run(claim())


class TestTheCopy:
    @pytest.mark.parametrize("pipelining", [True, False])
    @pytest.mark.parametrize("said", ["550 5.1.1 No such user", "452 4.5.3 Too many recipients"])
    def test_that_is_refused_does_not_refuse_the_mail(self, start, said, pipelining):
        async def claim():
            script = scripted(**{f"RCPT TO:<{BCC[:5]}": said})
            if not pipelining:
                script.extensions.remove("PIPELINING")
            async with start(script) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                assert relay.sink.taken[0].rcpts == ["RCPT TO:<bob@client.test>"]
                row = await relay.row(state=State.COPY_REFUSED)
                assert (row.bcc, row.bcc_reply) == (Copy.REFUSED, said)

        run(claim())

    @pytest.mark.parametrize("how", ["421 4.3.2 Closing", "close", "hang", "garbage"])
    def test_that_breaks_the_connection_does_not_break_the_mail(self, start, how, monkeypatch):
        monkeypatch.setattr(upstream, "SECONDS_FOR_THE_COPY", 0.3)

        async def claim():
            async with start(scripted(**{f"RCPT TO:<{BCC[:5]}": how})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail(), "bob@client.test", "eve@client.test")).startswith("250")
                [taken] = [taken for taken in relay.sink.taken if taken.complete]
                assert taken.rcpts == ["RCPT TO:<bob@client.test>", "RCPT TO:<eve@client.test>"]
                row = await relay.row(state=State.COPY_REFUSED)
                assert row.bcc is (Copy.REFUSED if how.startswith("421") else Copy.UNANSWERED)

        run(claim())

    def test_that_breaks_the_connection_where_the_second_try_differs_is_a_451(self, start):
        async def claim():
            script = scripted(**{f"RCPT TO:<{BCC[:5]}": "close", "RCPT TO:<bob": ["", "550 5.1.1 Gone"]})
            async with start(script) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("451 4.4.2")
                assert relay.sink.taken == []
                await relay.row(state=State.ABORTED)

        run(claim())

    def test_is_not_offered_again_after_a_refusal_at_the_dot(self, start):
        async def claim():
            async with start(Script(replies={"dot": ["554 5.7.1 No copies to there", ""]})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("554")
                assert (await client.mail(mail())).startswith("250")
                assert [taken.rcpts for taken in relay.sink.taken] == [["RCPT TO:<bob@client.test>"]]
                assert [row.state for row in await relay.all_rows()] == [State.COPY_REFUSED, State.REFUSED]
                assert (await client.mail(mail(message_id="<2@acme.test>"))).startswith("250")
                assert relay.sink.taken[1].rcpts == ["RCPT TO:<bob@client.test>", COPY]

        run(claim())

    def test_is_never_named_to_the_client(self, start):
        async def claim():
            async with start(
                Script(replies={"dot": [f"250 2.0.0 queued for bob and <{BCC.upper()}>"]})
            ) as relay:
                client = await relay.connect()
                assert await client.mail(mail()) == "250 2.0.0 Ok"
                row = await relay.row(state=State.COPIED)
                assert "salesforce" not in row.upstream.lower()

        run(claim())

    def test_has_no_notify_where_the_upstream_has_no_dsn(self, start):
        async def claim():
            script = Script(extensions=["SIZE 1000000"])
            async with start(script) as relay:
                client = await relay.connect()
                await client.mail(mail())
                assert relay.sink.taken[0].rcpts[-1] == f"RCPT TO:<{BCC}>"

        run(claim())

    @pytest.mark.parametrize("how", ["close", "421 4.3.2 Closing"])
    def test_that_was_accepted_on_a_link_that_is_lost_at_data_is_not_told_as_sent(self, start, how):
        async def claim():
            async with start(Script(replies={"DATA": [how, ""]})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("250")
                assert [taken.rcpts for taken in relay.sink.taken] == [["RCPT TO:<bob@client.test>"]]
                row = await relay.row(state=State.COPY_REFUSED)
                assert (row.bcc, row.bcc_reply) == (Copy.UNANSWERED, None)

        run(claim())

    def test_does_not_go_alone(self, start):
        async def claim():
            async with start(Script(replies={"RCPT TO:<bob": ["550 5.1.1 No"]})) as relay:
                client = await relay.connect()
                await client.command("MAIL FROM:<anna@acme.test>")
                await client.command("RCPT TO:<bob@client.test>")
                assert await client.command("DATA") == "554 5.5.1 No valid recipients"
                assert not any("salesforce" in command for command in relay.sink.commands)

        run(claim())


class TestTroubleWithTheUpstream:
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
                heard = await client.mail(mail(body=b"line\r\n" * 300_000))
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


class TestOddBytes:
    @pytest.mark.parametrize(
        ("sequence", "code"),
        [
            (b"\n.\n", "550 5.6.11"),
            (b"\r\n.\n", "550 5.6.11"),
            (b"\r.\r\n", "550 5.6.11"),
            (b"a\nb", "550 5.6.11"),
            (b"\r\n\0.\r\n", "550 5.6.0"),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("where", [0, 300_000])
    def test_are_refused_after_the_real_end_and_the_upstream_sees_no_dot(self, start, sequence, code, where):
        async def claim():
            async with start() as relay:
                client = await relay.connect()
                body = b"line\r\n" * (where // 6) + b"x" + sequence + b"MAIL FROM:<evil@x.test>\r\n"
                assert (await client.mail(mail(body=body))).startswith(code)
                assert (await client.command("NOOP")).startswith("250")
                assert not any(taken.complete for taken in relay.sink.taken)
                assert not any("evil" in command for command in relay.sink.commands)
                assert all(sequence not in taken.raw for taken in relay.sink.taken)
                await relay.row(state=State.ABORTED)
                assert (await client.mail(mail())).startswith("250")

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


def test_mail_ids_are_uuid7_in_the_order_of_time():
    import uuid

    ids = [new_mail_id() for _ in range(3)]
    assert all(uuid.UUID(one).version == 7 and uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)

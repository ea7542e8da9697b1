"""The conversation, against a real SMTP server that does what a script says."""

import asyncio
from dataclasses import replace

import pytest

from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.mail.store import unknown_senders
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay import upstream
from relay.record import new_mail_id
from tests.doors.conftest import BCC, mail
from tests.doors.relay_bench import (
    COPY,
    run,
    scripted,
    start,  # noqa: F401
)
from tests.sandbox.sink import Script


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

    @pytest.mark.parametrize("code", ["452 4.3.1 No room", "552 5.2.2 Full", "451 4.5.3 Too many recipients"])
    def test_is_left_out_at_the_next_try_where_there_was_too_much(self, start, code):
        async def claim():
            async with start(Script(replies={"dot": [code, ""]})) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith(code[:3])
                assert (await client.mail(mail())).startswith("250")
                assert [taken.rcpts for taken in relay.sink.taken] == [["RCPT TO:<bob@client.test>"]]

        run(claim())

    def test_is_kept_by_greylisting_and_left_out_when_that_does_not_end(self, start):
        async def claim():
            async with start(
                Script(replies={"dot": ["451 4.7.1 Greylisted", "451 4.7.1 Again", ""]})
            ) as relay:
                client = await relay.connect()
                assert (await client.mail(mail())).startswith("451 4.7.1")
                assert (await client.mail(mail())).startswith("451 4.7.1")
                offered = [one for one in relay.sink.commands if one.startswith(f"RCPT TO:<{BCC}")]
                assert len(offered) == 2, "the second try still has its copy"
                assert (await client.mail(mail())).startswith("250")
                assert [taken.rcpts for taken in relay.sink.taken] == [["RCPT TO:<bob@client.test>"]]

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


def test_mail_ids_are_uuid7_in_the_order_of_time():
    import uuid

    ids = [new_mail_id() for _ in range(3)]
    assert all(uuid.UUID(one).version == 7 and uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)

"""A bounded run on loopback that ends by itself. After each round it asks what must hold whatever happened:

a client that heard 250 after its data has its mail upstream, byte for byte; nothing arrived that no client sent
to its end; no failure that nobody expected; and every place of the pool is free again."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from core.database.engine import Database
from tests.doors.conftest import BOX, RunningRelay, add_anna
from tests.sandbox.sink import Script, Sink

MOODS = ["", "", "", "", "250 2.0.0 Ok", "421 4.3.2 Bye", "450 4.2.1 Later", "550 5.1.1 No", "close", "garbage", "250-a\n250 b",
         "354 what", "delay:0.05:", "530 5.7.0 Auth", "250 \xff\xfe", "252 2.0.0 Maybe"]  # fmt: skip
KEYS = ["greeting", "EHLO", "MAIL", "RCPT", "RCPT TO:<email", "DATA", "dot", "RSET"]
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b".",
    b"\0",
    b"a" * 50,
    b"\r\n.\r\n",
    b"\r\n..\r\n",
    b"\xff",
    b"From: anna@acme.test\r\n",
    b"x" * 3000,
]
COMMANDS = [b"NOOP", b"RSET", b"EHLO x", b"HELO x", b"HELP", b"STARTTLS", b"AUTH PLAIN", b"AUTH LOGIN", b"*",
            b"MAIL FROM:<anna@acme.test>", b"MAIL FROM:<>", b"RCPT TO:<bob@client.test>", b"RCPT TO:<a@b@c>", b"BDAT 5", b"\0\0",
            b"MAIL FROM:<anna@acme.test> SIZE=100 BODY=8BITMIME RET=HDRS", b"RCPT TO:<b@c.test> NOTIFY=NEVER", b"x" * 13_000]  # fmt: skip


class Alarms(logging.Handler):
    """Failures that nobody expected."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.found = []

    def emit(self, record):
        if "unexpected" in record.getMessage():
            self.found.append(self.format(record))


def body(dice):
    head = b"From: Anna <anna@acme.test>\r\nMessage-ID: <%d@x>\r\n\r\n" % dice.getrandbits(64)
    tail = b"".join(dice.choice(PIECES) for _ in range(dice.randrange(6)))
    return head + (tail if dice.random() < 0.4 else b"clean line\r\n" * dice.randrange(2000))


async def rude_client(relay, dice, heard):
    is_signed_in = dice.random() < 0.9
    client = await relay.connect(sign_in=is_signed_in)
    for _ in range(dice.randrange(1, 5)):
        for _ in range(dice.randrange(3)):
            client.send(dice.choice(COMMANDS) + dice.choice([b"\r\n", b"\n"]))
        if dice.random() < 0.2:
            await asyncio.sleep(dice.random() / 50)
            (client.vanish if dice.random() < 0.5 else client.close)()
            return
        if not is_signed_in:
            continue
        client.send(b"VRFY fence\r\n")
        while not (await client.reply()).startswith("252 2.1.5 Cannot"):
            pass
        if not await a_mail(client, dice, heard):
            break
    client.close()


async def a_mail(client, dice, heard):
    """Whether the conversation is in step after it."""
    await client.command("RSET")
    if not (await client.command("MAIL FROM:<anna@acme.test>")).startswith("250"):
        return True
    if not (await client.command("RCPT TO:<bob@client.test>")).startswith("2"):
        return True
    if not (await client.command("DATA")).startswith("354"):
        return True
    content = body(dice)
    stream = content + (b"" if content.endswith(b"\r\n") else b"\r\n") + b".\r\n"
    end = (b"\r\n" + stream).find(b"\r\n.\r\n")
    mail = (b"\r\n" + stream)[2 : end + 2]
    position = 0
    while position < len(stream):
        size = dice.choice([1, 7, 1000, 100_000])
        client.send(stream[position : position + size])
        position += size
        if dice.random() < 0.02:
            client.vanish()
            return False
        await asyncio.sleep(0)
    if (await client.reply()).startswith("2"):
        heard.append(mail)
    return end + 5 == len(stream) + 2


async def a_round(seed):
    dice = random.Random(seed)
    sink, heard = Sink(Script()), []
    with tempfile.TemporaryDirectory() as name:
        database = Database(f"sqlite:///{name}/blindcopy.db", BOX)
        database.migrate()
        relay = RunningRelay(database, Path(name), sink)
        relay.password = add_anna(database)
        from core.settings import store as settings_store
        from core.settings.catalogue import Setting

        with database.writing() as session:
            settings_store.set_policy(session, Setting.MAILS_PER_MINUTE, "100000", actor=None)
        await relay.start()
        for key in KEYS:
            if dice.random() < 0.5:
                sink.script.replies[key] = [dice.choice(MOODS) for _ in range(200)]
        try:
            clients = [rude_client(relay, random.Random(dice.getrandbits(64)), heard) for _ in range(20)]
            async with asyncio.timeout(120):
                await asyncio.gather(*clients, return_exceptions=True)
            for client in relay.clients:
                client.writer.transport.abort()
            for _ in range(200):
                if not relay.server.connections and not relay.pool.errands:
                    break
                await asyncio.sleep(0.05)
            arrived = [taken.raw for taken in sink.taken if taken.complete]
            assert not relay.server.connections, "sessions are left"
            assert relay.pool.places.free == 250, "a place of the pool is lost"
            for mail in heard:
                assert mail in arrived, "a 250 was heard for a mail that is not there"
            assert not any(b"\0" in mail or b"\n" in mail.replace(b"\r\n", b"") for mail in arrived), (
                "odd bytes went upstream"
            )
        finally:
            await relay.stop()
            database.close()
    return len(heard)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    import relay.limits
    import relay.session
    import relay.upstream

    relay.upstream.SECONDS_FOR_THE_COPY = 0.5
    relay.session.SECONDS_TO_HEAR_A_RESET = 0.02
    relay.limits.FIRST_DELAY = 0.01
    alarms = Alarms()
    logging.getLogger("blindcopy").addHandler(alarms)
    logging.getLogger("blindcopy").propagate = False
    end, rounds, mails = time.monotonic() + arguments.minutes * 60, 0, 0
    while time.monotonic() < end:
        seed = arguments.seed + rounds
        try:
            mails += asyncio.run(a_round(seed))
        except BaseException:
            print(f"seed {seed}", file=sys.stderr)
            raise
        if alarms.found:
            raise SystemExit(f"seed {seed}: {alarms.found[0]}")
        rounds += 1
    print(f"{rounds} rounds, {mails} mails heard as accepted, nothing found; first seed {arguments.seed}")


if __name__ == "__main__":
    main()

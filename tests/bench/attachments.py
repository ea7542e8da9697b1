"""What attachments cost the relay: a mail of 100 MB with nothing of it kept, with its files by name, and with
them as files."""

import asyncio
import base64
import os
import time

from core.database.engine import Database
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connection_store import OAuthTokens, Way
from core.salesforce.login import Identity
from core.secrets import Box
from tests.bench import peers
from tests.bench.load import SENDER, Sink
from tests.bench.memory import resident

_FILE = 75_000_000
_FILES = 8
"""Beside the large one: of 1 MB each."""
_PIECE = 57 * 1024


def measure():
    """claim -> figure."""
    figures = {}
    for name, preferences in (
        ("by blind copy", {"logging": "bcc"}),
        ("names", {"logging": "api"}),
        ("files", {"logging": "api", "attachments": "files"}),
    ):
        seconds, grown = asyncio.run(_one(preferences))
        figures[f"100 MB in one mail, {name}: MB/s"] = 111 / seconds
        figures[f"100 MB in one mail, {name}: memory that it takes, MB"] = grown / 1e6
    return figures


async def _one(preferences):
    sink = Sink()

    def prepare(installation):
        _connect(installation)
        for name, value in preferences.items():
            installation.command("admin", "preference", SENDER, "set", name, value)

    try:
        with peers.blindcopy(sink.port, prepare=prepare) as relay:
            await _send(relay.port, 1)
            await asyncio.sleep(1.5)
            before = peak = resident(relay.relay.pid)
            began = time.monotonic()
            sending = asyncio.ensure_future(_send(relay.port, _FILE))
            while not sending.done():
                peak = max(peak, resident(relay.relay.pid))
                await asyncio.sleep(0.02)
            await sending
            return time.monotonic() - began, peak - before
    finally:
        sink.stop()


def _connect(installation):
    database = Database(installation.database_url, Box([installation.env["BLINDCOPY_SECRET_KEY"]]))
    with database.writing() as session:
        person = people_store.person_by_email(session, SENDER)
        connection_store.connect(
            session, person, Identity("00D000000000001", "005000000000001", SENDER), way=Way.SIGN_IN,
            login_url="https://x.salesforce.com", tokens=OAuthTokens("a", "r", "https://x.my.salesforce.com"), actor=None,
        )  # fmt: skip
    database.close()


async def _send(port, size):
    """One mail with small files first and a large one behind them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def say(line, code):
        writer.write(line + b"\r\n")
        assert (await reader.readline()).startswith(code)

    assert (await reader.readline()).startswith(b"220")
    await say(b"HELO bench", b"250")
    await say(f"MAIL FROM:<{SENDER}>".encode(), b"250")
    await say(b"RCPT TO:<bob@client.test>", b"250")
    await say(b"DATA", b"354")
    writer.write(f"From: {SENDER}\r\nSubject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n".encode())
    writer.write(b"\r\n--b\r\nContent-Type: text/plain\r\n\r\nHello")
    encoded = base64.encodebytes(os.urandom(_PIECE)).replace(b"\n", b"\r\n")
    for number in range(_FILES + 1):
        writer.write(
            b"\r\n--b\r\nContent-Type: application/pdf; name=%d.pdf\r\nContent-Disposition: attachment\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\n" % number
        )
        for _ in range((1_000_000 if number < _FILES and size > _PIECE else size) // _PIECE):
            writer.write(encoded)
            await writer.drain()
    await say(b"\r\n--b--\r\n.", b"250")
    writer.close()

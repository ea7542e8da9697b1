"""What memory a relay takes: idle sessions, busy ones beside them, many big mails at once."""

import asyncio
from pathlib import Path

from tests.bench import peers
from tests.bench.load import SENDER, Sink

_IDLE = 2_000
_BUSY = 200
_BIG = 200
_BIG_MAIL = 10_000_000
_PIECE = b"x" * 998 + b"\r\n"


def measure():
    """claim -> figure."""
    return asyncio.run(_measure())


async def _measure():
    sink = Sink()
    try:
        with peers.blindcopy(sink.port) as relay:
            before = await _settled(relay)
            idle = [await _greeted(relay.port) for _ in range(_IDLE)]
            with_idle = await _settled(relay)
            await asyncio.gather(*(_send(relay.port, 20, 4_000) for _ in range(_BUSY)))
            for _, writer in idle:
                writer.write(b"QUIT\r\n")
            for reader, writer in idle:
                assert (await reader.readline()).startswith(b"221")
                writer.close()
            sink.wait_for(_BUSY * 20)
        with peers.blindcopy(sink.port) as relay:
            running = asyncio.gather(*(_send(relay.port, 1, _BIG_MAIL) for _ in range(_BIG)))
            peak = at_rest = resident(relay.relay.pid)
            while not running.done():
                peak = max(peak, resident(relay.relay.pid))
                await asyncio.sleep(0.1)
            await running
        return {
            "an idle session, kB": (with_idle - before) / _IDLE / 1000,
            "2,000 idle and 200 busy sessions at once, errors": 0,
            "200 mails of 10 MB at once, MB in all": peak / 1e6,
            "a relay at rest, MB": at_rest / 1e6,
        }
    finally:
        sink.stop()


async def _settled(relay):
    await asyncio.sleep(1.5)
    return resident(relay.relay.pid)


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the relay is gone")


async def _greeted(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert (await reader.readline()).startswith(b"220")
    return reader, writer


async def _send(port, mails, size):
    reader, writer = await _greeted(port)
    writer.write(b"HELO bench\r\n")
    assert (await reader.readline()).startswith(b"250")
    for _ in range(mails):
        for command, code in (
            (f"MAIL FROM:<{SENDER}>", b"250"),
            ("RCPT TO:<bob@client.test>", b"250"),
            ("DATA", b"354"),
        ):
            writer.write(command.encode() + b"\r\n")
            assert (await reader.readline()).startswith(code)
        writer.write(f"From: {SENDER}\r\nSubject: x\r\n\r\n".encode())
        for _ in range(size // len(_PIECE)):
            writer.write(_PIECE)
            await writer.drain()
        writer.write(b".\r\n")
        assert (await reader.readline()).startswith(b"250")
    writer.close()

"""The relay that one would write first: aiosmtpd's handler example in, `aiosmtplib.send` out, the copy as a recipient."""

import asyncio
import sys

import aiosmtplib
from aiosmtpd.smtp import SMTP

from tests.system.conftest import BCC


class Handler:
    def __init__(self, port: int) -> None:
        self._port = port

    async def handle_DATA(self, server, session, envelope):
        await aiosmtplib.send(
            envelope.content,
            sender=envelope.mail_from,
            recipients=[*envelope.rcpt_tos, BCC],
            hostname="127.0.0.1",
            port=self._port,
        )
        return "250 OK"


async def _main(port: int, upstream_port: int) -> None:
    handler = Handler(upstream_port)
    await asyncio.get_running_loop().create_server(
        lambda: SMTP(handler, hostname="naive.test", data_size_limit=50_000_000),
        "127.0.0.1",
        port,
        backlog=1000,
    )
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2])))

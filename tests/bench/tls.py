"""The same load with TLS on both sides and without: our own client and upstream, as Postfix's speak no
TLS."""

import asyncio
import multiprocessing
import ssl
import statistics
import time

import trustme
import uvloop

from tests.bench import peers
from tests.bench.load import SENDER
from tests.system.mail_servers import free_port

_SESSIONS = 20
_MAILS = 100
_ROUNDS = 3
_CONTENT = (
    f"From: {SENDER}\r\nSubject: x\r\n\r\n".encode() + b"x" * 998 + b"\r\n" + (b"y" * 998 + b"\r\n") * 3
)


def measure():
    """mails per second of 4 kB over 20 kept sessions: without TLS, with it on both sides."""
    authority = trustme.CA()
    with peers.directory() as place:
        authority.cert_pem.write_to_path(place / "ca.pem")
        server = authority.issue_cert("127.0.0.1")
        server.cert_chain_pems[0].write_to_path(place / "cert.pem")
        server.private_key_pem.write_to_path(place / "key.pem")
        env = {name: str(place / file) for name, file in (("BLINDCOPY_TLS_CERT", "cert.pem"),
               ("BLINDCOPY_TLS_KEY", "key.pem"), ("BLINDCOPY_UPSTREAM_CA_FILE", "ca.pem"))}  # fmt: skip
        return {
            "in clear": _rate(place, "smtp", "gateway", env),
            "TLS on both sides": _rate(place, "smtps", "submissions", env),
        }


def _rate(place, upstream, listener, env):
    port = free_port()
    files = (str(place / "cert.pem"), str(place / "key.pem")) if upstream == "smtps" else None
    sink = multiprocessing.get_context("spawn").Process(target=_sink, args=(port, files), daemon=True)
    sink.start()
    time.sleep(1.5)
    try:
        with peers.blindcopy(
            port, BLINDCOPY_UPSTREAM=f"{upstream}://127.0.0.1:{port}", BLINDCOPY_LISTEN=f"{listener}://127.0.0.1:0",
            kind=listener, **env,
        ) as relay:  # fmt: skip
            password = relay.command("admin", "user", "app-password", SENDER).strip()
            trust = ssl.create_default_context(cafile=str(place / "ca.pem")) if upstream == "smtps" else None
            rates = [uvloop.run(_load(relay.port, trust, password)) for _ in range(_ROUNDS + 1)]
            return statistics.median(rates[1:])
    finally:
        sink.terminate()
        sink.join(10)


async def _load(port, trust, password):
    began = time.monotonic()
    await asyncio.gather(*(_session(port, trust, password) for _ in range(_SESSIONS)))
    return _SESSIONS * _MAILS / (time.monotonic() - began)


async def _session(port, trust, password):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    await reader.readline()

    async def say(command, code):
        writer.write(command + b"\r\n")
        line = await reader.readline()
        while line[3:4] == b"-":
            line = await reader.readline()
        assert line.startswith(code), line

    await say(b"EHLO bench", b"250")
    if trust is not None:
        import base64

        await say(b"AUTH PLAIN " + base64.b64encode(f"\0{SENDER}\0{password}".encode()), b"235")
    for _ in range(_MAILS):
        await say(f"MAIL FROM:<{SENDER}>".encode(), b"250")
        await say(b"RCPT TO:<bob@client.test>", b"250")
        await say(b"DATA", b"354")
        await say(_CONTENT + b".", b"250")
    writer.close()


class _Taking(asyncio.Protocol):
    """The least that is an SMTP server."""

    def connection_made(self, transport):
        self.transport, self.is_data, self.tail = transport, False, b""
        transport.write(b"220 sink\r\n")

    def data_received(self, data):
        if self.is_data:
            self.tail = (self.tail + data)[-5:]
            if self.tail == b"\r\n.\r\n":
                self.is_data = False
                self.transport.write(b"250 2.0.0 Ok\r\n")
            return
        for line in data.split(b"\r\n")[:-1]:
            if line == b"DATA":
                self.is_data, self.tail = True, b""
                self.transport.write(b"354 Go on\r\n")
            else:
                self.transport.write(
                    b"250-sink\r\n250 PIPELINING\r\n" if line.startswith(b"EHLO") else b"250 Ok\r\n"
                )


def _sink(port, files):
    async def serve():
        context = None
        if files is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*files)
        await asyncio.get_running_loop().create_server(_Taking, "127.0.0.1", port, ssl=context, backlog=500)
        await asyncio.Event().wait()

    uvloop.run(serve())

"""The mail sink: an SMTP server that takes every mail, keeps its exact bytes, and shows them on a page.

It stands in for the mail provider. A script (JSON, one object) makes it misbehave, so that the tests can ask
what the relay does then; without a script it is a well-behaved server."""

import argparse
import asyncio
import html
import json
import sys
from dataclasses import asdict, dataclass, field

from tests.sandbox.stream import Stream

EXTENSIONS = ("PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES")


@dataclass
class Taken:
    """A mail as it arrived: the commands of its envelope, and its data without the final dot, dot-stuffed."""

    mail: str
    rcpts: list[str]
    data: str
    complete: bool = True

    @property
    def raw(self) -> bytes:
        return self.data.encode("latin-1")


@dataclass
class Script:
    """How to misbehave. `replies` maps the beginning of a command (or "dot", "greeting") to a list of replies
    that are used up one by one, the last for ever; a reply "close" closes, "hang" says nothing, "" is the
    usual one. "delay:SECONDS:reply" waits first."""

    replies: dict[str, list[str]] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=lambda: list(EXTENSIONS))
    early: dict[str, object] = field(default_factory=dict)


class Sink:
    """Keeps what it took. Used in-process by the tests, and by `python -m tests.sandbox.sink`."""

    def __init__(self, script: Script | None = None, tls=None) -> None:
        self.script = script or Script()
        self.taken: list[Taken] = []
        self.commands: list[str] = []
        self.connections = 0
        self.open = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, implicit_tls: bool = False) -> int:
        self._server = await asyncio.start_server(
            self._serve, host, port, limit=1 << 20, ssl=self._tls if implicit_tls else None
        )
        return self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def cut_all(self) -> None:
        """Break every connection at once."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        try:
            await self._session(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ClosedByScript):
            pass
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.transport.abort()

    async def _say(self, writer: asyncio.StreamWriter, key: str, usual: str) -> str:
        """The scripted reply to this command, else the usual one."""
        reply = usual
        for prefix, scripted in self.script.replies.items():
            if key.upper().startswith(prefix.upper()) and scripted:
                said = scripted.pop(0) if len(scripted) > 1 else scripted[0]
                reply = said or usual
                break
        if reply.startswith("delay:"):
            _, seconds, reply = reply.split(":", 2)
            await asyncio.sleep(float(seconds))
            reply = reply or usual
        if reply == "close":
            raise ClosedByScript
        if reply == "hang":
            await asyncio.sleep(3600)
        writer.write(reply.encode("latin-1").replace(b"\n", b"\r\n") + b"\r\n")
        await writer.drain()
        if reply.startswith("421"):
            raise ClosedByScript
        return reply

    async def _session(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader = Stream(stream)
        await self._say(writer, "greeting", "220 sink.test ESMTP")
        mail, rcpts = "", []
        while True:
            line = await self._line(reader)
            self.commands.append(line)
            verb = line.split(" ")[0].upper()
            if verb == "EHLO":
                offered = ["sink.test", *self.script.extensions]
                last = len(offered) - 1
                await self._say(
                    writer,
                    line,
                    "\n".join(f"250{' ' if i == last else '-'}{text}" for i, text in enumerate(offered)),
                )
            elif verb == "STARTTLS":
                await self._say(writer, line, "220 2.0.0 Go ahead")
                await writer.start_tls(self._tls)
            elif verb == "AUTH":
                await self._auth(reader, writer, line)
            elif verb == "MAIL":
                reply = await self._say(writer, line, "250 2.1.0 Ok")
                mail, rcpts = (line, []) if reply.startswith("2") else ("", [])
            elif verb == "RCPT":
                if (await self._say(writer, line, "250 2.1.5 Ok")).startswith("2"):
                    rcpts.append(line)
            elif verb == "DATA":
                usual = "354 Go on" if rcpts else "554 5.5.1 No valid recipients"
                if (await self._say(writer, line, usual)).startswith("354"):
                    await self._data(reader, writer, mail, rcpts)
                    mail, rcpts = "", []
            elif verb == "QUIT":
                await self._say(writer, line, "221 2.0.0 Bye")
                return
            else:
                if verb == "RSET":
                    mail, rcpts = "", []
                await self._say(writer, line, "250 2.0.0 Ok")

    async def _auth(self, reader: Stream, writer: asyncio.StreamWriter, line: str) -> None:
        if line.upper() == "AUTH LOGIN" or line.upper().startswith("AUTH LOGIN "):
            for question in (["334 VXNlcm5hbWU6"] if line.upper() == "AUTH LOGIN" else []) + [
                "334 UGFzc3dvcmQ6"
            ]:
                await self._say(writer, "challenge", question)
                self.commands.append(await self._line(reader))
        if line.upper().startswith("AUTH CRAM-MD5"):
            await self._say(writer, "challenge", "334 PDEuMkBzaW5rLnRlc3Q+")
            self.commands.append(await self._line(reader))
        await self._say(writer, line, "235 2.7.0 Ok")

    async def _line(self, reader: Stream) -> str:
        line = await reader.line()
        if line is None:
            raise ClosedByScript
        return line.decode("latin-1")

    async def _data(self, reader: Stream, writer: asyncio.StreamWriter, mail: str, rcpts: list[str]) -> None:
        held = bytearray(b"\r\n")
        early = dict(self.script.early)
        end = -1
        while end < 0:
            chunk = await reader.chunk()
            if not chunk:
                self.taken.append(Taken(mail, rcpts, held[2:].decode("latin-1"), complete=False))
                raise ClosedByScript
            searched = max(0, len(held) - 4)
            held += chunk
            end = held.find(b"\r\n.\r\n", searched)
            if early and len(held) >= int(early["after"]):
                if early["say"] == "close":
                    raise ClosedByScript
                writer.write(str(early["say"]).encode() + b"\r\n")
                early = {}
        reader.give_back(bytes(held[end + 5 :]))
        taken = Taken(mail, rcpts, held[2 : end + 2].decode("latin-1"))
        number = len(self.taken) + 1
        if "dot" not in self.script.replies:
            self.taken.append(taken)
        reply = await self._say(writer, "dot", f"250 2.0.0 Ok: queued as {number}")
        if "dot" in self.script.replies and reply.startswith("2"):
            self.taken.append(taken)

    async def page(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The page that shows what arrived; /mails.json is the same for programs."""
        try:
            request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            writer.close()
            return
        is_json = request.startswith("GET /mails.json")
        body = json.dumps([asdict(taken) for taken in self.taken]) if is_json else self._html()
        kind = "application/json" if is_json else "text/html; charset=utf-8"
        content = body.encode()
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\nConnection: "
            f"close\r\n\r\n".encode()
        )
        writer.write(content)
        await writer.drain()
        writer.close()

    def _html(self) -> str:
        mails = "".join(
            _mail_html(number, taken) for number, taken in reversed(list(enumerate(self.taken, 1)))
        )
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Mail sink</title><style>'
            "body{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 "
            "1rem}pre{background:#f4f4f4;padding:1rem;"
            "overflow:auto;white-space:pre-wrap}article{border:1px solid "
            "#ccc;border-radius:.5rem;padding:1rem;margin:1rem 0}"
            ".copy{color:#0a58ca;font-weight:600}code{overflow-wrap:anywhere}</style><h1>Mail "
            "sink</h1><p>This stands in for the"
            f" mail provider. {len(self.taken)} mail(s) arrived, newest first; a blind copy is in the "
            f"envelope and nowhere in the"
            f" message.</p>{mails}</html>"
        )


class ClosedByScript(Exception):
    """The connection ends here."""


def _mail_html(number: int, taken: Taken) -> str:
    rcpts = "".join(
        f'<li class="{"copy" if "salesforce" in rcpt.lower() else ""}"><code>{html.escape(rcpt)}</code></li>'
        for rcpt in taken.rcpts
    )
    text = taken.raw.decode("utf-8", "replace")[:4000]
    return (
        f"<article><h2>Mail "
        f"{number}</h2><p>Envelope</p><ul><li><code>{html.escape(taken.mail)}</code></li>{rcpts}</ul>"
        f"<p>Message</p><pre>{html.escape(text)}</pre></article>"
    )


async def _main(smtp_port: int, web_port: int) -> None:
    sink = Sink()
    port = await sink.start(port=smtp_port)
    web = await asyncio.start_server(sink.page, "127.0.0.1", web_port)
    print(f"ready smtp 127.0.0.1:{port}", flush=True)
    print(f"ready http 127.0.0.1:{web.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smtp-port", type=int, default=2525)
    parser.add_argument("--web-port", type=int, default=8025)
    arguments = parser.parse_args()
    try:
        asyncio.run(_main(arguments.smtp_port, arguments.web_port))
    except KeyboardInterrupt:
        sys.exit(0)

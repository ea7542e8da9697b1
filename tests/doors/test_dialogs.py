"""Dialogs as files: what a client says, and what it must hear."""

import asyncio
import base64
from pathlib import Path

import pytest

from core.endpoints import Limits, Listener, ListenerKind
from core.settings import Name
from core.storage import settings
from relay import limits
from relay.entrance import Entrance
from tests.doors.conftest import Client, running
from tests.sandbox.sink import Script, Sink

DIALOGS = sorted((Path(__file__).parents[1] / "dialogs").glob("*.txt"))


def token(password):
    return base64.b64encode(f"\0anna@acme.test\0{password}".encode()).decode()


def read(path):
    """(what `#` lines set up, [(who, line)])"""
    setup, lines = [], []
    for line in path.read_text().splitlines():
        if line.startswith("# "):
            setup.append(line[2:])
        else:
            assert line[:2] in {"C:", "S:"}, line
            lines.append((line[0], line[3:]))
    return setup, lines


def scripted(setup):
    script, most = Script(), {}
    for line in setup:
        kind, _, rest = line.partition(" ")
        if kind == "upstream":
            key, _, reply = rest.partition(": ")
            script.replies[key] = [reply]
        elif kind == "extensions":
            script.extensions = rest.split()
        elif kind == "listener":
            name, _, number = rest.partition("=")
            most[name] = int(number)
    return script, Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, Limits(**most)))


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_dialog(path, sqlite, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "_FIRST_DELAY", 0.01)
    setup, lines = read(path)
    script, entrance = scripted(setup)

    async def claim():
        async with running(sqlite, tmp_path, Sink(script), entrance=entrance) as relay:
            for line in setup:
                if line.startswith("policy "):
                    name, _, value = line[7:].partition(": ")
                    with relay.database.writing() as opened:
                        settings.set_policy(opened, Name(name), value, actor=None)
                    await relay.snapshot.look()
            client = Client(*await asyncio.open_connection("127.0.0.1", relay.port))
            relay.clients.append(client)
            said = {
                "<token>": token(relay.password), "<wrong>": token("wrong"), "<login>": base64.b64encode(b"anna@acme.test").decode(),
                "<password>": base64.b64encode(relay.password.encode()).decode(), "<long>": "x" * 20_000, "<bare>": "a\nb", "<nul>": "a\0b",
            }  # fmt: skip
            for who, line in lines:
                if who == "C":
                    for name, text in said.items():
                        line = line.replace(name, text)  # noqa: PLW2901
                    client.send(line.encode() + b"\r\n")
                elif line == "(closed)":
                    assert await client.reader.read() == b""
                else:
                    heard = await client.reply()
                    assert heard.startswith(line), f"expected {line!r}, heard {heard!r}"

    asyncio.run(claim())


def test_every_reply_of_the_crib_has_its_dialog():
    codes = {
        line[3:6]
        for path in DIALOGS
        for line in path.read_text().splitlines()
        if line.startswith("S: ") and line[3:6].isdigit()
    }
    assert codes >= {
        "220",
        "221",
        "235",
        "250",
        "252",
        "334",
        "354",
        "421",
        "450",
        "451",
        "452",
        "500",
        "501",
        "502",
        "503",
        "504",
        "530",
        "535",
        "550",
        "552",
        "553",
        "554",
        "555",
    }

"""Dialogs as files: what a client says, and what it must hear."""

import asyncio
import ssl
from ipaddress import ip_network

import pytest
import trustme

from core.endpoints import Listener, ListenerKind, ListenerLimits
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay import limits, session
from relay.entrance import Entrance
from tests.doors.conftest import Client, running
from tests.sandbox.dialogs import DIALOGS, read, said
from tests.sandbox.sink import Script, Sink


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
    kind = next((line.split()[1:] for line in setup if line.startswith("entrance ")), ["submission"])
    return script, entrance(kind, ListenerLimits(**most))


def entrance(kind, most):
    """A submission listener on loopback, one beyond this machine, or a gateway for some network."""
    if kind[0] == "gateway":
        return Entrance(
            Listener(ListenerKind.GATEWAY, "127.0.0.1", 0, most),
            trusted=(ip_network(kind[2] if kind[1:] else "127.0.0.0/8"),),
        )
    if kind[0] == "beyond":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("relay.test").configure_cert(tls)
        return Entrance(Listener(ListenerKind.SUBMISSION, "0.0.0.0", 0, most), tls=tls)
    return Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, most))


async def set_up(relay, setup, monkeypatch):
    """What a dialog wants besides its upstream and its listener."""
    with relay.database.writing() as opened:
        settings_store.set_policy(opened, Setting.OWN_DOMAINS, "acme.test", actor=None)
        for line in setup:
            if line.startswith("policy "):
                name, _, value = line[7:].partition(": ")
                settings_store.set_policy(opened, Setting(name), value, actor=None)
    await relay.snapshot.look()
    for line in setup:
        if line.startswith("idle "):
            monkeypatch.setattr(session, "SECONDS_IDLE", float(line[5:]))
        elif line == "stopping":
            relay.server.is_stopping = True
        elif line == "settings away":
            relay.chores[0].cancel()
            relay.snapshot.people = None
            monkeypatch.setattr(relay.snapshot, "look", nobody_answers)


async def nobody_answers():
    return False


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
def test_dialog(path, sqlite, tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "FIRST_DELAY", 0.01)
    setup, lines = read(path)
    script, entered = scripted(setup)

    async def claim():
        async with running(sqlite, tmp_path, Sink(script), entrance=entered) as relay:
            await set_up(relay, setup, monkeypatch)
            client = Client(*await asyncio.open_connection("127.0.0.1", relay.port))
            relay.clients.append(client)
            for who, line in lines:
                if who == "C":
                    client.send(said(line, relay.password))
                elif line == "(closed)":
                    assert await client.reader.read() == b""
                else:
                    heard = await client.reply()
                    assert heard.startswith(line), f"expected {line!r}, heard {heard!r}"

    asyncio.run(claim())


def test_every_reply_of_the_crib_has_its_dialog():
    heard = {line[3:].partition(" ")[0] + " " + line[3:].split()[1] for path in DIALOGS for line in path.read_text().splitlines()
             if line.startswith("S: ") and line[3:6].isdigit() and len(line[3:].split()) > 1}  # fmt: skip
    crib = """421 4.3.2, 421 4.4.2, 421 4.7.0, 450 4.7.1, 451 4.3.0, 451 4.3.5, 451 4.4.1, 451 4.4.2, 452 4.5.3, 454 4.7.0, 500 5.5.2,
              501 5.5.4, 502 5.5.1, 503 5.5.1, 504 5.5.4, 530 5.7.0, 538 5.7.11, 535 5.7.8, 550 5.6.11, 550 5.7.1, 552 5.3.4, 553 5.6.7,
              554 5.4.6, 554 5.5.1, 555 5.5.4"""
    assert heard >= {" ".join(row.split()) for row in crib.split(",")}

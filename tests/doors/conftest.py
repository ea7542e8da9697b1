"""The databases that the contracts run on, and a relay in this process."""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from core.database.engine import Database
from core.endpoints import Listener, ListenerKind, ListenerLimits, SalesforceApp, Upstream, UpstreamTls
from core.mail.store import Filter, entries
from core.people import store as people_store
from core.people.addresses import address_key
from core.people.person import AppPassword, People, Person, app_password_digest
from core.secrets import Box
from core.settings.catalogue import Logging
from core.settings.in_force import PersonSettings, policy_settings
from core.smtp import Route
from relay.entrance import Entrance
from relay.heartbeat import Pulse
from relay.limits import FailedSignIns
from relay.logbook import JournalOptions, Logbook
from relay.offers import Offers
from relay.pool import Pool
from relay.process import Relay
from relay.record import new_mail_id
from relay.same_mails import SameMails
from relay.server import Server
from relay.snapshot import Snapshot
from relay.under_way import UnderWay
from relay.usual_sources import UsualSources
from tests.sandbox.org.server import PretendOrg
from tests.sandbox.sink import Sink

BCC = "emailtosalesforce@x.le.salesforce.com"
BOX = Box(["0123456789abcdef"])
CALLBACK = "http://127.0.0.1:8000/salesforce/callback"


@pytest.fixture
def org():
    """A pretend org with one user, Anna."""
    pretend = PretendOrg()
    pretend.start()
    pretend.anna = pretend.org.put(
        "User", Username="anna@acme.test", Name="Anna", Email="a@acme.test", IsActive=True
    )
    yield pretend
    pretend.stop()


@pytest.fixture
def org_app(org):
    return SalesforceApp("blindcopy-client", "blindcopy-secret", CALLBACK, org.url, org.ca_file)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/blindcopy.db"
        return
    server = request.getfixturevalue("postgresql")
    name = "t" + new_mail_id().replace("-", "")
    server.psql(f"CREATE DATABASE {name};")
    uri = server.get_uri(database=name)
    yield "postgresql+psycopg" + uri[uri.index("://") :]


@pytest.fixture
def database(database_url):
    opened = Database(database_url, BOX)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path):
    opened = Database(f"sqlite:///{tmp_path}/blindcopy.db", BOX)
    opened.migrate()
    yield opened
    opened.close()


def add_anna(database, logging="bcc"):
    """A person whose mail is copied; the app password is returned."""
    from core.settings import store as settings_store
    from core.settings.catalogue import Setting

    with database.writing() as session:
        anna = people_store.add_person(
            session, "anna@acme.test", name="Anna", is_admin=True, password_hash="x", actor=None
        )
        people_store.add_address(session, "anna@acme.test", "sales@acme.test", actor=None)
        settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, BCC, actor=None)
        settings_store.set_preference(session, anna, Setting.LOGGING, logging, actor=None)
        return people_store.add_app_password(session, "anna@acme.test", label="test", actor=None)[1]


class RunningRelay:
    """A relay on this event loop, in front of a sink that may be scripted."""

    def __init__(self, database, directory, sink, *, upstream=None, entrance=None, limits=ListenerLimits()):  # noqa: B008
        self.database, self.directory, self.sink = database, directory, sink
        self.upstream, self.entrance, self.limits = upstream, entrance, limits
        self.password = ""
        self.port = 0
        self.clients = []

    async def start(self):
        process_id = new_mail_id()
        sink_port = await self.sink.start()
        upstream = self.upstream or Upstream(UpstreamTls.NONE, "127.0.0.1", sink_port)
        self.snapshot = Snapshot(self.database, self.directory, BOX, process_id)
        await self.snapshot.start()
        self.pulse = Pulse(self.database, self.snapshot, process_id)
        await self.pulse.start()
        self.logbook = Logbook(self.database, JournalOptions(self.directory, 2 << 20, BOX))
        self.pool = Pool(Route(upstream, "relay.test"), Offers(self.directory, str(upstream)))
        await self.pool.learn()
        self.pool.is_known = True  # as if a relay had reached it before, where it is down
        self.under_way = UnderWay(self.directory / "under-way", self.snapshot, self.logbook.note)
        self.usual_sources = UsualSources(self.directory, ["key"])
        self.usual_sources.load()
        self.server = Server(
            Relay(
                "relay.test",
                process_id,
                self.pool,
                self.logbook,
                self.snapshot,
                self.under_way,
                FailedSignIns(self.usual_sources),
                SameMails(self.database, lambda: self.snapshot.has_other_relays),
            )
        )
        bound = await self.server.listen(
            [self.entrance or Entrance(Listener(ListenerKind.SUBMISSION, "127.0.0.1", 0, self.limits))]
        )
        self.port = bound[0].port
        self.chores = [
            asyncio.ensure_future(self.snapshot.keep_fresh()),
            asyncio.ensure_future(self.server.watch()),
            asyncio.ensure_future(self.under_way.watch()),
        ]

    async def stop(self):
        for chore in self.chores:
            chore.cancel()
        for client in self.clients:
            client.writer.transport.abort()
        await asyncio.sleep(0.01)
        await self.server.stop()
        await self.pool.close()
        await self.logbook.stop()
        await self.sink.stop()
        await asyncio.sleep(0.05)

    async def connect(self, *, sign_in=True):
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))
        self.clients.append(client)
        await client.reply()
        await client.command("EHLO client.test")
        if sign_in:
            import base64

            token = base64.b64encode(f"\0anna@acme.test\0{self.password}".encode()).decode()
            assert (await client.command(f"AUTH PLAIN {token}")).startswith("235")
        return client

    def rows(self):
        with self.database.reading() as session:
            return [entry.row for entry in entries(session, Filter(), 1000)]

    async def all_rows(self):
        """The rows once the database has all that the journal holds."""
        await until(lambda: self.logbook.waiting_bytes() == 0)
        return await asyncio.to_thread(self.rows)

    async def row(self, **expected):
        """The only row, once it is what is expected."""
        for _ in range(100):
            rows = await asyncio.to_thread(self.rows)
            if len(rows) == 1 and all(getattr(rows[0], name) == value for name, value in expected.items()):
                return rows[0]
            await asyncio.sleep(0.05)
        raise AssertionError(f"expected {expected}, found {rows}")


class Client:
    """A client that says exactly what it is told to."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def reply(self):
        lines = []
        while True:
            line = (
                (await asyncio.wait_for(self.reader.readuntil(b"\r\n"), 120)).decode("ascii").rstrip("\r\n")
            )
            lines.append(line)
            if line[3:4] != "-":
                return "\n".join(lines)

    async def command(self, line):
        self.send(line.encode() + b"\r\n")
        return await self.reply()

    def send(self, data):
        self.writer.write(data)

    async def envelope(self, *recipients, sender="anna@acme.test", parameters=""):
        assert (await self.command(f"MAIL FROM:<{sender}>{parameters}")).startswith("250")
        for recipient in recipients or ["bob@client.test"]:
            assert (await self.command(f"RCPT TO:<{recipient}>")).startswith("250")
        assert (await self.command("DATA")).startswith("354")

    async def mail(self, content, *recipients, **envelope):
        """Send a mail whose content is dot-stuffed already; the final reply."""
        await self.envelope(*recipients, **envelope)
        self.send(content + b".\r\n")
        return await self.reply()

    def close(self):
        self.writer.close()

    def vanish(self):
        """Gone without a word: the kernel answers everything with a reset."""
        import socket
        import struct

        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()


def mail(
    subject="Our offer",
    sender="Anna <anna@acme.test>",
    body=b"Hello\r\n",
    headers=b"",
    message_id="<1@acme.test>",
):
    return (
        f"From: {sender}\r\nTo: bob@client.test\r\nSubject: {subject}\r\nMessage-ID: "
        f"{message_id}\r\n".encode()
        + headers
        + b"\r\n"
        + body
    )


@contextlib.asynccontextmanager
async def running(database, directory, sink=None, **options):
    password = await asyncio.to_thread(add_anna, database)
    relay = RunningRelay(database, directory, sink or Sink(), **options)
    relay.password = password
    await relay.start()
    try:
        yield relay
    finally:
        await relay.stop()


async def until(claim, seconds=20):
    """Wait for a claim to come true."""
    for _ in range(seconds * 20):
        if await asyncio.to_thread(claim):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it never came true")


def people_of_one(password="secret", **settings):
    anna = Person(
        1, "anna@acme.test", frozenset({address_key("anna@acme.test")}), (AppPassword(1, app_password_digest(password)),),
        PersonSettings(Logging.BCC, BCC),
    )  # fmt: skip
    return People(7, replace(policy_settings({}), own_domains=("acme.test",)), (anna,))


def soon():
    return datetime.now(UTC) + timedelta(minutes=1)

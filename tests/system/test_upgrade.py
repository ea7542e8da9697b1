"""From the first release to this one, with an old relay still running: everything is there afterwards.

`tests/releases/first.tar.xz` is the first release's code (relay, admin, core, sync), run here as it was."""

import json
import os
import signal
import smtplib
import sqlite3
import subprocess
import sys
import tarfile

import pytest

from core.database.engine import Database
from core.database.models import MailRow
from core.database.task_models import TaskRow
from core.mail import texts as mail_texts
from core.mail.row import State
from core.people import store as people_store
from core.salesforce import connection_store
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import store as task_store
from relay.record import new_mail_id
from tests.system.conftest import BCC, CHECKOUT, Installation, mail, until

RELEASE = CHECKOUT / "tests" / "releases" / "first.tar.xz"
FILL = """
import sys
from datetime import UTC, date, datetime, timedelta
from core.secrets import Box
from core.storage import connections, people, settings, task_links, task_syncs, tasks
from core.storage.connections import Identity, Tokens, Way
from core.storage.database import Database
from core.settings import Name
from core.task import Field, Related, Status, Values
database = Database(sys.argv[1], Box(["0123456789abcdef0123456789abcdef"]))
database.migrate()
with database.writing() as session:
    anna, carl = (people.person_by_email(session, f"{name}@acme.test") for name in ("anna", "carl"))
    for number, person in enumerate((anna, carl)):
        connections.connect(session, person, Identity("00D000000000001AAA", f"00500000000000{number}AAA", f"{person.email}.org"), way=Way.SIGN_IN,
                            login_url="https://login.salesforce.com", tokens=Tokens(f"access {number}", f"refresh {number}", "https://acme.my.salesforce.com"), actor=None)
    settings.set_preference(session, anna, Name.TASK_SYNC, "both-ways", actor=None)
    task_links.bring_in(session, anna.id, "00D000000000001AAA", [
        (f"00T0000000000{number:02d}AAA", Values(f"Call {number}", date(2026, 12, number + 1), Status("Not Started", True), "High", "as agreed"), Related("003000000000001AAA", None, "Bob", None), datetime.now(UTC))
        for number in range(20)])
with database.writing() as session:
    for number in range(5):
        tasks.edit(session, anna.id, number + 1, {Field.SUBJECT: f"Call {number}, edited here"})
    tasks.add(session, anna.id, Values("Only here"), is_wanted=True)
database.close()
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def old(request, tmp_path, sink):
    """An installation of the first release, in use."""
    code = tmp_path / "first"
    code.mkdir()
    with tarfile.open(RELEASE) as archive:
        archive.extractall(code, filter="data")
    url = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        name = "t" + new_mail_id().replace("-", "")
        server.psql(f"CREATE DATABASE {name};")
        uri = server.get_uri(database=name)
        url = "postgresql+psycopg" + uri[uri.index("://") :]
    one = Installation(tmp_path, sink.port, url)
    one.code = code
    yield one
    one.stop()


def in_old_code(one, *arguments, program=None):
    done = subprocess.run(
        [sys.executable, *(("-c", program, *arguments) if program else ("-m", *arguments))],
        cwd=one.code, env=one.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def start_old_relay(one):
    with (one.directory / "relay-old.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "relay"], cwd=one.code, env=one.env, stdout=subprocess.PIPE, stderr=log
        )
    one.processes.append(process)
    line = process.stdout.readline().decode()
    assert line.startswith("ready submission"), (one.directory / "relay-old.log").read_text()
    process.port = int(line.rpartition(":")[2])
    return process


def send_as(one, relay, name, numbers):
    with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
        client.login(f"{name}@acme.test", one.passwords[name])
        for number in numbers:
            content = mail(number).replace("anna@acme.test>\r\nTo", f"{name}@acme.test>\r\nTo")
            client.sendmail(f"{name}@acme.test", ["bob@client.test"], content)


def test_everything_is_there_afterwards(old, sink):
    in_old_code(old, "core", "migrate")
    old.passwords = {}
    for name, logging in (("anna", "bcc"), ("carl", "api")):
        in_old_code(old, "admin", "user", "add", f"{name}@acme.test", "--admin")
        in_old_code(old, "admin", "preference", f"{name}@acme.test", "set", "bcc-address", BCC)
        in_old_code(old, "admin", "preference", f"{name}@acme.test", "set", "logging", logging)
        old.passwords[name] = in_old_code(old, "admin", "user", "app-password", f"{name}@acme.test")
    in_old_code(old, "admin", "policy", "set", "own-domains", "acme.test")
    in_old_code(old, old.database_url, program=FILL)
    old_relay = start_old_relay(old)
    send_as(old, old_relay, "anna", range(10))
    send_as(old, old_relay, "carl", range(10, 20))

    new_relay = old.start_relay()  # it brings the database up to date, beside the old one
    send_as(old, old_relay, "anna", range(20, 25))
    send_as(old, old_relay, "carl", range(25, 30))
    send_as(old, new_relay, "anna", range(30, 35))
    send_as(old, new_relay, "carl", range(35, 40))
    lock = hold_the_database(old)
    send_as(old, old_relay, "anna", range(40, 42))  # what waits in a journal of the first release
    send_as(old, new_relay, "carl", range(42, 44))
    os.kill(old_relay.pid, signal.SIGKILL)
    old_relay.wait(10)
    lock()
    until(lambda: len(old.rows()) == 44, 60)
    assert len(sink.sink.taken) == 44
    assert not list((old.directory / "state").glob("journal-*"))

    database = Database(old.database_url, Box([old.env["BLINDCOPY_SECRET_KEY"]]))
    with database.reading() as session:
        anna, carl = (people_store.person_by_email(session, f"{name}@acme.test") for name in ("anna", "carl"))
        mails = session.query(MailRow).all()
        assert {row.state for row in mails if row.person_id == anna.id} == {State.COPIED}
        assert {row.state for row in mails if row.person_id == carl.id} == {State.WAITING}
        assert {row.subject for row in mails} == {f"Mail {number}" for number in range(44)}
        for row in mails:
            if row.person_id == carl.id:
                assert b"Hello" in mail_texts.read(session, [row.id]).get(row.id)
        assert [connection_store.connection(session, one.id).refresh_token for one in (anna, carl)] == [
            "refresh 0",
            "refresh 1",
        ]
        assert settings_store.preference(session, anna.id)[Setting.BCC_ADDRESS] == BCC
        assert settings_store.policy(session)[Setting.OWN_DOMAINS].value == "acme.test"
        linked = session.query(TaskRow).filter(TaskRow.salesforce_id.is_not(None)).order_by(TaskRow.id).all()
        assert [row.base["subject"] for row in linked] == [f"Call {number}" for number in range(20)]
        assert [task_store.values_of(row).subject for row in linked[:6]] == [
            *(f"Call {number}, edited here" for number in range(5)),
            "Call 5",
        ]
        assert session.query(TaskRow).filter(TaskRow.salesforce_id.is_(None)).one().subject == "Only here"
    database.close()
    shown = [
        json.loads(line) for line in old.command("admin", "activity", "--json", "--limit", "100").splitlines()
    ]
    assert len(shown) == 44


def hold_the_database(one):
    """Nobody can write for a while; how that ends."""
    if one.database_url.startswith("sqlite"):
        connection = sqlite3.connect(one.directory / "blindcopy.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        return lambda: (connection.rollback(), connection.close())
    import psycopg

    connection = psycopg.connect(one.database_url.replace("+psycopg", ""))
    connection.execute("LOCK TABLE mail IN EXCLUSIVE MODE")
    return lambda: (connection.rollback(), connection.close())


def test_a_migration_may_take_its_time(postgresql, monkeypatch):
    """The time-out of a statement does not hold for it, nor for waiting until another process is done with
    it."""
    import threading

    import psycopg

    monkeypatch.setattr("core.database.engine.MILLISECONDS_FOR_A_STATEMENT", 300)
    name = "t" + new_mail_id().replace("-", "")
    postgresql.psql(f"CREATE DATABASE {name};")
    uri = postgresql.get_uri(database=name)
    other = psycopg.connect(uri)
    other.execute("SELECT pg_advisory_lock(%s)", (0x626C696E64,))
    threading.Timer(1.5, other.close).start()
    database = Database("postgresql+psycopg" + uri[uri.index("://") :])
    database.migrate()
    with pytest.raises(Exception, match="statement timeout"):
        sleep_in(database)
    database.close()


def sleep_in(database):
    from sqlalchemy import text

    with database.reading() as session:
        session.execute(text("SELECT pg_sleep(2)"))

"""Mails that a server in front has split: two relays, a worker that is killed again and again, one
database."""

import random
import signal
import smtplib
import threading
import time

import pytest

from tests.system.conftest import BCC, Installation, until
from tests.system.connected import (
    connect,
    knows_salesforce,
    org,  # noqa: F401
    start_worker,
)
from tests.system.mail_servers import free_port

MAILS, PARTS = 12, 3


def content(number):
    return (
        f"From: Anna <anna@acme.test>\r\nTo: c0@client.test, c1@client.test, c2@client.test\r\nSubject: "
        f"Split "
        f"{number}\r\nMessage-ID: <split-{number}@acme.test>\r\nDate: Thu, 26 Nov 2026 09:30:00 +0000\r\n\r\n"
        f"Hello\r\n"
    )


@pytest.fixture(params=["sqlite", "postgresql"])
def house(request, tmp_path, sink):
    """An installation with two relays that have a gateway, each with a state directory of its own."""
    url = None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgresql")
        name = f"split_{time.time_ns()}"
        server.psql(f"CREATE DATABASE {name}")
        url = server.get_uri(database=name, driver="psycopg")
    one = Installation(tmp_path, sink.port, url)
    one.add_anna()
    one.command("admin", "policy", "set", "own-domains", "acme.test")
    one.ports = []
    yield one
    one.stop()


def start_relays(house):
    for number in range(2):
        port = free_port()
        house.start_relay_raw(
            "gateway",
            BLINDCOPY_LISTEN=f"gateway://127.0.0.1:{port}",
            BLINDCOPY_TRUSTED="127.0.0.0/8",
            BLINDCOPY_STATE_DIR=str(house.directory / f"state-{number}"),
        )
        house.ports.append(port)
    time.sleep(2)  # until each has seen the other


def send_all(house):
    """Every part of every mail, in parallel over both relays."""
    work = [(number, part) for number in range(MAILS) for part in range(PARTS)]
    random.Random(5).shuffle(work)

    def send(some, port):
        with smtplib.SMTP("127.0.0.1", port) as client:
            for number, part in some:
                client.sendmail("anna@acme.test", [f"c{part}@client.test"], content(number))

    threads = [
        threading.Thread(target=send, args=(work[start::4], house.ports[start % 2])) for start in range(4)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()


def test_have_one_copy_each(house, sink):
    start_relays(house)
    send_all(house)
    rows = house.ended(at_least=MAILS * PARTS)
    assert [one.complete for one in sink.sink.taken].count(True) == MAILS * PARTS
    copies = [one for one in sink.sink.taken if one.complete and any(BCC in rcpt for rcpt in one.rcpts)]
    subjects = [one.raw.partition(b"Subject: ")[2].partition(b"\r\n")[0] for one in copies]
    assert sorted(subjects) == sorted(f"Split {number}".encode() for number in range(MAILS))
    assert [row.reason for row in rows].count("same-mail") == MAILS * (PARTS - 1)
    first = {row.id for row in rows if row.same_as is None}
    assert {row.same_as for row in rows if row.same_as is not None} <= first


def test_are_one_record_each_with_all_people_whatever_is_killed(house, org):
    knows_salesforce(house, org)
    connect(house, org)
    house.command("admin", "preference", "anna@acme.test", "set", "logging", "api")
    contacts = {org.org.put("Contact", LastName="C", Email=f"c{part}@client.test") for part in range(PARTS)}
    start_relays(house)
    chance = random.Random(7)
    worker = start_worker(house)
    sender = threading.Thread(target=send_all, args=(house,))
    sender.start()
    for _ in range(8):
        time.sleep(chance.uniform(0.5, 2.5))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker = start_worker(house)
    sender.join()

    def all_logged():
        rows = house.rows()
        return rows if len(rows) == MAILS * PARTS and {row.state for row in rows} == {"logged"} else None

    try:
        until(all_logged, 150)
    except AssertionError:
        raise AssertionError([(row.state, row.subject, row.due_at) for row in house.rows()]) from None
    messages = [one for one in org.org.rows["emailmessage"].values() if not one["IsDeleted"]]
    assert sorted(one["Subject"] for one in messages) == sorted(f"Split {number}" for number in range(MAILS))
    on = {}
    for one in org.org.rows["emailmessagerelation"].values():
        on.setdefault(one["EmailMessageId"], []).append(one["RelationId"])
    for message in messages:
        assert sorted(one for one in on[message["Id"]] if one.startswith("003")) == sorted(contacts)

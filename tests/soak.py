"""`python -m tests.soak --minutes 30`: tasks edited at random by two programs, one here and one in Salesforce, while the worker
is killed every few seconds and Salesforce misbehaves; at the end every linked pair is equal, and nothing that was here is lost.

Loopback only; it ends by itself."""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from core.database.engine import Database
from core.database.models import OrganisationRow
from core.database.task_models import TaskRow, TaskSyncRow
from core.endpoints import SalesforceApp
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connections import Connections, NotConnected
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.tasks import queue as task_queue
from core.tasks import store as task_store
from core.tasks.fields import Field
from core.tasks.task import to_text
from tests.sandbox.org.faults import Fault
from tests.sandbox.org.records import Features
from tests.sandbox.org.server import PretendOrg

CHECKOUT = Path(__file__).resolve().parents[1]
KEY = "0123456789abcdef"
FAULTS = (Fault.LOST, Fault.HTML, Fault.LOCKED, Fault.EXPIRED, Fault.GARBAGE, Fault.BARE_401)
WORKER = """
import sys
from datetime import timedelta
from core.salesforce import late_commits
if {seconds}:  # the pretend org shows what it has done at once, so a short soak need not wait for what shows late
    late_commits.UNTIL_A_WRITE_SHOWS = timedelta(seconds={seconds})
from sync.__main__ import main
main(prog_name="worker")
"""
THERE = """
import json, random, sys, time
import requests
url, ca, token, user, seed, pace = sys.argv[1:7]
random = random.Random(int(seed))
http = requests.Session()
http.verify, http.trust_env = ca, False
http.headers["Authorization"] = "Bearer " + token
base = url + "/services/data/v62.0"

def call(method, path, **more):
    try:
        answer = http.request(method, base + path, timeout=20, **more)
        return answer.json() if answer.content else None
    except (requests.RequestException, ValueError):
        return None

n = 0
while True:
    time.sleep(random.uniform(0, 2 * float(pace)))
    n += 1
    found = call("GET", "/query", params={"q": f"SELECT Id FROM Task WHERE OwnerId = '{user}'"})
    ids = [one["Id"] for one in found["records"]] if isinstance(found, dict) and "records" in found else []
    what = random.random()
    if what < 0.2 or not ids:
        call("POST", "/sobjects/Task", json={"Subject": f"there {n}", "OwnerId": user})
    elif what < 0.3:
        call("DELETE", "/sobjects/Task/" + random.choice(ids))
    else:
        field = random.choice([{"Subject": f"there {n}"}, {"Description": f"there {n}"}, {"Priority": random.choice(["High", "Low"])},
                               {"Status": random.choice(["Not Started", "In Progress", "Completed"])}, {"ActivityDate": "2026-12-%02d" % (n % 28 + 1)}])
        call("PATCH", "/sobjects/Task/" + random.choice(ids), json=field)
"""
HERE = """
import contextlib, json, random, sys, time
from datetime import UTC, date, datetime
from core.refusal import Refusal
from core.secrets import Box
from core.tasks import lists as task_lists, store as tasks
from core.database.engine import Database, DatabaseUnavailable
from core.tasks.fields import Field
from core.tasks.task import Choices, Values
url, person, seed, pace, log = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), open(sys.argv[5], "a", buffering=1)
random, database = random.Random(seed), Database(url, Box(["0123456789abcdef"]))
n = 0
while True:
    time.sleep(random.uniform(0, 2 * pace))
    n += 1
    with contextlib.suppress(Refusal, DatabaseUnavailable):
        wrote = []
        with database.writing() as session:
            which = random.choices([task_lists.Which.ALL, task_lists.Which.BIN], [9, 1])[0]
            ids = [one.id for one in task_lists.listed(session, person, which, datetime.now(UTC), Choices())]
            what = random.random()
            if what < 0.2 or not ids:
                made = tasks.add(session, person, Values(f"here {n}"), is_wanted=True)
                wrote.append((made, "subject", f"here {n}"))
            elif which is task_lists.Which.BIN:
                tasks.restore(session, person, random.choice(ids), is_wanted=True)
            elif what < 0.3:
                tasks.remove(session, person, random.choice(ids))
            elif what < 0.45:
                random.choice([tasks.complete, tasks.reopen])(session, person, random.choice(ids), Choices())
            else:
                task_id = random.choice(ids)
                name, value = random.choice([(Field.SUBJECT, f"here {n}"), (Field.COMMENTS, f"here {n}"), (Field.DUE, date(2026, 12, n % 28 + 1)),
                                             (Field.PRIORITY, random.choice(["High", "Normal"])), (Field.REMINDER, datetime(2030, 1, n % 28 + 1, tzinfo=UTC))])
                tasks.edit(session, person, task_id, {name: value})
                if name in (Field.SUBJECT, Field.COMMENTS):
                    wrote.append((task_id, name.value, value))
        for one in wrote:
            log.write(json.dumps(one) + chr(10))
"""


class Soak:
    """An installation, an org, two editors, and a worker that is killed."""

    def __init__(self, directory, *, seed=1, has_key=False, until_it_shows=0, pace=0.1):
        self.random, self.seed, self.pace, self.until_it_shows = (
            random.Random(seed),
            seed,
            pace,
            until_it_shows,
        )
        self.directory = Path(directory)
        self.org = PretendOrg(Features(blindcopy_key=has_key))
        self.org.start()
        self.org.app.extensions["usage"]["total"] = 100_000_000
        self.user = self.org.org.put(
            "User", Username="anna@acme.test", Name="Anna", Email="anna@acme.test", IsActive=True
        )
        self.url = f"sqlite:///{directory}/blindcopy.db"
        self.database = Database(self.url, Box([KEY]))
        self.database.migrate()
        self.env = {
            **os.environ, "DATABASE_URL": self.url, "BLINDCOPY_STATE_DIR": str(directory), "BLINDCOPY_SECRET_KEY": KEY,
            "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client", "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret",
            "BLINDCOPY_SALESFORCE_LOGIN_URL": self.org.url, "BLINDCOPY_SALESFORCE_CA_FILE": str(self.org.ca_file),
        }  # fmt: skip
        self.kills = self.reconnections = 0
        self.app = SalesforceApp("blindcopy-client", "blindcopy-secret", "x", self.org.url, self.org.ca_file)

    def set_up(self):
        with self.database.writing() as session:
            self.anna = people_store.add_person(
                session, "anna@acme.test", name="", is_admin=False, password_hash="x", actor=None
            )
        token = self.org.tokens.issue(self.user, "anna@acme.test", with_refresh=True)
        Connections(self.database, self.app).by_refresh_token(
            self.anna, token["refresh_token"], instance_url=self.org.url, user_id=self.user, actor=None
        )
        with self.database.writing() as session:
            settings_store.set_policy(session, Setting.SYNC_INTERVAL, "5", actor=None)
            settings_store.set_preference(session, self.anna, Setting.TASK_SYNC, "both-ways", actor=None)
        return self.org.tokens.issue(self.user, "anna@acme.test", with_refresh=False)["access_token"]

    def run(self, seconds):
        """Both sides edited for so long, then left alone until they are the same."""
        token = self.set_up()
        log = self.directory / "written"
        editors = [
            self._start(
                "-c",
                THERE,
                self.org.url,
                str(self.org.ca_file),
                token,
                self.user,
                str(self.seed),
                str(self.pace),
            ),
            self._start("-c", HERE, self.url, str(self.anna.id), str(self.seed), str(self.pace), str(log)),
        ]
        worker = self._start_worker()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                time.sleep(self.random.uniform(2, 6))
                worker.kill()
                worker.wait()
                self.kills += 1
                for _ in range(self.random.randrange(4)):
                    self.org.faults.order(
                        self.random.choice(FAULTS),
                        self.random.choice(["query", "composite", "composite/sobjects$"]),
                    )
                self._say_yes()
                self._connect_again()
                worker = self._start_worker()
            assert all(editor.poll() is None for editor in editors), "an editor has ended"
        finally:
            for process in [*editors, worker]:
                process.kill()
                process.wait()
        self.org.faults.clear()
        self._come_to_rest()
        return self.check(log)

    def _come_to_rest(self):
        """Undisturbed cycles until nothing waits, and two more."""
        deadline = time.monotonic() + (self.until_it_shows or 15 * 60) + 300
        quiet = 0
        while quiet < 2:
            assert time.monotonic() < deadline, "it never comes to rest"
            self._say_yes()
            self._connect_again()
            with self.database.writing() as session:
                session.query(OrganisationRow).update({"paused_until": None, "pauses": 0})
            done = subprocess.run([sys.executable, "-c", WORKER.format(seconds=self.until_it_shows), "--once"],
                                  cwd=CHECKOUT, env=self.env, capture_output=True, check=False)  # fmt: skip
            assert done.returncode in {0, 3}, done.stderr.decode()[-2000:]
            with self.database.reading() as session:
                is_asking = session.get(TaskSyncRow, self.anna.id).plan is not None
            quiet = quiet + 1 if done.returncode == 0 and not is_asking else 0
            if not quiet:
                time.sleep(2)

    def check(self, log):
        """What must hold; how much there was."""
        with self.database.reading() as session:
            rows = session.query(TaskRow).all()
            kept = {
                row.id: {(one.field.value, one.value) for one in task_store.history(session, row.id)}
                for row in rows
            }
        alive = {row.salesforce_id: row for row in rows if row.binned_at is None}
        there = {row["Id"]: row for row in self.org.org.rows["task"].values() if not row["IsDeleted"]}
        assert set(alive) == set(there), (
            f"{len(set(alive) - set(there))} only here, {len(set(there) - set(alive))} only there"
        )
        for record_id, row in alive.items():
            record, values = there[record_id], task_store.values_of(row)
            reminder = record["ReminderDateTime"] if record["IsReminderSet"] else None
            assert (values.subject, values.due, values.status.name, values.priority, values.comments, values.reminder) == (
                record["Subject"] or "", record["ActivityDate"], record["Status"], record["Priority"], record["Description"] or "", reminder,
            ), record_id  # fmt: skip
        for row in rows:
            kept[row.id] |= {
                (field.value, to_text(field, task_store.values_of(row).of(field))) for field in Field
            }
        written = [json.loads(line) for line in log.read_text().splitlines()]
        for task_id, field, value in written:
            assert (field, value) in kept[task_id], (task_id, field, value)
        records = Counter(row["Subject"] for row in self.org.org.rows["task"].values())
        return {
            "tasks": len(rows), "linked and alive": len(alive), "values written here": len(written), "history": sum(map(len, kept.values())),
            "kills": self.kills, "connections that broke": self.reconnections, "API calls": len(self.org.calls), "records ever": sum(records.values()),
        }  # fmt: skip

    def close(self):
        self.database.close()
        self.org.stop()

    def _say_yes(self):
        with contextlib.suppress(task_queue.NothingToConfirm), self.database.writing() as session:
            task_queue.confirm(session, self.anna.id)

    def _connect_again(self):
        """As the person does whose connection broke: a token that was rotated just when the worker was killed is lost."""
        with self.database.reading() as session:
            is_broken = not connection_store.connection(session, self.anna.id).is_usable
        if is_broken:
            self.reconnections += 1
            token = self.org.tokens.issue(self.user, f"again {self.reconnections}", with_refresh=True)
            with contextlib.suppress(NotConnected):  # a fault struck the person too, who tries again
                Connections(self.database, self.app).by_refresh_token(
                    self.anna,
                    token["refresh_token"],
                    instance_url=self.org.url,
                    user_id=self.user,
                    actor=None,
                )

    def _start(self, *arguments):
        return subprocess.Popen([sys.executable, *arguments], cwd=CHECKOUT, env=self.env)

    def _start_worker(self):
        with (self.directory / "worker.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", WORKER.format(seconds=self.until_it_shows)],
                cwd=CHECKOUT,
                env=self.env,
                stderr=log,
                stdout=log,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--key", action="store_true", help="the org has Blindcopy_Key__c")
    parser.add_argument(
        "--shows-after",
        type=int,
        default=0,
        metavar="SECONDS",
        help="how late a commit of the pretend org can show; 0: as late as a real one's",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="blindcopy-soak-") as directory:
        soak = Soak(
            directory, seed=arguments.seed, has_key=arguments.key, until_it_shows=arguments.shows_after
        )
        try:
            print(f"{datetime.now(UTC):%H:%M} begun", flush=True)
            print(soak.run(arguments.minutes * 60), flush=True)
        finally:
            soak.close()


if __name__ == "__main__":
    main()

"""What lies in the table: each thing that the relay, the worker and the pages ask, with so many rows on each
database, and how long a writer waits for the lock of SQLite beside a worker and open pages."""

import contextlib
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from admin import create_app
from admin.passwords import hashed
from core.config import read_config
from core.database.engine import Database
from core.database.models import PersonRow
from core.mail import queue as mail_queue
from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.retention import Retention
from core.people import store as people_store
from core.secrets import Box
from tests.bench import api
from tests.doors.browser import ADMINS_PAGES, EVERYBODYS_PAGES, PASSWORD, Browser
from tests.doors.history import DAYS, fill
from tests.doors.rows import row

PEOPLE = 500
_TIMES = 20


def measure(kind, rows=1_000_000):
    with filled(kind, rows) as (database, url, directory):
        found = (*_asked(database), *_pages(url, directory), *_tidying(database, rows))
    return {f"{kind}, {rows:,} rows, {PEOPLE} people: {name}": figure for name, figure in found}


@contextlib.contextmanager
def filled(kind, rows):
    with tempfile.TemporaryDirectory(prefix="blindcopy-bench-") as name, contextlib.ExitStack() as stack:
        url = api.database_url(kind, name, stack)
        database = Database(url, Box([api.KEY]))
        stack.callback(database.close)
        database.migrate()
        fill(database, rows, people=PEOPLE, waiting=2_000)
        database.engine.dispose()
        if kind == "PostgreSQL":  # which it does by itself within a minute
            with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                connection.exec_driver_sql("ANALYZE")
        yield database, url, name


def _milliseconds(work, times=_TIMES):
    """The median and the 95th percentile."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken), sorted(taken)[int(times * 0.95) - 1]


def _asked(database):
    everybody = select(PersonRow.id)
    now = datetime.now(UTC)

    def due():
        with database.reading() as session:
            return mail_queue.people_with_due_mail(session, "w", everybody, most=50)

    def claim():
        people = due()
        with database.reading() as session:
            jobs = mail_queue.due_jobs(session, "w", people, most=1_000)
        with database.writing() as session:
            mail_queue.let_go(session, "w")
            mail_queue.claim(session, "w", jobs)

    def look():
        with database.reading() as session:
            mail_store.copy_refusals(session, now - timedelta(hours=1))
            mail_store.mails_of_others(session, "me", now - timedelta(minutes=1))
            mail_store.lost_replies(session, now - timedelta(hours=1))

    def load():
        with database.writing() as session:
            write_rows(session, [row(1) for _ in range(200)])

    yield "whose mail is due (ms)", _milliseconds(due)[0]
    yield "claim up to 1,000 (ms)", _milliseconds(claim)[0]
    with database.writing() as session:
        mail_queue.let_go(session, "w")
    yield "a relay's look, once a second (ms)", _milliseconds(look)[0]
    yield "load 200 rows (ms)", _milliseconds(load)[0]


def _pages(url, directory):
    began = time.perf_counter()
    app = create_app(
        read_config({"DATABASE_URL": url, "BLINDCOPY_SECRET_KEY": api.KEY, "BLINDCOPY_STATE_DIR": directory,
                     "BLINDCOPY_LISTEN": "submission://127.0.0.1:9"})
    )  # fmt: skip
    database = app.extensions["blindcopy"].database
    with database.writing() as session:
        for email in ("p0@acme.test", "p1@acme.test"):
            people_store.set_password_hash(session, email, hashed(PASSWORD), actor=None)
    admin, person = Browser(app, "p0@acme.test"), Browser(app, "p1@acme.test")
    yield "the first page after the start (ms)", (time.perf_counter() - began) * 1000
    slowest = {}
    for browser, who, pages in (
        (admin, "admin", (*EVERYBODYS_PAGES, *ADMINS_PAGES, "/health")),
        (person, "person", EVERYBODYS_PAGES),
    ):
        states = [
            f"/activity?state={state}" for state in ("failed", "unmatched", "waiting", "logged", "unknown")
        ]
        for page in (*pages, *states):
            slowest[f"{who} {page}"] = _milliseconds(lambda: browser.get(page))[1]  # noqa: B023  called at once
    database.close()
    for page, figure in sorted(slowest.items(), key=lambda one: -one[1])[:4]:
        yield f"page {page}, p95 (ms)", figure


def _tidying(database, rows):
    retention = Retention(database)
    yield (
        "tidying with nothing to delete (ms)",
        _milliseconds(lambda: retention.tidy(timedelta(days=DAYS + 1), timedelta(days=DAYS + 1)), 5)[0],
    )
    tenth = timedelta(days=DAYS * 0.95)
    began = time.perf_counter()
    retention.tidy(tenth, timedelta(days=DAYS + 1))
    yield "rows deleted a second", rows * 0.05 / (time.perf_counter() - began)


def lock_waits(seconds=30):
    """How long the loader waits for SQLite's lock beside a worker with a backlog and somebody who opens
    pages."""
    with api.scene() as (database, _, env), contextlib.ExitStack() as stack:
        fill(database, 200_000, people=api.PERSONS, waiting=60_000)
        worker = api.start_worker(env)
        stack.callback(api.stop_workers, [worker])
        app = create_app(read_config(env))
        with database.writing() as session:
            people_store.set_password_hash(session, "p0@acme.test", hashed(PASSWORD), actor=None)
        admin, is_over = Browser(app, "p0@acme.test"), threading.Event()

        def browse():
            while not is_over.is_set():
                for page in ("/activity", "/health", "/activity?state=failed"):
                    admin.get(page)
                    time.sleep(0.1)

        browsing = threading.Thread(target=browse)
        browsing.start()
        waits = []
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            began = time.perf_counter()
            with database.writing() as session:
                session.connection()  # which is when the transaction begins
                waits.append((time.perf_counter() - began) * 1000)
                write_rows(session, [row(1) for _ in range(50)])
            time.sleep(0.05)
        is_over.set()
        browsing.join()
        app.extensions["blindcopy"].database.close()
    waits.sort()
    return {
        "a writer waits for SQLite's lock beside worker and pages, p50 (ms)": statistics.median(waits),
        "the same, p99 (ms)": waits[int(len(waits) * 0.99)],
        "the same, longest (ms)": waits[-1],
    }

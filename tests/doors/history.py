"""A database as it looks after months of mail, for tests and benches of what lies in the table."""

import json
import random
from datetime import UTC, datetime, timedelta

from core.people import store as people_store
from core.salesforce.connections import Connections

STATES = (
    ("not-logged", 45), ("logged", 43), ("copied", 5), ("unmatched", 5), ("failed", 1), ("dismissed", 1),
)  # fmt: skip
DAYS = 90
RECIPIENTS = 800
_TEXT = b"To: c%d@client.test\r\nContent-Type: text/plain\r\n\r\n" + b"Here is what we spoke about.\r\n" * 120
COLUMNS = (
    "id", "time", "process", "person_id", "sender", "recipient_count", "recipients", "subject", "message_id",
    "mode", "decision", "reason", "state", "upstream", "bcc", "due_at", "claim", "attempts",
)  # fmt: skip
_TRACE = {"places": {"c1@client.test": "to"}, "found": {"c1@client.test": [1, 0]}, "outcome": "matched"}


def fill(database, rows, *, people=50, waiting=0, seed=1):
    """So many settled mails over the last 90 days, and so many more that wait, of all people in turn."""
    made = _people(database, people)
    random.seed(seed)
    now = datetime.now(UTC).replace(tzinfo=None)
    _write(database, "mail", COLUMNS, (_mail(number, rows, made, now) for number in range(rows)))
    due = now - timedelta(minutes=1)
    _write(database, "mail", COLUMNS, (_waiting(number, made, due) for number in range(waiting)))
    if database.box is not None:
        # a text is encrypted once for each recipient, which is what takes the time
        sealed = [database.box.closed(_TEXT % number) for number in range(min(waiting, RECIPIENTS))]
        ids = (_waiting_id(number, due) for number in range(waiting))
        texts = ((mail_id, sealed[number % RECIPIENTS]) for number, mail_id in enumerate(ids))
        _write(database, "mail_text", ("mail_id", "content"), texts)
    logs = ("mail_id", "targets", "trace", "trouble_code", "trouble_detail")
    _write(database, "mail_log", logs, _logs(rows, now))
    return made


def _people(database, number):
    with database.reading() as session:
        there = {one.email: one.id for one in people_store.all_persons(session)}
    wanted = [f"p{one}@acme.test" for one in range(number)]
    with database.writing() as session:
        for email in wanted:
            if email not in there:
                account = people_store.add_person(
                    session, email, name="", is_admin=not there, password_hash="x", actor=None
                )
                there[email] = account.id
    return [there[email] for email in wanted]


def _id(time, number):
    milliseconds = int(time.replace(tzinfo=UTC).timestamp() * 1000)
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}-7000-8000-{number:012x}"


def _time(number, rows, now):
    return now - timedelta(days=DAYS) * ((rows - number) / max(1, rows)) - timedelta(minutes=5)


def _state(number):
    """The same for the same number, whoever asks."""
    place = (number * 7919) % 100
    for state, share in STATES:
        place -= share
        if place < 0:
            return state
    raise AssertionError


def _mail(number, rows, people, now):
    time, state = _time(number, rows, now), _state(number)
    person = people[number % len(people)]
    is_young = now - time < timedelta(days=14)
    due = now + timedelta(hours=6) if state == "unmatched" and is_young else None
    return (
        _id(time, number), time, "gone", person, f"p{person}@acme.test", 1, json.dumps([f"c{number % RECIPIENTS}@client.test"]),
        f"About our offer {number}", f"<{number}@acme.test>", "api", "none" if state == "not-logged" else "api",
        "internal-only" if state == "not-logged" else "api", state, "250 2.0.0 Ok", "none", due, 1, 1,
    )  # fmt: skip


def _waiting_id(number, due):
    return _id(due - timedelta(seconds=1), (1 << 40) + number)


def _waiting(number, people, due):
    return (
        _waiting_id(number, due), due - timedelta(seconds=1), "gone", people[number % len(people)], "p@acme.test", 1,
        json.dumps([f"c{number % RECIPIENTS}@client.test"]), f"Waiting {number}", f"<w{number}@acme.test>", "api", "api",
        "api", "waiting", "250 2.0.0 Ok", "none", due, 0, 0,
    )  # fmt: skip


def _logs(rows, now):
    targets = json.dumps([{"kind": "EmailMessage", "who": ["003000000000001"], "what": None, "id": "02s1"}])
    trace = json.dumps(_TRACE)
    for number in range(rows):
        state = _state(number)
        if state in {"logged", "failed", "unmatched"}:
            failed = ("REQUIRED_FIELD_MISSING", "Subject") if state == "failed" else (None, None)
            yield (_id(_time(number, rows, now), number), targets, trace, *failed)


def _write(database, table, columns, rows):
    """As the driver takes them fastest; SQLAlchemy's own way takes ten times as long."""
    if database.sqlite_file is None:
        raw = database.engine.raw_connection()
        try:
            raw.cursor().execute("SET statement_timeout = 0")
            with raw.cursor().copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
            raw.commit()
        finally:
            raw.close()
        return
    places = ", ".join("?" * len(columns))
    with database.engine.execution_options(writing=True).begin() as connection:
        cursor = connection.connection.cursor()
        cursor.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})",
            (
                [one.isoformat(" ", "microseconds") if isinstance(one, datetime) else one for one in row]
                for row in rows
            ),
        )


def connect_all(database, app, org, people):
    """Everybody connected to the org, by tokens that it has issued."""
    connections = Connections(database, app)
    with database.reading() as session:
        accounts = {one.id: one for one in people_store.all_persons(session)}
    for person_id in people:
        email = accounts[person_id].email
        user = org.org.put("User", Username=email, Name=email, Email=email, IsActive=True)
        token = org.tokens.issue(user, email, with_refresh=True)["refresh_token"]
        connections.by_refresh_token(
            accounts[person_id], token, instance_url=org.url, user_id=user, actor=None
        )
    return connections

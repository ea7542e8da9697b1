"""How the installation is: what *Health*, `core check` and `/readyz` look at.

All is green only when a mail that is sent now would be logged as the settings say. What mail itself cannot
pass without is marked so (`stops_mail`); Salesforce's troubles never are."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from core.config import Config, ConfigurationError
from core.database import sealed
from core.database.engine import Database, DatabaseUnavailable, Session, newest_revision
from core.database.heartbeats import Process, database_now, processes
from core.endpoints import SignIn
from core.findings import Finding, Light, facts
from core.mail import limits as mail_limits
from core.mail import queue as mail_queue
from core.mail.store import MOST_COUNTED, logged_by_others, unknown_senders
from core.people.addresses import address_key, matches
from core.people.store import StoredPerson
from core.salesforce import connection_store
from core.salesforce.connection_store import Standing
from core.settings import store as settings_store
from core.settings.catalogue import Logging
from core.state_directory import StateDirectory
from core.tasks import queue as task_queue

SECONDS_TO_LOOK = 2.0
_SECONDS_GOOD = 2.0
_NAMED = 3
_OLD = timedelta(hours=1)
_CERTIFICATE_SOON = timedelta(days=14)
_MICROSOFT = (".office365.com", ".outlook.com", ".office.com")
_MICROSOFTS_CONNECTOR = ".mail.protection.outlook.com"
"""Mail is taken there by network or certificate, without a password."""
_END_OF_PASSWORDS = datetime(2026, 12, 31, tzinfo=UTC)
"""From then on Exchange Online takes no password for SMTP unless an admin switches it on again (message
center MC786329, 27 January 2026)."""


class Watch:
    """Looks at the database when it is asked to, at most every two seconds, and waits no longer than that for
    it."""

    def __init__(self, look: Callable[[], Sequence[Finding]]) -> None:
        self._look = look
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._found: Sequence[Finding] = ()
        self._looking: threading.Thread | None = None

    def findings(self) -> Sequence[Finding]:
        """What was found last; from any thread."""
        with self._lock:
            if time.monotonic() - self._looked_at < _SECONDS_GOOD:
                return self._found
            if self._looking is None or not self._looking.is_alive():
                self._looking = threading.Thread(target=self._look_now, name="health", daemon=True)
                self._looking.start()
            looking = self._looking
        looking.join(SECONDS_TO_LOOK)
        if looking.is_alive():
            return [facts(Light.RED, "database", "does not answer in time", "look at the database")]
        return self._found

    def _look_now(self) -> None:
        try:
            self._found = list(self._look())
        except Exception as error:  # noqa: BLE001  whatever it was, it is shown
            self._found = [
                facts(Light.RED, "health", f"cannot be looked at: {type(error).__name__}", "look at the log")
            ]
        self._looked_at = time.monotonic()


def look_at_machine(config: Config, *, uses_state: bool = False) -> Iterator[Finding]:
    """What this machine can see by itself: its state directory, its listeners' certificate, and how mail
    signs in.

    `uses_state`: a relay or a worker asks, which cannot do without the directory; others need not have
    one."""
    trouble = StateDirectory(config.state_dir).trouble() if uses_state or config.state_dir.exists() else None
    if trouble is not None:
        yield facts(Light.RED, "state directory", trouble)
    else:
        there = "can be used" if config.state_dir.exists() else "is made by the first relay"
        yield facts(Light.GREEN, "state directory", f"{config.state_dir} {there}")
    if config.tls is not None:
        yield _certificate(config.tls.certificate, datetime.now(UTC))
    yield from _sign_in_by_password(config, datetime.now(UTC))


def look_at_installation(
    database: Database, *, without_relays: bool = False, may_not_run_yet: bool = False
) -> list[Finding]:
    """What the database says of everything else. `without_relays`: a relay asks, which knows of itself;
    `may_not_run_yet`: an operator sets things up, so that processes which are not there are no fault until
    something is due for them."""
    try:
        database.migrate()
        with database.reading() as session:
            return [
                Finding(
                    Light.GREEN,
                    "database",
                    "answers, schema revision %(found)s",
                    {"found": newest_revision()},
                ),
                *_look_at(session, without_relays=without_relays, may_not_run_yet=may_not_run_yet),
            ]
    except DatabaseUnavailable as error:
        return [facts(Light.RED, "database", str(error))]
    except ConfigurationError as error:
        return [facts(Light.RED, "configuration", str(error))]


def _look_at(session: Session, *, without_relays: bool, may_not_run_yet: bool) -> Iterator[Finding]:
    found = processes(session)
    alive = [process for process in found if process.is_alive]
    persons = settings_store.logging_of_all(session)
    yield _secret_key(session)
    yield from _addresses(session, persons)
    yield from _connections(session, persons)
    yield _worker(session, persons, alive, may_not_run_yet=may_not_run_yet)
    yield _waiting_mail(session)
    yield from _daily_limits(session)
    yield from _other_tools(session)
    yield from _own_domains(session)
    if asking := task_queue.asking_for_a_word(session):
        yield Finding(
            Light.YELLOW,
            "task sync",
            "task syncs that wait for an answer: %(number)s",
            {"number": asking},
            remedy="they answer it in their Command Center",
        )
    if not without_relays:
        yield from _relays(alive, may_not_run_yet=may_not_run_yet)
    yield from _silent_processes(found, alive)


def _secret_key(session: Session) -> Finding:
    unreadable, looked_at = sealed.unreadable(session)
    if not unreadable:
        return Finding(Light.GREEN, "BLINDCOPY_SECRET_KEY", "opens what is stored")
    return Finding(
        Light.RED,
        "BLINDCOPY_SECRET_KEY",
        "cannot open %(unreadable)s of the %(looked_at)s stored secrets that were looked at: that mail is "
        "not logged",
        {"unreadable": unreadable, "looked_at": looked_at},
        remedy="set BLINDCOPY_SECRET_KEY to the new and the former key, separated by a comma, and restart "
        "every process",
    )


def _addresses(session: Session, persons: Sequence[tuple[StoredPerson, Logging, bool]]) -> Iterator[Finding]:
    without = [account for account, logging, has_address in persons if logging.copies and not has_address]
    known = {account.id: one for account, one in connection_store.connections(session)} if without else {}
    sought = [account.email for account in without if connection_store.has_api(known.get(account.id))]
    lacking = [account.email for account in without if account.email not in sought]
    if sought:
        yield Finding(
            Light.YELLOW,
            "Email to Salesforce",
            "the worker looks up the Email to Salesforce address of %(persons)s: until it is found, their "
            "mail is not logged",
            {"persons": _names_in_short(sought)},
            remedy="if it is not found within minutes, Check set-up of that person says why",
        )
    if lacking:
        yield Finding(
            Light.RED,
            "Email to Salesforce",
            "mail is to be copied, and no Email to Salesforce address is known for %(persons)s",
            {"persons": _names_in_short(lacking)},
            remedy="have them connect Salesforce, or type the address in under Settings → Salesforce",
        )


def _connections(
    session: Session, persons: Sequence[tuple[StoredPerson, Logging, bool]]
) -> Iterator[Finding]:
    known = {account.id: one for account, one in connection_store.connections(session)}
    needing = [
        account for account, logging, _ in persons if logging in {Logging.API, Logging.BCC_WITH_RECEIPT}
    ]
    lacking = [account.email for account in needing if account.id not in known]
    if lacking:
        yield Finding(
            Light.RED,
            "connection",
            "mail is to be logged through the API, and Salesforce is not connected for %(persons)s",
            {"persons": _names_in_short(lacking)},
            remedy="have them press Connect under Settings → Salesforce → Connections & Customizations",
        )
    emails = {account.id: account.email for account, _, _ in persons}
    broken = [emails[key] for key, one in known.items() if one.standing is Standing.BROKEN and key in emails]
    no_api = [
        emails[key]
        for key, one in known.items()
        if one.standing is not Standing.BROKEN and not connection_store.has_api(one) and key in emails
    ]
    for affected, sentence in (
        (broken, "Salesforce no longer accepts the connection of %(persons)s"),
        (no_api, "Salesforce gives no API access to %(persons)s"),
    ):
        if affected:
            yield Finding(
                Light.RED,
                "connection",
                sentence,
                {"persons": _names_in_short(affected)},
                remedy="have them press Reconnect under Settings → Salesforce → Connections & Customizations",
            )


def _worker(
    session: Session,
    persons: Sequence[tuple[StoredPerson, Logging, bool]],
    alive: Sequence[Process],
    *,
    may_not_run_yet: bool,
) -> Finding:
    if any(process.kind == "worker" for process in alive):
        return Finding(Light.GREEN, "worker", "is running")
    by_api = any(logging in {Logging.API, Logging.BCC_WITH_RECEIPT} for _, logging, _ in persons)
    is_due = mail_queue.is_anything_due(session)
    if not (by_api or is_due or task_queue.switched_on(session)):
        return Finding(Light.GREEN, "worker", "is not needed: nothing is to be asked of Salesforce")
    light = Light.YELLOW if may_not_run_yet and not is_due else Light.RED
    return Finding(
        light,
        "worker",
        "no worker is running: nothing is asked of Salesforce, and nothing is logged through its API",
        remedy="start it with `python -m sync`",
    )


def _waiting_mail(session: Session) -> Finding:
    oldest = mail_queue.oldest_waiting(session)
    if oldest is None or database_now(session) - oldest < _OLD:
        return Finding(Light.GREEN, "waiting mail", "none is older than an hour")
    return Finding(
        Light.RED,
        "waiting mail",
        "the oldest mail that is to be logged waits since %(time)s",
        {"time": oldest.isoformat(" ", "minutes")},
        remedy="its line on the activity page says what it waits for",
    )


def _own_domains(session: Session) -> Iterator[Finding]:
    policy = settings_store.policy_for_mail(session)
    internal = policy.internal_domains
    if policy.own_domains:
        yield Finding(
            Light.GREEN,
            "own domains",
            "mail within %(domains)s is internal",
            {"domains": _names_in_short(internal)},
        )
    elif internal:
        yield Finding(
            Light.YELLOW,
            "own domains",
            "not confirmed yet: mail within %(domains)s counts as internal, because people sign in with "
            "these domains",
            {"domains": _names_in_short(internal)},
            remedy="confirm or change them in the policy (own-domains)",
        )
    else:
        yield Finding(
            Light.YELLOW,
            "own domains",
            "not named yet, and everybody signs in with an address of a public mail provider: no mail is "
            "internal",
            remedy="name them in the policy (own-domains)",
        )
    unknown = [one.address for one in unknown_senders(session) if matches(address_key(one.address), internal)]
    if unknown:
        yield Finding(
            Light.YELLOW,
            "unknown senders",
            "mail from unknown senders in your own domains is not logged: %(senders)s",
            {"senders": _names_in_short(unknown)},
            remedy="give each to its person on the page Unknown senders",
        )


def _daily_limits(session: Session) -> Iterator[Finding]:
    """People who have sent more than anybody does by hand: a password may have been stolen."""
    since = database_now(session) - mail_limits.ONE_DAY
    people = [one.person for one in mail_limits.refusals(session, since) if one.limit == "day"]
    if people:
        yield Finding(
            Light.RED,
            "mails a day",
            "more mails than the policy allows within a day were sent by %(persons)s; the rest is refused",
            {"persons": _names_in_short(people)},
            remedy="ask whether they are theirs; if not, revoke the app passwords; if so, raise "
            "mails-per-day",
        )
    else:
        yield Finding(Light.GREEN, "mails a day", "nobody has sent more than the policy allows")


def _other_tools(session: Session) -> Iterator[Finding]:
    """Nothing is wrong with it; whoever wonders why records are not ours sees it here."""
    found = logged_by_others(session, database_now(session) - timedelta(days=30))
    if not found.mails:
        return
    parts: dict[str, str | int] = {
        "number": f"{found.mails} or more" if found.mails == MOST_COUNTED else found.mails,
        "copied": found.copied,
    }
    if found.copied:
        yield Finding(
            Light.YELLOW,
            "other tools",
            "of the mails of the last 30 days another tool has logged %(number)s as well; %(copied)s of them "
            "went as blind copies and are in Salesforce twice",
            parts,
            remedy="have these people log by API, which looks first whether a mail is there",
        )
    else:
        yield Finding(
            Light.GREEN,
            "other tools",
            "of the mails of the last 30 days another tool has logged %(number)s as well; by API none is "
            "written that is there",
            parts,
        )


def _relays(alive: Sequence[Process], *, may_not_run_yet: bool) -> Iterator[Finding]:
    relays = [process for process in alive if process.kind == "relay"]
    if not relays:
        light = Light.YELLOW if may_not_run_yet else Light.RED
        yield Finding(
            light,
            "relay",
            "no relay is running: mail clients cannot send",
            remedy="start it with `python -m relay`",
            stops_mail=True,
        )
    for relay in relays:
        for finding in relay.condition.findings:
            yield replace(finding, what=f"{finding.what} ({relay.host})", stops_mail=False)
        if relay.condition.upstream_trouble and not relay.condition.findings:  # a relay of the first release
            yield facts(Light.RED, f"mail provider ({relay.host})", relay.condition.upstream_trouble)
    lost = sum(relay.condition.rows_lost for relay in relays)
    if lost:
        yield Finding(
            Light.YELLOW,
            "lost rows",
            "mails that were passed on without a record since the relays were started: %(number)s",
            {"number": lost},
            remedy="the relays' logs name them",
        )


def _silent_processes(found: Sequence[Process], alive: Sequence[Process]) -> Iterator[Finding]:
    """Processes that ended without a farewell and were not replaced on that host."""
    places = {(process.kind, process.host) for process in alive}
    for process in found:
        if not process.is_alive and (process.kind, process.host) not in places:
            yield Finding(
                Light.YELLOW,
                "silent process",
                "%(kind)s on %(host)s, process %(pid)s, has been silent since its last beat and was not "
                "stopped",
                {"kind": process.kind, "host": process.host, "pid": process.pid},
                remedy="start it again, if it is meant to run there",
            )


def _certificate(path: Path, now: datetime) -> Finding:
    try:
        ends_at = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        return facts(
            Light.RED,
            "certificate",
            f"{path} cannot be read: {error}",
            "name a PEM file in BLINDCOPY_TLS_CERT",
        )
    parts: dict[str, str | int] = {"path": str(path), "date": ends_at.date().isoformat()}
    remedy = "renew it; the relays take it over within a minute"
    if ends_at <= now:
        return Finding(
            Light.RED,
            "certificate",
            "%(path)s ended on %(date)s: mail clients refuse it",
            parts,
            remedy,
            stops_mail=True,
        )
    if ends_at - now < _CERTIFICATE_SOON:
        return Finding(Light.YELLOW, "certificate", "%(path)s ends on %(date)s", parts, remedy)
    return Finding(Light.GREEN, "certificate", "%(path)s is valid until %(date)s", parts)


def _sign_in_by_password(config: Config, now: datetime) -> Iterator[Finding]:
    """A password that Microsoft will not take any more: ours for the upstream, or the clients' own."""
    upstream = config.upstream
    if upstream is None or not f".{upstream.host.lower()}".endswith(_MICROSOFT):
        return
    by_password = upstream.user is not None and upstream.token is None
    is_connector = upstream.host.lower().endswith(_MICROSOFTS_CONNECTOR)
    if is_connector or not (by_password or config.sign_in is SignIn.UPSTREAM):
        return
    has_ended = now > _END_OF_PASSWORDS
    whose = "BLINDCOPY_AUTH=upstream" if config.sign_in is SignIn.UPSTREAM else "BLINDCOPY_UPSTREAM"
    yield Finding(
        Light.YELLOW,
        "sign-in by password",
        "%(variable)s signs in to %(host)s by password, which Microsoft ends by default on %(date)s",
        {"variable": whose, "host": upstream.host, "date": _END_OF_PASSWORDS.date().isoformat()},
        remedy="switch to auth=xoauth2 (docs/operations.md, Environment)"
        if not has_ended
        else "switch to auth=xoauth2 (docs/operations.md, Environment), unless an Exchange admin has "
        "switched "
        "passwords on again",
    )


def _names_in_short(names: Iterable[str]) -> str:
    """A few of them, and how many more there are."""
    listed = list(dict.fromkeys(names))
    more = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f", … (+{more})" if more > 0 else "")

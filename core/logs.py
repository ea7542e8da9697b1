"""What the processes say on stderr, in the operator's vocabulary: one line per mail, at its end.

Never a subject, a body, a password, a token or a blind-copy address."""

import logging
import sys
import time
from functools import lru_cache

_log = logging.getLogger("blindcopy")
_is_for_stderr = False


def to_stderr() -> None:
    """Send our lines to stderr; the libraries say warnings only."""
    global _is_for_stderr  # noqa: PLW0603  set once, in main
    _is_for_stderr = True
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING
    )
    _log.setLevel(logging.INFO)
    # what our format does not name is not worked out for every line (13 us a line, 10 without; measured)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001  the documented switch of "Optimization" in the logging guide
    logging.getLogger("mail.log").setLevel(logging.ERROR)


def relayed(*, mail_id: str, recipients: int, copy: str, reason: str, upstream: str, seconds: float) -> None:
    """One mail came to its end.

    The line that is said for every mail goes past the logging module, whose records cost 10 us where this
    costs 2 (measured)."""
    line = (
        f'relayed id={mail_id} rcpt={recipients} copy={copy} reason="{reason}" upstream="{upstream}" '
        f"ms={seconds * 1000:.1f}"
    )
    if _is_for_stderr:
        now = time.time()
        sys.stderr.write(f"{_time_of_day(int(now))},{int(now % 1 * 1000):03d} INFO {line}\n")
    else:
        _log.info(line)


@lru_cache(maxsize=1)
def _time_of_day(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def relay_started(hostname: str, upstream: str) -> None:
    _log.info("started host=%s upstream=%s", hostname, upstream)


def relay_stopped(unfinished: int) -> None:
    _log.info("stopped unfinished=%d", unfinished)


def worker_started() -> None:
    _log.info("worker started")


def worker_stopped() -> None:
    _log.info("worker stopped")


def looked_up(person: int, outcome: str) -> None:
    _log.info("looked up Email to Salesforce person=%d outcome=%s", person, outcome)


def look_up_failed(person: int, code: str) -> None:
    _log.warning("cannot look up Email to Salesforce person=%d code=%s", person, code)


def tasks_synced(person: int, number: int, trouble: str | None, seconds: float) -> None:
    _log.info(
        "tasks synchronised person=%d changes=%d trouble=%s ms=%.0f",
        person,
        number,
        trouble or "-",
        seconds * 1000,
    )


def sign_in_failed(peer: str) -> None:
    _log.warning("sign-in failed peer=%s", peer)


def overloaded(seconds: float) -> None:
    _log.error("ALARM the relay is late, new sessions are asked to come again lag=%.1f", seconds)


def handshake_failed(peer: str, cause: str) -> None:
    _log.warning("handshake failed peer=%s cause=%s", peer, _quoted(cause))


def upstream_unavailable(upstream: str, cause: str) -> None:
    _log.error("upstream unavailable upstream=%s cause=%s", upstream, _quoted(cause))


def upstream_misconfigured(upstream: str, code: int) -> None:
    _log.error("ALARM the upstream does not accept us upstream=%s code=%d", upstream, code)


def database_unavailable(cause: str) -> None:
    _log.error("database unavailable cause=%s", _quoted(cause))


def monitor_started(place: str) -> None:
    _log.info("monitor http://%s/metrics /healthz /readyz", place)


def monitor_unavailable(place: str, cause: str) -> None:
    _log.error(
        "ALARM cannot answer on BLINDCOPY_MONITOR, mail goes on place=%s cause=%s", place, _quoted(cause)
    )


def metrics_not_kept(cause: str) -> None:
    _log.error("figures not kept cause=%s", _quoted(cause))


def journaled(rows: int) -> None:
    _log.warning("journaled rows=%d", rows)


def journal_fed(rows: int) -> None:
    _log.info("journal fed back rows=%d", rows)


def journal_full() -> None:
    _log.error("ALARM the journal is full or cannot be written: mail goes on, its row is lost")


def journal_unreadable(name: str) -> None:
    _log.error("ALARM journal has lines that cannot be read, they are kept aside name=%s", name)


def settings_from_snapshot(revision: int) -> None:
    _log.warning("settings taken from the last snapshot revision=%d", revision)


def undecryptable(what: str) -> None:
    _log.error("ALARM cannot be opened by any key of BLINDCOPY_SECRET_KEY what=%s", what)


def settings_missing() -> None:
    _log.error("ALARM no settings: neither the database nor a snapshot can be read; nobody can sign in")


def failed_unexpectedly(where: str) -> None:
    """For the edge of a mail or a cycle, inside an except branch."""
    _log.exception("ALARM unexpected failure in %s", where)


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace('"', "'")[:300] + '"'

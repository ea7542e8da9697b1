"""What the processes say on stderr, in the operator's vocabulary: one line per mail, at its end.

Never a subject, a body, a password, a token or a blind-copy address."""

import contextlib
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
    logging.raiseExceptions = (
        False  # a record that cannot be written is not worth a traceback in the same place
    )
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING
    )
    _log.setLevel(logging.INFO)
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
        with contextlib.suppress(OSError):  # a log on a full disk stops no mail
            sys.stderr.write(f"{_time_of_day(int(now))},{int(now % 1 * 1000):03d} INFO {line}\n")
    else:
        _log.info(line)


@lru_cache(maxsize=1)
def _time_of_day(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))


def proxy_header_refused(source: str, why: str) -> None:
    _log.warning("refused a connection from the balancer %s: %s", source, why)


def daily_limit_met(person: int, most: int) -> None:
    _log.error("ALARM person %d has sent %d mails within a day; more are refused", person, most)


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
        "ALARM cannot answer on BLINDCOPY_MONITOR, work goes on place=%s cause=%s", place, _quoted(cause)
    )


def metrics_not_kept(cause: str) -> None:
    _log.error("figures not kept cause=%s", _quoted(cause))


def journal_loaded(rows: int) -> None:
    _log.info("a journal of the first release was loaded rows=%d", rows)


def journal_late(seconds: float) -> None:
    _log.warning("the journal's disk is slow: mail goes on, its rows follow late seconds=%.2f", seconds)


def journal_unavailable(cause: str) -> None:
    _log.error("ALARM no journal: mail goes on, and its rows are lost cause=%s", _quoted(cause))


def journal_back() -> None:
    _log.info("the journal takes rows again")


def row_lost(mail_id: str, cause: str) -> None:
    _log.error("ALARM the row of a mail is lost id=%s cause=%s", mail_id, _quoted(cause))


def certificate_taken_over(path: str) -> None:
    _log.info("a new certificate is shown from now on path=%s", _quoted(path))


def certificate_refused(path: str, cause: str) -> None:
    _log.error(
        "ALARM a new certificate cannot be used, the former one stays path=%s cause=%s",
        _quoted(path),
        _quoted(cause),
    )


def journal_unreadable(cause: str) -> None:
    _log.error("ALARM a journal cannot be read cause=%s", _quoted(cause))


def journal_entry_unreadable(name: str, cause: str) -> None:
    _log.error(
        "ALARM an entry of a journal makes no sense and is left out name=%s cause=%s", name, _quoted(cause)
    )


def journal_torn(name: str) -> None:
    _log.warning("the last entry of a journal was not written to its end name=%s", name)


def journal_damaged(name: str) -> None:
    _log.error("ALARM a journal was damaged: what was whole is loaded, the file is kept aside name=%s", name)


def marker_not_kept(cause: str) -> None:
    _log.error("the state directory takes no marker cause=%s", _quoted(cause))


def state_directory_taken_over(path: str) -> None:
    _log.warning("the state directory was another database's, and is this one's now path=%s", path)


def database_was_restored() -> None:
    _log.warning(
        "the database was restored from a backup: waiting mails are looked up before they are written, "
        "and task syncs ask first"
    )


def settings_from_snapshot(revision: int) -> None:
    _log.warning("settings taken from the last snapshot revision=%d", revision)


def undecryptable(what: str) -> None:
    _log.error("ALARM cannot be opened by any key of BLINDCOPY_SECRET_KEY what=%s", what)


def settings_missing() -> None:
    _log.error("ALARM no settings: neither the database nor a snapshot can be read; sign-in is impossible")


def failed_unexpectedly(where: str) -> None:
    """For the edge of a mail or a cycle, inside an except branch."""
    _log.exception("ALARM unexpected failure in %s", where)


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace('"', "'")[:300] + '"'

"""What the processes say on stderr, in the operator's vocabulary: one line per mail, at its end.

Never a subject, a body, a password, a token or a blind-copy address."""

import logging
import sys

_log = logging.getLogger("blindcopy")


def to_stderr() -> None:
    """Send our lines to stderr; the libraries say warnings only."""
    logging.basicConfig(
        stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING
    )
    _log.setLevel(logging.INFO)
    logging.getLogger("mail.log").setLevel(logging.ERROR)


def relayed(*, mail_id: str, recipients: int, copy: str, reason: str, upstream: str, seconds: float) -> None:
    """One mail came to its end."""
    _log.info(
        'relayed id=%s rcpt=%d copy=%s reason="%s" upstream="%s" ms=%.1f',
        mail_id, recipients, copy, reason, upstream, seconds * 1000,
    )  # fmt: skip


def relay_started(hostname: str, upstream: str) -> None:
    _log.info("started host=%s upstream=%s", hostname, upstream)


def relay_stopped(unfinished: int) -> None:
    _log.info("stopped unfinished=%d", unfinished)


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


def settings_missing() -> None:
    _log.error("ALARM no settings: neither the database nor a snapshot can be read; nobody can sign in")


def failed_unexpectedly(where: str) -> None:
    """For the edge of a mail or a cycle, inside an except branch."""
    _log.exception("ALARM unexpected failure in %s", where)


def _quoted(text: str) -> str:
    return '"' + " ".join(text.split()).replace('"', "'")[:300] + '"'

"""The probes and figures of a relay."""

import fcntl

import pytest

from core.endpoints import HostPort
from core.findings import Finding, Light, facts
from core.monitor import Monitor
from relay.meters import CommitSeen, MailSeen, Meters, RowLost, RowsLoaded
from tests.doors.asking import (
    ask,
    host,  # noqa: F401
    meters,  # noqa: F401
)


def test_what_does_not_hold_is_503_with_its_reason(meters, host):
    conditions = [
        facts(Light.GREEN, "event loop", "ok", stops_mail=True),
        facts(Light.RED, "load", "behind", "start another relay", stops_mail=True),
    ]
    monitor = Monitor(meters.text, lambda: conditions[:1], lambda: conditions)
    place = monitor.start(HostPort(host, 0))
    try:
        assert ask(place, "/healthz") == (200, "event loop: ok\n")
        assert ask(place, "/readyz") == (503, "event loop: ok\nload: behind; start another relay\n")
        conditions[0] = facts(Light.RED, "event loop", "stands still")
        assert ask(place, "/healthz") == (503, "event loop: stands still\n")
        assert ask(place, "/metrics", "POST")[0] == 405
    finally:
        monitor.stop()


def test_only_what_stops_mail_takes_a_relay_from_its_balancer(meters):
    conditions = [
        facts(Light.GREEN, "settings", "ok", stops_mail=True),
        Finding(Light.RED, "worker", "no worker is running on %(host)s", {"host": "a"}, remedy="start it"),
        facts(Light.YELLOW, "own domains", "are not named"),
    ]
    monitor = Monitor(meters.text, list, lambda: conditions)
    place = monitor.start(HostPort("127.0.0.1", 0))
    try:
        assert ask(place, "/readyz") == (
            503, "settings: ok\nworker: no worker is running on a; start it\nown domains: yellow: are not named\n",
        )  # fmt: skip
        assert ask(place, "/readyz?for=mail") == (200, "settings: ok\n")
        conditions[0] = facts(Light.RED, "settings", "are not known", stops_mail=True)
        assert ask(place, "/readyz?for=mail") == (503, "settings: are not known\n")
    finally:
        monitor.stop()


def test_a_figure_that_is_noted_is_in_the_next_answer(meters):
    meters.note(MailSeen("copy", "2xx", "accepted", 0.003))
    meters.note(RowsLoaded(7))
    meters.note(RowLost())
    meters.note(CommitSeen(0.002))
    text = meters.text().decode()
    assert 'blindcopy_mails_total{reason="copy",verdict="2xx"} 1.0' in text
    assert "blindcopy_rows_total 7.0" in text
    assert "blindcopy_rows_lost_total 1.0" in text
    assert 'blindcopy_added_seconds_bucket{le="0.005"} 1.0' in text
    assert 'blindcopy_added_seconds_bucket{le="0.002"} 0.0' in text


def test_a_part_of_the_figures_is_no_answer(tmp_path, host):
    meters = Meters(tmp_path / "nowhere", "one")
    meters.keep()
    monitor = Monitor(meters.text, list, list)
    place = monitor.start(HostPort(host, 0))
    try:
        assert ask(place, "/metrics")[0] == 503
        assert ask(place, "/healthz")[0] == 200
    finally:
        monitor.stop()


def test_what_was_said_is_never_unsaid(tmp_path):
    """Not by another relay, and not when the one that said it is killed right after."""
    one, two = Meters(tmp_path, "one"), Meters(tmp_path, "two")
    two.keep()
    one.note(RowsLoaded(7))
    assert "blindcopy_rows_total 7.0" in one.text().decode()
    assert "blindcopy_rows_total 7.0" in two.text().decode()
    one.alive.close()
    assert "blindcopy_rows_total 7.0" in two.text().decode()
    assert not list(tmp_path.glob("metrics-one*"))
    assert "blindcopy_rows_total 7.0" in two.text().decode()
    two.stop()


def test_figures_of_relays_that_are_gone_do_not_pile_up_though_nobody_asks(tmp_path):
    for number in range(5):
        gone = Meters(tmp_path, f"gone-{number}")
        gone.note(RowsLoaded(1))
        gone.stop()
    (tmp_path / "metrics-killed.alive").touch()
    one = Meters(tmp_path, "one")
    one.keep()
    assert sorted(path.name for path in tmp_path.glob("metrics*")) == [
        "metrics-gone.prom", "metrics-one.alive", "metrics-one.prom", "metrics.lock",
    ]  # fmt: skip
    assert "blindcopy_rows_total 5.0" in one.text().decode()
    one.stop()


def test_a_spoilt_file_is_put_aside(tmp_path, meters):
    (tmp_path / "metrics-gone.prom").write_bytes(b"\0" * 100)
    meters.note(RowsLoaded(7))
    assert "blindcopy_rows_total 7.0" in meters.text().decode()
    assert (tmp_path / "metrics-gone.unreadable").exists()


def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(tmp_path, meters, monkeypatch):
    monkeypatch.setattr("relay.meters._SECONDS_TO_WAIT", 0.1)
    with (tmp_path / "metrics.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            meters.text()


def test_head_has_no_body(meters, host):
    monitor = Monitor(meters.text, list, list)
    place = monitor.start(HostPort(host, 0))
    try:
        assert ask(place, "/metrics", "HEAD") == (200, "")
    finally:
        monitor.stop()

"""The monitor of a relay, asked over HTTP."""

import fcntl
import urllib.error
import urllib.request

import pytest

from core.endpoints import Place
from relay.meters import CommitSeen, MailSeen, Meters
from relay.monitor import Holds, Monitor


@pytest.fixture
def meters(tmp_path):
    made = Meters(tmp_path, "one")
    yield made
    made.stop()


@pytest.fixture(params=["127.0.0.1", "::1"])
def host(request):
    return request.param


def ask(monitor, path, method="GET"):
    request = urllib.request.Request(f"http://{monitor}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_what_does_not_hold_is_503_with_its_reason(meters, host):
    conditions = [Holds("event loop", True, "stands still"), Holds("load", False, "behind")]
    monitor = Monitor(meters, lambda: conditions[:1], lambda: conditions)
    place = monitor.start(Place(host, 0))
    try:
        assert ask(place, "/healthz") == (200, "event loop: ok\n")
        assert ask(place, "/readyz") == (503, "event loop: ok\nload: behind\n")
        conditions[0] = Holds("event loop", False, "stands still")
        assert ask(place, "/healthz") == (503, "event loop: stands still\n")
        assert ask(place, "/metrics", "POST")[0] == 405
    finally:
        monitor.stop()


def test_a_figure_that_is_noted_is_in_the_next_answer(meters):
    meters.note(MailSeen("copy", "2xx", "accepted", 0.003))
    meters.note(CommitSeen(7, 0.002))
    text = meters.text().decode()
    assert 'blindcopy_mails_total{reason="copy",verdict="2xx"} 1.0' in text
    assert "blindcopy_rows_total 7.0" in text
    assert 'blindcopy_added_seconds_bucket{le="0.005"} 1.0' in text
    assert 'blindcopy_added_seconds_bucket{le="0.002"} 0.0' in text


def test_a_part_of_the_figures_is_no_answer(tmp_path, host):
    meters = Meters(tmp_path / "nowhere", "one")
    meters.keep()
    monitor = Monitor(meters, list, list)
    place = monitor.start(Place(host, 0))
    try:
        assert ask(place, "/metrics")[0] == 503
        assert ask(place, "/healthz")[0] == 200
    finally:
        monitor.stop()


def test_what_was_said_is_never_unsaid(tmp_path):
    """Not by another relay, and not when the one that said it is killed right after."""
    one, two = Meters(tmp_path, "one"), Meters(tmp_path, "two")
    two.keep()
    one.note(CommitSeen(7, 0.002))
    assert "blindcopy_rows_total 7.0" in one.text().decode()
    assert "blindcopy_rows_total 7.0" in two.text().decode()
    one._alive.close()
    assert "blindcopy_rows_total 7.0" in two.text().decode()
    assert not list(tmp_path.glob("metrics-one*"))
    assert "blindcopy_rows_total 7.0" in two.text().decode()
    two.stop()


def test_a_spoilt_file_is_put_aside(tmp_path, meters):
    (tmp_path / "metrics-gone.prom").write_bytes(b"\0" * 100)
    meters.note(CommitSeen(7, 0.002))
    assert "blindcopy_rows_total 7.0" in meters.text().decode()
    assert (tmp_path / "metrics-gone.unreadable").exists()


def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(tmp_path, meters, monkeypatch):
    monkeypatch.setattr("relay.meters._SECONDS_TO_WAIT", 0.1)
    with (tmp_path / "metrics.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError):
            meters.text()


def test_head_has_no_body(meters, host):
    monitor = Monitor(meters, list, list)
    place = monitor.start(Place(host, 0))
    try:
        assert ask(place, "/metrics", "HEAD") == (200, "")
    finally:
        monitor.stop()

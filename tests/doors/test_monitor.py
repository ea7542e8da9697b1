"""The monitor of a relay, asked over HTTP."""

import urllib.error
import urllib.request

import pytest

from core.endpoints import Place
from relay.meters import CommitSeen, MailSeen, Meters
from relay.monitor import Holds, Monitor


@pytest.fixture
def meters(tmp_path):
    return Meters(tmp_path, "one")


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


def test_a_state_directory_that_cannot_be_written_keeps_nobody_from_asking(tmp_path):
    meters = Meters(tmp_path / "nowhere", "one")
    meters.keep()
    meters.note(CommitSeen(7, 0.002))
    assert "blindcopy_rows_total 7.0" in meters.text().decode()

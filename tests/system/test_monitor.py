"""The probes of whole processes."""

import signal

import pytest

from tests.system.conftest import mail, send, until
from tests.system.mail_servers import free_port
from tests.system.probes import (
    COPIED,
    figure,
    get,
    monitor,  # noqa: F401
)


def test_every_mail_is_counted_at_once(installation, monitor, sink):
    relay = installation.start_relay()
    with installation.client(relay) as client:
        send(client, mail(1))
        sink.sink.script.replies["dot"] = ["554 5.7.1 Spam", ""]
        with pytest.raises(Exception, match="Spam"):
            send(client, mail(2))
        assert figure(monitor, COPIED) == 1
        assert figure(monitor, 'blindcopy_mails_total{reason="copy",verdict="5xx"}') == 1
        assert figure(monitor, 'blindcopy_copies_total{verdict="accepted"}') == 2
        assert figure(monitor, "blindcopy_added_seconds_count") == 2
        assert 0 < figure(monitor, "blindcopy_added_seconds_sum") < 2
        until(lambda: figure(monitor, "blindcopy_rows_total") >= 2)
        assert figure(monitor, "blindcopy_rows_lost_total") == 0
        assert figure(monitor, "blindcopy_commit_seconds_count") >= 2
        assert figure(monitor, "blindcopy_sessions") == 1
        assert figure(monitor, "blindcopy_upstream_links_busy") == 0
        assert figure(monitor, "blindcopy_upstream_troubled") == 0
        assert figure(monitor, "blindcopy_journal_bytes") == 0
    assert get(f"{monitor}/healthz") == (200, "event loop: ok\n")
    assert get(f"{monitor}/readyz")[0] == 200
    assert get(f"{monitor}/elsewhere")[0] == 404


def test_several_processes_are_one_and_counts_outlive_them(installation, monitor):
    relays = [installation.start_relay() for _ in range(3)]
    for number, relay in enumerate(relays):
        with installation.client(relay) as client:
            send(client, mail(number))
    until(lambda: figure(monitor, COPIED) == 3)
    until(lambda: [figure(monitor, "blindcopy_relays") for _ in range(5)] == [3] * 5)
    relays[0].kill()
    relays[0].wait(10)
    relays[1].send_signal(signal.SIGTERM)
    relays[1].wait(20)
    until(lambda: figure(monitor, "blindcopy_relays") == 1)
    assert figure(monitor, COPIED) == 3
    installation.start_relay()
    until(lambda: figure(monitor, "blindcopy_relays") == 2)
    assert figure(monitor, COPIED) == 3


def test_without_settings_a_relay_is_alive_and_not_ready(tmp_path, sink):
    from tests.system.conftest import Installation

    (tmp_path / "blindcopy.db").mkdir()
    one = Installation(tmp_path, sink.port)
    one.env["BLINDCOPY_MONITOR"] = f"127.0.0.1:{free_port()}"
    try:
        one.start_relay()
        monitor = f"http://{one.env['BLINDCOPY_MONITOR']}"
        assert get(f"{monitor}/healthz")[0] == 200
        status, said = get(f"{monitor}/readyz")
        assert (status, "settings: neither the database nor a snapshot has them" in said) == (503, True)
    finally:
        one.stop()


def test_a_port_that_is_taken_stops_no_mail(installation, sink):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        installation.env["BLINDCOPY_MONITOR"] = f"127.0.0.1:{taken.getsockname()[1]}"
        with installation.client(installation.start_relay()) as client:
            send(client, mail())
    assert len(sink.sink.taken) == 1
    assert "ALARM cannot answer on BLINDCOPY_MONITOR" in installation.log()

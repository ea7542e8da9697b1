"""Health, and the probes of the web process."""

from datetime import UTC, datetime, timedelta

import pytest

from admin import create_app
from core.config import read_config
from core.database.heartbeats import Beat, Condition, beat
from core.database.models import ProcessRow
from core.findings import Light, facts
from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.row import State
from core.mail.store import UnknownSender
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.browser import (
    anna,  # noqa: F401
    app,  # noqa: F401
    boss,  # noqa: F401
)
from tests.doors.rows import row


class TestHealth:
    def beating(self, sqlite, key, condition=Condition(), ago=timedelta(0)):  # noqa: B008
        with sqlite.writing() as session:
            beat(session, Beat(key, "relay", datetime.now(UTC), 3, ("submission 127.0.0.1:2587",), condition))
            session.get(ProcessRow, key).beat_at -= ago

    def test_says_that_no_relay_runs(self, boss):
        assert "No relay is running: mail clients cannot send" in boss.get("/health").page

    def test_shows_every_process_and_that_all_is_well(self, boss, sqlite):
        self.beating(sqlite, "one")
        self.beating(sqlite, "two")
        with sqlite.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
        page = boss.get("/health").page
        assert page.count("running</span>") == 2
        assert "submission 127.0.0.1:2587" in page
        assert "Nothing: a mail that is sent now is logged as the settings say." in page

    def test_says_what_is_wrong_what_to_do_and_where_to_decide(self, boss, sqlite):
        trouble = facts(
            Light.RED, "mail provider", "it does not accept us, and answers 530", "look at the provider"
        )
        self.beating(
            sqlite, "one", Condition("it does not accept us, and answers 530", 5_000_000, findings=(trouble,))
        )
        with sqlite.writing() as session:
            write_rows(session, [row(2, state=State.UNKNOWN, time=datetime.now(UTC))])
        with sqlite.writing() as session:
            mail_store.count_unknown(
                session, [UnknownSender("i@acme.test", "i@acme.test", datetime.now(UTC))]
            )
        page = boss.get("/health").page
        assert "t does not accept us, and answers 530" in page
        assert "Look at the provider" in page
        assert "5.0 MB" in page
        assert "in your own domains is not logged: i@acme.test" in page
        assert 'href="/activity?state=unknown"' in page
        assert "1 sender is unknown" in page

    def test_a_relay_of_the_first_release_is_understood(self, boss, sqlite):
        self.beating(sqlite, "one", Condition("it does not accept us, and answers 530"))
        assert "t does not accept us, and answers 530" in boss.get("/health").page

    def test_a_process_that_fell_silent_is_named_until_another_is_there(self, boss, sqlite):
        self.beating(sqlite, "one", ago=timedelta(minutes=5))
        assert "has been silent since its last beat" in boss.get("/health").page
        self.beating(sqlite, "two")
        page = boss.get("/health").page
        assert "has been silent since its last beat" not in page
        assert "silent</span>" in page

    def test_is_the_admins(self, anna):
        assert anna.get("/health").status == 403
        assert "/health" not in anna.get("/activity").page


class TestTheProbes:
    """What balancers and Prometheus ask: in plain HTTP, without a sign-in."""

    @pytest.fixture
    def client(self, sqlite, tmp_path):
        app = create_app(
            read_config({"DATABASE_URL": f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
                         "BLINDCOPY_STATE_DIR": str(tmp_path), "BLINDCOPY_PUBLIC_URL": "https://blindcopy.example.com"})
        )  # fmt: skip
        yield app.test_client()
        app.extensions["blindcopy"].database.close()

    def test_are_not_sent_on_to_https(self, client):
        assert client.get("/sign-in").status_code == 302
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, "relay: no relay is running" in answer.text) == (503, True)
        assert client.get("/readyz?for=mail").status_code == 503
        assert b"blindcopy_web_requests_total" in client.get("/metrics").data

    def test_readiness_looks_at_the_whole(self, client, sqlite):
        with sqlite.writing() as session:
            beat(session, Beat("r", "relay", datetime.now(UTC), 3))
        answer = client.get("/readyz")
        assert (answer.status_code, "database: ok" in answer.text) == (200, True)
        assert client.get("/readyz?for=mail").text == ""

    def test_figures_are_for_this_machine_only(self, client):
        client.get("/healthz")
        assert "no relay" not in client.get("/readyz", environ_base={"REMOTE_ADDR": "192.0.2.1"}).text, (
            "no details"
        )
        assert "relay: red" in client.get("/readyz", base_url="https://blindcopy.example.com").text
        client.get("/nowhere", base_url="https://blindcopy.example.com")
        own = client.get("/metrics").text
        assert 'blindcopy_web_requests_total{page="none",status="4xx"} 1.0' in own
        assert client.get("/metrics", environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 404
        assert client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 404

    def test_live_on_without_a_database(self, client, tmp_path):
        (tmp_path / "blindcopy.db").rename(tmp_path / "away.db")
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, "is gone; stop every process" in answer.text) == (503, True)

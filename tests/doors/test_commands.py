"""What operators type: names, outputs and exit statuses."""

import json
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from admin.commands import main as admin_main
from core.__main__ import main as core_main
from core.database.engine import Database, newest_revision
from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.mail.store import UnknownSender
from tests.doors.rows import row

BCC = "emailtosalesforce@x.le.salesforce.com"


@pytest.fixture
def admin(database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("BLINDCOPY_SECRET_KEY", "0123456789abcdef")

    def command(*arguments, stdin=None):
        result = CliRunner().invoke(admin_main, arguments, input=stdin, catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    return command


def ok(result):
    assert result[0] == 0, result
    return result[1]


def refused(result):
    status, out, err = result
    assert (status, out) == (1, "")
    assert len(err.splitlines()) == 1
    return err


def lines(output):
    return [json.loads(line) for line in output.splitlines()]


class TestUser:
    def test_add_prints_a_password_alone_or_nothing(self, admin):
        password = ok(admin("user", "add", "anna@acme.test", "--name", "Anna", "--admin"))
        assert len(password.split()) == 1
        assert ok(admin("user", "add", "carl@acme.test", "--password-stdin", stdin="long enough\n")) == ""
        anna, carl = lines(ok(admin("user", "list", "--json")))
        assert (anna["email"], anna["name"], anna["admin"], anna["active"]) == (
            "anna@acme.test",
            "Anna",
            True,
            True,
        )
        assert (carl["email"], carl["admin"]) == ("carl@acme.test", False)
        assert anna["created"].endswith("Z")
        assert len(anna["created"]) == len("2026-11-21T09:30:00.123Z")

    def test_refusals(self, admin):
        ok(admin("user", "add", "anna@acme.test", "--admin"))
        assert "already" in refused(admin("user", "add", "ANNA@acme.test"))
        assert "has no @" in refused(admin("user", "add", "anna"))
        assert "at least 10" in refused(
            admin("user", "add", "carl@acme.test", "--password-stdin", stdin="short\n")
        )
        assert "no person" in refused(admin("user", "disable", "nobody@acme.test"))
        assert "only admin" in refused(admin("user", "disable", "anna@acme.test"))
        assert admin("user", "frobnicate")[0] == 2
        assert admin("user", "add")[0] == 2

    def test_disable_and_enable(self, admin):
        ok(admin("user", "add", "anna@acme.test"))
        ok(admin("user", "disable", "anna@acme.test"))
        assert "disabled" in ok(admin("user", "list"))
        ok(admin("user", "enable", "anna@acme.test"))
        ok(admin("user", "password", "anna@acme.test", "--password-stdin", stdin="another long one\n"))
        assert admin("user", "password", "anna@acme.test")[0] == 2

    def test_app_passwords(self, admin):
        ok(admin("user", "add", "anna@acme.test"))
        password = ok(admin("user", "app-password", "anna@acme.test", "--label", "Outlook"))
        assert len(password.strip()) == 32
        [listed] = lines(ok(admin("user", "app-passwords", "anna@acme.test", "--json")))
        assert (listed["label"], listed["last_used"]) == ("Outlook", None)
        ok(admin("user", "app-passwords", "anna@acme.test", "--revoke", str(listed["id"])))
        assert ok(admin("user", "app-passwords", "anna@acme.test")) == ""
        assert "no app password" in refused(
            admin("user", "app-passwords", "anna@acme.test", "--revoke", str(listed["id"]))
        )


class TestAddress:
    def test_add_list_remove(self, admin):
        ok(admin("user", "add", "anna@acme.test"))
        ok(admin("user", "add", "carl@acme.test"))
        ok(admin("address", "add", "anna@acme.test", "sales@acme.test"))
        assert ok(admin("address", "list", "anna@acme.test")) == "anna@acme.test\nsales@acme.test\n"
        assert "one person only" in refused(admin("address", "add", "carl@acme.test", "SALES@acme.test"))
        ok(admin("address", "remove", "anna@acme.test", "sales@acme.test"))
        assert "not an acceptable address" in refused(
            admin("address", "remove", "anna@acme.test", "sales@acme.test")
        )


class TestSettings:
    def test_preference(self, admin):
        ok(admin("user", "add", "anna@acme.test"))
        assert ok(admin("preference", "anna@acme.test", "show")).splitlines() == [
            "logging off", "bcc-address", "task-sync off", "log-on contacts,leads,accounts,opportunities", "first contact", "duplicates oldest",
            "opportunity only-open", "no-match unmatched", "keep text", "attachments names", "blind-copied no", "record auto",
            "subject-template {{activity_type}}: {{activity_subject}}", "log-bulk no", "time-zone",
        ]  # fmt: skip
        ok(admin("preference", "anna@acme.test", "set", "bcc-address", BCC))
        ok(admin("preference", "anna@acme.test", "set", "logging", "bcc"))
        shown = lines(ok(admin("preference", "anna@acme.test", "show", "--json")))
        assert shown[:2] == [
            {"name": "logging", "value": "bcc", "source": "preference", "locked": False},
            {"name": "bcc-address", "value": BCC, "source": "preference", "locked": False},
        ]
        ok(admin("preference", "anna@acme.test", "set", "bcc-address", ""))
        assert "begins with" in refused(
            admin("preference", "anna@acme.test", "set", "bcc-address", "anna@acme.test")
        )
        assert "not one of: off, bcc" in refused(
            admin("preference", "anna@acme.test", "set", "logging", "maybe")
        )
        assert admin("preference", "anna@acme.test", "set", "colour", "red")[0] == 2
        assert "no person" in refused(admin("preference", "nobody@acme.test", "show"))

    def test_policy(self, admin):
        ok(admin("user", "add", "anna@acme.test"))
        ok(admin("policy", "set", "own-domains", "ACME.test"))
        ok(admin("policy", "set", "logging", "bcc"))
        ok(admin("policy", "lock", "logging"))
        shown = {setting["name"]: setting for setting in lines(ok(admin("policy", "show", "--json")))}
        assert shown["own-domains"] == {
            "name": "own-domains",
            "value": "acme.test",
            "source": "policy",
            "locked": False,
        }
        assert shown["logging"] == {"name": "logging", "value": "bcc", "source": "policy", "locked": True}
        assert "bcc-address" not in shown
        assert "fixed by" in refused(admin("preference", "anna@acme.test", "set", "logging", "off"))
        [logging] = [
            one
            for one in lines(ok(admin("preference", "anna@acme.test", "show", "--json")))
            if one["name"] == "logging"
        ]
        assert logging == {"name": "logging", "value": "bcc", "source": "policy", "locked": True}
        ok(admin("policy", "unlock", "logging"))
        ok(admin("preference", "anna@acme.test", "set", "logging", "off"))
        assert "has no dot" in refused(admin("policy", "set", "own-domains", "acme"))
        status, _, err = admin("policy", "set", "bcc-address", BCC)
        assert (status, len(err.splitlines())) == (2, 1)
        assert ok(admin("policy", "show", "mails-per-minute")) == "mails-per-minute 60\n"
        [locked] = lines(ok(admin("policy", "lock", "time-zone", "--json")))
        assert locked == {"name": "time-zone", "value": "", "source": "default", "locked": True}


class TestActivity:
    def test_prints_the_rows(self, admin, database):
        ok(admin("user", "add", "anna@acme.test"))
        written = row(1, time=datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC), state=State.COPIED, upstream="250 2.0.0 Ok",
                      bcc=Copy.ACCEPTED, bcc_reply="250 2.1.5 Ok")  # fmt: skip
        private = row(
            1,
            state=State.NOT_LOGGED,
            decision=Decision.NONE,
            reason=Reason.OPTED_OUT,
            recipients=None,
            subject=None,
            message_id=None,
        )
        with database.writing() as session:
            write_rows(session, [written, private])
        second, first = lines(ok(admin("activity", "--json")))
        assert first == {
            "id": written.id, "time": "2026-11-21T09:30:00.123Z", "sender": "anna@acme.test", "person": "anna@acme.test",
            "recipients": ["bob@client.test"], "subject": "Grüße 📨", "message_id": "<1@x>", "mode": "bcc", "decision": "copy",
            "reason": "copy", "detail": None, "upstream": "250 2.0.0 Ok", "bcc": "accepted", "bcc_reply": "250 2.1.5 Ok", "state": "copied",
            "records": [], "attempts": 0, "same_as": None,
        }  # fmt: skip
        assert (second["recipients"], second["subject"], second["message_id"], second["reason"]) == (
            None,
            None,
            None,
            "opted-out",
        )
        assert len(lines(ok(admin("activity", "--json", "--limit", "1")))) == 1
        assert lines(ok(admin("activity", "--json", "--state", "copied"))) == [first]
        assert len(lines(ok(admin("activity", "--person", "anna@acme.test", "--json")))) == 2
        assert "opted-out" in ok(admin("activity"))
        assert "no person" in refused(admin("activity", "--person", "nobody@acme.test"))
        assert admin("activity", "--state", "lost")[0] == 2

    def test_dismiss(self, admin, database):
        ok(admin("user", "add", "anna@acme.test"))
        unknown = row(1, state=State.UNKNOWN)
        with database.writing() as session:
            write_rows(session, [unknown])
        assert "cannot be logged again" in refused(admin("activity", "log-again", unknown.id))
        ok(admin("activity", "dismiss", unknown.id))
        assert "nothing to dismiss" in refused(admin("activity", "dismiss", unknown.id))
        assert "no mail" in refused(admin("activity", "dismiss", "x"))

    def test_senders(self, admin, database):
        with database.writing() as session:
            mail_store.count_unknown(
                session, [UnknownSender("a@x.test", "A@x.test", datetime(2026, 11, 21, tzinfo=UTC))]
            )
        assert lines(ok(admin("senders", "--json"))) == [
            {
                "sender": "A@x.test",
                "count": 1,
                "first": "2026-11-21T00:00:00.000Z",
                "last": "2026-11-21T00:00:00.000Z",
            }
        ]
        assert "A@x.test" in ok(admin("senders"))


class TestCore:
    def test_migrate(self, database_url, monkeypatch):
        monkeypatch.setenv("DATABASE_URL", database_url)
        for _ in range(2):
            result = CliRunner().invoke(core_main, ["migrate"])
            assert (result.exit_code, newest_revision() in result.stdout) == (0, True)

    def test_check_says_what_is_wrong(self, database_url, monkeypatch):
        monkeypatch.setenv("DATABASE_URL", database_url)
        monkeypatch.setenv("BLINDCOPY_SECRET_KEY", "0123456789abcdef")
        monkeypatch.setenv("BLINDCOPY_UPSTREAM", "smtp+starttls://me:s3cret@127.0.0.1:1")
        result = CliRunner().invoke(core_main, ["check"])
        assert result.exit_code == 1
        assert "s3cret" not in result.stdout
        assert "0123456789abcdef" not in result.stdout
        assert result.stdout.count("red ") == 2

    def test_a_database_that_is_newer_than_the_code_is_said_so(self, database_url, monkeypatch):
        monkeypatch.setenv("DATABASE_URL", database_url)
        monkeypatch.setenv("BLINDCOPY_SECRET_KEY", "0123456789abcdef")
        monkeypatch.setenv("BLINDCOPY_UPSTREAM", "smtp://127.0.0.1:1")
        assert CliRunner().invoke(core_main, ["migrate"]).exit_code == 0
        opened = Database(database_url)
        with opened.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        opened.close()
        migrated = CliRunner().invoke(core_main, ["migrate"])
        assert (migrated.exit_code, "update Blindcopy" in migrated.stderr) == (1, True)
        assert len(migrated.stderr.splitlines()) == 1
        assert "newer than this code" in CliRunner().invoke(core_main, ["check"]).stdout

    def test_check_without_a_configuration_is_a_mistake(self, monkeypatch):
        for name in ("BLINDCOPY_SECRET_KEY", "BLINDCOPY_UPSTREAM"):
            monkeypatch.delenv(name, raising=False)
        result = CliRunner().invoke(core_main, ["check"])
        assert result.exit_code == 2
        assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
            "BLINDCOPY_SECRET_KEY",
            "BLINDCOPY_UPSTREAM",
        ]

    def test_a_database_that_is_away_is_one_sentence(self, monkeypatch):
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x")
        result = CliRunner().invoke(admin_main, ["user", "list"])
        assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)

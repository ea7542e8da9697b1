"""Health looks at what matters: each thing that would keep a mail from being logged is red, with its reason and its remedy."""

import os
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from core.config import read_config
from core.database.engine import Database
from core.database.heartbeats import Beat, Condition, beat
from core.database.installation import StateDirectoryTaken, restored_at
from core.database.models import InstallationRow
from core.endpoints import HostPort
from core.findings import Light
from core.health import Watch, look_at_installation, look_at_machine
from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Decision, State
from core.mail.store import UnknownSender
from core.monitor import readiness
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connection_store import OAuthTokens, Way
from core.salesforce.login import Identity
from core.salesforce.troubles import trouble
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.state_directory import StateDirectory
from relay.health import RelayHealth
from relay.meters import Meters
from relay.record import new_mail_id
from tests.doors.asking import ask
from tests.doors.conftest import BOX, add_anna, running
from tests.doors.rows import row

NOW = datetime.now(UTC)
KEY = "0123456789abcdef"
UPSTREAM = "smtp://127.0.0.1:9"


def environment(tmp_path, **more):
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": KEY, "BLINDCOPY_UPSTREAM": UPSTREAM,
        "BLINDCOPY_STATE_DIR": str(tmp_path), **more,
    }  # fmt: skip


def found(database, what, light=Light.RED):
    """What is said of this, in one line; "" where it does not stand so."""
    return "; ".join(
        one.advice
        for one in look_at_installation(database, without_relays=True)
        if one.what == what and one.light is light
    )


def connect(database, email="anna@acme.test", token="t"):
    with database.writing() as session:
        anna = people_store.person_by_email(session, email)
        connection_store.connect(
            session, anna, Identity("00D1", "0051", "anna@x"), way=Way.SIGN_IN, login_url="https://login.salesforce.com",
            tokens=OAuthTokens(token, token, "https://x.my.salesforce.com"), actor=None,
        )  # fmt: skip
        return anna


def worker_beats(database):
    with database.writing() as session:
        beat(session, Beat("w", "worker", NOW, 1))


class TestTheInstallation:
    def test_is_green_where_a_mail_sent_now_would_be_logged(self, database):
        add_anna(database)
        with database.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
        assert {one.light for one in look_at_installation(database, without_relays=True)} == {Light.GREEN}

    def test_a_key_that_opens_nothing_is_red_and_named(self, database, database_url):
        add_anna(database)
        other = Database(database_url, Box(["another secret key"]))
        other.migrate()
        said = found(other, "BLINDCOPY_SECRET_KEY")
        assert "cannot open 1 of the 1 stored secrets" in said
        assert "the new and the former key, separated by a comma" in said
        is_well, text = readiness(look_at_installation(other), is_for_mail=False)
        assert not is_well
        assert "BLINDCOPY_SECRET_KEY: cannot open" in text
        other.close()

    def test_logging_by_copy_without_an_address_is_red(self, database):
        add_anna(database)
        with database.writing() as session:
            anna = people_store.person_by_email(session, "anna@acme.test")
            settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, "", actor=None)
        assert "known for anna@acme.test" in found(database, "Email to Salesforce")

    def test_logging_through_the_api_without_a_connection_is_red(self, database):
        add_anna(database, logging="api")
        assert "not connected for anna@acme.test" in found(database, "connection")
        connect(database)
        assert found(database, "connection") == ""

    def test_a_connection_that_broke_or_has_no_api_is_red(self, database):
        add_anna(database, logging="api")
        anna = connect(database)
        with database.writing() as session:
            connection_store.broken(
                session,
                anna.id,
                connection_store.connection(session, anna.id).generation,
                trouble("invalid_grant"),
            )
        assert "Salesforce no longer accepts the connection of anna@acme.test" in found(
            database, "connection"
        )
        connect(database)
        with database.writing() as session:
            connection_store.lost_api(session, anna.id, trouble("API_DISABLED_FOR_ORG"))
        assert "no API access to anna@acme.test" in found(database, "connection")

    def test_no_worker_is_red_only_where_one_is_needed(self, database):
        add_anna(database)
        assert found(database, "worker") == ""
        with database.writing() as session:
            anna = people_store.person_by_email(session, "anna@acme.test")
            settings_store.set_preference(session, anna, Setting.LOGGING, "api", actor=None)
        assert "start it with `python -m sync`" in found(database, "worker")
        worker_beats(database)
        assert found(database, "worker") == ""

    def test_mail_that_waits_for_more_than_an_hour_is_red(self, database):
        add_anna(database)

        def waiting(age):
            time = NOW - age
            one = row(
                1,
                id=_id_of(time),
                time=time,
                decision=Decision.API,
                reason=Reason.API,
                state=State.WAITING,
                due_at=time,
            )
            with database.writing() as session:
                write_rows(session, [one])

        waiting(timedelta(minutes=50))
        assert found(database, "waiting mail") == ""
        waiting(timedelta(minutes=70))
        assert "waits since" in found(database, "waiting mail")

    def test_own_domains_are_yellow_until_they_are_confirmed_and_unknown_senders_within_them_are_named(
        self, database
    ):
        add_anna(database)
        with database.writing() as session:
            for address in ("ghost@acme.test", "spam@else.test"):
                mail_store.count_unknown(session, [UnknownSender(address, address, NOW)])
        assert "acme.test counts as internal" in found(database, "own domains", Light.YELLOW)
        said = found(database, "unknown senders", Light.YELLOW)
        assert "ghost@acme.test" in said
        assert "spam@else.test" not in said
        with database.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
        assert found(database, "own domains", Light.YELLOW) == ""

    def test_where_everybody_has_a_public_providers_address_no_mail_is_internal_and_that_is_said(
        self, database
    ):
        with database.writing() as session:
            people_store.add_person(
                session, "anna@gmail.com", name="", is_admin=True, password_hash="x", actor=None
            )
            assert settings_store.policy_for_mail(session).internal_domains == ()
        assert "no mail is internal" in found(database, "own domains", Light.YELLOW)

    def test_what_a_relay_says_of_itself_is_shown_with_its_host(self, sqlite):
        def by_name():
            return {one.what: one for one in look_at_installation(sqlite)}

        assert by_name()["relay"].stops_mail
        condition = Condition(None, 5, 3, tuple(one for one in [_journal_trouble()]))
        with sqlite.writing() as session:
            beat(session, Beat("r", "relay", NOW, 1, condition=condition))
        names = by_name()
        assert "relay" not in names
        assert [one.said for name, one in names.items() if name.startswith("journal (")] == [
            "rows are lost: it is full"
        ]
        assert names["lost rows"].said.endswith(": 3")


def _journal_trouble():
    from core.findings import facts

    return facts(Light.RED, "journal", "rows are lost: it is full")


def _id_of(time):
    return f"{int(time.timestamp() * 1000):012x}"[:8] + new_mail_id()[8:]


class TestTheDatabase:
    """Each its own sentence, and no raw trace."""

    def said(self, tmp_path):
        opened = Database(f"sqlite:///{tmp_path}/blindcopy.db", BOX)
        try:
            [finding] = look_at_installation(opened)
            assert (finding.light, finding.what) == (Light.RED, "database")
            return finding.said
        finally:
            opened.close()

    def test_of_another_program(self, tmp_path):
        with sqlite3.connect(tmp_path / "blindcopy.db") as other:
            other.execute("CREATE TABLE bookmarks (url TEXT)")
        other.close()
        assert "another program's database, with tables like “bookmarks”" in self.said(tmp_path)
        with sqlite3.connect(tmp_path / "blindcopy.db") as other:
            other.execute("CREATE TABLE alembic_version (version_num TEXT)")
            other.execute("INSERT INTO alembic_version VALUES ('a1b2c3d4')")
        other.close()
        assert "another program's database, at its revision a1b2c3d4" in self.said(tmp_path)

    def test_that_is_none(self, tmp_path):
        (tmp_path / "blindcopy.db").write_bytes(b"Dear diary\n" * 1_000)
        assert "is not an SQLite database; name Blindcopy's own file in DATABASE_URL" in self.said(tmp_path)

    def test_that_is_damaged(self, sqlite, tmp_path):
        add_anna(sqlite)
        sqlite.close()
        path = tmp_path / "blindcopy.db"
        content = bytearray(path.read_bytes())
        content[4096:] = os.urandom(len(content) - 4096)
        path.write_bytes(content)
        assert "is damaged; stop every process and restore a backup" in self.said(tmp_path)

    def test_that_was_moved_away_or_replaced_under_a_running_process(self, sqlite, tmp_path):
        path = tmp_path / "blindcopy.db"
        path.rename(tmp_path / "moved.db")
        [gone] = look_at_installation(sqlite)
        assert "is gone; stop every process, put the file back" in gone.said
        path.write_bytes((tmp_path / "moved.db").read_bytes())
        [replaced] = look_at_installation(sqlite)
        assert "was replaced while this process ran; restart every process" in replaced.said

    def test_on_a_disk_that_is_full(self, small_disk):
        opened = Database(f"sqlite:///{small_disk}/blindcopy.db", BOX)
        opened.migrate()
        with (small_disk / "filling").open("wb", buffering=0) as filling:
            try:
                while True:
                    filling.write(bytes(4096))
            except OSError:
                pass
        from core.database.engine import DatabaseUnavailable

        def write_much():
            with opened.writing() as session:
                for number in range(2_000):
                    people_store.add_person(
                        session, f"p{number}@acme.test", name="x" * 100, is_admin=False, password_hash="x" * 500, actor=None
                    )  # fmt: skip

        with pytest.raises(DatabaseUnavailable, match="the disk is full; make room where"):
            write_much()
        opened.close()

    def test_that_answers_too_late(self, monkeypatch):
        import threading

        go_on = threading.Event()
        monkeypatch.setattr("core.health.SECONDS_TO_LOOK", 0.1)
        watch = Watch(lambda: list(filter(None, [go_on.wait(10) and None])))
        [late] = watch.findings()
        assert late.said == "does not answer in time"
        go_on.set()


@pytest.fixture
def small_disk(tmp_path):
    """Two megabytes, as root; the tests that need it are skipped elsewhere."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False)
    if mounted.returncode:
        if os.environ.get("BLINDCOPY_TEST_ALL") == "1":
            pytest.fail("a small disk cannot be mounted, and BLINDCOPY_TEST_ALL=1 allows no skip")
        pytest.skip("a small disk can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class TestTheStateDirectory:
    def test_that_is_well(self, tmp_path):
        assert StateDirectory(tmp_path).trouble() is None

    def test_that_is_gone(self, tmp_path):
        assert "is gone; make it again" in StateDirectory(tmp_path / "nowhere").trouble()

    def test_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        assert "is not a directory" in StateDirectory(tmp_path / "file").trouble()

    def test_that_is_read_only(self, small_disk):
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert "is read-only; make it writable" in StateDirectory(small_disk).trouble()

    def test_that_is_full(self, small_disk):
        with (small_disk / "filling").open("wb") as filling:
            filling.truncate(0)
            os.posix_fallocate(filling.fileno(), 0, (2 << 20) - 8192)
        assert "is full; make room" in StateDirectory(small_disk).trouble()

    def test_that_belongs_to_another_user(self, tmp_path):
        if os.geteuid():
            pytest.skip("only root can give a directory away")
        os.chown(tmp_path, 12345, 12345)
        assert (
            "belongs to user 12345; it must belong to the one that runs Blindcopy"
            in StateDirectory(tmp_path).trouble()
        )


class TestTheMachine:
    def lights(self, config):
        return {one.what: (one.light, one.said) for one in look_at_machine(config)}

    @pytest.mark.parametrize(
        ("days", "light", "says"),
        [(30, Light.GREEN, "is valid until"), (10, Light.YELLOW, "ends on"), (-1, Light.RED, "mail clients refuse it")],
    )  # fmt: skip
    def test_a_certificate_is_watched(self, tmp_path, days, light, says):
        leaf = trustme.CA().issue_cert("relay.test", not_after=NOW + timedelta(days=days))
        leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
        leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
        config = read_config(
            environment(
                tmp_path, BLINDCOPY_TLS_CERT=f"{tmp_path}/cert.pem", BLINDCOPY_TLS_KEY=f"{tmp_path}/key.pem"
            )
        )
        found_light, said = self.lights(config)["certificate"]
        assert (found_light, says in said) == (light, True)

    @pytest.mark.parametrize(
        ("upstream", "auth", "is_told"),
        [
            ("smtp+starttls://anna%40acme.com:secret@smtp.office365.com:587", "app-password", True),
            ("smtp+starttls://smtp.office365.com:587", "upstream", True),
            ("smtp+starttls://x:y@smtp-mail.outlook.com", "app-password", True),
            ("smtp+starttls://x:y@smtp.office365.com?auth=xoauth2&token_url=https://login.x/y", "app-password", False),
            ("smtp+starttls://acme-com.mail.protection.outlook.com:25", "app-password", False),
            ("smtp+starttls://x:y@smtp.gmail.com", "upstream", False),
        ],
    )  # fmt: skip
    def test_passwords_at_microsoft_are_told_with_their_end(self, tmp_path, upstream, auth, is_told):
        config = read_config(environment(tmp_path, BLINDCOPY_UPSTREAM=upstream, BLINDCOPY_AUTH=auth))
        found_light, said = self.lights(config).get("sign-in by password", (None, ""))
        assert (found_light is Light.YELLOW, "2026-12-31" in said) == (is_told, is_told)


class TestARelay:
    def test_says_what_it_sees_of_itself_and_of_the_rest(self, sqlite, tmp_path):
        import asyncio

        async def claim():
            async with running(sqlite, tmp_path) as relay:
                config = read_config(environment(tmp_path))
                health = RelayHealth(config, sqlite, relay.server, relay.pool, relay.logbook, relay.snapshot)
                meters = Meters(tmp_path, "one")
                monitor = health.monitor(meters)
                place = monitor.start(HostPort("127.0.0.1", 0))

                async def asked(path):
                    return await asyncio.to_thread(ask, place, path)

                try:
                    status, said = await asked("/readyz")
                    assert (status, "journal: ok" in said, "own domains: yellow" in said) == (200, True, True)
                    relay.logbook.note_trouble("the journal is full")
                    status, said = await asked("/readyz")
                    assert (status, "journal: rows are lost: the journal is full" in said) == (503, True)
                    assert (await asked("/readyz?for=mail"))[0] == 200, "mail still passes"
                    assert [one.said for one in health.condition().findings] == [
                        "rows are lost: the journal is full"
                    ]
                    relay.logbook.note_well_again()
                    relay.pool.note_refusal_of_us(530)
                    status, said = await asked("/readyz")
                    assert (status, "mail provider: it does not accept us, and answers 530" in said) == (
                        503,
                        True,
                    )
                    assert (await asked("/readyz?for=mail"))[0] == 200
                    relay.pool.note_yes()
                    relay.pool.note_unreachable(OSError("connection refused"))
                    status, said = await asked("/readyz?for=mail")
                    assert (status, "mail provider: connection refused" in said) == (503, True)
                finally:
                    monitor.stop()
                    meters.stop()

        asyncio.run(claim())


class TestTheMarker:
    """How a restored database, and another installation's directory, are known."""

    def opened(self, sqlite, tmp_path, *, uses_state=True):
        sqlite.close()
        return Database(
            f"sqlite:///{tmp_path}/blindcopy.db",
            BOX,
            StateDirectory(tmp_path / "state"),
            uses_state=uses_state,
        )

    def restored(self, database):
        with database.reading() as session:
            return restored_at(session) is not None

    def work(self, database, number=3):
        for _ in range(number):
            with database.writing() as session:
                marker = database.installation.advance(session)
            database.installation.keep(marker)

    def test_of_a_plain_restart_says_nothing(self, sqlite, tmp_path):
        for _ in range(3):
            one = self.opened(sqlite, tmp_path)
            one.migrate()
            self.work(one)
            assert not self.restored(one)
            one.close()

    def test_is_not_ahead_of_what_was_committed(self, sqlite, tmp_path):
        one = self.opened(sqlite, tmp_path)
        one.migrate()
        self.work(one)

        def broken_off():
            with one.writing() as session:
                one.installation.advance(session)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            broken_off()
        one.installation.keep_known()
        one.close()
        again = self.opened(sqlite, tmp_path)
        again.migrate()
        assert not self.restored(again)
        again.close()

    def test_knows_an_older_database_once(self, sqlite, tmp_path):
        import shutil

        one = self.opened(sqlite, tmp_path)
        one.migrate()
        one.close()
        shutil.copy(tmp_path / "blindcopy.db", tmp_path / "older.db")
        one = self.opened(sqlite, tmp_path)
        one.migrate()
        self.work(one)
        one.close()
        shutil.copy(tmp_path / "older.db", tmp_path / "blindcopy.db")
        command = self.opened(sqlite, tmp_path, uses_state=False)
        command.migrate()
        assert self.restored(command), "a command sees it too"
        command.close()
        with sqlite3.connect(tmp_path / "blindcopy.db") as plain:
            plain.execute("UPDATE installation SET restored_at = NULL")
        plain.close()
        for _ in range(2):
            again = self.opened(sqlite, tmp_path)
            again.migrate()
            assert not self.restored(again), "its lineage is listed: it has been noted"
            again.close()

    def test_threads_do_not_leave_it_behind_the_database(self, sqlite, tmp_path):
        import threading

        one = self.opened(sqlite, tmp_path)
        one.migrate()
        threads = [threading.Thread(target=self.work, args=(one, 20)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with one.reading() as session:
            tick = session.get(InstallationRow, 1).tick
        assert (tick, StateDirectory(tmp_path / "state").marker().tick) == (160, 160)
        one.close()

    def test_of_another_installation_is_refused_while_that_one_works(self, sqlite, tmp_path):
        first = self.opened(sqlite, tmp_path)
        first.migrate()
        second = Database(
            f"sqlite:///{tmp_path}/second.db", BOX, StateDirectory(tmp_path / "state"), uses_state=True
        )
        with pytest.raises(StateDirectoryTaken, match="belongs to another installation"):
            second.migrate()
        first.close()
        second.migrate()
        sibling = Database(
            f"sqlite:///{tmp_path}/second.db", BOX, StateDirectory(tmp_path / "state"), uses_state=True
        )
        sibling.migrate()
        sibling.close()
        second.close()

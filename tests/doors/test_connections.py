"""Connections with Salesforce: made, kept, renewed by one at a time, and ended."""

import signal
import threading
import time
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from flask import request

from core.database.engine import Database
from core.salesforce import connection_store
from core.salesforce.connection_store import SomebodyElses, Standing, Way
from core.salesforce.connections import Connections, NotConnected
from core.salesforce.login import Login, Refused, Unavailable
from core.salesforce.troubles import TroubleKind
from core.secrets import Box
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.conftest import BCC, BOX
from tests.doors.connected import (
    RENEW,
    anna,  # noqa: F401
    app,  # noqa: F401
    connected,
    connections,  # noqa: F401
    end_the_lease,
    kept,
    key_app,  # noqa: F401
    person,
    process,
    works,
)
from tests.sandbox.org.faults import Fault


class TestConnecting:
    def test_says_who_it_is_and_keeps_no_token_in_clear(self, connections, org, app, anna, database):
        one = connected(connections, org, app, anna)
        assert (one.standing, one.way, one.identity.username) == (
            Standing.CONNECTED,
            Way.SIGN_IN,
            "anna@acme.test",
        )
        assert works(connections, anna) == []
        with database.engine.connect() as raw:
            rows = str(raw.exec_driver_sql("SELECT * FROM salesforce_connection").all())
            rows += str(raw.exec_driver_sql("SELECT * FROM audit").all())
        for token in (one.access_token, one.refresh_token):
            assert token not in rows
            assert token not in repr(one)

    def test_with_a_token_of_another_user_stores_nothing(self, connections, org, app, anna, database):
        other = org.org.put("User", Username="bob@acme.test", Name="Bob", Email="b@acme.test", IsActive=True)
        token = org.tokens.issue(org.anna, "f", with_refresh=True)["refresh_token"]
        with pytest.raises(NotConnected) as caught:
            connections.by_refresh_token(anna, token, instance_url=org.url, user_id=other, actor=None)
        assert caught.value.trouble.code == "another_user"
        assert kept(database, anna) is None

    def test_with_a_token_that_is_not_rotated_keeps_it(self, connections, org, anna, database):
        org.tokens.rotates = False
        token = org.tokens.issue(org.anna, "f", with_refresh=True)["refresh_token"]
        connections.by_refresh_token(anna, token, instance_url=org.url, user_id=org.anna[:15], actor=None)
        assert kept(database, anna).refresh_token == token

    def test_as_somebody_elses_user_is_refused_and_the_token_revoked(
        self, connections, org, app, anna, database
    ):
        connected(connections, org, app, anna)
        before = len(org.tokens.refresh)
        with pytest.raises(SomebodyElses, match="connected to anna"):
            connected(connections, org, app, person(database, "bob@acme.test"))
        assert len(org.tokens.refresh) == before

    def test_without_api_is_known_and_holds_no_token(self, connections, org, app, anna, database):
        org.app.extensions["has_api"] = False
        with pytest.raises(NotConnected) as caught:
            connected(connections, org, app, anna)
        assert caught.value.trouble.kind is TroubleKind.NO_API
        one = kept(database, anna)
        assert (one.standing, one.access_token, one.refresh_token) == (Standing.NO_API, None, None)
        assert org.tokens.refresh == {}, "what nobody holds is revoked"

    def test_by_key_needs_no_click_and_only_the_named_user(self, org, key_app, anna, database):
        connections = Connections(database, key_app)
        with pytest.raises(NotConnected) as caught:
            connections.by_key(anna, "nobody@acme.test", actor=None)
        assert caught.value.trouble.code == "not_approved"
        connections.by_key(anna, "anna@acme.test", actor=None)
        org.tokens.expire_sessions()
        assert works(connections, anna) == []
        assert kept(database, anna).refresh_token is None

    @pytest.mark.parametrize("minutes", [-10, 10])
    def test_by_key_with_a_clock_that_is_off_says_so(self, org, key_app, anna, database, minutes):
        org.app.extensions["skew"] = timedelta(minutes=minutes)
        with pytest.raises(NotConnected) as caught:
            Connections(database, key_app).by_key(anna, "anna@acme.test", actor=None)
        assert caught.value.trouble.code == "clock_skew"
        assert f"{minutes:+d} minutes" in caught.value.trouble.detail
        assert kept(database, anna) is None

    @pytest.mark.parametrize("kind", ["rubbish", "the public key", "of another kind"])
    def test_by_a_file_that_is_no_key_is_for_the_operator(self, org, key_app, anna, database, kind):
        if kind == "rubbish":
            pem = b"rubbish"
        elif kind == "the public key":
            own = serialization.load_pem_private_key(key_app.jwt_key_file.read_bytes(), None)
            pem = own.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        else:
            pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        key_app.jwt_key_file.write_bytes(pem)
        with pytest.raises(NotConnected, match="BLINDCOPY_SALESFORCE_JWT_KEY_FILE"):
            Connections(database, key_app).by_key(anna, "anna@acme.test", actor=None)

    def test_at_what_is_no_salesforce_sends_nothing(self, connections, anna, database):
        with pytest.raises(NotConnected, match="My Domain"):
            connections.by_refresh_token(
                anna, "secret", instance_url="https://evil.example", user_id="0055g0000000001AAA", actor=None
            )
        assert kept(database, anna) is None


class TestRenewing:
    def test_happens_once_and_by_itself(self, connections, org, app, anna, database):
        first = connected(connections, org, app, anna)
        org.tokens.expire_sessions()
        assert works(connections, anna) == []
        second = kept(database, anna)
        assert second.generation == first.generation + 1
        assert second.refresh_token != first.refresh_token
        assert works(connections, anna) == []
        assert kept(database, anna).generation == second.generation

    def test_that_helps_nothing_gives_up(self, connections, org, app, anna):
        connected(connections, org, app, anna)
        org.faults.order(Fault.EXPIRED, "query", times=5)
        with pytest.raises(Unavailable):
            works(connections, anna)
        assert sum("query" in call for call in org.calls) == 3, "the probe, the try, and one more"

    def test_with_a_dead_token_breaks_the_connection_and_says_what_to_do(
        self, connections, org, app, anna, database
    ):
        connected(connections, org, app, anna)
        org.tokens.revoke_all()
        with pytest.raises(Refused) as caught:
            works(connections, anna)
        assert caught.value.trouble.kind is TroubleKind.CONNECTION
        one = kept(database, anna)
        assert (one.standing, one.access_token, one.refresh_token) == (Standing.BROKEN, None, None)
        assert "Connect Salesforce again" in one.trouble.remedy
        with pytest.raises(Refused):
            connections.client(one)
        connected(connections, org, app, anna)
        assert works(connections, anna) == []

    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE, Fault.SLOW])
    def test_that_salesforce_does_not_answer_can_be_tried_again(
        self,
        connections,
        org,
        app,
        anna,
        database,
        fault,
        monkeypatch,
    ):
        monkeypatch.setattr("core.salesforce.login.SECONDS_TO_ANSWER", 1)
        connected(connections, org, app, anna)
        org.tokens.expire_sessions()
        org.tokens.rotates = False
        org.faults.order(fault, "token", seconds=3)
        with pytest.raises(Unavailable):
            works(connections, anna)
        assert kept(database, anna).is_usable
        assert works(connections, anna) == []

    def test_by_many_threads_is_one(self, connections, org, app, anna, database):
        first = connected(connections, org, app, anna)
        org.tokens.expire_sessions()
        found = []
        threads = [threading.Thread(target=lambda: found.append(works(connections, anna))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [[]] * 6
        assert kept(database, anna).generation == first.generation + 1

    def test_is_stored_before_it_is_used(self, connections, org, app, anna, database):
        """The org's answer to the first call with the new session finds the new refresh token in the database."""
        connected(connections, org, app, anna)
        org.tokens.expire_sessions()
        seen = []

        def look():
            if "query" in request.path and org.tokens.user(
                request.headers["Authorization"].removeprefix("Bearer ")
            ):
                seen.append(kept(database, anna).refresh_token)

        org.app.before_request_funcs.setdefault(None, []).append(look)
        assert works(connections, anna) == []
        assert seen == [next(iter(org.tokens.refresh))]


def test_two_processes_renewing_at_once_keep_one_valid_token(
    connections, org, app, anna, database, database_url
):
    first = connected(connections, org, app, anna)
    org.tokens.expire_sessions()
    org.faults.order(Fault.HELD, "token", seconds=1)
    both = [process(database_url, org, anna) for _ in range(2)]
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    assert [one.communicate(timeout=60)[0] for one in both] == ["[]\n", "[]\n"]
    assert kept(database, anna).generation == first.generation + 1
    assert works(connections, anna) == []


@pytest.mark.parametrize("way", ["grace", "key", "none"])
def test_a_renewal_that_is_killed_locks_nobody_out_where_the_protocol_allows_it(
    org,
    app,
    key_app,
    anna,
    database,
    database_url,
    way,
    monkeypatch,
):
    connections = Connections(database, key_app)
    org.tokens.has_grace = way == "grace"
    if way == "key":
        connections.by_key(anna, "anna@acme.test", actor=None)
        script = RENEW.replace("Path(ca))", f"Path(ca), Path({str(key_app.jwt_key_file)!r}))")
        monkeypatch.setattr("tests.doors.connected.RENEW", script)
    else:
        connected(connections, org, app, anna)
    org.tokens.expire_sessions()
    org.faults.order(Fault.HELD, "token", seconds=2)
    victim = process(database_url, org, anna)
    victim.stdin.write("\n")
    victim.stdin.flush()
    known = len(org.tokens.access)
    deadline = time.monotonic() + 20
    while len(org.tokens.access) == known and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate(timeout=20)
    monkeypatch.setattr("core.salesforce.connections.SECONDS_TO_WAIT_FOR_ANOTHER", 0.3)
    with pytest.raises(Unavailable, match="another process"):
        works(connections, anna)
    end_the_lease(database)
    if way == "none":
        with pytest.raises(Refused):
            works(connections, anna)
        assert kept(database, anna).standing is Standing.BROKEN
    else:
        assert works(connections, anna) == []


class TestEnding:
    def test_revokes_and_forgets(self, connections, org, app, anna, database):
        one = connected(connections, org, app, anna)
        assert connections.disconnect(anna, actor="anna@acme.test")
        assert kept(database, anna) is None
        with pytest.raises(Refused):
            Login(app).by_refresh_token(one.refresh_token)
        assert connections.disconnect(anna, actor="anna@acme.test"), "twice is no mistake"

    def test_without_salesforce_forgets_all_the_same(self, connections, org, app, anna, database):
        connected(connections, org, app, anna)
        org.faults.order(Fault.HTML, "revoke")
        assert not connections.disconnect(anna, actor="anna@acme.test")
        assert kept(database, anna) is None


class TestProbing:
    def test_sees_the_api_go_and_come(self, connections, org, app, anna, database):
        one = connected(connections, org, app, anna)
        assert connections.probe(one) is None
        org.app.extensions["has_api"] = False
        assert connections.probe(one).kind is TroubleKind.NO_API
        lost = kept(database, anna)
        assert (lost.is_usable, connection_store.has_api(lost)) == (True, False)
        org.app.extensions["has_api"] = True
        assert connections.probe(lost) is None
        assert connection_store.has_api(kept(database, anna))


def test_a_new_first_key_is_taken_over_and_the_old_one_can_go(
    connections, org, app, anna, database, database_url
):
    one = connected(connections, org, app, anna)
    with database.writing() as session:
        settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, BCC, actor=None)
    rotated = Database(database_url, Box(["f" * 16, "0123456789abcdef"]))
    rotated.migrate()
    rotated.close()
    newest = Database(database_url, Box(["f" * 16]))
    assert kept(newest, anna).refresh_token == one.refresh_token
    with newest.reading() as session:
        assert settings_store.preference(session, anna.id) == {Setting.BCC_ADDRESS: BCC}
    newest.close()


def test_without_its_key_a_connection_waits_for_the_key_and_mail_goes_on(
    connections, org, app, anna, database_url
):
    connected(connections, org, app, anna)
    with connections.database.writing() as session:
        settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, BCC, actor=None)
        settings_store.set_preference(session, anna, Setting.LOGGING, "bcc", actor=None)
    other = Database(database_url, Box(["e" * 16]))
    other.migrate()
    with other.reading() as session:
        [found] = settings_store.people(session).persons
        assert found.settings.bcc_address is None
    org.tokens.expire_sessions()
    with pytest.raises(Refused) as caught:
        works(Connections(other, app), anna)
    assert "BLINDCOPY_SECRET_KEY" in caught.value.trouble.remedy
    other.close()
    assert works(connections, anna) == [], "nothing was erased: with the key everything is as it was"


def test_an_address_of_before_encryption_is_read_and_encrypted(database, database_url):
    anna = person(database)
    with database.writing() as session:
        settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, BCC, actor=None)
    with database.engine.begin() as raw:
        raw.exec_driver_sql(f"UPDATE preference SET value = '{BCC}' WHERE name = 'bcc-address'")
    again = Database(database_url, BOX)
    again.migrate()
    with again.engine.connect() as raw:
        [(value,)] = raw.exec_driver_sql("SELECT value FROM preference WHERE name = 'bcc-address'").all()
        assert BCC not in str(raw.exec_driver_sql("SELECT * FROM audit").all())
    with again.reading() as session:
        assert settings_store.preference(session, anna.id) == {Setting.BCC_ADDRESS: BCC}
    again.close()
    assert "@" not in value


class TestStrangerOrgs:
    def test_one_that_says_401_in_a_word_is_renewed_all_the_same(self, connections, org, app, anna, database):
        first = connected(connections, org, app, anna)
        org.faults.order(Fault.BARE_401, "query")
        assert works(connections, anna) == []
        assert kept(database, anna).generation == first.generation + 1

    def test_one_whose_answer_drips_is_given_up(self, connections, org, app, anna, monkeypatch):
        monkeypatch.setattr("core.salesforce.login.SECONDS_FOR_ALL", 0.5)
        connected(connections, org, app, anna)
        org.faults.order(Fault.DRIP, "query", seconds=5)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            works(connections, anna)
        assert time.monotonic() - began < 4

    def test_one_that_renews_without_saying_where_keeps_the_new_token(
        self, connections, org, app, anna, monkeypatch
    ):
        connected(connections, org, app, anna)
        org.tokens.expire_sessions()
        monkeypatch.setattr("tests.sandbox.org.oauth.jsonify", lambda *fields, **more: __import__("flask").jsonify(
            {name: value for name, value in (fields[0] if fields else more).items() if name not in {"id", "instance_url"}}
        ))  # fmt: skip
        assert works(connections, anna) == []


class TestByKeyLater:
    def test_a_key_that_is_refused_for_a_while_breaks_nothing(self, org, key_app, anna, database):
        connections = Connections(database, key_app)
        connections.by_key(anna, "anna@acme.test", actor=None)
        org.tokens.expire_sessions()
        org.tokens.client.pre_authorised.clear()
        with pytest.raises(Refused):
            works(connections, anna)
        one = kept(database, anna)
        assert (one.is_usable, one.trouble.code) == (True, "not_approved")
        org.tokens.client.pre_authorised.add(org.anna)
        assert works(connections, anna) == []
        assert kept(database, anna).trouble is None

    def test_a_key_with_a_password_is_no_key_and_leaves_no_turn(self, org, key_app, anna, database):
        connections = Connections(database, key_app)
        connections.by_key(anna, "anna@acme.test", actor=None)
        org.tokens.expire_sessions()
        good = key_app.jwt_key_file.read_bytes()
        key = serialization.load_pem_private_key(good, None)
        key_app.jwt_key_file.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        ))  # fmt: skip
        with pytest.raises(Refused, match="unusable_key"):
            works(connections, anna)
        key_app.jwt_key_file.write_bytes(good)
        assert works(connections, anna) == []


def test_tokens_that_come_after_their_turn_is_over_are_kept(connections, org, app, anna, database):
    one = connected(connections, org, app, anna)
    with database.writing() as session:
        connection_store.take_turn(session, anna.id, one.generation, "first")
    end_the_lease(database)
    with database.writing() as session:
        assert connection_store.take_turn(session, anna.id, one.generation, "second").is_mine
        renewed = connection_store.renewed(
            session, anna.id, one.generation, connection_store.OAuthTokens("a", "r", org.url)
        )
    assert renewed.refresh_token == "r"
    with database.writing() as session:
        assert (
            connection_store.renewed(
                session, anna.id, one.generation, connection_store.OAuthTokens("b", "s", org.url)
            )
            is None
        )


def test_connecting_anew_revokes_what_it_replaces_and_no_api_replaces_nothing(
    connections, org, app, anna, database
):
    connected(connections, org, app, anna)
    second = connected(connections, org, app, anna)
    assert list(org.tokens.refresh) == [second.refresh_token]
    org.app.extensions["has_api"] = False
    with pytest.raises(NotConnected):
        connected(connections, org, app, anna)
    assert kept(database, anna).refresh_token == second.refresh_token


def test_a_renewal_that_commits_while_keys_are_taken_over_is_not_undone(
    connections, org, app, anna, database, database_url
):
    """The rows are locked while they are looked at, so what is written back is never older than what is there."""
    from core.database import sealed

    one = connected(connections, org, app, anna)
    rotated = Database(database_url, Box(["f" * 16, "0123456789abcdef"]))
    done = threading.Event()

    def renew():
        with database.writing() as session:
            connection_store.renewed(
                session, anna.id, one.generation, connection_store.OAuthTokens("a", "rotated", org.url)
            )
        done.set()

    with rotated.writing() as session:
        secrets = list(sealed.secrets(session))
        other = threading.Thread(target=renew)
        other.start()
        assert not done.wait(0.5)
        assert secrets
        sealed.renew(session)
    other.join()
    assert kept(rotated, anna).refresh_token == "rotated"
    rotated.close()

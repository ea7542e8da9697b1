"""What is stored, on both databases."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from core.database import heartbeats
from core.database.audit import Change, changes, settings_revision
from core.database.engine import Database, DatabaseUnavailable, newest_revision
from core.database.heartbeats import Beat
from core.database.models import Base
from core.mail import store as mail_store
from core.mail.row import Copy, State
from core.mail.store import Filter, UnknownSender
from core.people import store as people_store
from core.people.person import app_password_digest
from core.people.store import AddressTaken, AlreadyThere, LastAdmin, NoSuchPerson, NotThere
from core.settings import store as settings_store
from core.settings.catalogue import Logging, Setting
from core.settings.in_force import LockedSetting, PolicyEntry, policy_settings
from core.settings.kinds import SettingError
from tests.doors.rows import NOW, add, row, rows, write


class TestTheSchema:
    def test_is_what_the_models_say(self, database):
        with database.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []

    def test_several_processes_may_migrate_at_once(self, database_url):
        opened = [Database(database_url) for _ in range(4)]
        threads = [threading.Thread(target=one.migrate) for one in opened]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.revision() for one in opened} == {newest_revision()}
        for one in opened:
            one.close()

    def test_a_database_that_is_away_is_unavailable(self, tmp_path):
        for url in ("postgresql+psycopg://nobody@127.0.0.1:1/x", f"sqlite:///{tmp_path}"):
            opened = Database(url)
            with pytest.raises(DatabaseUnavailable):
                opened.migrate()
            opened.close()

    def test_a_sqlite_file_is_private(self, sqlite, tmp_path):
        assert (tmp_path / "blindcopy.db").stat().st_mode & 0o077 == 0


class TestPeople:
    def test_a_person_sends_from_the_own_address_from_the_start(self, database):
        anna = add(database, "Anna@ACME.test")
        with database.reading() as session:
            assert people_store.addresses(session, anna.id) == ["Anna@acme.test"]
            assert people_store.person_by_email(session, "anna@acme.TEST") == anna

    def test_an_address_belongs_to_one_person_only(self, database):
        add(database)
        add(database, "carl@acme.test")
        with database.writing() as session:
            people_store.add_address(session, "anna@acme.test", "Sales@acme.test", actor=None)
        with database.writing() as session, pytest.raises(AddressTaken):
            people_store.add_address(session, "carl@acme.test", "sales@ACME.test", actor=None)
        with database.writing() as session, pytest.raises(AlreadyThere):
            people_store.add_address(session, "anna@acme.test", "SALES@acme.test", actor=None)
        with pytest.raises(AlreadyThere):
            add(database, "ANNA@acme.test")
        with pytest.raises(AddressTaken):
            add(database, "sales@acme.test")
        with database.reading() as session:
            assert [account.email for account in people_store.all_persons(session)] == [
                "anna@acme.test",
                "carl@acme.test",
            ]

    def test_an_address_is_removed_by_its_owner_only(self, database):
        add(database)
        add(database, "carl@acme.test")
        with database.writing() as session, pytest.raises(NotThere):
            people_store.remove_address(session, "carl@acme.test", "anna@acme.test", actor=None)
        with database.writing() as session:
            people_store.remove_address(session, "anna@acme.test", "ANNA@acme.test", actor=None)

    def test_the_last_admin_stays_one(self, database):
        add(database, admin=True)
        with database.writing() as session, pytest.raises(LastAdmin):
            people_store.set_active(session, "anna@acme.test", active=False, actor=None)
        with database.writing() as session, pytest.raises(LastAdmin):
            people_store.set_admin(session, "anna@acme.test", admin=False, actor=None)

    def test_a_new_password_ends_the_sign_ins(self, database):
        anna = add(database)
        with database.writing() as session:
            people_store.set_password_hash(session, "anna@acme.test", "new", actor=None)
        with database.reading() as session:
            assert people_store.person_by_id(session, anna.id).session_key != anna.session_key

    def test_nobody(self, database):
        with database.reading() as session, pytest.raises(NoSuchPerson):
            people_store.person_by_email(session, "nobody@acme.test")

    def test_app_passwords(self, database):
        anna = add(database)
        with database.writing() as session:
            key, password = people_store.add_app_password(
                session, "anna@acme.test", label="Outlook", actor=None
            )
            people_store.add_app_password(session, "anna@acme.test", label="test", actor=None, expires_at=NOW)
            people_store.app_passwords_used(session, {key: NOW})
        with database.reading() as session:
            [listed] = people_store.app_passwords(session, anna.id)
            known = settings_store.people(session)
        assert (listed.id, listed.label, listed.last_used_at) == (key, "Outlook", NOW)
        assert len(password) == 32
        assert known.signing_in("ANNA@acme.test", password.upper(), NOW)[1].digest == app_password_digest(
            password
        )
        assert known.signing_in("anna@acme.test", password + "x", NOW) is None
        assert known.signing_in("carl@acme.test", password, NOW) is None
        with database.writing() as session:
            people_store.revoke_app_password(session, "anna@acme.test", key, actor=None)
        with database.reading() as session:
            assert settings_store.people(session).signing_in("anna@acme.test", password, NOW) is None

    def test_an_expired_app_password_works_no_longer(self, database):
        add(database)
        with database.writing() as session:
            _, password = people_store.add_app_password(
                session, "anna@acme.test", label="test", actor=None, expires_at=NOW
            )
        with database.reading() as session:
            known = settings_store.people(session)
        assert known.signing_in("anna@acme.test", password, NOW - timedelta(seconds=1)) is not None
        assert known.signing_in("anna@acme.test", password, NOW) is None


class TestSettings:
    def test_two_levels(self, database):
        anna = add(database)
        with database.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
            settings_store.set_preference(session, anna, Setting.LOGGING, "bcc", actor=None)
        with database.reading() as session:
            known = settings_store.people(session)
        assert known.policy == replace(policy_settings({}), own_domains=("acme.test",))
        assert known.by_address["anna@acme.test"].settings.logging is Logging.BCC
        with database.writing() as session:
            settings_store.lock_policy(session, Setting.LOGGING, locked=True, actor=None)
        with database.reading() as session:
            assert settings_store.policy(session)[Setting.LOGGING] == PolicyEntry(None, locked=True)
            assert settings_store.people(session).by_id[anna.id].settings.logging is Logging.OFF
        with database.writing() as session, pytest.raises(LockedSetting):
            settings_store.set_preference(session, anna, Setting.LOGGING, "off", actor=None)

    def test_a_bad_value_changes_nothing(self, database):
        anna = add(database)

        def set_both():
            with database.writing() as session:
                settings_store.set_preference(session, anna, Setting.LOGGING, "bcc", actor=None)
                settings_store.set_preference(session, anna, Setting.BCC_ADDRESS, "no", actor=None)

        with pytest.raises(SettingError):
            set_both()
        with database.reading() as session:
            assert settings_store.preference(session, anna.id) == {}

    def test_every_change_is_noted_and_raises_the_revision(self, database):
        anna = add(database)
        with database.writing() as session:
            before = settings_revision(session)
            settings_store.set_preference(session, anna, Setting.LOGGING, "bcc", actor="anna@acme.test")
            settings_store.set_preference(session, anna, Setting.LOGGING, "bcc", actor="anna@acme.test")
            settings_store.lock_policy(session, Setting.LOGGING, locked=True, actor=None)
        with database.reading() as session:
            assert settings_revision(session) == before + 2
            assert [noted.change for noted in changes(session, 3)] == [
                Change(None, None, "logging", None, "off (locked)"),
                Change("anna@acme.test", "anna@acme.test", "logging", None, "bcc"),
                Change("boss@acme.test", "anna@acme.test", "person", None, "user"),
            ]

    def test_a_disabled_person_is_not_known(self, database):
        add(database)
        with database.writing() as session:
            people_store.set_active(session, "anna@acme.test", active=False, actor=None)
        with database.reading() as session:
            assert settings_store.people(session).persons == ()


class TestTheLogbook:
    def test_keeps_a_row_as_it_is(self, database):
        written = row(
            add(database).id,
            upstream="250 2.0.0 Ok",
            bcc=Copy.REFUSED,
            bcc_reply="550",
            fingerprint=b"f" * 32,
            copy_refusal=b"c" * 32,
        )
        write(database, written)
        assert rows(database) == [written]

    @pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 1, 0), (1,)])
    def test_settles_once_in_any_order(self, database, order):
        pending = row(add(database).id)
        settled = replace(pending, state=State.COPIED, upstream="250 2.0.0 Ok", bcc=Copy.ACCEPTED)
        for index in order:
            write(database, (pending, settled)[index])
        assert rows(database) == [settled]

    def test_a_verdict_that_comes_to_light_replaces_unknown(self, database):
        pending = row(add(database).id)
        for state, found in (
            (State.UNKNOWN, State.UNKNOWN),
            (State.PENDING, State.UNKNOWN),
            (State.COPIED, State.COPIED),
            (State.UNKNOWN, State.COPIED),
        ):
            write(database, replace(pending, state=state))
            assert rows(database)[0].state is found

    def test_a_batch_may_hold_a_row_twice(self, database):
        pending = row(add(database).id)
        write(database, pending, row(pending.person), replace(pending, state=State.COPIED))
        assert [one.state for one in rows(database)] == [State.PENDING, State.COPIED]

    def test_what_no_database_can_hold_is_made_to_fit(self, database):
        write(
            database,
            row(
                add(database).id,
                sender="x" * 1000,
                subject="a\0b\ud800c",
                upstream="y" * 5000,
                recipients=("z" * 999,),
            ),
        )
        [found] = rows(database)
        assert (len(found.sender), found.subject, len(found.upstream), len(found.recipients[0])) == (
            320,
            "ab?c",
            2000,
            320,
        )

    def test_is_filtered_and_newest_first(self, database):
        anna, carl = add(database).id, add(database, "carl@acme.test").id
        first, second, third = row(anna), row(carl, state=State.COPIED), row(anna, state=State.COPIED)
        write(database, first, second, third)
        assert rows(database) == [third, second, first]
        assert rows(database, Filter(person_id=anna)) == [third, first]
        assert rows(database, Filter(state=State.COPIED)) == [third, second]
        assert rows(database, Filter(before=third.id)) == [second, first]

    def test_orphans_become_unknown(self, database):
        anna = add(database).id
        mine, theirs = row(anna, process="alive"), row(anna, process="gone")
        write(database, mine, theirs)
        with database.writing() as session:
            for name in ("alive", "gone"):
                heartbeats.beat(session, Beat(name, "relay", NOW, 1))
            later = heartbeats.database_now(session) + timedelta(seconds=20)
            assert mail_store.close_orphans(session, later) == 0
            heartbeats.farewell(session, "gone")
            assert mail_store.close_orphans(session, later) == 1
            assert mail_store.close_orphans(session, later) == 0
        assert {one.process: one.state for one in rows(database)} == {
            "alive": State.PENDING,
            "gone": State.UNKNOWN,
        }

    def test_remembers_lost_replies_until_they_are_heard(self, database):
        anna = add(database).id
        lost = row(anna, state=State.COPIED, upstream="250 Ok")
        write(database, lost)
        with database.writing() as session:
            mail_store.note_lost_reply(session, lost.id, b"f" * 32)
        with database.reading() as session:
            assert mail_store.lost_replies(session, NOW) == {
                b"f" * 32: mail_store.Unheard(lost.id, "250 Ok", NOW)
            }
            assert mail_store.lost_replies(session, NOW + timedelta(seconds=1)) == {}
        with database.writing() as session:
            mail_store.reply_delivered(session, lost.id)
        with database.reading() as session:
            assert mail_store.lost_replies(session, NOW) == {}

    def test_remembers_copies_that_were_refused_at_the_dot(self, database):
        write(database, row(add(database).id, state=State.REFUSED, copy_refusal=b"c" * 32))
        with database.reading() as session:
            assert mail_store.copy_refusals(session, NOW) == {b"c" * 32}
            assert mail_store.copy_refusals(session, NOW + timedelta(seconds=1)) == frozenset()

    def test_counts_unknown_senders(self, database):
        with database.writing() as session:
            mail_store.count_unknown(
                session,
                [UnknownSender("b@x.test", "B@x.test", NOW), UnknownSender("a@x.test", "a@x.test", NOW)],
            )
        with database.writing() as session:
            mail_store.count_unknown(
                session, [UnknownSender("a@x.test", "A@x.test", NOW + timedelta(hours=1))]
            )
        with database.reading() as session:
            found = [
                (one.address, one.mails, one.first_seen, one.last_seen)
                for one in mail_store.unknown_senders(session)
            ]
        assert found == [("a@x.test", 2, NOW, NOW + timedelta(hours=1)), ("B@x.test", 1, NOW, NOW)]

    def test_dismisses_what_asks_for_somebody(self, database):
        anna = add(database).id
        unknown, copied = row(anna, state=State.UNKNOWN), row(anna, state=State.COPIED)
        write(database, unknown, copied)
        with database.writing() as session:
            mail_store.dismiss(session, unknown.id)
            with pytest.raises(mail_store.NotDismissible):
                mail_store.dismiss(session, copied.id)
            with pytest.raises(NotThere):
                mail_store.dismiss(session, "no-such-id")
        assert rows(database, Filter(state=State.DISMISSED))[0].id == unknown.id


class TestBeats:
    def test_listeners_of_those_that_are_there(self, database):
        with database.writing() as session:
            heartbeats.beat(session, Beat("a", "relay", NOW, 1, ("submission 127.0.0.1:2587",)))
            heartbeats.beat(session, Beat("a", "relay", NOW, 2, ("submission 127.0.0.1:2587",)))
            assert heartbeats.listeners(session) == ["submission 127.0.0.1:2587"]
            heartbeats.farewell(session, "a")
            assert heartbeats.listeners(session) == []

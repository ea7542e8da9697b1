"""The activity page, and the senders that are not known."""

from datetime import UTC, datetime

import pytest

from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.mail.store import UnknownSender
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.browser import (
    anna,  # noqa: F401
    app,  # noqa: F401
    boss,  # noqa: F401
)
from tests.doors.rows import row


class TestActivity:
    @pytest.fixture
    def mails(self, sqlite):
        now = datetime.now(UTC)
        found = [
            row(
                2, time=now, state=State.COPIED, bcc=Copy.ACCEPTED, upstream="250 Ok", subject="Annas <offer>"
            ),
            row(
                2,
                time=now,
                state=State.COPY_REFUSED,
                bcc=Copy.REFUSED,
                bcc_reply="550 no copies",
                upstream="250 Ok",
            ),
            row(
                2,
                time=now,
                state=State.NOT_LOGGED,
                decision=Decision.NONE,
                reason=Reason.OPTED_OUT,
                recipients=None,
                subject=None,
            ),
            row(1, time=now, state=State.UNKNOWN, subject="The boss's"),
        ]
        with sqlite.writing() as session:
            write_rows(session, found)
        return found

    def test_shows_a_mail_with_its_deliveries_and_nobody_elses(self, anna, sqlite):
        now = datetime.now(UTC)
        first = row(2, time=now, state=State.COPIED, bcc=Copy.ACCEPTED, identity=b"i" * 32, subject="Split")
        second = row(
            2, time=now, state=State.NOT_LOGGED, decision=Decision.NONE, reason=Reason.SAME_MAIL,
            recipients=("second@client.test",), identity=b"i" * 32, same_as=first.id, bcc=Copy.NONE,
        )  # fmt: skip
        of_boss = row(1, time=now, state=State.COPIED, identity=b"i" * 32, recipients=("boss@client.test",))
        with sqlite.writing() as session:
            write_rows(session, [first, second, of_boss])
        page = anna.get("/activity").page
        assert page.count("The same mail</dt>") == 2
        assert page.count("second@client.test") == 3, "its own row twice, and among the first one's"
        assert "(the first)" in page
        assert "boss@client.test" not in page
        assert "went out more than once" not in page

    def test_says_that_two_blind_copies_went_out(self, anna, sqlite):
        now = datetime.now(UTC)
        both = [row(2, time=now, state=State.COPIED, bcc=Copy.ACCEPTED, identity=b"i" * 32) for _ in range(2)]
        with sqlite.writing() as session:
            write_rows(session, both)
        assert anna.get("/activity").page.count("went out more than once") == 2

    def test_answers_why_for_each_mail(self, anna, mails):
        page = anna.get("/activity").page
        assert "Annas &lt;offer&gt;" in page
        assert "the mail provider took it" in page
        assert "which the mail provider refused: 550 no copies" in page
        assert "asked not to be logged" in page

    def test_is_ones_own(self, anna, boss, mails):
        assert "The boss" not in anna.get("/activity?person=boss@acme.test").page
        page = boss.get("/activity").page
        assert "The boss" in page
        assert "Annas" not in page
        assert "Subject not shown" in page

    def test_shows_admins_subjects_where_the_policy_says_so(self, boss, sqlite, mails):
        with sqlite.writing() as session:
            settings_store.set_policy(session, Setting.SHOW_SUBJECTS, "yes", actor=None)
        assert "Annas" in boss.get("/activity").page

    def test_is_filtered(self, boss, mails):
        assert boss.get("/activity?state=copied&person=anna@acme.test").page.count("<details") == 1
        assert boss.get("/activity?person=anna@acme.test").page.count("<details") == 3
        assert boss.get("/activity?state=nonsense").page.count("<details") == 4

    def test_a_person_dismisses_own_mails_only(self, anna, boss, mails):
        anna.get("/activity").post(f"/activity/{mails[3].id}/dismiss")
        assert "There is no mail" in anna.page
        anna.post(f"/activity/{mails[0].id}/dismiss")
        assert "nothing to dismiss" in anna.page
        assert "Dismissed." in boss.get("/activity").post(f"/activity/{mails[3].id}/dismiss").page

    def test_every_state_and_reason_has_its_sentence(self, app):
        from admin.words import COLOURS, STATES, why

        with app.test_request_context():
            for state in State:
                assert STATES[state]
                assert COLOURS[state]
                for reason in Reason:
                    for copy in Copy:
                        assert why(
                            row(1, state=state, reason=reason, bcc=copy, upstream="5%", bcc_reply=None)
                        ).endswith((".", " ", "%"))


class TestUnknownSenders:
    def test_are_given_to_somebody(self, boss, sqlite):
        with sqlite.writing() as session:
            mail_store.count_unknown(
                session, [UnknownSender("info@acme.test", "info@acme.test", datetime.now(UTC))]
            )
        assert "info@acme.test" in boss.get("/senders").page
        boss.post("/senders", address="info@acme.test", person="anna@acme.test")
        assert "is now an acceptable address of anna@acme.test" in boss.page
        with sqlite.reading() as session:
            assert "info@acme.test" in people_store.addresses(session, 2)
            assert mail_store.unknown_senders(session) == []

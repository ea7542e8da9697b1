"""What is logged is true: whom the mail went to, what it said, on which day."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from admin import create_app
from admin.passwords import hashed
from core.cuts import length
from core.database.models import ConnectionRow, MailRow, MailTextRow
from core.mail import requests as mail_requests
from core.mail.kept import MOST_OF_A_TEXT
from core.mail.reasons import Reason
from core.mail.row import Decision, State
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from core.settings.in_force import time_zone
from tests.doors.browser import PASSWORD, Browser
from tests.doors.connected import connected
from tests.doors.mail_bench import (
    TASKS,
    bench,  # noqa: F401
    check_length,
    org,  # noqa: F401
    told,
)


class TestWhomTheMailWentTo:
    @pytest.fixture
    def people(self, bench):
        return [bench.contact("a@client.test"), bench.contact("b@client.test"), bench.lead("l@prospect.test")]

    def to_all(self, bench):
        header = (
            "To: a@client.test, L <l@prospect.test>\r\nCc: b@client.test, Carl <carl@acme.test>, "
            "list@other.test\r\n"
        )
        return bench.mail(
            "a@client.test", "b@client.test", "l@prospect.test", "carl@acme.test", header=header
        )

    def test_is_said_with_everybody(self, bench, people):
        self.to_all(bench)
        bench.once()
        of_contacts, of_lead = sorted(bench.logged(), key=lambda one: one["ToIds"][0].startswith("00Q"))
        assert (of_contacts["ToIds"], of_contacts["CcIds"]) == ([people[0]], [people[1]])
        assert of_contacts["ToAddress"] == "l@prospect.test"
        assert of_contacts["CcAddress"] == "carl@acme.test; list@other.test"
        assert of_lead["ToIds"] == [people[2]]
        assert of_lead["ToAddress"] == "a@client.test"
        assert of_lead["CcAddress"] == "b@client.test; carl@acme.test; list@other.test"

    def test_names_colleagues_only_where_the_policy_lets_it(self, bench, people):
        bench.policy(Setting.SHOW_INTERNAL_RECIPIENTS, "no")
        bench.policy(Setting.NEVER_LOG, "list@other.test")
        self.to_all(bench)
        bench.once()
        assert {one["CcAddress"] for one in bench.logged()} == {None, "b@client.test"}

    @TASKS
    def test_stands_above_the_text_of_a_task(self, bench, people):
        self.to_all(bench)
        bench.once()
        for task in bench.records("Task"):
            assert task["Description"].startswith(
                "To: a@client.test; l@prospect.test\nCc: b@client.test; carl@acme.test; "
                "list@other.test\n\nHello Bob"
            )

    def test_that_are_too_many_are_counted(self, bench):
        bench.contact("a@client.test")
        others = [f"a.rather.long.name.number.{number}@other.test" for number in range(200)]
        mail = bench.mail("a@client.test", header=f"To: a@client.test, {', '.join(others)}\r\n")
        bench.once()
        [message] = bench.logged()
        shown = message["ToAddress"]
        assert len(shown) <= 4000
        named, _, rest = shown.rpartition(" and ")
        assert named.count("@") + int(rest.removesuffix(" more")) == 200
        assert "how many more there are" in told(bench, mail)

    @TASKS
    def test_that_are_too_many_leave_room_for_the_text_of_a_task(self, bench):
        bench.contact("a@client.test")
        others = [f"number.{number}@other.test" for number in range(200)]
        mail = bench.mail("a@client.test", header=f"To: a@client.test, {', '.join(others)}\r\n")
        bench.once()
        [task] = bench.records("Task")
        people, _, text = task["Description"].partition("\n\n")
        assert len(people) <= 1_010
        assert people.endswith(" more")
        assert text.startswith("Hello Bob")
        assert bench.log(mail).trace.cut == ("recipients",)

    def test_says_which_rule_chose(self, bench):
        bench.contact("a@client.test")
        bench.contact("a@client.test")
        bench.set(Setting.DUPLICATES, "oldest")
        mail = bench.mail("a@client.test")
        bench.once()
        assert "a@client.test: 2 contacts; the oldest was chosen" in told(bench, mail)

    def test_names_accounts(self, bench):
        account = bench.org.org.put("Account", Name="Client Ltd")
        bench.contact("a@client.test", AccountId=account)
        bench.set(Setting.LOG_ON, "accounts")
        mail = bench.mail("a@client.test")
        bench.once()
        assert "Client Ltd (account)" in told(bench, mail)


class TestLongTexts:
    def of(self, bench, body, **more):
        header = "To: bob@client.test\r\nContent-Type: text/plain; charset=utf-8\r\n"
        return bench.mail(header=header, body=body, **more)

    @pytest.mark.parametrize("letter", ["你", "Ж", "Ω", "あ"])
    def test_have_all_the_room_that_salesforce_gives(self, bench, letter):
        bench.contact()
        self.of(bench, letter * 31_990)
        bench.once()
        [message] = bench.logged()
        assert message["TextBody"].strip() == letter * 31_990

    def test_are_cut_and_that_is_said(self, bench):
        bench.contact()
        mail = self.of(bench, "你" * 33_000)
        bench.once()
        [message] = bench.logged()
        assert length(message["TextBody"]) == 32_000
        assert message["TextBody"].endswith("你…\n\n[Cut here: Salesforce takes no more]")
        assert bench.log(mail).trace.cut == ("text",)
        assert "The text is longer than Salesforce takes" in told(bench, mail)

    @TASKS
    def test_of_a_subject_are_cut_on_a_letter(self, bench):
        bench.contact()
        mail = self.of(bench, "Hello", subject="👨‍👩‍👧" * 60)
        bench.once()
        [task] = bench.records("Task")
        assert length(task["Subject"]) <= 255
        assert task["Subject"].endswith("👨‍👩‍👧…")
        assert bench.log(mail).trace.cut == ("subject",)

    def test_are_cut_by_bytes_where_salesforce_says_that_they_are_too_long(self, bench):
        bench.contact()
        bench.org.org.check = check_length(bench.org.org, 12_000)
        mail = self.of(bench, "你" * 31_000)
        for _ in range(3):
            bench.once()
        [message] = bench.logged()
        assert bench.state(mail) is State.LOGGED
        assert 10_000 < len(message["TextBody"].encode()) <= 32_000


class TestTheDayOfATask:
    @pytest.fixture
    def late(self):
        return datetime(2026, 11, 20, 23, 30, tzinfo=UTC)

    def in_salesforce(self, bench, zone):
        with bench.database.writing() as session:
            session.query(ConnectionRow).update({"time_zone": zone})

    @TASKS
    @pytest.mark.parametrize(
        ("of_all", "in_salesforce", "chosen", "day"),
        [
            ("UTC", None, None, 20),
            ("Europe/Berlin", None, None, 21),
            ("UTC", "Europe/Berlin", None, 21),
            ("UTC", "Europe/Berlin", "America/New_York", 20),
            ("UTC", "Europe/Berlin", "", 21),
        ],
    )
    def test_is_of_the_persons_zone(self, bench, late, of_all, in_salesforce, chosen, day):
        bench.contact()
        bench.policy(Setting.TIME_ZONE, of_all)
        self.in_salesforce(bench, in_salesforce)
        if chosen is not None:
            bench.set(Setting.TIME_ZONE, chosen)
        bench.mail(at=late)
        bench.once()
        [task] = bench.records("Task")
        assert task["ActivityDate"].day == day

    def test_is_of_the_policys_zone_where_that_is_fixed(self, bench):
        self.in_salesforce(bench, "Europe/Berlin")
        with bench.database.writing() as session:
            settings_store.set_policy(session, Setting.TIME_ZONE, "Asia/Shanghai", actor=None)
            settings_store.lock_policy(session, Setting.TIME_ZONE, locked=True, actor=None)
        with bench.database.reading() as session:
            zone = time_zone(settings_store.policy(session), {}, "Europe/Berlin")
        assert str(zone) == "Asia/Shanghai"

    @pytest.mark.parametrize(("there", "here"), [("Europe/Berlin", "Europe/Berlin"), ("Moon/Crater", None)])
    def test_is_learnt_on_connecting(self, bench, org_app, there, here):
        bench.org.org.rows["user"][bench.org.anna]["TimeZoneSidKey"] = there
        connected(bench.connections, bench.org, org_app, bench.anna)
        with bench.database.reading() as session:
            assert session.query(ConnectionRow).one().time_zone == here


def test_what_somebody_sends_under_another_name_is_seen_by_them_alone(bench):
    TestAMendedCause().sent(bench, Reason.NOT_OWN_ADDRESS, sender="anna@elsewhere.test")
    app = create_app(bench.config)
    for email, is_admin in (("root@acme.test", True), ("anna@acme.test", False)):
        with bench.database.writing() as session:
            if is_admin:
                people_store.add_person(
                    session, email, name="", is_admin=True, password_hash=hashed(PASSWORD), actor=None
                )
                settings_store.set_policy(session, Setting.SHOW_SUBJECTS, "yes", actor=None)
            else:
                people_store.set_password_hash(session, email, hashed(PASSWORD), actor=None)
        page = Browser(app, email).get("/activity").page
        assert ("Our offer" in page, "bob@client.test" in page) == (not is_admin, not is_admin)


class TestAMendedCause:
    """The person had no address, or no connection, when the mail was sent."""

    def sent(self, bench, reason, days=0, sender="anna@acme.test"):
        mail = bench.mail(
            state=State.NOT_LOGGED, decision=Decision.NONE, at=datetime.now(UTC) - timedelta(days=days)
        )
        with bench.database.writing() as session:
            session.execute(
                update(MailRow)
                .where(MailRow.id == mail)
                .values(reason=reason.value, due_at=None, sender=sender)
            )
            session.query(MailTextRow).delete()
        return mail

    @pytest.mark.parametrize("reason", [one for one in Reason if one.may_heal])
    def test_lets_the_mail_be_logged_with_what_was_kept(self, bench, reason):
        bob = bench.contact()
        mail = self.sent(bench, reason, sender="anna@elsewhere.test")
        bench.set(Setting.LOG_BULK, "yes")
        with bench.database.writing() as session:
            people_store.add_address(session, "anna@acme.test", "Anna@Elsewhere.test", actor=None)
            mail_requests.log_again(session, mail)
        bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["Subject"], message["TextBody"]) == ([bob], "Our offer", None)
        assert bench.state(mail) is State.LOGGED
        assert "its text was not kept" in told(bench, mail)

    @pytest.mark.parametrize(
        ("reason", "days", "standing"),
        [
            (Reason.NOT_CONNECTED, 16, "connected"),
            (Reason.NOT_CONNECTED, 0, "broken"),
            (Reason.OPTED_OUT, 0, "connected"),
            (Reason.AUTOMATIC, 16, "connected"),
            (Reason.NOT_OWN_ADDRESS, 0, "connected"),
            (Reason.BULK, 0, "connected"),
        ],
    )
    def test_that_is_old_or_none_lets_nothing_be_logged(self, bench, reason, days, standing):
        mail = self.sent(bench, reason, days, sender="anna@elsewhere.test")
        with bench.database.writing() as session:
            session.query(ConnectionRow).update({"standing": standing})
        with bench.database.writing() as session, pytest.raises(mail_requests.NothingToLogBy):
            mail_requests.log_again(session, mail)


def test_an_answer_to_an_invitation_is_not_logged(bench):
    bench.contact()
    answer = "BEGIN:VCALENDAR\r\nMETHOD:REPLY\r\nBEGIN:VEVENT\r\nUID:1\r\nEND:VEVENT\r\nEND:VCALENDAR"
    mail = bench.mail(header="To: bob@client.test\r\nContent-Type: text/calendar\r\n", body=answer)
    bench.once()
    assert (bench.state(mail), bench.logged()) == (State.DISMISSED, [])
    assert "only answers an invitation" in told(bench, mail)


def test_an_answer_that_is_sent_on_as_a_file_is_an_ordinary_mail(bench):
    bench.contact()
    answer = "BEGIN:VCALENDAR\r\nMETHOD:REPLY\r\nBEGIN:VEVENT\r\nUID:1\r\nEND:VEVENT\r\nEND:VCALENDAR"
    head = "Content-Type: text/calendar\r\nContent-Disposition: attachment; filename=reply.ics\r\n\r\n"
    bench.mail(**mixed(TEXT, head + answer))
    bench.once()
    [message] = bench.logged()
    assert message["TextBody"] == "Hello\n\n[Attachments]\nreply.ics"


def mixed(*parts):
    header = "To: bob@client.test\r\nContent-Type: multipart/mixed; boundary=b\r\n"
    return {"header": header, "body": "\r\n".join(f"--b\r\n{part}" for part in parts)}


TEXT = "Content-Type: text/plain\r\n\r\nHello"
NAMED = "\n\n[Attachments]\na.pdf"
FILE = "Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=a.pdf\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((TEXT, FILE + "x" * MOST_OF_A_TEXT), f"Hello{NAMED}"),
        ((FILE + "x" * MOST_OF_A_TEXT,), f"…\n\n[The mail goes on; no more of it was kept]{NAMED}"),
        ((f"{TEXT}\r\n", "Content-Type: text/html\r\n\r\n<p>Hello</p>" + " " * MOST_OF_A_TEXT), "Hello"),
    ],
    ids=["file behind", "file before", "page goes on"],
)  # fmt: skip
def test_of_a_large_mail_it_is_said_when_its_text_was_not_kept(bench, parts, text):
    """A relay of the first release kept the beginning of the body."""
    bench.contact()
    mail = bench.mail(**mixed(*parts))
    bench.once()
    [message] = bench.logged()
    assert message["TextBody"].strip() == text
    assert message["HtmlBody"] is None
    assert bool(bench.log(mail).trace.cut) is ("goes on" in text)


def test_a_price_in_a_table_stays_what_it_is(bench):
    bench.contact()
    page = "<table><tr><td>Licences 10</td><td>25.00</td></tr></table>"
    bench.mail(header="To: bob@client.test\r\nContent-Type: text/html\r\n", body=page)
    bench.once()
    [message] = bench.logged()
    assert message["TextBody"] == "Licences 10  25.00"

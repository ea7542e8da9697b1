"""The relay where mail is logged through the API, and the pages and commands around it."""

import asyncio
import re
from typing import ClassVar

import pytest

from core.database.models import MailTextRow
from core.mail import texts as mail_texts
from core.mail.kept import MOST_OF_A_TEXT, parts_field
from core.mail.row import Copy, Decision, State
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.conftest import BCC, mail, running
from tests.doors.connected import connect_anna
from tests.doors.mail_bench import (
    bench,  # noqa: F401
    org,  # noqa: F401
)
from tests.sandbox.sink import Script, Sink

COPY = f"RCPT TO:<{BCC}> NOTIFY=NEVER"


def text_of(database, mail_id):
    with database.reading() as session:
        return mail_texts.read(session, [mail_id]).get(mail_id)


def run(claim):
    asyncio.run(claim())


def in_mode(database, tmp_path, logging, then, sink=None, **more):
    async def claim():
        async with running(database, tmp_path, sink) as relay:
            await asyncio.to_thread(connect_anna, database, logging, **more)
            await relay.snapshot.look()
            await then(relay)

    run(claim)


def test_a_mail_waits_with_its_text_encrypted_and_no_copy_goes_out(database, tmp_path):
    async def then(relay):
        content = mail(body=b"..dot\r\nHello\r\n")
        client = await relay.connect()
        assert (await client.mail(content)).startswith("250")
        assert relay.sink.taken[0].rcpts == ["RCPT TO:<bob@client.test>"]
        row = await relay.row(state=State.WAITING)
        assert (row.decision, row.reason, row.mode, row.bcc) == (Decision.API, "api", "api", Copy.NONE)
        assert row.due_at is not None
        assert await asyncio.to_thread(text_of, database, row.id) == parts_field(1, are_more=False) + content
        with database.engine.connect() as raw:
            assert b"Hello" not in bytes(raw.exec_driver_sql("SELECT content FROM mail_text").scalar())

    in_mode(database, tmp_path, "api", then)


def test_of_a_large_mail_the_beginning_is_kept(database, tmp_path):
    async def then(relay):
        client = await relay.connect()
        await client.mail(mail(body=b"x" * 998 + b"\r\n" + b"0123456789abcdef" * 40_000 + b"\r\n"))
        row = await relay.row(state=State.WAITING)
        kept = await asyncio.to_thread(text_of, database, row.id)
        assert len(kept.partition(b"\r\n\r\n")[2]) == MOST_OF_A_TEXT
        assert b"From: Anna" in kept

    in_mode(database, tmp_path, "api", then)


def test_where_no_text_is_kept_only_the_header_is(database, tmp_path):
    async def then(relay):
        client = await relay.connect()
        await client.mail(mail(body=b"secret words\r\n"))
        row = await relay.row(state=State.WAITING)
        kept = await asyncio.to_thread(text_of, database, row.id)
        assert b"To: bob" in kept
        assert b"secret" not in kept

    in_mode(database, tmp_path, "api", then, keep="subject")


@pytest.mark.parametrize(
    ("reply", "state"), [("550 5.7.1 No", State.REFUSED), ("451 4.3.0 Later", State.REFUSED)]
)
def test_of_a_refused_mail_no_text_stays(database, tmp_path, reply, state):
    async def then(relay):
        client = await relay.connect()
        assert (await client.mail(mail())).startswith(reply[:3])
        await relay.row(state=state)
        with database.reading() as session:
            assert session.query(MailTextRow).count() == 0

    in_mode(database, tmp_path, "api", then, Sink(Script(replies={"dot": [reply]})))


def test_a_mail_whose_fate_is_unknown_keeps_its_text_for_a_person(database, tmp_path):
    async def then(relay):
        client = await relay.connect()
        assert (await client.mail(mail())).startswith("451")
        row = await relay.row(state=State.UNKNOWN)
        assert row.due_at is None
        assert await asyncio.to_thread(text_of, database, row.id)

    in_mode(database, tmp_path, "api", then, Sink(Script(replies={"dot": ["close"]})))


def test_with_receipt_the_copy_goes_out_and_is_looked_for_later(database, tmp_path):
    async def then(relay):
        client = await relay.connect()
        await client.mail(mail())
        assert relay.sink.taken[0].rcpts[-1] == COPY
        row = await relay.row(state=State.COPIED)
        assert (row.decision, row.mode) == (Decision.COPY_AND_API, "bcc+receipt")
        assert 290 < (row.due_at - row.time).total_seconds() < 310

    in_mode(database, tmp_path, "bcc+receipt", then)


def test_with_receipt_a_refused_copy_is_logged_through_the_api(database, tmp_path):
    async def then(relay):
        client = await relay.connect()
        await client.mail(mail())
        row = await relay.row(state=State.WAITING)
        assert (row.bcc, row.due_at is not None) == (Copy.REFUSED, True)
        assert await asyncio.to_thread(text_of, database, row.id)

    in_mode(
        database, tmp_path, "bcc+receipt", then, Sink(Script(replies={f"RCPT TO:<{BCC}": ["550 5.1.1 No"]}))
    )


class TestPages:
    @pytest.fixture
    def anna(self, bench):
        from admin import create_app
        from admin.passwords import hashed
        from tests.doors.browser import PASSWORD, Browser

        with bench.database.writing() as session:
            people_store.set_password_hash(session, "anna@acme.test", hashed(PASSWORD), actor=None)
        app = create_app(bench.config)
        yield Browser(app, "anna@acme.test")
        app.extensions["blindcopy"].database.close()

    FIELDS: ClassVar = {
        "log_on": ["contacts", "leads"], "first": "lead", "duplicates": "all", "opportunity": "none", "no_match": "task",
        "keep": "subject", "attachments": "none", "blind_copied": "yes", "record": "task", "subject_template": "Mail: {{activity_subject}}",
    }  # fmt: skip

    def test_the_choices_are_saved_and_in_force(self, anna, bench):
        bench.set(Setting.LOGGING, "off")
        anna.get("/settings/salesforce/api").post("/settings/salesforce/api", **self.FIELDS, activate="1")
        assert "Saved." in anna.page
        with bench.database.reading() as session:
            chosen = settings_store.preference(session, bench.anna.id)
        assert chosen == {
            Setting.LOGGING: "api", Setting.LOG_ON: "contacts,leads", Setting.FIRST: "lead", Setting.DUPLICATES: "all",
            Setting.OPPORTUNITY: "none", Setting.NO_MATCH: "task", Setting.KEEP: "subject", Setting.ATTACHMENTS: "none", Setting.BLIND_COPIED: "yes",
            Setting.RECORD: "task", Setting.SUBJECT_TEMPLATE: "Mail: {{activity_subject}}",
        }  # fmt: skip
        assert "Mail: Our offer" in anna.page

    def test_a_template_is_shown_before_it_is_saved_and_refused_with_what_is_wrong(self, anna, bench):
        fields = self.FIELDS | {"subject_template": "Preview {{activity_type}}"}
        anna.get("/settings/salesforce/api").post("/settings/salesforce/api", **fields, preview="1")
        assert "Preview Email" in anna.page
        anna.post("/settings/salesforce/api", **(fields | {"subject_template": "{{call_outcome}}"}), save="1")
        assert "is not a dynamic field" in anna.page
        with bench.database.reading() as session:
            assert Setting.FIRST not in settings_store.preference(session, bench.anna.id)

    def test_what_the_policy_locks_cannot_be_chosen(self, anna, bench):
        with bench.database.writing() as session:
            settings_store.set_policy(session, Setting.FIRST, "contact", actor=None)
            settings_store.lock_policy(session, Setting.FIRST, locked=True, actor=None)
        page = anna.get("/settings/salesforce/api").page
        assert "Fixed by your organisation" in page
        anna.post("/settings/salesforce/api", **self.FIELDS, save="1")
        with bench.database.reading() as session:
            chosen = settings_store.preference(session, bench.anna.id)
        assert (Setting.FIRST in chosen, chosen[Setting.KEEP]) == (False, "subject")

    def test_without_api_access_it_is_closed_with_the_reason_on_post_too(self, anna, bench):
        bench.connections.disconnect(bench.anna, actor=None)
        page = anna.get("/settings/salesforce/api").page
        assert "needs a connection with API access" in page
        assert re.search(r"<fieldset disabled>", page)
        anna.post("/settings/salesforce/api", **self.FIELDS, save="1")
        assert "Connect Salesforce first" in anna.page
        with bench.database.reading() as session:
            assert Setting.FIRST not in settings_store.preference(session, bench.anna.id)

    def test_a_policy_for_everybody_is_the_admins(self, anna, bench):
        assert anna.get("/settings/salesforce/api").post("/settings/policy/api", **self.FIELDS).status == 403
        with bench.database.writing() as session:
            people_store.set_admin(session, "anna@acme.test", admin=True, actor=None)
        anna.get("/settings/salesforce/api").post(
            "/settings/policy/api", **self.FIELDS, **{"lock-first": "on"}
        )
        with bench.database.reading() as session:
            policy = settings_store.policy(session)
        assert (policy[Setting.FIRST].value, policy[Setting.FIRST].locked, policy[Setting.KEEP].locked) == (
            "lead",
            True,
            False,
        )

    def test_with_receipt_is_chosen_by_a_button(self, anna, bench):
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address=BCC, with_receipt="1")
        with bench.database.reading() as session:
            assert settings_store.preference(session, bench.anna.id)[Setting.LOGGING] == "bcc+receipt"

    def test_the_trace_tells_how_it_came_to_that(self, anna, bench):
        bob = bench.contact(Name="Bob Buyer")
        deal = bench.deal(bob, "Five hundred chairs")
        bench.mail(
            "bob@client.test",
            "carl@acme.test",
            "eve@client.test",
            header="To: bob@client.test, carl@acme.test\r\n",
        )
        bench.once()
        page = re.sub(r"\s+", " ", anna.get("/activity").page)
        for said in (
            "The mail is logged in Salesforce.", "anna@acme.test is an acceptable address of this person.",
            "Looked up: bob@client.test.", "1 recipient is internal", ("Blind-copied by the sender, so not "
                                                                      "looked up: eve@client.test."),
            "bob@client.test: 1 contact.", "Bob Buyer (contact), Five hundred chairs (opportunity)",
            f'href="{bench.org.url}/{bench.logged()[0]["Id"]}"', "E-mail on Bob Buyer, Five hundred chairs",
        ):  # fmt: skip
            assert said in page, said
        assert deal

    def test_a_failure_says_who_can_mend_it_and_all_of_a_kind_are_done_at_once(self, anna, bench):
        from tests.doors.mail_bench import refuse

        bench.contact()
        refuse(bench, "FIELD_CUSTOM_VALIDATION_EXCEPTION", "Our rule 7")
        mails = [bench.mail(number=n) for n in range(3)]
        bench.once()
        page = anna.get("/activity").page
        assert "Our rule 7" in page
        assert "your Salesforce admin" in page
        assert "3 mails failed:" in page
        anna.post(f"/activity/{mails[0]}/dismiss")
        assert bench.state(mails[0]) is State.DISMISSED
        bench.org.org.check = bench.check
        anna.get("/activity").post(
            "/activity/all-of-a-kind", code="FIELD_CUSTOM_VALIDATION_EXCEPTION", again="1"
        )
        assert "Done for 2 mails." in anna.page
        assert bench.once()
        assert [bench.state(one) for one in mails] == [State.DISMISSED, State.LOGGED, State.LOGGED]

    def test_an_unmatched_mail_is_given_a_record_or_ignored(self, anna, bench):
        bob = bench.contact("other@client.test")
        first, second = bench.mail(), bench.mail("news@letters.test", number=2)
        bench.once()
        anna.get("/activity").post(f"/activity/{first}/pick", records="rubbish")
        assert "Name a contact, lead, account or opportunity" in anna.page
        anna.post(
            f"/activity/{first}/pick",
            records=f"https://acme.lightning.force.com/lightning/r/Contact/{bob}/view",
        )
        anna.get("/activity").post(f"/activity/{second}/ignore", pattern="letters.test")
        assert bench.once()
        assert (bench.state(first), bench.state(second)) == (State.LOGGED, State.DISMISSED)
        assert "Stop ignoring letters.test" in anna.get("/settings/salesforce/api").page
        anna.post("/settings/salesforce/api/stop-ignoring", pattern="letters.test")
        assert "Stop ignoring" not in anna.get("/settings/salesforce/api").page
        third = bench.mail("news@letters.test", number=3)
        bench.once()
        assert bench.state(third) is State.UNMATCHED

    def test_somebody_elses_mail_does_not_exist(self, anna, bench):
        with bench.database.writing() as session:
            carl = people_store.add_person(
                session, "carl@acme.test", name="", is_admin=False, password_hash="x", actor=None
            )
        mail_id = bench.mail(person_id=carl.id, state=State.UNMATCHED)
        for what in ("log-again", "pick", "ignore", "dismiss"):
            anna.get("/activity").post(
                f"/activity/{mail_id}/{what}", records="003000000000000", pattern="x.test"
            )
            assert "There is no mail" in anna.page
        assert bench.state(mail_id) is State.UNMATCHED

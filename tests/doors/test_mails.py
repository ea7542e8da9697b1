"""Mails that wait, logged in the pretend org by the worker: on which records, and with what."""

from datetime import timedelta

import pytest

from core.cuts import length
from core.mail import requests as mail_requests
from core.mail.progress import MatchResult
from core.mail.row import State
from core.salesforce import api_usage
from core.settings.catalogue import Setting
from sync.worker import Worker
from tests.doors.mail_bench import (
    SHARED,
    TASKS,
    bench,  # noqa: F401
    org,  # noqa: F401
    stored_org,
)


class TestAMail:
    def test_is_logged_on_contact_and_opportunity_as_an_email_message(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        assert bench.once()
        assert bench.state(mail) is State.LOGGED
        [message] = bench.logged()
        wanted = {
            "Subject": "Our offer", "TextBody": "Hello Bob", "ToIds": [bob], "RelatedToId": deal, "Status": "3",
            "FromAddress": "anna@acme.test", "FromName": "Anna A", "MessageIdentifier": "<1@acme.test>", "Incoming": False,
        }  # fmt: skip
        assert {name: message[name] for name in wanted} == wanted
        assert bench.texts() == 0, "the text goes with the state"
        assert [target.id for target in bench.log(mail).written] == [message["Id"]]

    @TASKS
    def test_is_a_closed_task_where_there_is_no_enhanced_email(self, bench):
        bob = bench.contact()
        deal = bench.deal(bob)
        mail = bench.mail()
        assert bench.once()
        [task] = bench.logged("Task")
        wanted = {
            "Subject": "Email: Our offer", "WhoId": bob, "WhatId": deal, "Status": "Completed", "TaskSubtype": "Email",
            "Type": "Email", "OwnerId": bench.org.anna,
            "Description": "To: bob@client.test\n\nHello Bob\n\nMessage-ID: <1@acme.test>",
        }  # fmt: skip
        assert {name: task[name] for name in wanted} == wanted
        assert bench.state(mail) is State.LOGGED

    def test_to_nobody_known_waits_without_its_text_and_is_logged_when_somebody_comes(self, bench):
        mail = bench.mail()
        assert bench.once()
        assert (bench.state(mail), bench.texts()) == (State.UNMATCHED, 0)
        bob = bench.contact()
        bench.worker = Worker(bench.database, bench.config)  # what a worker knows is good for a minute
        assert bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["TextBody"], message["Subject"]) == ([bob], None, "Our offer")
        assert bench.state(mail) is State.LOGGED

    def test_to_colleagues_too_is_logged_for_the_client_and_asks_for_nobody_else(self, bench):
        bench.contact()
        bench.contact("carl@acme.test")
        bench.policy(Setting.NEVER_LOG, "lawyer@law.test")
        bench.contact("lawyer@law.test")
        bench.mail("bob@client.test", "carl@acme.test", "lawyer@law.test")
        assert bench.once()
        [message] = bench.logged()
        assert len(message["ToIds"]) == 1
        assert message["ToAddress"] == "carl@acme.test", "who is not a relation stands there as text"

    def test_that_was_blind_copied_to_somebody_is_not_logged_there_unless_that_is_wanted(self, bench):
        bob, cleo = bench.contact(), bench.contact("cleo@client.test")
        bench.mail("bob@client.test", "cleo@client.test", header="To: bob@client.test\r\n")
        assert bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["BccIds"], message["BccAddress"]) == ([bob], None, None)
        bench.set(Setting.BLIND_COPIED, "yes")
        bench.mail("bob@client.test", "cleo@client.test", header="Cc: bob@client.test\r\n", number=2)
        assert bench.once()
        [_, message] = bench.logged()
        assert (message["CcIds"], message["BccIds"]) == ([bob], [cleo])

    def test_that_only_blind_copied_people_get_is_nobodys(self, bench):
        bench.contact()
        mail = bench.mail("bob@client.test", header="To: undisclosed-recipients:;\r\n")
        assert bench.once()
        assert bench.state(mail) is State.DISMISSED
        assert bench.log(mail).trace.result is MatchResult.NOBODY_COUNTS

    @pytest.mark.parametrize(
        ("rule", "state", "tasks"),
        [("unmatched", State.UNMATCHED, 0), ("nothing", State.DISMISSED, 0), ("task", State.LOGGED, 1)],
    )
    def test_without_a_match_follows_the_rule(self, bench, rule, state, tasks):
        bench.set(Setting.NO_MATCH, rule)
        mail = bench.mail()
        assert bench.once()
        assert (bench.state(mail), len(bench.logged("Task"))) == (state, tasks)
        if tasks:
            [task] = bench.logged("Task")
            assert (task["IsClosed"], task["WhoId"]) == (False, None)

    @pytest.mark.parametrize(
        ("keep", "subject", "text"),
        [
            ("text", "Our offer", "Hello Bob"),
            ("subject", "Our offer", None),
            ("envelope", "(not kept)", None),
        ],
    )
    def test_keeps_as_much_as_is_wanted(self, bench, keep, subject, text):
        bench.contact()
        bench.set(Setting.KEEP, keep)
        bench.mail()
        assert bench.once()
        [message] = bench.logged()
        assert (message["Subject"], message["TextBody"]) == (subject, text)

    def test_with_300_recipients_is_logged_on_each_once(self, bench):
        contacts = {bench.contact(f"c{n}@client.test") for n in range(120)}
        mail = bench.mail(*[f"c{n}@client.test" for n in range(300)])
        assert bench.once()
        on = [one for message in bench.logged() for one in message["ToIds"]]
        assert (len(bench.logged()), len(on), set(on)) == (3, 120, contacts)
        assert bench.state(mail) is State.LOGGED

    def test_to_addresses_that_look_like_queries_asks_for_them(self, bench):
        odd = ["o'hara@client.test", "a\\b@client.test", "x') OR Setting LIKE ('%@client.test"]
        bench.contact("o'hara@client.test")
        mail = bench.mail(*odd)
        assert bench.once()
        [message] = bench.logged()
        assert len(message["ToIds"]) == 1
        assert bench.state(mail) is State.LOGGED

    def test_with_ten_megabytes_of_html_is_cut_to_what_fits(self, bench):
        bench.contact()
        body = "<html><body>" + "<p>Ünïcödé 📨 words</p>" * 10_000
        bench.mail(header="To: bob@client.test\r\nContent-Type: text/html; charset=utf-8\r\n", body=body)
        assert bench.once()
        [message] = bench.logged()
        assert message["HtmlBody"] is None
        assert message["TextBody"].startswith("Ünïcödé 📨 words")
        assert 31_900 < length(message["TextBody"]) <= 32_000
        assert message["TextBody"].endswith("…\n\n[Cut here: Salesforce takes no more]")

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("multipart/encrypted; boundary=x", "[encrypted, not readable here]"),
            ("application/pkcs7-mime; name=smime.p7m", "[encrypted, not readable here]"),
            ("image/png", "[Attachments]\nattachment.png"),
        ],
    )
    def test_that_is_encrypted_or_only_an_attachment_is_logged_without_text(self, bench, kind, text):
        bench.contact()
        bench.mail(header=f"To: bob@client.test\r\nContent-Type: {kind}\r\n", body="aGVsbG8=")
        assert bench.once()
        [message] = bench.logged()
        assert (message["TextBody"], message["HtmlBody"], message["Subject"]) == (text, None, "Our offer")

    def test_without_a_message_id_is_known_by_ours(self, bench):
        bench.contact()
        mail = bench.mail(message_id=None)
        assert bench.once()
        assert bench.logged()[0]["MessageIdentifier"] == f"<{mail}@blindcopy.invalid>"


class TestChoosing:
    def test_a_contact_comes_before_a_lead_unless_it_is_otherwise_wanted(self, bench):
        bob, lead = bench.contact(), bench.lead()
        bench.mail()
        bench.once()
        assert bench.logged()[-1]["ToIds"] == [bob]
        bench.set(Setting.FIRST, "lead")
        bench.mail(number=2)
        bench.once()
        assert bench.logged()[-1]["ToIds"] == [lead]

    @pytest.mark.parametrize(
        ("rule", "expected"), [("oldest", [0]), ("all", [0, 1, 2]), ("most-recent-activity", [1])]
    )
    def test_of_several_contacts_by_the_rule(self, bench, rule, expected):
        now = bench.org.org.clock()
        ids = [
            bench.contact(CreatedDate=now - timedelta(days=9 - n), LastActivityDate=day)
            for n, day in enumerate([None, now.date(), (now - timedelta(days=3)).date()])
        ]
        bench.set(Setting.DUPLICATES, rule)
        bench.mail()
        bench.once()
        assert set(bench.logged()[0]["ToIds"]) == {ids[n] for n in expected}

    @pytest.mark.parametrize(
        ("rule", "expected"), [("only-open", 0), ("none", 0), ("most-recent-open", 1), ("all-open", 2)]
    )
    def test_of_several_opportunities_by_the_rule(self, bench, rule, expected):
        bob = bench.contact()
        bench.deal(bob, "A")
        newest = bench.deal(bob, "B", LastModifiedDate=bench.org.org.clock() + timedelta(hours=1))
        bench.deal(bob, "closed", IsClosed=True)
        bench.set(Setting.OPPORTUNITY, rule)
        bench.mail()
        bench.once()
        deals = [message["RelatedToId"] for message in bench.logged() if message["RelatedToId"]]
        assert len(deals) == expected
        assert expected != 1 or deals == [newest]
        assert sum(bob in (message["ToIds"] or ()) for message in bench.logged()) == 1, (
            "once on the contact all the same"
        )

    def test_the_account_where_no_opportunity_leads_to_it(self, bench):
        account = bench.org.org.put("Account", Name="Client Inc.")
        bench.contact(AccountId=account)
        bench.mail()
        bench.once()
        assert bench.logged()[0]["RelatedToId"] == account
        bench.set(Setting.LOG_ON, "contacts,leads,opportunities")
        bench.mail(number=2)
        bench.once()
        assert bench.logged()[1]["RelatedToId"] is None

    @pytest.mark.parametrize(("log_on", "contacts"), [("leads", 0), ("accounts", 0), ("contacts", 1)])
    def test_only_what_is_to_be_logged_on(self, bench, log_on, contacts):
        account = bench.org.org.put("Account", Name="Client Inc.")
        bench.contact(AccountId=account)
        lead = bench.lead("lee@prospect.test")
        bench.set(Setting.LOG_ON, log_on)
        bench.mail("bob@client.test", "lee@prospect.test")
        bench.once()
        on = [one for message in bench.logged() for one in message["ToIds"] or ()]
        assert on == {"leads": [lead], "accounts": [], "contacts": on}[log_on]
        assert sum(one.startswith("003") for one in on) == contacts

    @TASKS
    def test_contacts_and_leads_never_share_a_record(self, bench):
        bob, cleo = bench.contact(), bench.contact("cleo@client.test")
        deal = bench.deal(cleo)
        leads = {bench.lead("l1@p.test"), bench.lead("l2@p.test")}
        mail = bench.mail("bob@client.test", "cleo@client.test", "l1@p.test", "l2@p.test")
        bench.once()
        assert bench.state(mail) is State.LOGGED, bench.log(mail)
        on = {task["WhoId"]: task["WhatId"] for task in bench.logged("Task")}
        assert on == {bob: None, cleo: deal} | dict.fromkeys(leads)

    @SHARED
    def test_contacts_share_a_task_where_the_org_shares_activities(self, bench):
        contacts = {bench.contact(f"c{n}@client.test") for n in range(60)}
        bench.mail(*[f"c{n}@client.test" for n in range(60)])
        bench.once()
        assert sorted(len(task["TaskWhoIds"]) for task in bench.logged("Task")) == [10, 50]
        assert {one for task in bench.logged("Task") for one in task["TaskWhoIds"]} == contacts

    def test_a_person_account_is_the_contact_that_stands_for_it(self, bench):
        account = bench.org.org.put("Account", Name="Bob Buyer")
        bob = bench.contact(AccountId=account)
        bench.mail()
        bench.once()
        [message] = bench.logged()
        assert (message["ToIds"], message["RelatedToId"]) == ([bob], account)

    def test_a_converted_lead_is_the_contact_that_it_became(self, bench):
        contact = bench.contact("new@client.test")
        bench.lead(IsConverted=True, ConvertedContactId=contact)
        bench.mail()
        bench.once()
        assert bench.logged()[0]["ToIds"] == [contact]


def test_what_is_ignored_is_not_asked_for(bench):
    bench.contact()
    mail = bench.mail("bob@client.test", "news@letters.test")
    bench.once()
    unmatched = bench.mail("news@letters.test", number=2)
    bench.once()
    assert (bench.state(mail), bench.state(unmatched)) == (State.LOGGED, State.UNMATCHED)
    with bench.database.writing() as session:
        mail_requests.ignore(session, bench.anna.id, "letters.test")
    bench.once()
    assert bench.state(unmatched) is State.DISMISSED


def test_a_person_picks_the_record(bench):
    bob = bench.contact("other@client.test")
    deal = bench.deal(bob)
    mail = bench.mail()
    bench.once()
    with bench.database.writing() as session:
        mail_requests.pick(session, mail, [bob, deal])
    assert bench.once()
    assert bench.state(mail) is State.LOGGED
    on = {
        one
        for message in bench.logged()
        for one in (*(message["ToIds"] or ()), message["RelatedToId"])
        if one
    }
    assert on == {bob, deal}


def test_calls_of_a_batch_are_few(bench):
    for n in range(60):
        bob = bench.contact(f"c{n}@client.test")
        if n % 3 == 0:
            bench.deal(bob)
    bench.lead("lee@p.test")
    for n in range(20):
        bench.mail(*[f"c{m}@client.test" for m in range(n, n + 5)], "lee@p.test", number=n)
    before = len(bench.org.calls)
    assert bench.once()
    asked = [one for one in bench.org.calls[before:] if "query" in one or one.startswith("POST")]
    assert len(asked) == 4, asked


def test_usage_is_kept_by_organisation(bench):
    bench.contact()
    bench.mail()
    bench.once()
    with bench.database.reading() as session:
        [one] = [api_usage.organisation(session, stored_org(bench))]
    assert one.usage.total == 15_000

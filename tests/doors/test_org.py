"""The pretend org is held to what is known of the real one: the same claims run against a real org where
BLINDCOPY_TEST_ORG_URL and BLINDCOPY_TEST_ORG_TOKEN name one."""

import base64
import hashlib
import json
import os
import secrets
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.sandbox.org.faults import Fault
from tests.sandbox.org.server import PretendOrg

VERSION = "v62.0"
CALLBACK = "http://127.0.0.1:8000/salesforce/callback"


class Caller:
    """Calls an org as itself; errors are answers."""

    def __init__(self, url, token, ca_file=True):
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False
        self.session.verify = str(ca_file) if ca_file is not True else True
        self.session.headers["Authorization"] = f"Bearer {token}"

    def call(self, method, path, **more):
        answer = self.session.request(
            method, f"{self.url}/services/data/{VERSION}/{path}", timeout=10, **more
        )
        return answer.status_code, answer.json() if answer.content else None

    def query(self, text, everything=False):
        return self.call("GET", f"{'queryAll' if everything else 'query'}?q={quote(text)}")

    def refused(self, text):
        status, body = self.query(text)
        assert status == 400, body
        return body[0]["errorCode"]

    def create(self, name, **values):
        status, body = self.call("POST", f"sobjects/{name}", json=values)
        return body["id"] if status == 201 else body[0]["errorCode"]

    def records(self, text, **more):
        status, body = self.query(text, **more)
        assert status == 200, body
        return body["records"]


@pytest.fixture
def pretend():
    org = PretendOrg()
    org.start()
    org.anna = org.org.put(
        "User", Username="anna@acme.test", Name="Anna", Email="anna@acme.test", IsActive=True
    )
    yield org
    org.stop()


REAL = [name for name in ("real",) if os.environ.get("BLINDCOPY_TEST_ORG_URL")]


@pytest.fixture(params=["pretend", *REAL])
def org(request):
    if request.param == "real":
        return Caller(os.environ["BLINDCOPY_TEST_ORG_URL"], os.environ["BLINDCOPY_TEST_ORG_TOKEN"])
    pretend = request.getfixturevalue("pretend")
    token = pretend.tokens.issue(pretend.anna, "family", with_refresh=False)["access_token"]
    return Caller(pretend.url, token, pretend.ca_file)


class TestQueries:
    @pytest.mark.parametrize(
        ("text", "code"),
        [
            ("SELECT Id FROM Nonsense", "INVALID_TYPE"),
            ("SELECT Nonsense FROM Contact", "INVALID_FIELD"),
            ("SELECT Id FROM Contact WHERE Nonsense = 'x'", "INVALID_FIELD"),
            ("SELECT Id FROM Contact WHERE Email = 'a' AND Email = 'b' OR Email = 'c'", "MALFORMED_QUERY"),
            ("SELECT Id FROM Task WHERE SystemModstamp > '2026-01-01T00:00:00Z'", "INVALID_FIELD"),
            ("SELECT Id FROM Task WHERE ActivityDate = '2026-01-01'", "INVALID_FIELD"),
            ("SELECT Id FROM Task WHERE ActivityDate = 2026-01-01T00:00:00Z", "INVALID_FIELD"),
            ("SELECT Id FROM Task WHERE IsClosed = 'true'", "INVALID_FIELD"),
            ("SELECT Id FROM Contact WHERE Email = 5", "INVALID_FIELD"),
            ("SELECT Id FROM Contact WHERE Email IN ()", "MALFORMED_QUERY"),
            ("SELECT Id FROM Contact WHERE Email = 'it's'", "MALFORMED_QUERY"),
            ("SELECT Id FROM Task WHERE Description LIKE 'a%'", "INVALID_FIELD"),
            ("SELECT Id FROM Task ORDER BY Description", "INVALID_FIELD"),
            ("SELECT Id, Id FROM Contact", "INVALID_FIELD"),
            ("SELECT * FROM Contact", "MALFORMED_QUERY"),
            ("SELECT Id FROM Contact LIMIT x", "MALFORMED_QUERY"),
            ("", "MALFORMED_QUERY"),
        ],
    )
    def test_are_refused_with_the_code_that_tells_why(self, org, text, code):
        assert org.refused(text) == code

    def test_find_addresses_without_regard_to_case_and_with_apostrophes(self, org):
        key = secrets.token_hex(4)
        bob = org.create("Contact", LastName="O'Hara", Email=f"O'Hara.{key}@Client.example")
        found = org.records(
            f"SELECT Id, Name FROM Contact WHERE Email IN ('o\\'hara.{key}@client.example', 'x@y.zz')"
        )
        assert [(record["Id"], record["Name"], record["attributes"]["type"]) for record in found] == [
            (bob, "O'Hara", "Contact")
        ]

    def test_do_not_show_what_is_deleted_unless_all_is_asked_for(self, org):
        task = org.create("Task", Subject="Call")
        assert org.call("DELETE", f"sobjects/Task/{task}")[0] == 204
        assert org.records(f"SELECT Id FROM Task WHERE Id = '{task}'") == []
        found = org.records(f"SELECT Id, IsDeleted FROM Task WHERE Id = '{task}'", everything=True)
        assert [record["IsDeleted"] for record in found] == [True]
        assert org.call("DELETE", f"sobjects/Task/{task}")[1][0]["errorCode"] == "ENTITY_IS_DELETED"

    def test_come_in_pages(self, org, pretend):
        for number in range(450):
            pretend.org.put("Contact", LastName=f"Page {number:03}")
        org.session.headers["Sforce-Query-Options"] = "batchSize=200"
        _, page = org.query("SELECT LastName FROM Contact WHERE LastName LIKE 'Page %' ORDER BY LastName")
        seen = [record["LastName"] for record in page["records"]]
        while not page["done"]:
            page = org.session.get(org.url + page["nextRecordsUrl"], timeout=10).json()
            seen += [record["LastName"] for record in page["records"]]
        assert seen == [f"Page {number:03}" for number in range(450)]

    def test_beyond_sixteen_kilobytes_are_too_long_for_a_url(self, org):
        addresses = ",".join(f"'person{number:04}@example.com'" for number in range(600))
        answer = org.session.get(
            f"{org.url}/services/data/{VERSION}/query",
            params={"q": f"SELECT Id FROM Contact WHERE Email IN ({addresses})"},
            timeout=10,
        )
        assert answer.status_code in {414, 431}

    def test_follow_relationships(self, org):
        account = org.create("Account", Name="Client")
        contact = org.create("Contact", LastName="Bob", AccountId=account)
        deal = org.create(
            "Opportunity", Name="Deal", StageName="Open", CloseDate="2027-01-01", AccountId=account
        )
        org.create("OpportunityContactRole", OpportunityId=deal, ContactId=contact)
        [role] = org.records(
            "SELECT OpportunityId, Opportunity.Name, Contact.Account.Name FROM OpportunityContactRole "
            f"WHERE ContactId IN ('{contact}') AND Opportunity.IsClosed = false"
        )
        assert role["OpportunityId"] == deal
        assert role["Opportunity"]["Name"] == "Deal"
        assert role["Contact"]["Account"]["Name"] == "Client"


class TestRecords:
    def test_a_task_follows_its_status(self, org):
        task = org.create("Task", Subject="Call", Status="Completed", ActivityDate="2026-12-01")
        [made] = org.records(
            f"SELECT IsClosed, CompletedDateTime, Priority, TaskSubtype FROM Task WHERE Id = '{task}'"
        )
        assert (made["IsClosed"], made["Priority"], made["TaskSubtype"]) == (True, "Normal", "Task")
        assert made["CompletedDateTime"].endswith("+0000")
        assert org.call("PATCH", f"sobjects/Task/{task}", json={"Status": "Not Started"})[0] == 204
        [again] = org.records(f"SELECT IsClosed, CompletedDateTime FROM Task WHERE Id = '{task}'")
        assert (again["IsClosed"], again["CompletedDateTime"]) == (False, None)

    @pytest.mark.parametrize(
        ("values", "code"),
        [
            ({"Nonsense": "x"}, "INVALID_FIELD"),
            ({"Subject": "x" * 256}, "STRING_TOO_LONG"),
            ({"Subject": 5}, "JSON_PARSER_ERROR"),
            ({"IsClosed": True}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
            ({"Status": "Nonsense"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
            ({"ActivityDate": "2026-12-01T00:00:00Z"}, "JSON_PARSER_ERROR"),
            ({"ActivityDate": "2026-02-30"}, "JSON_PARSER_ERROR"),
            ({"ReminderDateTime": "2026-12-01"}, "JSON_PARSER_ERROR"),
            ({"WhoId": "nonsense"}, "MALFORMED_ID"),
            ({"WhoId": "003000000000000AAA"}, "INVALID_CROSS_REFERENCE_KEY"),
        ],
    )
    def test_a_task_is_refused_with_the_code_that_tells_why(self, org, values, code):
        assert org.create("Task", **values) == code

    def test_a_task_on_a_lead_has_nothing_that_it_relates_to(self, org):
        lead = org.create("Lead", LastName="Lee", Company="Client")
        account = org.create("Account", Name="Client")
        assert org.create("Task", WhoId=lead, WhatId=account) == "FIELD_INTEGRITY_EXCEPTION"
        assert org.create("Task", WhoId=account) == "FIELD_INTEGRITY_EXCEPTION"
        assert org.create("Task", WhoId=lead).startswith("00T")

    def test_what_is_set_once_stays(self, org):
        task = org.create("Task", Subject="x", TaskSubtype="Email")
        status, body = org.call("PATCH", f"sobjects/Task/{task}", json={"TaskSubtype": "Call"})
        assert (status, body[0]["errorCode"], body[0]["fields"]) == (
            400, "INVALID_FIELD_FOR_INSERT_UPDATE", ["TaskSubtype"],
        )  # fmt: skip

    def test_a_deleted_contact_is_not_referred_to(self, org):
        contact = org.create("Contact", LastName="Gone")
        org.call("DELETE", f"sobjects/Contact/{contact}")
        assert org.create("Task", WhoId=contact) == "ENTITY_IS_DELETED"

    def test_an_email_makes_its_own_closed_task_and_is_frozen(self, org):
        contact = org.create("Contact", LastName="Bob", Email="bob@client.example")
        assert org.create("EmailMessage", Subject="x", Status="0") == "FIELD_INTEGRITY_EXCEPTION"
        message = org.create(
            "EmailMessage", Subject="Offer", Status="3", ToIds=[contact], MessageIdentifier="<1@acme.test>"
        )
        [made] = org.records(
            "SELECT ActivityId FROM EmailMessage WHERE MessageIdentifier = '<1@acme.test>' AND Id = '"
            + message
            + "'"
        )
        [task] = org.records(
            f"SELECT WhoId, IsClosed, TaskSubtype FROM Task WHERE Id = '{made['ActivityId']}'",
            everything=True,
        )
        assert (task["WhoId"], task["IsClosed"], task["TaskSubtype"]) == (contact, True, "Email")
        relations = org.records(
            f"SELECT RelationId FROM EmailMessageRelation WHERE EmailMessageId = '{message}'"
        )
        assert contact in [relation["RelationId"] for relation in relations]
        status, _ = org.call("PATCH", f"sobjects/EmailMessage/{message}", json={"Subject": "Other"})
        assert status == 400


class TestCollections:
    def test_answer_200_when_items_fail(self, org):
        good, bad = (
            {"attributes": {"type": "Task"}, "Subject": "x"},
            {"attributes": {"type": "Task"}, "Nonsense": 1},
        )
        status, answers = org.call("POST", "composite/sobjects", json={"records": [good, bad]})
        assert status == 200
        assert [answer["success"] for answer in answers] == [True, False]
        assert answers[1]["errors"][0]["statusCode"] == "INVALID_FIELD"
        status, answers = org.call(
            "POST", "composite/sobjects", json={"allOrNone": True, "records": [good, bad]}
        )
        assert answers[0]["errors"][0]["statusCode"] == "ALL_OR_NONE_OPERATION_ROLLED_BACK"

    def test_take_two_hundred_records_and_ten_chunks(self, org):
        task, lead = {"attributes": {"type": "Task"}}, {"attributes": {"type": "Lead"}}
        assert org.call("POST", "composite/sobjects", json={"records": [task] * 201})[0] == 400
        assert org.call("POST", "composite/sobjects", json={"records": [task, lead] * 6})[0] == 400

    def test_give_null_for_what_is_not_there(self, org):
        task = org.create("Task", Subject="x")
        gone = org.create("Task", Subject="y")
        org.call("DELETE", f"sobjects/Task/{gone}")
        _, answers = org.call(
            "POST", "composite/sobjects/Task", json={"ids": [task, gone], "fields": ["Id", "Subject"]}
        )
        assert [answer and answer["Subject"] for answer in answers] == ["x", None]

    def test_parts_of_a_composite_refer_to_earlier_ones(self, org, pretend):
        before = len(pretend.calls)
        parts = [
            {"method": "POST", "url": f"/services/data/{VERSION}/sobjects/Account", "referenceId": "client",
             "body": {"Name": "Client"}},
            {"method": "POST", "url": f"/services/data/{VERSION}/sobjects/Task", "referenceId": "task",
             "body": {"Subject": "x", "WhatId": "@{client.id}"}},
        ]  # fmt: skip
        status, body = org.call("POST", "composite", json={"compositeRequest": parts, "allOrNone": True})
        assert status == 200
        assert [part["httpStatusCode"] for part in body["compositeResponse"]] == [201, 201]
        assert len(pretend.calls) > before


class TestChanges:
    def test_are_told_by_span(self, org, pretend):
        now = datetime.now(UTC)
        pretend.org.clock = lambda: now - timedelta(minutes=5)
        kept, gone = org.create("Task", Subject="x"), org.create("Task", Subject="y")
        org.call("DELETE", f"sobjects/Task/{gone}")
        pretend.org.clock = lambda: now
        span = f"start={quote((now - timedelta(minutes=9)).isoformat())}&end={quote(now.isoformat())}"
        assert org.call("GET", f"sobjects/Task/updated/?{span}")[1]["ids"] == [kept]
        assert [
            one["id"] for one in org.call("GET", f"sobjects/Task/deleted/?{span}")[1]["deletedRecords"]
        ] == [gone]
        early = f"start={quote((now - timedelta(days=16)).isoformat())}&end={quote(now.isoformat())}"
        assert (
            org.call("GET", f"sobjects/Task/deleted/?{early}")[1][0]["errorCode"]
            == "INVALID_REPLICATION_DATE"
        )

    def test_may_be_seen_late_with_the_time_of_their_write(self, org, pretend):
        now = datetime.now(UTC)
        pretend.org.clock, pretend.org.seen_after = (lambda: now), timedelta(minutes=2)
        task = org.create("Task", Subject="late")
        assert org.records(f"SELECT Id FROM Task WHERE Id = '{task}'") == []
        pretend.org.clock = lambda: now + timedelta(minutes=3)
        [found] = org.records(f"SELECT SystemModstamp FROM Task WHERE Id = '{task}'")
        assert datetime.fromisoformat(found["SystemModstamp"]) < now + timedelta(seconds=1)


class TestFaults:
    def test_strike_as_often_as_they_are_ordered(self, org, pretend):
        for fault, status in ((Fault.EXPIRED, 401), (Fault.LIMIT, 403)):
            pretend.faults.order(fault, "query")
            assert org.query("SELECT Id FROM Task")[0] == status
            assert org.query("SELECT Id FROM Task")[0] == 200
        pretend.faults.order(Fault.HTML)
        answer = org.session.get(f"{org.url}/services/data/{VERSION}/limits", timeout=10)
        assert (answer.status_code, answer.headers["Content-Type"].split(";")[0]) == (503, "text/html")

    def test_an_answer_may_be_lost_when_the_work_is_done(self, org, pretend):
        pretend.faults.order(Fault.LOST, "sobjects/Task", method="POST")
        with pytest.raises(requests.ConnectionError):
            org.create("Task", Subject="once")
        assert len(org.records("SELECT Id FROM Task WHERE Subject = 'once'")) == 1

    def test_rows_may_be_locked_within_a_collection(self, org, pretend):
        pretend.faults.order(Fault.LOCKED, "composite/sobjects")
        tasks = [{"attributes": {"type": "Task"}, "Subject": str(number)} for number in range(4)]
        _, answers = org.call("POST", "composite/sobjects", json={"records": tasks})
        assert [answer["success"] for answer in answers] == [True, False, True, False]
        assert answers[1]["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW"

    def test_without_api_nobody_gets_in_and_every_answer_counts(self, org, pretend):
        answer = org.session.get(f"{org.url}/services/data/{VERSION}/limits", timeout=10)
        assert answer.headers["Sforce-Limit-Info"] == f"api-usage={len(pretend.calls)}/15000"
        pretend.app.extensions["has_api"] = False
        assert org.query("SELECT Id FROM Task")[1][0]["errorCode"] == "API_DISABLED_FOR_ORG"


class TestSigningIn:
    def page(self, pretend, verifier="v" * 43, **changes):
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code", "client_id": "blindcopy-client", "redirect_uri": CALLBACK, "state": "s1",
            "code_challenge": challenge, "code_challenge_method": "S256",
        } | changes  # fmt: skip
        return f"{pretend.url}/services/oauth2/authorize", {
            key: value for key, value in asked.items() if value
        }

    def answer(self, pretend, choice, **changes):
        url, asked = self.page(pretend, **changes)
        back = requests.post(
            url, params=asked, data={"user": pretend.anna, "answer": choice}, verify=pretend.ca_file,
            allow_redirects=False, timeout=10,
        )  # fmt: skip
        return {key: value[0] for key, value in parse_qs(urlsplit(back.headers["Location"]).query).items()}

    def token(self, pretend, **fields):
        usual = {"client_id": "blindcopy-client", "client_secret": "blindcopy-secret"}
        answer = requests.post(
            f"{pretend.url}/services/oauth2/token", data=usual | fields, verify=pretend.ca_file, timeout=10
        )
        return answer.status_code, answer.json()

    def allowed(self, pretend):
        code = self.answer(pretend, "allow")["code"]
        return self.token(
            pretend, grant_type="authorization_code", code=code, redirect_uri=CALLBACK, code_verifier="v" * 43
        )[1]

    def test_asks_first_and_hands_out_tokens_for_a_code(self, pretend):
        url, asked = self.page(pretend)
        assert "Allow access?" in requests.get(url, params=asked, verify=pretend.ca_file, timeout=10).text
        issued = self.allowed(pretend)
        assert issued["instance_url"] == pretend.url
        assert issued["id"].endswith(pretend.anna)
        info = requests.get(
            f"{pretend.url}/services/oauth2/userinfo", headers={"Authorization": f"Bearer {issued['access_token']}"},
            verify=pretend.ca_file, timeout=10,
        ).json()  # fmt: skip
        assert (info["user_id"], info["preferred_username"]) == (pretend.anna, "anna@acme.test")

    def test_denied_says_so_and_gives_the_state_back(self, pretend):
        assert self.answer(pretend, "deny") == {
            "error": "access_denied", "error_description": "end-user denied authorization", "state": "s1",
        }  # fmt: skip

    def test_wants_pkce_and_a_known_callback(self, pretend):
        assert self.answer(pretend, "allow", state="s1")["code"]
        url, asked = self.page(pretend, code_challenge="")
        back = requests.get(url, params=asked, verify=pretend.ca_file, allow_redirects=False, timeout=10)
        assert "invalid_request" in back.headers["Location"]
        url, asked = self.page(pretend, redirect_uri="https://evil.example/")
        assert requests.get(url, params=asked, verify=pretend.ca_file, timeout=10).status_code == 400

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"code_verifier": "w" * 43}, "invalid_grant"),
            ({"code": "nonsense"}, "invalid_grant"),
            ({"redirect_uri": "https://other.example"}, "redirect_uri_mismatch"),
            ({"client_secret": "wrong"}, "invalid_client"),
            ({"client_id": "wrong"}, "invalid_client_id"),
            ({"grant_type": "password"}, "unsupported_grant_type"),
        ],
    )
    def test_a_code_is_good_once_for_who_asked(self, pretend, changes, error):
        code = self.answer(pretend, "allow")["code"]
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "code_verifier": "v" * 43,
        }
        status, body = self.token(pretend, **(fields | changes))
        assert (status, body["error"]) == (400, error)

    def test_a_refresh_token_is_good_once_and_a_second_use_ends_the_family(self, pretend):
        first = self.allowed(pretend)
        status, second = self.token(pretend, grant_type="refresh_token", refresh_token=first["refresh_token"])
        assert status == 200
        assert second["refresh_token"] != first["refresh_token"]
        status, body = self.token(pretend, grant_type="refresh_token", refresh_token=first["refresh_token"])
        assert (status, body["error"]) == (400, "invalid_grant")
        status, _ = self.token(pretend, grant_type="refresh_token", refresh_token=second["refresh_token"])
        assert status == 400
        assert (
            Caller(pretend.url, second["access_token"], pretend.ca_file).query("SELECT Id FROM Task")[0]
            == 401
        )

    def test_revoked_ends_at_once(self, pretend):
        issued = self.allowed(pretend)
        answer = requests.post(
            f"{pretend.url}/services/oauth2/revoke", data={"token": issued["refresh_token"]}, verify=pretend.ca_file,
            timeout=10,
        )  # fmt: skip
        assert answer.status_code == 200
        assert (
            Caller(pretend.url, issued["access_token"], pretend.ca_file).query("SELECT Id FROM Task")[0]
            == 401
        )

    def test_by_assertion_needs_a_right_signature_and_a_user_who_was_let_in(self, pretend):
        key, other = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
        pretend.tokens.client.public_key = key.public_key()
        claims = {
            "iss": "blindcopy-client",
            "sub": "anna@acme.test",
            "aud": pretend.url,
            "exp": time.time() + 180,
        }

        def by(signer, **changes):
            status, body = self.token(
                pretend,
                grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer",
                assertion=_signed(signer, claims | changes),
            )
            return body.get("error_description") or status

        assert by(key) == "user hasn't approved this consumer"
        pretend.tokens.client.pre_authorised.add(pretend.anna)
        assert by(key) == 200
        assert by(other) == "invalid assertion"
        assert by(key, exp=time.time() - 1) == "expired authorization code"
        assert by(key, exp=time.time() + 3600) == "expired authorization code"
        assert by(key, aud="https://elsewhere.example") == "audience is invalid"
        assert by(key, sub="carl@acme.test") == "user hasn't approved this consumer"


def _signed(key, claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    signed = f"{part({'alg': 'RS256'})}.{part(claims)}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def test_the_page_shows_what_arrived(org, pretend):
    org.create("Task", Subject="<b>Offer</b>")
    page = org.session.get(org.url, timeout=10).text
    assert "&lt;b&gt;Offer&lt;/b&gt;" in page

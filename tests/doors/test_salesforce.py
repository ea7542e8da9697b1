"""The one door to Salesforce, against the pretend org."""

import traceback

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from core.endpoints import SalesforceApp as App
from core.salesforce import client as door
from core.salesforce import login as ways
from core.salesforce.client import Client, Usage
from core.salesforce.login import (
    Issued,
    Login,
    NotSalesforce,
    Refused,
    Unavailable,
    checked_host,
    new_challenge,
)
from core.salesforce.troubles import TroubleKind
from tests.doors.conftest import CALLBACK
from tests.doors.consent import (
    app,  # noqa: F401
    client,  # noqa: F401
    come_back,
    signed_in,
)
from tests.sandbox.org.faults import Fault


class TestSigningIn:
    def test_by_code_says_who_it_is(self, org, app):
        issued = signed_in(org, app)
        assert issued.instance_url == org.url
        who = Login(app).who_is(issued)
        assert (who.user_id, who.username) == (org.anna, "anna@acme.test")

    def test_denied_comes_back_without_a_code(self, org, app):
        _, back = come_back(org, app, "deny")
        assert back["error"] == "access_denied"

    def test_by_a_code_of_somebody_elses_challenge_is_refused(self, org, app):
        _, back = come_back(org, app)
        with pytest.raises(Refused) as caught:
            Login(app).by_code(back["code"], new_challenge())
        assert caught.value.trouble.kind is TroubleKind.CONNECTION

    def test_is_renewed_with_a_new_refresh_token_and_the_old_one_is_dead(self, org, app):
        issued = signed_in(org, app)
        renewed = Login(app).by_refresh_token(issued.refresh_token)
        assert renewed.refresh_token not in {None, issued.refresh_token}
        with pytest.raises(Refused) as caught:
            Login(app).by_refresh_token(issued.refresh_token)
        assert caught.value.trouble.code == "invalid_grant"

    def test_without_rotation_keeps_its_refresh_token(self, org, app):
        org.tokens.rotates = False
        issued = signed_in(org, app)
        assert Login(app).by_refresh_token(issued.refresh_token).refresh_token is None

    def test_ends_when_it_is_revoked(self, org, app):
        issued = signed_in(org, app)
        Login(app).revoke(issued.refresh_token)
        with pytest.raises(Refused):
            Login(app).by_refresh_token(issued.refresh_token)

    def test_by_assertion_needs_no_click(self, org, app):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        org.tokens.client.public_key = key.public_key()
        with pytest.raises(Refused, match="not_approved"):
            Login(app).by_assertion("anna@acme.test", pem)
        org.tokens.client.pre_authorised.add(org.anna)
        issued = Login(app).by_assertion("anna@acme.test", pem)
        assert issued.refresh_token is None
        assert Login(app).who_is(issued).user_id == org.anna

    def test_with_a_wrong_secret_is_for_the_operator_to_mend(self, org, app):
        issued = signed_in(org, app)
        wrong = App(app.client_id, "wrong", CALLBACK, org.url, org.ca_file)
        with pytest.raises(Refused) as caught:
            Login(wrong).by_refresh_token(issued.refresh_token)
        assert "BLINDCOPY_SALESFORCE_CLIENT_SECRET" in caught.value.trouble.remedy

    def test_where_nobody_answers_is_to_wait_for(self):
        with pytest.raises(Unavailable):
            Login(App("x", "y", CALLBACK, "https://127.0.0.1:9")).by_refresh_token("z")

    def test_shows_no_secret(self, org, app):
        issued = signed_in(org, app)
        shown = f"{app!r} {issued!r} {new_challenge()!r}"
        assert "blindcopy-secret" not in shown
        assert issued.access_token not in shown
        assert issued.refresh_token not in shown


@pytest.mark.parametrize(
    ("url", "goes"),
    [
        ("https://login.salesforce.com/x", True),
        ("https://acme--box.sandbox.my.salesforce.com", True),
        ("https://acme.lightning.force.com", True),
        ("https://127.0.0.1:8443/services", True),
        ("http://acme.my.salesforce.com", False),
        ("https://evilsalesforce.com", False),
        ("https://salesforce.com.evil.example", False),
        ("https://acme.my.salesforce.com@evil.example", False),
        ("https://user@acme.my.salesforce.com", False),
        ("https://evil.example/.salesforce.com", False),
        ("acme.my.salesforce.com", False),
        ("https://evil.example\\.salesforce.com", False),
        ("https://evil.example\\@acme.my.salesforce.com", False),
        ("https://acme.my.salesforce.com:x", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_secrets_go_to_salesforce_only(url, goes):
    app = App("x", "y", CALLBACK, "https://127.0.0.1:9999")
    if goes:
        assert checked_host(url, app).startswith("https://")
    else:
        with pytest.raises(NotSalesforce):
            checked_host(url, app)
        with pytest.raises(NotSalesforce):
            Client(app, url, "token")


class TestAsking:
    def test_reads_every_page(self, org, client):
        for number in range(4_100):
            org.org.put("Contact", LastName=f"N{number}", Email=f"n{number}@client.example")
        found = client.query("SELECT Id, LastName FROM Contact ORDER BY LastName")
        assert len(found) == 4_100

    def test_knows_how_many_calls_are_left(self, org, client):
        client.query("SELECT Id FROM Contact")
        assert client.usage == Usage(1, 15_000)
        org.faults.order(Fault.LIMIT)
        with pytest.raises(Refused) as caught:
            client.query("SELECT Id FROM Contact")
        assert caught.value.trouble.kind is TroubleKind.LIMIT
        assert client.usage == Usage(2, 15_000), "of refusals as well"

    @pytest.mark.parametrize(
        ("fault", "trouble", "kind"),
        [
            (Fault.EXPIRED, Refused, TroubleKind.SESSION),
            (Fault.HTML, Unavailable, TroubleKind.TRANSIENT),
            (Fault.GARBAGE, Unavailable, TroubleKind.TRANSIENT),
            (Fault.LOST, Unavailable, TroubleKind.TRANSIENT),
            (Fault.SLOW, Unavailable, TroubleKind.TRANSIENT),
        ],
    )
    def test_every_fault_is_one_of_two(self, org, client, monkeypatch, fault, trouble, kind):
        monkeypatch.setattr(door, "SECONDS_TO_ANSWER", 1)
        org.faults.order(fault, seconds=3)
        with pytest.raises(trouble) as caught:
            client.query("SELECT Id FROM Contact WHERE Email = 'bob@client.example'")
        assert caught.value.trouble.kind is kind
        said = "".join(traceback.format_exception(caught.value))
        assert "bob%40client.example" not in said
        assert "bob@client.example'\"" not in str(caught.value)

    def test_without_api_offers_what_remains(self, org, client):
        org.app.extensions["has_api"] = False
        with pytest.raises(Refused) as caught:
            client.query("SELECT Id FROM Contact")
        assert caught.value.trouble.kind is TroubleKind.NO_API
        assert "blind copy" in caught.value.trouble.remedy

    def test_knows_what_the_org_has(self, client):
        assert "EmailMessageRelation" in client.kinds()
        assert "Nonsense" not in client.kinds()
        assert client.fields("Task")["Subject"]["length"] == 255

    def test_what_is_no_id_stands_in_no_address(self, client):
        for bad in ("//evil.example/x", "../x", "", "003x", None):
            with pytest.raises(ValueError):
                client.delete([bad])
            with pytest.raises(ValueError):
                client.retrieve("Task", [bad], ["Id"])
            with pytest.raises(ValueError):
                client.fields(bad and bad + "/")


class TestWriting:
    def test_tells_of_each_record(self, org, client):
        good, bad = client.create("Task", [{"Subject": "x"}, {"Nonsense": 1}])
        assert good.id.startswith("00T")
        assert (bad.id, bad.trouble.code) == (None, "INVALID_FIELD")
        [changed] = client.update("Task", [{"Id": good.id, "Status": "Completed"}])
        assert changed.id == good.id
        assert client.retrieve("Task", [good.id], ["IsClosed"])[0]["IsClosed"] is True
        [gone] = client.delete([good.id])
        assert gone.id == good.id
        assert client.retrieve("Task", [good.id], ["Id"]) == [None]
        assert client.delete([good.id])[0].trouble.code == "ENTITY_IS_DELETED"

    def test_of_nothing_asks_nobody(self, org, client):
        before = len(org.calls)
        assert client.create("Task", []) == client.update("Task", []) == client.delete([]) == []
        assert client.retrieve("Task", [], ["Id"]) == []
        assert len(org.calls) == before

    def test_of_which_the_answer_is_lost_is_unavailable_and_was_done(self, org, client):
        org.faults.order(Fault.LOST, "composite")
        with pytest.raises(Unavailable):
            client.create("Task", [{"Subject": "once"}])
        assert len(client.query("SELECT Id FROM Task WHERE Subject = 'once'")) == 1

    def test_locked_rows_can_be_tried_again(self, org, client):
        org.faults.order(Fault.LOCKED, "composite")
        answers = client.create("Task", [{"Subject": "a"}, {"Subject": "b"}])
        assert [answer.trouble and answer.trouble.kind for answer in answers] == [None, TroubleKind.TRANSIENT]


def test_what_the_environment_says_of_proxies_and_passwords_is_not_heard(org, app, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/dev/null")
    session = ways.session(app)
    issued = Issued(org.tokens.issue(org.anna, "f", with_refresh=False)["access_token"], None, org.url)
    assert Login(app).who_is(issued).user_id == org.anna
    assert not session.trust_env

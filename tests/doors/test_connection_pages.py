"""The pages of the connection, of the prerequisites and of Check set-up, as a browser without JavaScript uses them."""

import html
import re
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from admin import create_app
from admin.passwords import hashed
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.troubles import trouble
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.bcc_lookup import ADDRESS, config, give_address
from tests.doors.browser import PASSWORD, Browser, preference
from tests.doors.conftest import BCC
from tests.doors.connected import kept
from tests.sandbox.org.faults import Fault

PAGE = "/settings/salesforce/connections"


@pytest.fixture
def app(sqlite, org, tmp_path):
    made = create_app(config(org, tmp_path))
    made.config["TESTING"] = True
    with sqlite.writing() as session:
        for email, is_admin in (("boss@acme.test", True), ("anna@acme.test", False)):
            people_store.add_person(
                session, email, name="", is_admin=is_admin, password_hash=hashed(PASSWORD), actor=None
            )
    yield made
    made.extensions["blindcopy"].database.close()


@pytest.fixture
def anna(app):
    return Browser(app, "anna@acme.test")


@pytest.fixture
def account(sqlite, app):
    with sqlite.reading() as session:
        return people_store.person_by_email(session, "anna@acme.test")


def go(browser, where="here", my_domain=""):
    """Press Connect; the address at which Salesforce asks."""
    browser.get(PAGE)
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.page).group(1)
    answer = browser.client.post(PAGE, data={"csrf_token": token, "where": where, "my_domain": my_domain})
    browser.page = answer.get_data(as_text=True)
    assert "Location" not in answer.headers, (
        "a form's answer that leads on is blocked by form-action on its way"
    )
    page = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', browser.page)
    return html.unescape(page.group(1)) if page else None


def answer(org, page, choice="allow"):
    """What the browser brings back, as a path of ours."""
    back = requests.post(
        page, data={"user": org.anna, "answer": choice}, verify=org.ca_file, allow_redirects=False, timeout=10
    ).headers["Location"]
    return back.removeprefix("http://127.0.0.1:8000")


def connect(browser, org):
    return browser.get(answer(org, go(browser)))


class TestConnecting:
    def test_leads_to_salesforce_and_back(self, anna, org, sqlite, account):
        page = go(anna)
        asked = parse_qs(urlsplit(page).query)
        assert page.startswith(f"{org.url}/services/oauth2/authorize?")
        assert (asked["code_challenge_method"], asked["response_type"]) == (["S256"], ["code"])
        anna.get(answer(org, page))
        assert "Connected as anna@acme.test" in anna.page
        assert kept(sqlite, account).identity.user_id == org.anna
        assert "Last used" in anna.get(PAGE).page

    @pytest.mark.parametrize(
        ("where", "my_domain", "host"),
        [
            ("production", "", "login.salesforce.com"),
            ("sandbox", "", "test.salesforce.com"),
            ("my-domain", "acme.my.salesforce.com", "acme.my.salesforce.com"),
            ("my-domain", " https://Acme.my.salesforce.com/lightning/page ", "acme.my.salesforce.com"),
            ("my-domain", "acme.lightning.force.com", "acme.my.salesforce.com"),
            ("my-domain", "acme--box.sandbox.my.salesforce.com", "acme--box.sandbox.my.salesforce.com"),
            ("my-domain", "acme", "acme.my.salesforce.com"),
            ("my-domain", "http://acme.my.salesforce.com", "acme.my.salesforce.com"),
        ],
    )
    def test_goes_where_the_person_signs_in(self, anna, where, my_domain, host):
        assert urlsplit(go(anna, where, my_domain)).netloc == host

    @pytest.mark.parametrize(
        "my_domain",
        [
            "evil.example",
            "salesforce.com.evil.example",
            "x@evil.example",
            "",
            "a b.c",
            "evil.example\\.salesforce.com",
            "[",
            "acme]",
            "ac／me.my.salesforce.com",
            "acme.my.salesforce.com:abc",
            "evil.example#.salesforce.com",
            "evil.example?.salesforce.com",
        ],
    )
    def test_goes_nowhere_else(self, anna, my_domain):
        assert go(anna, "my-domain", my_domain) is None
        assert "is no Salesforce host" in anna.page
        assert "acme.my.salesforce.com" in anna.page

    def test_denied_says_so_and_stores_nothing(self, anna, org, sqlite, account):
        anna.get(answer(org, go(anna), "deny"))
        assert "You pressed Deny" in anna.page
        assert kept(sqlite, account) is None

    @pytest.mark.parametrize("change", [("state=", "state=x"), ("state=", "was=")])
    def test_with_a_state_that_is_not_ours_stores_nothing(self, anna, org, sqlite, account, change):
        anna.get(answer(org, go(anna)).replace(*change))
        assert "was begun in this browser" in anna.page
        assert kept(sqlite, account) is None

    def test_in_another_browser_stores_nothing(self, app, anna, org, sqlite, account):
        back = answer(org, go(anna))
        boss = Browser(app, "boss@acme.test").get(back)
        assert "was begun in this browser" in boss.page
        assert kept(sqlite, account) is None

    def test_with_an_expired_code_says_so(self, anna, org, sqlite, account):
        back = answer(org, go(anna))
        for code in org.tokens.codes.values():
            code.good_until = 0
        anna.get(back)
        assert "took too long" in anna.page
        assert kept(sqlite, account) is None

    def test_twice_with_one_code_keeps_the_first(self, anna, org, sqlite, account):
        back = answer(org, go(anna))
        anna.get(back).get(back)
        assert "was begun in this browser" in anna.page
        assert kept(sqlite, account).is_usable

    def test_without_api_says_so_offers_the_copy_and_stores_no_token(self, anna, org, sqlite, account):
        org.app.extensions["has_api"] = False
        connect(anna, org)
        assert "lacks the permission" in anna.page
        assert kept(sqlite, account).refresh_token is None
        assert "has no API access" in anna.get("/settings/salesforce").page

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            ("OAUTH_APP_BLOCKED", "is blocked in this Salesforce org"),
            ("OAUTH_APP_ACCESS_DENIED", "Policies"),
            ("RESTRICTED_DOMAIN", "Choose “My Domain”"),
            ("something_new", "does not know"),
        ],
    )
    def test_that_salesforce_refuses_says_why_and_what_to_do(self, anna, org, sqlite, account, error, said):
        state = parse_qs(urlsplit(go(anna)).query)["state"][0]
        anna.get(f"/salesforce/callback?error={error}&error_description=%3Cb%3Ex&state={state}")
        assert said in anna.page
        assert "&lt;b&gt;x" in anna.page
        assert kept(sqlite, account) is None

    def test_that_salesforce_does_not_answer_says_so(self, anna, org, sqlite, account):
        back = answer(org, go(anna))
        org.faults.order(Fault.HTML, "token")
        anna.get(back)
        assert "overloaded or down" in anna.page
        assert kept(sqlite, account) is None

    def test_shows_no_secret(self, anna, org, sqlite, account):
        connect(anna, org)
        one = kept(sqlite, account)
        for path in (PAGE, "/settings/salesforce", "/settings/salesforce/diagnostics"):
            page = anna.get(path).page
            assert one.access_token not in page
            assert one.refresh_token not in page
            assert "blindcopy-secret" not in page

    def test_asks_for_a_sign_in_first(self, app):
        assert 'name="password"' in Browser(app).get(PAGE).page
        assert 'name="password"' in Browser(app).get("/salesforce/callback?code=x&state=y").page


class TestDisconnecting:
    def test_revokes_and_keeps_the_rest(self, anna, org, sqlite, account):
        connect(anna, org)
        with sqlite.writing() as session:
            settings_store.set_preference(session, account, Setting.BCC_ADDRESS, BCC, actor=None)
        anna.get(PAGE).post(f"{PAGE}/disconnect")
        assert "Salesforce has been told" in anna.page
        assert kept(sqlite, account) is None
        assert preference(sqlite) == {Setting.BCC_ADDRESS: BCC}
        assert org.tokens.refresh == {}

    def test_that_salesforce_does_not_hear_says_what_to_do_there(self, anna, org, sqlite, account):
        connect(anna, org)
        org.faults.order(Fault.HTML, "revoke")
        anna.get(PAGE).post(f"{PAGE}/disconnect")
        assert "could not be told" in anna.page


class TestPrerequisites:
    def test_without_a_connection_nothing_can_be_switched_on_but_by_a_typed_address(self, anna, sqlite):
        page = anna.get("/settings/salesforce").page
        assert "Salesforce is not connected." in page
        assert f'href="{PAGE}"' in page
        assert re.search(r'<button[^>]*name="activate"[^>]*disabled', page)
        anna.post("/settings/salesforce/bcc", address="", activate="1")
        assert "Connect it first, or type" in anna.page
        assert preference(sqlite) == {}
        anna.post("/settings/salesforce/bcc", address=BCC, activate="1")
        assert preference(sqlite) == {Setting.BCC_ADDRESS: BCC, Setting.LOGGING: "bcc"}
        assert "Blindcopy cannot check it" in anna.page

    def test_an_active_copy_goes_on_when_the_connection_breaks(self, anna, org, sqlite, account):
        give_address(org)
        connect(anna, org)
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        org.tokens.revoke_all()
        anna.get(PAGE).post(f"{PAGE}/check")
        assert "Connect Salesforce again" in anna.page
        page = anna.get("/settings/salesforce").page
        assert "The connection to Salesforce is broken." in page
        assert "copied to the address below all the same" in page
        with sqlite.reading() as session:
            [found] = [one for one in settings_store.people(session).persons if one.id == account.id]
        assert (found.settings.logging, found.settings.bcc_address) == ("bcc", ADDRESS)


class TestActivating:
    def test_looks_the_address_up(self, anna, org, sqlite):
        give_address(org, "anna@acme.test sales@acme.test")
        connect(anna, org)
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        assert "Your address was found in Salesforce" in anna.page
        assert preference(sqlite) == {Setting.BCC_ADDRESS: ADDRESS, Setting.LOGGING: "bcc"}
        assert "Salesforce takes mail from these too" in anna.page
        anna.post("/settings/salesforce/addresses", new_address="sales@acme.test")
        assert "Mail from sales@acme.test is yours now." in anna.page
        assert "Salesforce takes mail from these too" not in anna.page

    def test_shows_the_persons_steps_then_checks_again(self, anna, org, sqlite):
        give_address(
            org, user=org.org.put("User", Username="b", Name="B", Email="b@acme.test", IsActive=True)
        )
        connect(anna, org)
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        assert "Address missing" in anna.page
        assert re.search(r"<details[^>]* open>\s*<summary>Where do I find", anna.page)
        give_address(org)
        anna.post("/settings/salesforce/bcc", address="", look="1")
        assert "Your address was found" in anna.page

    def test_shows_the_admins_steps_and_a_text_to_copy(self, anna, org):
        connect(anna, org)
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        assert "Switched off in Salesforce" in anna.page
        assert re.search(r"<details open>\s*<summary>I cannot find", anna.page)
        assert "Please switch on Email to Salesforce" in anna.page

    def test_lets_type_it_where_the_user_may_not_look(self, anna, org):
        connect(anna, org)
        del org.org.objects["emailservicesaddress"]
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        assert "may not look the address up" in anna.page
        assert 'name="address"' in anna.page

    def test_goes_on_looking_while_salesforce_does_not_answer(self, anna, org, sqlite):
        connect(anna, org)
        org.faults.order(Fault.HTML, "query")
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        assert "Looking" in anna.page
        assert preference(sqlite) == {Setting.LOGGING: "bcc"}

    def test_shows_which_senders_salesforce_would_drop(self, anna, org):
        give_address(org, "somebody@acme.test")
        connect(anna, org)
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="1")
        assert "Salesforce drops mail from an address that it does not know" in anna.page
        assert "not in Salesforce" in anna.page


class TestCheckSetUp:
    def check(self, browser):
        browser.get("/settings/salesforce/diagnostics").post("/settings/salesforce/diagnostics")
        text = re.sub(r"<[^>]+>", " ", browser.page)
        return re.sub(r"\s+", " ", text)

    def test_goes_through_everything(self, app, anna, org):
        give_address(org)
        connect(anna, org)
        said = self.check(anna)
        for line in (
            "Green connection : anna@acme.test is connected as anna@acme.test",
            "Green API access", "Green clock", "Green daily calls", "Green Email to Salesforce", "Green acceptable senders",
            "Green field rights on Task", "Green Task statuses", "Green Task types", "Green field rights on EmailMessage",
            "Green Enhanced Email", "Yellow Shared Activities", "Yellow Blindcopy_Key__c",
        ):  # fmt: skip
            assert line in said
        assert "database" not in said, "that is the admins'"
        assert "Green database" in self.check(Browser(app, "boss@acme.test"))

    def test_says_what_is_wrong_and_where_to_mend_it(self, anna, org):
        give_address(org, "other@acme.test")
        connect(anna, org)
        org.app.extensions["hidden_fields"] = {"Task": {"ActivityDate"}, "EmailMessage": {"TextBody"}}
        org.app.extensions["skew"] = timedelta(minutes=10)
        org.app.extensions["usage"]["used"] = 14_000
        for row in org.org.rows["taskstatus"].values():
            row["IsClosed"] = False
        said = self.check(anna)
        for line in (
            "Red clock", "NTP", "Red daily calls", "Company Information", "Red acceptable senders", "drop mail from anna@acme.test",
            "Red field rights on Task : the user may not write ActivityDate", "Set Field-Level Security",
            "Red field rights on EmailMessage : the user may not write TextBody", "Red Task statuses",
        ):  # fmt: skip
            assert line in said

    def test_says_which_features_are_there(self, anna, org):
        connect(anna, org)
        del org.org.objects["emailmessagerelation"]
        assert "Yellow Enhanced Email : off" in self.check(anna)

    def test_without_a_connection_says_so(self, anna, org):
        assert "Yellow connection : anna@acme.test is not connected" in self.check(anna)

    def test_of_a_dead_connection_says_reconnect(self, anna, org):
        connect(anna, org)
        org.tokens.revoke_all()
        assert "Red connection" in self.check(anna)
        assert "Connect Salesforce again" in self.check(anna)

    @pytest.mark.parametrize("fault", [Fault.HTML, Fault.GARBAGE])
    def test_outlives_what_salesforce_answers(self, anna, org, fault):
        connect(anna, org)
        org.faults.order(fault, times=20)
        assert "Yellow connection" in self.check(anna)


class TestByKey:
    def test_an_admin_links_whole_teams_and_sees_who_is_left(self, sqlite, org, tmp_path):
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (tmp_path / "key.pem").write_bytes(key.private_bytes(*pem))
        org.tokens.client.public_key = key.public_key()
        org.tokens.client.pre_authorised.add(org.anna)
        made = create_app(config(org, tmp_path, BLINDCOPY_SALESFORCE_JWT_KEY_FILE=str(tmp_path / "key.pem")))
        with sqlite.writing() as session:
            for email in ("boss@acme.test", "anna@acme.test"):
                people_store.add_person(
                    session, email, name="", is_admin=True, password_hash=hashed(PASSWORD), actor=None
                )
            account = people_store.person_by_email(session, "anna@acme.test")
        boss = Browser(made, "boss@acme.test").get(PAGE)
        boss.post(f"{PAGE}/key", lines="anna@acme.test\nboss@acme.test, nobody@acme.test\nwho@acme.test, x\n")
        assert "Linked: 1." in boss.page
        assert "is not let in for the app" in boss.page
        assert "There is no person with the address who@acme.test" in boss.page
        assert "boss@acme.test, nobody@acme.test\nwho@acme.test, x" in boss.page.replace("\r", "")
        assert kept(sqlite, account).is_usable
        made.extensions["blindcopy"].database.close()

    def test_is_the_admins_and_only_with_a_key(self, app, anna):
        assert anna.get(PAGE).post(f"{PAGE}/key", lines="x").status == 403
        assert Browser(app, "boss@acme.test").get(PAGE).post(f"{PAGE}/key", lines="x").status == 404


def test_admins_see_everybodys_connections(app, anna, org):
    connect(anna, org)
    boss = Browser(app, "boss@acme.test").get(PAGE)
    assert "Everybody&#39;s connections" in boss.page or "Everybody's connections" in boss.page
    assert "anna@acme.test" in boss.page
    assert "Everybody" not in anna.get(PAGE).page


def test_every_word_of_a_trouble_is_a_sentence():
    for code in ("access_denied", "wrong_state", "clock_skew"):
        found = trouble(code)
        assert found.cause.endswith(".")
        assert found.remedy.endswith(".")


def test_where_nothing_is_registered_the_page_says_what_to_do(sqlite, tmp_path):
    from core.config import read_config

    made = create_app(
        read_config(
            {"DATABASE_URL": f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": "0123456789abcdef"}
        )
    )
    with sqlite.writing() as session:
        people_store.add_person(
            session, "boss@acme.test", name="", is_admin=True, password_hash=hashed(PASSWORD), actor=None
        )
    boss = Browser(made, "boss@acme.test").get(PAGE)
    assert "External Client App Manager" in boss.page
    assert "http://127.0.0.1:8000/salesforce/callback" in boss.page
    assert boss.post(PAGE, where="production").status == 404
    assert connection_store.has_api(None) is False
    made.extensions["blindcopy"].database.close()

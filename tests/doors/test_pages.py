"""The pages, as a browser without JavaScript uses them."""

import re
from datetime import UTC, datetime

import pytest

from admin import create_app
from admin.access import Services
from core.config import read_config
from core.database.audit import changes
from core.database.engine import Database
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.browser import (
    ADMINS_PAGES,
    BCC,
    EVERYBODYS_PAGES,
    PASSWORD,
    Browser,
    anna,  # noqa: F401
    app,  # noqa: F401
    boss,  # noqa: F401
    preference,
)


class TestSigningIn:
    def test_leads_to_the_page_that_was_wanted(self, app):
        browser = Browser(app).get("/settings/app-passwords")
        assert 'name="password"' in browser.page
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.page).group(1)
        response = browser.client.post(
            "/sign-in?next=/settings/app-passwords",
            data={"email": "ANNA@acme.test", "password": PASSWORD, "csrf_token": token},
        )
        assert response.headers["Location"] == "/settings/app-passwords"

    @pytest.mark.parametrize(
        "target", ["https://evil.test/", "//evil.test/", "/\\evil.test", "javascript:alert(1)"]
    )
    def test_leads_nowhere_else(self, app, target):
        browser = Browser(app).get("/sign-in")
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', browser.page).group(1)
        response = browser.client.post(
            "/sign-in",
            query_string={"next": target},
            data={"email": "anna@acme.test", "password": PASSWORD, "csrf_token": token},
        )
        assert response.headers["Location"] == "/"

    @pytest.mark.parametrize(
        ("email", "password"), [("anna@acme.test", "wrong"), ("nobody@acme.test", PASSWORD)]
    )
    def test_fails_alike_for_a_wrong_name_and_a_wrong_password(self, app, email, password):
        browser = Browser(app).get("/sign-in").post("/sign-in", email=email, password=password)
        assert "E-mail address or password is wrong" in browser.page

    def test_is_slowed(self, app):
        browser = Browser(app).get("/sign-in")
        for _ in range(6):
            browser.post("/sign-in", email="anna@acme.test", password="wrong")
        assert browser.post("/sign-in", email="anna@acme.test", password=PASSWORD).status == 429
        assert "Too many tries" in browser.page

    def test_of_a_disabled_person_ends_at_once(self, app, anna, sqlite):
        with sqlite.writing() as session:
            people_store.set_active(session, "anna@acme.test", active=False, actor=None)
        assert 'name="password"' in anna.get("/activity").page
        assert "is wrong" in Browser(app, "anna@acme.test").page

    def test_ends_everywhere_else_with_a_new_password(self, app, anna):
        other = Browser(app, "anna@acme.test")
        anna.get("/settings/account").post("/settings/account/password", current=PASSWORD, new="a longer one")
        assert "Your password is changed" in anna.page
        assert "Activity" in anna.get("/activity").page
        assert 'name="password"' in other.get("/activity").page

    def test_ends(self, anna):
        anna.get("/activity").post("/sign-out")
        assert "You are signed out" in anna.page
        assert 'name="password"' in anna.get("/activity").page


class TestRights:
    @pytest.mark.parametrize("path", ADMINS_PAGES + EVERYBODYS_PAGES)
    def test_nobody_sees_anything_without_a_sign_in(self, app, path):
        assert 'name="password"' in Browser(app).get(path).page

    @pytest.mark.parametrize("path", ADMINS_PAGES)
    def test_admins_pages_are_admins(self, boss, anna, path):
        assert boss.get(path).status == 200
        assert anna.get(path).status == 403

    @pytest.mark.parametrize("path", EVERYBODYS_PAGES)
    def test_everybodys_pages_are_everybodys(self, boss, anna, path):
        assert (boss.get(path).status, anna.get(path).status) == (200, 200)

    @pytest.mark.parametrize(
        ("path", "fields"),
        [
            ("/settings/policy/mail", {"logging": "bcc", "own_domains": "evil.test"}),
            ("/settings/people", {"email": "evil@acme.test"}),
            ("/settings/people/2", {"action": "make-admin"}),
            ("/settings/people/1", {"action": "password"}),
            ("/settings/people/1/addresses", {"address": "evil@acme.test"}),
            ("/senders", {"address": "evil@acme.test", "person": "anna@acme.test"}),
        ],
    )
    def test_admins_fields_are_refused_on_post_too(self, anna, sqlite, path, fields):
        anna.get("/settings/salesforce")
        with sqlite.reading() as session:
            before = changes(session, 100)
        assert anna.post(path, **fields).status == 403
        with sqlite.reading() as session:
            assert changes(session, 100) == before

    def test_an_admin_sees_admin_settings_and_others_my_account_only(self, boss, anna):
        assert "Admin Settings" in boss.get("/settings/salesforce").page
        assert "Policy for everybody" in boss.page
        assert "Admin Settings" not in anna.get("/settings/salesforce").page
        assert "My Account" in anna.page
        assert "Policy for everybody" not in anna.page

    @pytest.mark.parametrize(
        "path", ["/settings/salesforce/bcc", "/settings/policy/mail", "/settings/app-passwords", "/sign-out"]
    )
    def test_a_form_without_its_token_is_refused(self, boss, path):
        assert boss.client.post(path, data={"logging": "bcc"}).status_code == 400

    def test_pages_are_guarded_by_headers(self, anna):
        headers = anna.get("/activity").headers
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert (headers["X-Frame-Options"], headers["Cache-Control"]) == ("DENY", "no-store")


class TestTheCopySwitch:
    def test_activates_with_an_address(self, anna, sqlite):
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address=BCC, activate="Activate")
        assert "Active: your sales mails are copied" in anna.page
        assert preference(sqlite) == {Setting.BCC_ADDRESS: BCC, Setting.LOGGING: "bcc"}
        anna.post("/settings/salesforce/bcc", address=BCC, deactivate="Deactivate")
        assert preference(sqlite) == {Setting.BCC_ADDRESS: BCC, Setting.LOGGING: "off"}

    def test_says_what_is_missing_and_shows_the_steps(self, anna, sqlite):
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address="", activate="Activate")
        assert "Connect it first, or type your Email to Salesforce address in" in anna.page
        assert preference(sqlite) == {}
        for step in (
            "My Settings",
            "My Email to Salesforce",
            "My Acceptable Email Addresses",
            "Save Changes",
            "Email Administration",
            "Active",
        ):
            assert step in anna.page

    def test_refuses_what_is_no_such_address_beside_the_field_and_keeps_it(self, anna, sqlite):
        anna.get("/settings/salesforce").post(
            "/settings/salesforce/bcc", address="anna@acme.test", activate="Activate"
        )
        assert "begins with emailtosalesforce@" in anna.page
        assert 'value="anna@acme.test"' in anna.page
        assert preference(sqlite) == {}

    def test_is_switched_off_whatever_stands_in_the_field(self, anna, sqlite):
        anna.get("/settings/salesforce").post("/settings/salesforce/bcc", address=BCC, activate="Activate")
        anna.post("/settings/salesforce/bcc", address="rubbish", deactivate="Deactivate")
        assert preference(sqlite) == {Setting.BCC_ADDRESS: BCC, Setting.LOGGING: "off"}

    def test_is_the_policys_where_that_is_locked(self, anna, sqlite):
        with sqlite.writing() as session:
            settings_store.set_policy(session, Setting.LOGGING, "bcc", actor=None)
            settings_store.lock_policy(session, Setting.LOGGING, locked=True, actor=None)
        assert "policy decides" in anna.get("/settings/salesforce").page
        assert 'name="deactivate"' not in anna.page
        anna.post("/settings/salesforce/bcc", address=BCC, deactivate="Deactivate")
        assert "is fixed by the organisation" in anna.page
        assert preference(sqlite) == {}, "nothing is half-done"


class TestAcceptableAddresses:
    def test_are_explained_added_and_removed(self, anna):
        assert "addresses that you send from" in anna.get("/settings/salesforce").page
        anna.post("/settings/salesforce/addresses", new_address="Sales@acme.test")
        assert "Mail from Sales@acme.test is yours now" in anna.page
        anna.post("/settings/salesforce/addresses/remove", address="sales@acme.test")
        assert "Sales@acme.test" not in anna.get("/settings/salesforce").page

    @pytest.mark.parametrize(
        ("address", "said"), [("sales", "has no @"), ("boss@acme.test", "somebody else"), ("", "required")]
    )
    def test_are_checked(self, anna, address, said):
        assert (
            said
            in anna.get("/settings/salesforce")
            .post("/settings/salesforce/addresses", new_address=address)
            .page
        )


class TestAppPasswords:
    def test_are_shown_once_and_revoked(self, anna, sqlite):
        anna.get("/settings/app-passwords").post("/settings/app-passwords", label="Outlook")
        password = re.search(r'class="secret">([^<]+)<', anna.page).group(1)
        assert password not in anna.get("/settings/app-passwords").page
        assert "never used" in anna.page
        with sqlite.reading() as session:
            known = settings_store.people(session)
        assert known.signing_in("anna@acme.test", password, datetime.now(UTC)) is not None
        key = re.search(r'name="id" value="(\d+)"', anna.page).group(1)
        anna.post("/settings/app-passwords/revoke", id=key)
        assert "Revoked" in anna.page
        with sqlite.reading() as session:
            assert (
                settings_store.people(session).signing_in("anna@acme.test", password, datetime.now(UTC))
                is None
            )

    def test_of_others_cannot_be_revoked(self, boss, anna):
        boss.get("/settings/app-passwords").post("/settings/app-passwords", label="Mine")
        key = re.search(r'name="id" value="(\d+)"', boss.page).group(1)
        assert (
            "has no app password"
            in anna.get("/settings/app-passwords").post("/settings/app-passwords/revoke", id=key).page
        )


@pytest.mark.parametrize("path", ["/sign-in", "/settings/policy/mail", "/sign-out", "/nowhere"])
def test_a_post_while_the_database_is_away_ends_in_the_page_that_says_so(anna, tmp_path, path, caplog):
    (tmp_path / "blindcopy.db").rename(tmp_path / "away.db")
    answer = anna.client.post(path, data={"email": "x"})
    assert (answer.status_code, "The database does not answer" in answer.text) == (503, True)
    assert "Traceback" not in caplog.text


class TestTheMailClientPage:
    def test_names_what_to_type(self, anna):
        page = anna.get("/settings/mail-client").page
        for text in ("127.0.0.1", "<code>9</code>", "anna@acme.test", "Outlook", "Thunderbird", "Apple Mail"):
            assert text in page

    def test_says_that_the_relay_is_not_there(self, anna, sqlite):
        anna.get("/settings/mail-client").post("/settings/mail-client/test")
        assert "The relay does not answer at 127.0.0.1:9" in anna.page
        with sqlite.reading() as session:
            assert settings_store.people(session).by_login["anna@acme.test"].app_passwords == ()


@pytest.mark.parametrize(
    "path", ["/sign-in", "/activity?before=%00", "/activity?state=%00", "/settings/people/%00"]
)
def test_nul_is_answered_with_400(boss, path):
    assert boss.get(path.replace("/sign-in", "/sign-in?next=%00")).status == 400


@pytest.mark.parametrize("path", ["/settings/people/99999999999999999999", "/settings/people/999", "/nope"])
def test_what_is_not_there_is_404(boss, path):
    assert boss.get(path).status == 404


def test_a_broken_next_page_is_home(anna):
    assert anna.get("/sign-in?next=//[").status == 200


def test_a_signed_in_person_is_told_that_the_database_is_away(app, anna):
    services = app.extensions["blindcopy"]
    away = Database("postgresql+psycopg://nobody@127.0.0.1:1/x")
    app.extensions["blindcopy"] = Services(services.config, away)
    for path in ("/activity", "/nope", "/sign-in"):
        assert anna.get(path).status == 503
        assert "The database does not answer" in anna.page
    app.extensions["blindcopy"] = services
    away.close()


def test_an_app_whose_database_is_away_says_so(tmp_path):
    app = create_app(
        read_config(
            {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x", "BLINDCOPY_SECRET_KEY": "0123456789abcdef"}
        )
    )
    browser = Browser(app).get("/sign-in")
    assert (browser.status, "The database does not answer" in browser.page) == (503, True)
    app.extensions["blindcopy"].database.close()


def test_who_comes_without_tls_is_sent_to_our_own_host_whatever_the_browser_names(sqlite, tmp_path):
    app = create_app(
        read_config({"DATABASE_URL": f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
                     "BLINDCOPY_PUBLIC_URL": "https://crm.acme.example", "BLINDCOPY_STATE_DIR": str(tmp_path)})
    )  # fmt: skip
    answer = app.test_client().get("/sign-in?next=%2Ftasks", headers={"Host": "evil.test"})
    assert (answer.status_code, answer.location) == (302, "https://crm.acme.example/sign-in?next=%2Ftasks")


def test_files_that_are_the_same_for_everybody_carry_no_cookie(app):
    anna = Browser(app, "anna@acme.test")
    assert "Set-Cookie" in anna.get("/activity").headers
    link = re.search(r'href="(/static/[^"]+)"', anna.page).group(1)
    anna.get(link)
    assert (anna.status, "Set-Cookie" in anna.headers) == (200, False)
    assert "base-uri 'none'" in anna.headers["Content-Security-Policy"]

"""The pages, as a browser without JavaScript uses them."""

import re
from datetime import UTC, datetime, timedelta

import pytest

from admin import create_app
from admin.access import Services
from admin.passwords import hashed
from core.config import read_config
from core.database.audit import changes
from core.database.engine import Database
from core.database.heartbeats import Beat, Condition, beat
from core.database.models import ProcessRow
from core.findings import Light, facts
from core.mail import store as mail_store
from core.mail.bulk_insert import write as write_rows
from core.mail.reasons import Reason
from core.mail.row import Copy, Decision, State
from core.mail.store import UnknownSender
from core.people import store as people_store
from core.settings import store as settings_store
from core.settings.catalogue import Section, Setting, of_policy
from core.settings.in_force import PolicyEntry
from tests.doors.test_storage import row

BCC = "emailtosalesforce@x.le.salesforce.com"
PASSWORD = "correct horse"


class Browser:
    """A client that fills in the forms it finds, hidden fields and all."""

    def __init__(self, app, email=None):
        self.client = app.test_client()
        self.page = ""
        self.status = 0
        if email is not None:
            self.get("/sign-in")
            self.post("/sign-in", email=email, password=PASSWORD)

    def get(self, path):
        return self._took(self.client.get(path, follow_redirects=True))

    def post(self, path, **fields):
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', self.page)
        fields |= {"csrf_token": token.group(1) if token else ""}
        return self._took(self.client.post(path, data=fields, follow_redirects=True))

    def _took(self, response):
        self.page, self.status = response.get_data(as_text=True), response.status_code
        self.headers = response.headers
        return self


@pytest.fixture
def app(sqlite, tmp_path):
    app = create_app(
        read_config({"DATABASE_URL": f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
                     "BLINDCOPY_LISTEN": "submission://127.0.0.1:9", "BLINDCOPY_STATE_DIR": str(tmp_path)})
    )  # fmt: skip
    app.config["TESTING"] = True
    with sqlite.writing() as session:
        for email, is_admin in (("boss@acme.test", True), ("anna@acme.test", False)):
            people_store.add_person(
                session,
                email,
                name=email[:4].title(),
                is_admin=is_admin,
                password_hash=hashed(PASSWORD),
                actor=None,
            )
    yield app
    app.extensions["blindcopy"].database.close()


@pytest.fixture
def boss(app):
    return Browser(app, "boss@acme.test")


@pytest.fixture
def anna(app):
    return Browser(app, "anna@acme.test")


def preference(database, email="anna@acme.test"):
    with database.reading() as session:
        return settings_store.preference(session, people_store.person_by_email(session, email).id)


ADMINS_PAGES = ["/settings/people", "/settings/people/1", "/settings/changes", "/senders"]
EVERYBODYS_PAGES = [
    "/activity",
    "/settings",
    "/settings/salesforce",
    "/settings/app-passwords",
    "/settings/mail-client",
    "/settings/account",
]


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


class TestThePolicy:
    def test_is_saved_as_a_whole(self, boss, sqlite):
        boss.get("/settings/salesforce").post(
            "/settings/policy/mail",
            logging="bcc",
            own_domains="acme.test",
            never_log="lawyer@law.test",
            time_zone="Europe/Berlin",
            **{"lock-logging": "on"},
        )
        assert "Saved." in boss.page
        with sqlite.reading() as session:
            assert settings_store.policy(session) == {
                Setting.LOGGING: PolicyEntry("bcc", locked=True),
                Setting.OWN_DOMAINS: PolicyEntry("acme.test"),
                Setting.NEVER_LOG: PolicyEntry("lawyer@law.test"),
                Setting.TIME_ZONE: PolicyEntry("Europe/Berlin"),
            }

    @pytest.mark.parametrize("section", list(Section))
    def test_every_setting_of_the_organisation_has_a_field_that_saves_it(self, boss, sqlite, section):
        page = boss.get("/settings/salesforce").page
        for setting in of_policy(section):
            assert f'name="{setting.attribute}"' in page, f"{setting} has no page"
            assert (f'name="lock-{setting}"' in page) is setting.may_be_locked
        other = {
            one.attribute: {
                "some-of": "leads",
                "number": "7",
                "flag": "y",
                "line": "Europe/Berlin",
                "list": "law.test",
            }.get(
                one.definition.kind.shape, list(getattr(one.definition.kind, "labels", None) or {"": ""})[-1]
            )
            for one in of_policy(section)
            if one is not Setting.SUBJECT_TEMPLATE
        }
        if section is Section.API:
            other["subject_template"] = "{{activity_subject}}"
        boss.post(f"/settings/policy/{section}", **other)
        assert "Saved." in boss.page
        with sqlite.reading() as session:
            known = settings_store.policy(session)
        changed = {
            one for one in of_policy(section) if one in known and known[one].value != one.definition.default
        }
        assert changed == set(of_policy(section))

    def test_every_setting_of_a_person_has_a_field(self, anna):
        pages = "".join(
            anna.get(path).page
            for path in ("/settings/salesforce", "/settings/salesforce/api", "/settings/account")
        )
        shown_as = {Setting.BCC_ADDRESS: "address", Setting.LOGGING: "activate"}
        for setting in [one for one in Setting if one.is_for_persons]:
            assert f'name="{shown_as.get(setting, setting.attribute)}"' in pages, f"{setting} has no page"

    def test_of_an_unknown_section_there_is_none(self, boss):
        assert boss.get("/settings/salesforce").post("/settings/policy/weather").status == 404

    def test_with_a_mistake_is_not_saved_at_all(self, boss, sqlite):
        boss.get("/settings/salesforce").post(
            "/settings/policy/mail", logging="bcc", own_domains="acme", never_log="a@", time_zone="Mars"
        )
        assert boss.page.count("has no dot") == 2
        assert "IANA" in boss.page
        assert re.search(r">\s*acme</textarea>", boss.page)
        with sqlite.reading() as session:
            assert settings_store.policy(session) == {}


class TestPeople:
    def test_are_added_with_a_password_shown_once(self, app, boss):
        boss.get("/settings/people").post("/settings/people", email="carl@acme.test", name="Carl")
        password = re.search(r'class="secret">([^<]+)<', boss.page).group(1)
        browser = Browser(app).get("/sign-in").post("/sign-in", email="carl@acme.test", password=password)
        assert "Activity" in browser.page
        assert password not in boss.get("/settings/people").page

    @pytest.mark.parametrize(
        ("email", "said"), [("carl", "has no @"), ("ANNA@acme.test", "already a person")]
    )
    def test_are_checked(self, boss, email, said):
        assert said in boss.get("/settings/people").post("/settings/people", email=email).page

    def test_the_last_admin_stays(self, boss):
        assert (
            "only admin" in boss.get("/settings/people/1").post("/settings/people/1", action="disable").page
        )

    def test_change_role(self, boss, anna):
        boss.get("/settings/people/2").post("/settings/people/2", action="make-admin")
        assert anna.get("/settings/people").status == 200


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


class TestHealth:
    def beating(self, sqlite, key, condition=Condition(), ago=timedelta(0)):  # noqa: B008
        with sqlite.writing() as session:
            beat(session, Beat(key, "relay", datetime.now(UTC), 3, ("submission 127.0.0.1:2587",), condition))
            session.get(ProcessRow, key).beat_at -= ago

    def test_says_that_no_relay_runs(self, boss):
        assert "No relay is running: mail clients cannot send" in boss.get("/health").page

    def test_shows_every_process_and_that_all_is_well(self, boss, sqlite):
        self.beating(sqlite, "one")
        self.beating(sqlite, "two")
        with sqlite.writing() as session:
            settings_store.set_policy(session, Setting.OWN_DOMAINS, "acme.test", actor=None)
        page = boss.get("/health").page
        assert page.count("running</span>") == 2
        assert "submission 127.0.0.1:2587" in page
        assert "Nothing: a mail that is sent now is logged as the settings say." in page

    def test_says_what_is_wrong_what_to_do_and_where_to_decide(self, boss, sqlite):
        trouble = facts(
            Light.RED, "mail provider", "it does not accept us, and answers 530", "look at the provider"
        )
        self.beating(
            sqlite, "one", Condition("it does not accept us, and answers 530", 5_000_000, findings=(trouble,))
        )
        with sqlite.writing() as session:
            write_rows(session, [row(2, state=State.UNKNOWN, time=datetime.now(UTC))])
        with sqlite.writing() as session:
            mail_store.count_unknown(
                session, [UnknownSender("i@acme.test", "i@acme.test", datetime.now(UTC))]
            )
        page = boss.get("/health").page
        assert "t does not accept us, and answers 530" in page
        assert "Look at the provider" in page
        assert "5.0 MB" in page
        assert "in your own domains is not logged: i@acme.test" in page
        assert 'href="/activity?state=unknown"' in page
        assert "1 sender is nobody" in page

    def test_a_relay_of_the_first_release_is_understood(self, boss, sqlite):
        self.beating(sqlite, "one", Condition("it does not accept us, and answers 530"))
        assert "t does not accept us, and answers 530" in boss.get("/health").page

    def test_a_process_that_fell_silent_is_named_until_another_is_there(self, boss, sqlite):
        self.beating(sqlite, "one", ago=timedelta(minutes=5))
        assert "has been silent since its last beat" in boss.get("/health").page
        self.beating(sqlite, "two")
        page = boss.get("/health").page
        assert "has been silent since its last beat" not in page
        assert "silent</span>" in page

    def test_is_the_admins(self, anna):
        assert anna.get("/health").status == 403
        assert "/health" not in anna.get("/activity").page


class TestTheProbes:
    """What balancers and Prometheus ask: in plain HTTP, without a sign-in."""

    @pytest.fixture
    def client(self, sqlite, tmp_path):
        app = create_app(
            read_config({"DATABASE_URL": f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
                         "BLINDCOPY_STATE_DIR": str(tmp_path), "BLINDCOPY_PUBLIC_URL": "https://blindcopy.example.com"})
        )  # fmt: skip
        yield app.test_client()
        app.extensions["blindcopy"].database.close()

    def test_are_not_sent_on_to_https(self, client):
        assert client.get("/sign-in").status_code == 302
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, "relay: no relay is running" in answer.text) == (503, True)
        assert client.get("/readyz?for=mail").status_code == 503
        assert b"blindcopy_web_requests_total" in client.get("/metrics").data

    def test_readiness_looks_at_the_whole(self, client, sqlite):
        with sqlite.writing() as session:
            beat(session, Beat("r", "relay", datetime.now(UTC), 3))
        answer = client.get("/readyz")
        assert (answer.status_code, "database: ok" in answer.text) == (200, True)
        assert client.get("/readyz?for=mail").text == ""

    def test_figures_are_for_this_machine_only(self, client):
        client.get("/healthz")
        assert "no relay" not in client.get("/readyz", environ_base={"REMOTE_ADDR": "192.0.2.1"}).text, (
            "no details"
        )
        assert "relay: red" in client.get("/readyz", base_url="https://blindcopy.example.com").text
        client.get("/nowhere", base_url="https://blindcopy.example.com")
        own = client.get("/metrics").text
        assert 'blindcopy_web_requests_total{page="none",status="4xx"} 1.0' in own
        assert client.get("/metrics", environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 404
        assert client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 404

    def test_live_on_without_a_database(self, client, tmp_path):
        (tmp_path / "blindcopy.db").rename(tmp_path / "away.db")
        assert client.get("/healthz").status_code == 200
        answer = client.get("/readyz")
        assert (answer.status_code, "is gone; stop every process" in answer.text) == (503, True)


@pytest.mark.parametrize("path", ["/sign-in", "/settings/policy/mail", "/sign-out", "/nowhere"])
def test_a_post_while_the_database_is_away_ends_in_the_page_that_says_so(anna, tmp_path, path, caplog):
    (tmp_path / "blindcopy.db").rename(tmp_path / "away.db")
    answer = anna.client.post(path, data={"email": "x"})
    assert (answer.status_code, "The database does not answer" in answer.text) == (503, True)
    assert "Traceback" not in caplog.text


class TestInternalByDefault:
    def test_the_policy_page_says_which_domains_count_and_lets_an_admin_confirm_them(
        self, boss, anna, sqlite
    ):
        assert "Mail within acme.test is not logged" in anna.get("/settings/salesforce").page
        page = boss.get("/settings/salesforce").page
        assert "Until then mail within acme.test counts as internal" in page
        boss.post("/settings/policy/own-domains", domains="acme.test,evil.test")
        assert "The domains have changed meanwhile" in boss.page
        boss.post("/settings/policy/own-domains", domains="acme.test")
        with sqlite.reading() as session:
            assert settings_store.policy(session)[Setting.OWN_DOMAINS] == PolicyEntry("acme.test")
        assert "counts as internal and is not logged" not in boss.page
        assert "Mail within acme.test is not logged" not in anna.get("/settings/salesforce").page

    def test_only_an_admin_confirms(self, anna, sqlite):
        assert anna.post("/settings/policy/own-domains").status == 403
        with sqlite.reading() as session:
            assert Setting.OWN_DOMAINS not in settings_store.policy(session)


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

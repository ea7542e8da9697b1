"""The pages of an admin: the policy, people, and what counts as internal."""

import re

import pytest

from core.settings import store as settings_store
from core.settings.catalogue import Section, Setting, of_policy
from core.settings.in_force import PolicyEntry
from tests.doors.browser import (
    Browser,
    anna,  # noqa: F401
    app,  # noqa: F401
    boss,  # noqa: F401
)


class TestThePolicy:
    def test_is_saved_as_a_whole(self, boss, sqlite):
        boss.get("/settings/salesforce").post(
            "/settings/policy/mail",
            logging="bcc",
            own_domains="acme.test",
            never_log="lawyer@law.test",
            send_as="anybody",
            time_zone="Europe/Berlin",
            show_internal_recipients="y",
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
        # a box without its tick
        off = {one.attribute for one in of_policy(section) if one.definition.default == "yes"}
        boss.post(
            f"/settings/policy/{section}", **{name: text for name, text in other.items() if name not in off}
        )
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
        assert not re.search(r'name="lock-logging"[^>]*checked', boss.page)
        boss.post("/settings/policy/mail", logging="bcc", own_domains="acme", **{"lock-logging": "on"})
        assert re.search(r'name="lock-logging"[^>]*checked', boss.page), "what was ticked stays ticked"
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

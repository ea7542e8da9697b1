"""A browser without JavaScript, the people who use it, and the pages that there are."""

import re

import pytest

from admin import create_app
from admin.passwords import hashed
from core.config import read_config
from core.people import store as people_store
from core.settings import store as settings_store

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

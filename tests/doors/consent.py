"""What a person does on Salesforce's own pages."""

from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from core.salesforce.client import Client
from core.salesforce.login import (
    Login,
    new_challenge,
)


@pytest.fixture
def app(org_app):
    return org_app


def come_back(org, app, choice="allow"):
    """What the browser brings back from Salesforce's page."""
    challenge = new_challenge()
    answer = requests.post(
        Login(app).page(challenge), data={"user": org.anna, "answer": choice}, verify=org.ca_file,
        allow_redirects=False, timeout=10,
    )  # fmt: skip
    return challenge, {
        key: value[0] for key, value in parse_qs(urlsplit(answer.headers["Location"]).query).items()
    }


def signed_in(org, app):
    challenge, back = come_back(org, app)
    assert back["state"] == challenge.state
    return Login(app).by_code(back["code"], challenge)


@pytest.fixture
def client(org, app):
    return Client(app, org.url, signed_in(org, app).access_token)

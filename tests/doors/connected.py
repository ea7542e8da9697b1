"""People who are connected with the pretend org."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from core.database.models import ConnectionRow
from core.endpoints import SalesforceApp
from core.people import store as people_store
from core.salesforce import connection_store
from core.salesforce.connection_store import OAuthTokens, Way
from core.salesforce.connections import Connections
from core.salesforce.login import Identity
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from tests.doors.conftest import CALLBACK
from tests.doors.consent import come_back

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def app(org_app):
    return org_app


def person(database, email="anna@acme.test"):
    with database.writing() as session:
        return people_store.add_person(session, email, name="", is_admin=False, password_hash="x", actor=None)


@pytest.fixture
def anna(database):
    return person(database)


@pytest.fixture
def connections(database, app):
    return Connections(database, app)


def connected(connections, org, app, account):
    challenge, back = come_back(org, app)
    connections.by_code(account, back["code"], challenge, login_url=app.login_url, actor="anna@acme.test")
    return kept(connections.database, account)


def kept(database, account):
    with database.reading() as session:
        return connection_store.connection(session, account.id)


def works(connections, account):
    client = connections.client(kept(connections.database, account))
    return client.query("SELECT Id FROM Contact")


@pytest.fixture
def key_app(org, app, tmp_path):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    org.tokens.client.public_key = key.public_key()
    org.tokens.client.pre_authorised.add(org.anna)
    return SalesforceApp(app.client_id, app.client_secret, CALLBACK, org.url, org.ca_file, path)


RENEW = """
import sys
from pathlib import Path
from core.salesforce.connections import Connections
from core.endpoints import SalesforceApp
from core.secrets import Box
from core.salesforce import connection_store
from core.database.engine import Database
url, org, ca, person = sys.argv[1:]
database = Database(url, Box(["0123456789abcdef"]))
app = SalesforceApp("blindcopy-client", "blindcopy-secret", "http://127.0.0.1:8000/salesforce/callback", org, Path(ca))
with database.reading() as session:
    connection = connection_store.connection(session, int(person))
print("renewing", flush=True)
sys.stdin.readline()
print(Connections(database, app).client(connection).query("SELECT Id FROM Contact"), flush=True)
"""


def process(database_url, org, account):
    started = subprocess.Popen(
        [sys.executable, "-c", RENEW, database_url, org.url, str(org.ca_file), str(account.id)],
        cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert started.stdout.readline() == "renewing\n"
    return started


def end_the_lease(database):
    with database.writing() as session:
        for row in session.query(ConnectionRow):
            row.turn_until -= connection_store.TURN


def connect_anna(database, logging="api", **more):
    with database.writing() as session:
        anna = people_store.person_by_email(session, "anna@acme.test")
        connection_store.connect(
            session, anna, Identity("00D000000000001", "005000000000001", "anna@acme.test"), way=Way.SIGN_IN,
            login_url="https://x.salesforce.com", tokens=OAuthTokens("a", "r", "https://x.my.salesforce.com"), actor=None,
        )  # fmt: skip
        settings_store.set_preference(session, anna, Setting.LOGGING, logging, actor=None)
        for name, value in more.items():
            settings_store.set_preference(session, anna, Setting(name), value, actor=None)

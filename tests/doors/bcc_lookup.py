"""Email to Salesforce addresses in the pretend org, and a configuration that can look them up."""

import pytest

from core.config import read_config
from core.salesforce import bcc_address_queue
from core.salesforce.connections import Connections
from core.settings import store as settings_store
from core.settings.catalogue import Setting
from sync.worker import Worker
from tests.doors.connected import (
    app,  # noqa: F401
    connected,
    person,
)

ADDRESS = "emailtosalesforce@anna.na1.le.salesforce.com"


@pytest.fixture
def anna(sqlite):
    account = person(sqlite)
    with sqlite.writing() as session:
        settings_store.set_preference(session, account, Setting.LOGGING, "bcc", actor=None)
    return account


def give_address(
    org, senders="anna@acme.test", user=None, domain="anna.na1.le.salesforce.com", name="EmailToSalesforce"
):
    function = org.org.put("EmailServicesFunction", FunctionName=name, IsActive=True)
    return org.org.put(
        "EmailServicesAddress", LocalPart="emailtosalesforce", EmailDomainName=domain, AuthorizedSenders=senders,
        RunAsUserId=user or org.anna, FunctionId=function, IsActive=True,
    )  # fmt: skip


@pytest.fixture
def connections(sqlite, org_app, org, anna):
    found = Connections(sqlite, org_app)
    connected(found, org, org_app, anna)
    return found


@pytest.fixture
def worker(sqlite, org, tmp_path):
    return Worker(sqlite, config(org, tmp_path))


def config(org, tmp_path, url=None, **more):
    return read_config(
        {
            "DATABASE_URL": url or f"sqlite:///{tmp_path}/blindcopy.db", "BLINDCOPY_SECRET_KEY": "0123456789abcdef",
            "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client", "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret",
            "BLINDCOPY_SALESFORCE_LOGIN_URL": org.url, "BLINDCOPY_SALESFORCE_CA_FILE": str(org.ca_file),
            "BLINDCOPY_LISTEN": "submission://127.0.0.1:9", **more,
        }
    )  # fmt: skip


def found(database, account):
    with database.reading() as session:
        one = bcc_address_queue.pick_up(session, account.id)
        return one, settings_store.preference(session, account.id).get(Setting.BCC_ADDRESS)

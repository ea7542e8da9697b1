"""A worker as a process, and the pretend org that Anna is connected with."""

import subprocess
import sys

import pytest

from tests.sandbox.org.oauth import allow
from tests.sandbox.org.server import PretendOrg
from tests.system.conftest import CHECKOUT

CALLBACK = "http://127.0.0.1:8000/salesforce/callback"
ADDRESS = "emailtosalesforce@anna.na1.le.salesforce.com"


@pytest.fixture
def org():
    pretend = PretendOrg()
    pretend.start()
    pretend.anna = pretend.org.put(
        "User", Username="anna@acme.test", Name="Anna", Email="a@acme.test", IsActive=True
    )
    function = pretend.org.put("EmailServicesFunction", FunctionName="EmailToSalesforce", IsActive=True)
    pretend.org.put(
        "EmailServicesAddress", LocalPart="emailtosalesforce", EmailDomainName="anna.na1.le.salesforce.com",
        AuthorizedSenders="anna@acme.test", RunAsUserId=pretend.anna, FunctionId=function, IsActive=True,
    )  # fmt: skip
    yield pretend
    pretend.stop()


def knows_salesforce(installation, org):
    """What an operator sets, so that this installation speaks to that org."""
    installation.env |= {
        "BLINDCOPY_SALESFORCE_CLIENT_ID": "blindcopy-client", "BLINDCOPY_SALESFORCE_CLIENT_SECRET": "blindcopy-secret",
        "BLINDCOPY_SALESFORCE_LOGIN_URL": org.url, "BLINDCOPY_SALESFORCE_CA_FILE": str(org.ca_file),
    }  # fmt: skip


def connect(installation, org, expect=0):
    user, token = allow(org.url, org.ca_file, CALLBACK)
    return installation.command(
        "admin", "user", "connect", "anna@acme.test", "--instance-url", org.url, "--salesforce-user", user,
        "--refresh-token-stdin", stdin=token + "\n", expect=expect,
    )  # fmt: skip


def start_worker(installation):
    log = (installation.directory / "relay-worker.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "sync"], cwd=CHECKOUT, env=installation.env, stdout=subprocess.PIPE, stderr=log
    )
    log.close()
    installation.processes.append(process)
    return process

"""`python -m tests.sandbox.org --port 8443`: a pretend org with a user, a client and a deal, until it is stopped."""

import argparse
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.sandbox.org.inbox import Postman
from tests.sandbox.org.oauth import Client
from tests.sandbox.org.server import PretendOrg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument(
        "--user", default="dana@acme.example", help="the Salesforce user name of the one user"
    )
    parser.add_argument(
        "--sink", help="carry what arrives at this mail sink's Email to Salesforce addresses to the org"
    )
    parser.add_argument("--callback", help="where the client's users come back to")
    parser.add_argument("--ca-file", type=Path, help="where to write the certificate that is to be trusted")
    arguments = parser.parse_args()
    pretend = PretendOrg(client=Client(callbacks=(arguments.callback,)) if arguments.callback else None)
    set_the_scene(pretend, arguments.user)
    url = pretend.start(arguments.port)
    if arguments.ca_file:
        arguments.ca_file.write_bytes(pretend.ca_file.read_bytes())
    if arguments.sink:
        Postman(pretend.org, arguments.sink).start()
    print(f"ready https {url} ca-file {pretend.ca_file}", flush=True)
    try:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        pretend.stop()


def set_the_scene(pretend: PretendOrg, username: str) -> None:
    """One user with an Email to Salesforce address, one client with a contact and an open deal, one lead, three tasks."""
    put = pretend.org.put
    user = put(
        "User",
        Username=username,
        Name="Dana Demo",
        Email=username,
        IsActive=True,
        TimeZoneSidKey="Europe/Berlin",
    )
    function = put("EmailServicesFunction", FunctionName="EmailToSalesforce", IsActive=True)
    put(
        "EmailServicesAddress", LocalPart="emailtosalesforce", EmailDomainName="demo.na1.le.salesforce.com",
        AuthorizedSenders=username, RunAsUserId=user, FunctionId=function, IsActive=True,
    )  # fmt: skip
    account = put("Account", Name="Customer Inc.", OwnerId=user)
    contact = put(
        "Contact",
        FirstName="Bob",
        LastName="Buyer",
        Email="bob@customer.example",
        AccountId=account,
        OwnerId=user,
    )
    deal = put(
        "Opportunity", Name="Five hundred chairs", StageName="Proposal", AccountId=account, OwnerId=user
    )
    put("OpportunityContactRole", OpportunityId=deal, ContactId=contact, IsPrimary=True)
    put(
        "Lead",
        FirstName="Lee",
        LastName="Lead",
        Company="Prospect Ltd.",
        Email="lee@prospect.example",
        OwnerId=user,
    )
    today = datetime.now(UTC).astimezone().date()
    mine = {"OwnerId": user, "CreatedById": user}
    put(
        "Task",
        Subject="Call Bob about the chairs",
        ActivityDate=today,
        Priority="High",
        WhoId=contact,
        WhatId=deal,
        **mine,
    )
    put(
        "Task",
        Subject="Send Lee the price list",
        ActivityDate=today + timedelta(days=1),
        Status="In Progress",
        **mine,
    )
    put("Task", Subject="Prepare the fair", ActivityDate=today + timedelta(days=9), **mine)


if __name__ == "__main__":
    main()

"""`python -m tests.sandbox.org --port 8443`: a pretend org with a user, a client and a deal, until it is stopped."""

import argparse
import signal

from tests.sandbox.org.server import PretendOrg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8443)
    parser.add_argument(
        "--user", default="dana@acme.example", help="the Salesforce user name of the one user"
    )
    arguments = parser.parse_args()
    pretend = PretendOrg()
    set_the_scene(pretend, arguments.user)
    print(f"ready https {pretend.start(arguments.port)} ca-file {pretend.ca_file}", flush=True)
    try:
        signal.sigwait({signal.SIGTERM, signal.SIGINT})
    finally:
        pretend.stop()


def set_the_scene(pretend: PretendOrg, username: str) -> None:
    """One user with an Email to Salesforce address, one client with a contact and an open deal, one lead."""
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


if __name__ == "__main__":
    main()

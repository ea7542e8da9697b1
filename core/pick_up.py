"""A person's Email to Salesforce address, looked up in Salesforce and kept: by the page at once, else by the worker."""

from core.connections import Connections
from core.salesforce.email_to_salesforce import Outcome, look_up
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import Kind, Trouble
from core.storage import pick_ups
from core.storage.connections import Connection, lost_api
from core.storage.people import Account


def pick_up(
    connections: Connections, account: Account, connection: Connection, *, takes_over: bool, actor: str | None
) -> Outcome | Trouble:
    """What was found, and is stored; or the trouble, and the worker goes on looking."""
    try:
        found = look_up(connections.client(connection), connection.identity.user_id)
    except (Refused, Unavailable) as error:
        with connections.database.writing() as session:
            pick_ups.tried(session, account.id)
            if error.trouble.kind is Kind.NO_API:
                lost_api(session, account.id, error.trouble)
        return error.trouble
    with connections.database.writing() as session:
        pick_ups.keep(
            session, account, found, user_id=connection.identity.user_id, takes_over=takes_over, actor=actor
        )
    return found.outcome

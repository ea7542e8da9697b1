"""A person's Email to Salesforce address, looked up in Salesforce and kept: by the page at once, else by the
worker."""

from core.people.store import StoredPerson
from core.salesforce import bcc_address_queue
from core.salesforce.bcc_address import AddressOutcome, look_up
from core.salesforce.connection_store import Connection, lost_api
from core.salesforce.connections import Connections
from core.salesforce.login import Refused, Unavailable
from core.salesforce.troubles import Trouble, TroubleKind


def pick_up(
    connections: Connections,
    account: StoredPerson,
    connection: Connection,
    *,
    takes_over: bool,
    actor: str | None,
) -> AddressOutcome | Trouble:
    """What was found, and is stored; or the trouble, and the worker goes on looking."""
    try:
        found = look_up(connections.client(connection), connection.identity.user_id)
    except (Refused, Unavailable) as error:
        with connections.database.writing() as session:
            bcc_address_queue.tried(session, account.id)
            if error.trouble.kind is TroubleKind.NO_API:
                lost_api(session, account.id, error.trouble)
        return error.trouble
    with connections.database.writing() as session:
        bcc_address_queue.keep(
            session, account, found, user_id=connection.identity.user_id, takes_over=takes_over, actor=actor
        )
    return found.outcome

"""Whose work can be done now: persons with a connection that holds, in an organisation that is not asked to wait."""

from core.database.engine import Session
from core.people.store import Account
from core.salesforce import api_usage
from core.salesforce.connection_store import Connection, connections, has_api


def persons_who_can_be_helped(session: Session) -> dict[int, tuple[Account, Connection]]:
    """By their ids."""
    paused = api_usage.paused(session)
    return {
        account.id: (account, connection)
        for account, connection in connections(session)
        if has_api(connection) and connection.identity.organisation_id not in paused
    }

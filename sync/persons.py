"""Whose work can be done now: persons with a connection that holds, in an organisation that is not asked to wait."""

from core.storage import organisations
from core.storage.connections import Connection, connections, has_api
from core.storage.database import Session
from core.storage.people import Account


def persons_who_can_be_helped(session: Session) -> dict[int, tuple[Account, Connection]]:
    """By their ids."""
    paused = organisations.paused(session)
    return {
        account.id: (account, connection)
        for account, connection in connections(session)
        if has_api(connection) and connection.identity.organisation_id not in paused
    }

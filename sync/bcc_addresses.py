"""The Email to Salesforce addresses that are to be looked up."""

import threading

from core import logs
from core.database.audit import WORKER
from core.people.store import StoredPerson
from core.salesforce import bcc_address_queue
from core.salesforce.bcc_address_lookup import pick_up
from core.salesforce.connection_store import Connection
from core.salesforce.connections import Connections
from core.salesforce.troubles import Trouble, TroubleKind
from sync.threads import at_once


def look_up_addresses(connections: Connections, stop: threading.Event, *, everything: bool) -> bool:
    """Look up those that are due; whether none is left that must be tried again."""
    with connections.database.reading() as session:
        due = bcc_address_queue.due(session, everybody=everything)
    return all(at_once(lambda one: _look_up(connections, *one), due, stop))


def _look_up(connections: Connections, account: StoredPerson, connection: Connection) -> bool:
    found = pick_up(connections, account, connection, takes_over=False, actor=WORKER)
    if isinstance(found, Trouble):
        logs.look_up_failed(account.id, found.code)
        return found.kind in {TroubleKind.CONNECTION, TroubleKind.NO_API}  # that is for a person to mend
    logs.looked_up(account.id, found)
    return True

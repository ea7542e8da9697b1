"""What of Salesforce a person can use, and what to do where it is not all.

Both ways of logging, and the tasks, need a connection; a copy goes on where an address is known."""

from dataclasses import dataclass

from flask_babel import gettext as _

from admin.access import connections, me
from core.database.engine import Session
from core.refusal import Refusal
from core.salesforce import connection_store
from core.salesforce.connection_store import Connection, Standing, has_api
from core.salesforce.troubles import Trouble


class NeedsConnection(Refusal):
    """What was asked for needs a connection."""


@dataclass(frozen=True)
class Prerequisites:
    """`is_registered`: whether Blindcopy may ask Salesforce at all."""

    is_registered: bool
    connection: Connection | None

    @property
    def has_api(self) -> bool:
        """Whether Salesforce can be asked for this person."""
        return self.is_registered and has_api(self.connection)

    @property
    def is_connected(self) -> bool:
        return self.is_registered and self.connection is not None and self.connection.is_usable

    @property
    def trouble(self) -> Trouble | None:
        return None if self.connection is None else self.connection.trouble

    @property
    def reason(self) -> str | None:
        """Why Salesforce cannot be asked, in a sentence; None where it can."""
        if self.has_api:
            return None
        if not self.is_registered:
            return str(_("Blindcopy is not registered with Salesforce yet."))
        if self.connection is None:
            return str(_("Salesforce is not connected."))
        if self.connection.standing is Standing.BROKEN:
            return str(_("The connection to Salesforce is broken."))
        return str(_("Your Salesforce user has no API access."))


def prerequisites(session: Session) -> Prerequisites:
    """What the person of this request can use of Salesforce."""
    return Prerequisites(connections() is not None, connection_store.connection(session, me().id))

"""What was found when a person's Email to Salesforce address was looked up, and whose is to be looked up
next."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from core.database.dialect import there
from core.database.heartbeats import database_now
from core.database.models import PickUpRow
from core.people.store import StoredPerson
from core.salesforce import connection_store
from core.salesforce.bcc_address import AddressOutcome, FoundAddress
from core.salesforce.connection_store import Connection
from core.settings import store as settings_store
from core.settings.catalogue import Logging, Setting
from core.settings.in_force import in_force

AGAIN_AFTER = {AddressOutcome.LOOKING: timedelta(minutes=1), AddressOutcome.FOUND: timedelta(days=1)}
_AGAIN_AFTER_ELSE = timedelta(hours=1)


@dataclass(frozen=True)
class PickUp:
    """`senders` None: not known; `is_another`: Salesforce names another address than the one in use."""

    outcome: AddressOutcome
    looked_at: datetime | None
    senders: tuple[str, ...] | None
    is_another: bool


def pick_up(session: Session, person_id: int) -> PickUp | None:
    """What the last look-up found; None where there was none."""
    row = session.get(PickUpRow, person_id)
    if row is None:
        return None
    senders = None if row.senders is None else tuple(row.senders)
    return PickUp(AddressOutcome(row.outcome), row.looked_at, senders, row.is_another)


def ask(session: Session, person_id: int) -> None:
    """The address is to be looked up, by whoever comes first."""
    _row(session, person_id).outcome = AddressOutcome.LOOKING.value


def keep(
    session: Session,
    account: StoredPerson,
    found: FoundAddress,
    *,
    user_id: str,
    takes_over: bool,
    actor: str | None,
) -> None:
    """What was found of this Salesforce user; the address is taken where there is none, where the one in use
    was found for another user, or where `takes_over` says so."""
    row = _row(session, account.id)
    known = settings_store.preference(session, account.id).get(Setting.BCC_ADDRESS)
    was_anothers = row.user_id is not None and row.user_id != user_id
    if found.address is not None and (takes_over or was_anothers or not known):
        settings_store.set_preference(session, account, Setting.BCC_ADDRESS, found.address, actor=actor)
        known = found.address
    row.outcome, row.user_id = found.outcome.value, user_id
    row.looked_at = database_now(session)
    row.senders = None if found.senders is None else list(found.senders)
    row.is_another = found.address is not None and found.address != known


def tried(session: Session, person_id: int) -> None:
    """Salesforce did not answer; another try comes later."""
    row = _row(session, person_id)
    row.looked_at = database_now(session)
    if not settings_store.preference(session, person_id).get(Setting.BCC_ADDRESS):
        row.outcome = AddressOutcome.LOOKING.value


def due(session: Session, *, everybody: bool = False) -> list[tuple[StoredPerson, Connection]]:
    """Whose address is to be looked up now: those who are copied and connected, and lack one, or were last
    looked at long ago; `everybody`: without regard to when."""
    now = database_now(session)
    policy = settings_store.policy(session)
    found = []
    for account, connection in connection_store.connections(session):
        if not connection_store.has_api(connection):
            continue
        chosen = in_force(policy, settings_store.preference(session, account.id))
        row = session.get(PickUpRow, account.id)
        if chosen[Setting.LOGGING].value not in {one.value for one in Logging if one.copies}:
            continue
        outcome = AddressOutcome.LOOKING if row is None else AddressOutcome(row.outcome)
        is_due = (
            row is None
            or row.looked_at is None
            or row.looked_at + AGAIN_AFTER.get(outcome, _AGAIN_AFTER_ELSE) <= now
        )
        is_anothers = row is not None and row.user_id not in {None, connection.identity.user_id}
        has_lost_it = is_anothers or (
            outcome is AddressOutcome.FOUND and not chosen[Setting.BCC_ADDRESS].value
        )
        if everybody or is_due or has_lost_it:
            found.append((account, connection))
    return found


def _row(session: Session, person_id: int) -> PickUpRow:
    values = {"outcome": AddressOutcome.LOOKING.value, "is_another": False}
    row: PickUpRow = there(session, PickUpRow, {"person_id": person_id}, values)
    return row

"""Persons' connections to Salesforce: the tokens, encrypted, and whose turn it is to renew them.

A renewal is a turn that one process of all takes: it lasts until a new generation of tokens is stored, or
until the lease that comes with it is over, as that of a process that was killed."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from core.database import sealed
from core.database.audit import Change, note, settings_changed
from core.database.dialect import there
from core.database.heartbeats import database_now
from core.database.models import ConnectionRow, MailRow, OrganisationRow, PersonRow
from core.people.store import StoredPerson, account_of
from core.refusal import Refusal
from core.salesforce.ids import id_key
from core.salesforce.login import Identity
from core.salesforce.troubles import CODES_OF_NO_API, Trouble, TroubleKind, trouble

TURN = timedelta(seconds=120)
"""Longer than the longest call that a renewal makes."""
_MINUTE = timedelta(minutes=1)


class Standing(StrEnum):
    """How a connection stands."""

    CONNECTED = "connected"
    BROKEN = "broken"
    """Salesforce takes its tokens no longer: the person must connect again."""
    NO_API = "no-api"
    """The person signed in, but may not use the API: no token is held."""


class Way(StrEnum):
    """How a connection was made, and is renewed."""

    SIGN_IN = "sign-in"
    KEY = "key"
    """By the private key that an admin has let in for the whole team."""


class SomebodyElses(Refusal):
    """The Salesforce user is another person's connection."""


@dataclass(frozen=True)
class OAuthTokens:
    """What opens Salesforce; no refresh token: there is none, or the one in hand stays good."""

    access_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False, default=None)
    instance_url: str = ""


@dataclass(frozen=True)
class Connection:
    """One person's connection."""

    person_id: int
    standing: Standing
    way: Way
    login_url: str
    instance_url: str
    identity: Identity
    generation: int
    connected_at: datetime
    last_used_at: datetime | None
    trouble: Trouble | None
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)
    is_unreadable: bool
    """Tokens are there which no key of this process opens."""

    @property
    def is_usable(self) -> bool:
        return self.standing is Standing.CONNECTED


@dataclass(frozen=True)
class Turn:
    """The connection as it is now, and whether it is the asker's turn to renew it."""

    connection: Connection
    is_mine: bool


def connection(session: Session, person_id: int) -> Connection | None:
    """A person's connection; None where there has never been one, or it was ended."""
    row = session.get(ConnectionRow, person_id)
    return None if row is None else _connection(session, row)


def connections(session: Session) -> list[tuple[StoredPerson, Connection]]:
    """Everybody active who has a connection, by the person's address."""
    query = (
        select(PersonRow, ConnectionRow)
        .join(ConnectionRow, ConnectionRow.person_id == PersonRow.id)
        .where(PersonRow.is_active)
        .order_by(PersonRow.email_key)
    )
    return [(account_of(person), _connection(session, row)) for person, row in session.execute(query)]


def able(session: Session) -> Select[int]:
    """The ids of everybody active whose connection can ask and write, as a query to be put into others: with
    ten thousand people the list itself, and their tokens to decrypt, would cost more than what is asked."""
    return (
        select(ConnectionRow.person_id)
        .join(PersonRow, PersonRow.id == ConnectionRow.person_id)
        .where(
            PersonRow.is_active,
            ConnectionRow.standing == Standing.CONNECTED.value,
            or_(ConnectionRow.trouble_code.is_(None), ConnectionRow.trouble_code.not_in(CODES_OF_NO_API)),
        )
    )


def ready(session: Session) -> Select[int]:
    """Those of them whose work can be done now: their organisation is not asked to wait."""
    paused = select(OrganisationRow.id).where(OrganisationRow.paused_until > database_now(session))
    return able(session).where(ConnectionRow.organisation_id.not_in(paused))


def instance_urls(session: Session, people: Collection[int]) -> dict[int, str]:
    """Where the Salesforce of each of these people is; without those who have none."""
    query = select(ConnectionRow.person_id, ConnectionRow.instance_url)
    found = session.execute(query.where(ConnectionRow.person_id.in_(people)))
    return {person_id: url for person_id, url in found}  # noqa: C416  rows are tuples to us only


def connect(
    session: Session,
    account: StoredPerson,
    who: Identity,
    *,
    way: Way,
    login_url: str,
    tokens: OAuthTokens,
    actor: str | None,
) -> None:
    """This person is that Salesforce user from now on. Raises SomebodyElses."""
    _refuse_somebody_elses(session, account, who)
    row = _row(session, account, who, way=way, login_url=login_url)
    row.instance_url = tokens.instance_url
    row.access_token = sealed.closed(session, tokens.access_token)
    row.refresh_token = None if tokens.refresh_token is None else sealed.closed(session, tokens.refresh_token)
    row.last_used_at = row.connected_at
    session.execute(  # what waited for this waits no longer
        update(MailRow)
        .where(MailRow.person_id == account.id, MailRow.due_at > row.connected_at, MailRow.state == "waiting")
        .values(due_at=row.connected_at)
    )
    note(session, _change(actor, account, None, f"connected as {who.username}"))
    settings_changed(session)


def note_no_api(
    session: Session,
    account: StoredPerson,
    who: Identity,
    found: Trouble,
    *,
    login_url: str,
    actor: str | None,
) -> None:
    """This person is that Salesforce user, who may not use the API: that is known, and no token."""
    known = session.get(ConnectionRow, account.id)
    if known is not None and known.standing == Standing.CONNECTED:
        return  # what works is not given up for what does not
    row = _row(session, account, who, way=Way.SIGN_IN, login_url=login_url)
    row.standing = Standing.NO_API.value
    row.instance_url, row.access_token, row.refresh_token = "", None, None
    row.trouble_code, row.trouble_detail = found.code, found.detail
    note(session, _change(actor, account, None, "no API access"))
    settings_changed(session)


def disconnect(session: Session, account: StoredPerson, *, actor: str | None) -> None:
    """The tokens are forgotten."""
    row = session.get(ConnectionRow, account.id)
    if row is None:
        return
    note(session, _change(actor, account, row.username, None))
    session.delete(row)
    settings_changed(session)


def take_turn(session: Session, person_id: int, generation: int, asker: str) -> Turn | None:
    """The connection, and whether the asker is the one to renew it; None where it was ended meanwhile.

    `generation`: that of the tokens which Salesforce has refused; a newer one is the answer by itself."""
    row = session.get(ConnectionRow, person_id, with_for_update=True, populate_existing=True)
    if row is None:
        return None
    now = database_now(session)
    is_free = row.turn_of is None or row.turn_of == asker or row.turn_until is None or row.turn_until <= now
    is_mine = row.standing == Standing.CONNECTED and row.generation == generation and is_free
    if is_mine:
        row.turn_of, row.turn_until = asker, now + TURN
    return Turn(_connection(session, row), is_mine)


def renewed(session: Session, person_id: int, generation: int, tokens: OAuthTokens) -> Connection | None:
    """Store what was issued in place of that generation, before anybody uses it; None where the connection
    was ended, or made or renewed anew, meanwhile. A turn that is over does not matter: these tokens are the
    only good ones."""
    row = session.get(ConnectionRow, person_id, with_for_update=True, populate_existing=True)
    if row is None or row.generation != generation or row.standing != Standing.CONNECTED:
        return None
    row.access_token = sealed.closed(session, tokens.access_token)
    if tokens.refresh_token is not None:
        row.refresh_token = sealed.closed(session, tokens.refresh_token)
    row.instance_url = tokens.instance_url or row.instance_url
    row.generation += 1
    row.turn_of = row.turn_until = None
    if row.trouble_code is not None and trouble(row.trouble_code).kind is not TroubleKind.NO_API:
        row.trouble_code = row.trouble_detail = (
            None  # that one is known to be over only when the API has answered
        )
    row.last_used_at = database_now(session)
    session.flush()
    return _connection(session, row)


def give_turn_back(session: Session, person_id: int, asker: str, found: Trouble | None = None) -> None:
    """Nothing was issued; somebody may try again. `found`: why it was refused."""
    values: dict[str, str | None] = {"turn_of": None, "turn_until": None}
    if found is not None:
        values |= {"trouble_code": found.code, "trouble_detail": found.detail}
    session.execute(
        update(ConnectionRow)
        .where(ConnectionRow.person_id == person_id, ConnectionRow.turn_of == asker)
        .values(**values)
    )


def broken(session: Session, person_id: int, generation: int, found: Trouble) -> None:
    """Salesforce refuses to renew these tokens: they are forgotten, and the person's Salesforce work
    waits."""
    row = session.get(ConnectionRow, person_id, with_for_update=True, populate_existing=True)
    if row is None or row.generation != generation or row.standing != Standing.CONNECTED:
        return
    row.standing = Standing.BROKEN.value
    row.access_token = row.refresh_token = row.turn_of = row.turn_until = None
    row.trouble_code, row.trouble_detail = found.code, found.detail
    settings_changed(session)


def lost_api(session: Session, person_id: int, found: Trouble | None) -> None:
    """Whether a connection that holds has no API any more (its trouble), or has it (None)."""
    row = session.get(ConnectionRow, person_id)
    if row is None or row.standing != Standing.CONNECTED:
        return
    code = None if found is None else found.code
    if row.trouble_code == code:
        return
    row.trouble_code, row.trouble_detail = code, None if found is None else found.detail
    settings_changed(session)


def used(session: Session, person_id: int) -> None:
    """The connection was used just now; noted once a minute."""
    now = database_now(session)
    session.execute(
        update(ConnectionRow)
        .where(
            ConnectionRow.person_id == person_id,
            or_(ConnectionRow.last_used_at.is_(None), ConnectionRow.last_used_at < now - _MINUTE),
        )
        .values(last_used_at=now)
    )


def has_api(one: Connection | None) -> bool:
    """Whether this connection can ask and write."""
    return (
        one is not None
        and one.is_usable
        and (one.trouble is None or one.trouble.kind is not TroubleKind.NO_API)
    )


def connected_of(session: Session, persons: Collection[int]) -> frozenset[int]:
    """Those of these people whose mail can be logged through the API."""
    connected = select(ConnectionRow.person_id).where(
        ConnectionRow.person_id.in_(persons), ConnectionRow.standing == Standing.CONNECTED.value
    )
    return frozenset(session.scalars(connected))


def time_zone_in_salesforce(session: Session, person_id: int) -> str | None:
    """What this person has chosen there, as it was when the person connected."""
    return session.scalar(select(ConnectionRow.time_zone).where(ConnectionRow.person_id == person_id))


def _row(
    session: Session, account: StoredPerson, who: Identity, *, way: Way, login_url: str
) -> ConnectionRow:
    now = database_now(session)
    values = {
        "standing": Standing.CONNECTED.value,
        "way": way.value,
        "login_url": login_url,
        "instance_url": "",
        "organisation_id": who.organisation_id,
        "user_id": who.user_id,
        "username": who.username,
        "time_zone": who.time_zone,
        "generation": 0,
        "connected_at": now,
    }
    row: ConnectionRow = there(session, ConnectionRow, {"person_id": account.id}, values)
    row.standing, row.instance_url = Standing.CONNECTED.value, ""
    row.way, row.login_url, row.connected_at = way.value, login_url, now
    row.organisation_id, row.user_id, row.username = who.organisation_id, who.user_id, who.username
    row.time_zone = who.time_zone
    row.generation += 1
    row.turn_of = row.turn_until = row.trouble_code = row.trouble_detail = None
    return row


def _refuse_somebody_elses(session: Session, account: StoredPerson, who: Identity) -> None:
    query = select(PersonRow.email).join(ConnectionRow, ConnectionRow.person_id == PersonRow.id)
    other = session.scalar(
        query.where(
            func.substr(ConnectionRow.organisation_id, 1, 15) == id_key(who.organisation_id),
            func.substr(ConnectionRow.user_id, 1, 15)
            == id_key(who.user_id),  # the other three are a checksum
            ConnectionRow.standing == Standing.CONNECTED.value,
            ConnectionRow.person_id != account.id,
        )
    )
    if other is not None:
        raise SomebodyElses(
            "The Salesforce user %(username)s is connected to %(person)s already; each person signs in as "
            "themselves",
            username=who.username,
            person=other,
        )


def _connection(session: Session, row: ConnectionRow) -> Connection:
    def opened(text: str | None) -> str | None:
        return None if text is None else sealed.opened_or_lost(session, text, f"connection {row.person_id}")

    found = None if row.trouble_code is None else trouble(row.trouble_code, row.trouble_detail or "")
    access_token, refresh_token = opened(row.access_token), opened(row.refresh_token)
    return Connection(
        person_id=row.person_id,
        standing=Standing(row.standing),
        way=Way(row.way),
        login_url=row.login_url,
        instance_url=row.instance_url,
        identity=Identity(row.organisation_id, row.user_id, row.username, row.time_zone),
        generation=row.generation,
        connected_at=row.connected_at,
        last_used_at=row.last_used_at,
        trouble=found,
        access_token=access_token,
        refresh_token=refresh_token,
        is_unreadable=(access_token is None) != (row.access_token is None)
        or (refresh_token is None) != (row.refresh_token is None),
    )


def _change(actor: str | None, account: StoredPerson, before: str | None, after: str | None) -> Change:
    return Change(actor=actor, person=account.email, what="salesforce-connection", before=before, after=after)

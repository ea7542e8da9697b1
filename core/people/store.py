"""Persons, their acceptable addresses and their app passwords."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from core.database.audit import Change, note, settings_changed
from core.database.models import AddressRow, AppPasswordRow, PersonRow, UnknownSenderRow
from core.people.addresses import address_key, checked_address
from core.people.person import app_password_digest
from core.refusal import Refusal
from core.secrets import new_app_password


class NoSuchPerson(Refusal):
    """There is no person of this name."""


class AlreadyThere(Refusal):
    """There is such a one already."""


class AddressTaken(Refusal):
    """The address belongs to somebody else."""


class NotThere(Refusal):
    """There is no such one to remove."""


class LastAdmin(Refusal):
    """Without this one nobody could administer."""


@dataclass(frozen=True)
class StoredPerson:
    """A person as the pages and commands see one."""

    id: int
    email: str
    name: str
    is_admin: bool
    is_active: bool
    created_at: datetime
    password_hash: str | None
    session_key: str


@dataclass(frozen=True)
class AppPasswordEntry:
    """An app password as its owner sees it; the password itself is not kept."""

    id: int
    label: str
    created_at: datetime
    last_used_at: datetime | None


def add_person(
    session: Session, email: str, *, name: str, is_admin: bool, password_hash: str, actor: str | None
) -> StoredPerson:
    """A new person, whose e-mail address is an acceptable one from the start.

    Raises AddressError, AlreadyThere, AddressTaken."""
    address = checked_address(email)
    key = address_key(address)
    if session.scalar(select(PersonRow.id).where(PersonRow.email_key == key)) is not None:
        raise AlreadyThere("There is already a person with the address %(address)s", address=address)
    row = PersonRow(
        email=address,
        email_key=key,
        name=name.strip()[:200],
        password_hash=password_hash,
        session_key=_new_session_key(),
        is_admin=is_admin,
        is_active=True,
        created_at=datetime.now(UTC),
    )
    session.add(row)
    session.flush()
    _add_address(session, row, address)
    _audit(session, actor, row, "person", None, "admin" if is_admin else "user")
    return account_of(row)


def person_by_email(session: Session, email: str) -> StoredPerson:
    """The person who signs in with this address. Raises NoSuchPerson."""
    return account_of(_row_by_email(session, email))


def person_by_id(session: Session, person_id: int) -> StoredPerson | None:
    row = session.get(PersonRow, person_id)
    return None if row is None else account_of(row)


def all_persons(session: Session) -> list[StoredPerson]:
    """Everybody, by address."""
    return [account_of(row) for row in session.scalars(select(PersonRow).order_by(PersonRow.email_key))]


def set_password_hash(session: Session, email: str, password_hash: str, *, actor: str | None) -> None:
    """A new page password; every sign-in of that person ends. Raises NoSuchPerson."""
    row = _row_by_email(session, email)
    row.password_hash = password_hash
    row.session_key = _new_session_key()
    _audit(session, actor, row, "password", None, "changed")


def rehash_password(session: Session, person_id: int, password_hash: str) -> None:
    """The same password with today's hash parameters; sign-ins go on."""
    row = session.get(PersonRow, person_id)
    if row is not None:
        row.password_hash = password_hash


def set_active(session: Session, email: str, *, active: bool, actor: str | None) -> None:
    """Let somebody in, or shut somebody out of pages and relay. Raises NoSuchPerson, LastAdmin."""
    row = _row_by_email(session, email)
    if row.is_active == active:
        return
    if not active:
        _refuse_if_last_admin(session, row)
        row.session_key = _new_session_key()
    row.is_active = active
    _audit(session, actor, row, "active", _yes_no(not active), _yes_no(active))


def set_admin(session: Session, email: str, *, admin: bool, actor: str | None) -> None:
    """Make somebody an admin, or no longer one. Raises NoSuchPerson, LastAdmin."""
    row = _row_by_email(session, email)
    if row.is_admin == admin:
        return
    if not admin:
        _refuse_if_last_admin(session, row)
    row.is_admin = admin
    _audit(session, actor, row, "admin", _yes_no(not admin), _yes_no(admin))


def addresses(session: Session, person_id: int) -> list[str]:
    """A person's acceptable addresses, in alphabetical order."""
    query = select(AddressRow.address).where(AddressRow.person_id == person_id).order_by(AddressRow.key)
    return list(session.scalars(query))


def add_address(session: Session, email: str, address: str, *, actor: str | None) -> str:
    """One more address that this person sends from; the stored spelling is returned.

    Raises NoSuchPerson, AddressError, AlreadyThere, AddressTaken."""
    row = _row_by_email(session, email)
    stored = checked_address(address)
    _add_address(session, row, stored)
    _audit(session, actor, row, "acceptable-address", None, stored)
    return stored


def remove_address(session: Session, email: str, address: str, *, actor: str | None) -> None:
    """Mail from this address is this person's no longer. Raises NoSuchPerson, NotThere."""
    row = _row_by_email(session, email)
    entry = session.get(AddressRow, address_key(address))
    if entry is None or entry.person_id != row.id:
        raise NotThere(
            "%(address)s is not an acceptable address of %(person)s", address=address, person=row.email
        )
    session.delete(entry)
    _audit(session, actor, row, "acceptable-address", entry.address, None)


def add_app_password(
    session: Session, email: str, *, label: str, actor: str | None, expires_at: datetime | None = None
) -> tuple[int, str]:
    """A new password for a mail client: its id, and the password that is shown once. Raises NoSuchPerson."""
    row = _row_by_email(session, email)
    session.execute(delete(AppPasswordRow).where(AppPasswordRow.expires_at < datetime.now(UTC)))
    password = new_app_password()
    entry = AppPasswordRow(
        person_id=row.id,
        label=label.strip()[:100],
        digest=app_password_digest(password),
        created_at=datetime.now(UTC),
        expires_at=expires_at,
        last_used_at=None,
    )
    session.add(entry)
    session.flush()
    if expires_at is None:
        _audit(session, actor, row, "app-password", None, entry.label or str(entry.id))
    settings_changed(session)
    return entry.id, password


def app_passwords(session: Session, person_id: int) -> list[AppPasswordEntry]:
    """A person's app passwords, newest first; those made for a moment only are left out."""
    query = (
        select(AppPasswordRow)
        .where(AppPasswordRow.person_id == person_id, AppPasswordRow.expires_at.is_(None))
        .order_by(AppPasswordRow.id.desc())
    )
    return [
        AppPasswordEntry(row.id, row.label, row.created_at, row.last_used_at)
        for row in session.scalars(query)
    ]


def revoke_app_password(session: Session, email: str, app_password_id: int, *, actor: str | None) -> None:
    """The client that uses it can no longer sign in. Raises NoSuchPerson, NotThere."""
    row = _row_by_email(session, email)
    entry = session.get(AppPasswordRow, app_password_id)
    if entry is None or entry.person_id != row.id:
        raise NotThere("%(person)s has no app password %(id)s", person=row.email, id=app_password_id)
    session.delete(entry)
    if entry.expires_at is None:
        _audit(session, actor, row, "app-password", entry.label or str(entry.id), None)
    settings_changed(session)


def app_passwords_used(session: Session, used: dict[int, datetime]) -> None:
    """When app passwords were last used: id -> time."""
    if not used:
        return
    for row in session.scalars(select(AppPasswordRow).where(AppPasswordRow.id.in_(used))):
        row.last_used_at = max(used[row.id], row.last_used_at or used[row.id])


def active_rows(session: Session) -> Sequence[PersonRow]:
    """For the snapshot of this package."""
    return session.scalars(select(PersonRow).where(PersonRow.is_active).order_by(PersonRow.id)).all()


def _row_by_email(session: Session, email: str) -> PersonRow:
    row = session.scalar(select(PersonRow).where(PersonRow.email_key == address_key(email)))
    if row is None:
        raise NoSuchPerson("There is no person with the address %(address)s", address=email)
    return row


def _add_address(session: Session, row: PersonRow, address: str) -> None:
    key = address_key(address)
    owner = session.get(AddressRow, key)
    if owner is not None and owner.person_id == row.id:
        raise AlreadyThere("%(address)s is on the list already", address=address)
    if owner is not None:
        raise AddressTaken(
            "%(address)s is an acceptable address of somebody else; an address belongs to one person only",
            address=address,
        )
    session.execute(delete(UnknownSenderRow).where(UnknownSenderRow.key == key))
    session.add(AddressRow(key=key, address=address, person_id=row.id))
    try:
        session.flush()
    except IntegrityError as error:
        raise AddressTaken("%(address)s has just been taken by somebody else", address=address) from error


def _refuse_if_last_admin(session: Session, row: PersonRow) -> None:
    others = select(func.count()).where(PersonRow.is_admin, PersonRow.is_active, PersonRow.id != row.id)
    if row.is_admin and row.is_active and session.scalar(others) == 0:
        raise LastAdmin("%(person)s is the only admin; make somebody else one first", person=row.email)


def _audit(
    session: Session, actor: str | None, row: PersonRow, what: str, before: str | None, after: str | None
) -> None:
    note(session, Change(actor=actor, person=row.email, what=what, before=before, after=after))
    settings_changed(session)


def account_of(row: PersonRow) -> StoredPerson:
    """For the modules of this package."""
    return StoredPerson(
        row.id,
        row.email,
        row.name,
        row.is_admin,
        row.is_active,
        row.created_at,
        row.password_hash,
        row.session_key,
    )


def _new_session_key() -> str:
    return secrets.token_urlsafe(24)


def _yes_no(value: bool) -> str:  # noqa: FBT001  reads as a claim at every call
    return "yes" if value else "no"

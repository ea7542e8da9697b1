"""The tables. Times are UTC; keys of addresses are `core.people.addresses.address_key`."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ADDRESS_LENGTH = 320


class UtcTime(TypeDecorator[datetime]):
    """A time with its zone outside, UTC without one inside: the same on every database."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcTime}  # noqa: RUF012  SQLAlchemy's own spelling


def _index_of_some(name: str, *columns: str, where: str) -> Index:
    """An index of the few rows that a search is ever about."""
    return Index(name, *columns, sqlite_where=text(where), postgresql_where=text(where))


class PersonRow(Base):
    """A person who may sign in. `password_hash` is argon2id; a new `session_key` ends all sessions."""

    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(ADDRESS_LENGTH))
    email_key: Mapped[str] = mapped_column(String(ADDRESS_LENGTH), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    password_hash: Mapped[str | None] = mapped_column(Text)
    session_key: Mapped[str] = mapped_column(String(40))
    is_admin: Mapped[bool]
    is_active: Mapped[bool]
    created_at: Mapped[datetime]


class AddressRow(Base):
    """An acceptable address; it belongs to one person only."""

    __tablename__ = "acceptable_address"
    key: Mapped[str] = mapped_column(String(ADDRESS_LENGTH), primary_key=True)
    address: Mapped[str] = mapped_column(String(ADDRESS_LENGTH))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)


class AppPasswordRow(Base):
    """A password for one mail client; only its SHA-256 is kept."""

    __tablename__ = "app_password"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    label: Mapped[str] = mapped_column(String(100))
    digest: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class PolicyRow(Base):
    """The value of one setting for the whole organisation."""

    __tablename__ = "policy"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str | None] = mapped_column(Text)
    locked: Mapped[bool]


class PreferenceRow(Base):
    """One person's own value of a setting."""

    __tablename__ = "preference"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class RevisionRow(Base):
    """One row: its number grows with every change that the relay must know of."""

    __tablename__ = "settings_revision"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int]


class AuditRow(Base):
    """Who changed what, and when; `actor` None is an operator at the command line."""

    __tablename__ = "audit"
    id: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[datetime]
    actor: Mapped[str | None] = mapped_column(String(ADDRESS_LENGTH))
    person: Mapped[str | None] = mapped_column(String(ADDRESS_LENGTH))
    what: Mapped[str] = mapped_column(String(60))
    before: Mapped[str | None] = mapped_column(Text)
    after: Mapped[str | None] = mapped_column(Text)


class MailRow(Base):
    """A mail in the logbook; the words are those of `core.mail.row`."""

    __tablename__ = "mail"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    time: Mapped[datetime]
    process: Mapped[str] = mapped_column(String(36))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    sender: Mapped[str | None] = mapped_column(String(ADDRESS_LENGTH))
    recipient_count: Mapped[int]
    recipients: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    subject: Mapped[str | None] = mapped_column(Text)
    message_id: Mapped[str | None] = mapped_column(Text)
    mode: Mapped[str] = mapped_column(String(20))
    decision: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(20))
    upstream: Mapped[str | None] = mapped_column(Text)
    bcc: Mapped[str] = mapped_column(String(20))
    bcc_reply: Mapped[str | None] = mapped_column(Text)
    fingerprint: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    copy_refusal: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    identity: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    same_as: Mapped[str | None] = mapped_column(String(36))
    detail: Mapped[str | None] = mapped_column(String(80))
    due_at: Mapped[datetime | None]
    logged_by: Mapped[str | None] = mapped_column(String(80))
    claimed_by: Mapped[str | None] = mapped_column(String(36))
    claim: Mapped[int] = mapped_column(server_default="0")
    attempts: Mapped[int] = mapped_column(server_default="0")

    __table_args__ = (
        _index_of_some("mail_due", "due_at", where="due_at IS NOT NULL"),
        _index_of_some("mail_due_of_person", "person_id", "due_at", where="due_at IS NOT NULL"),
        _index_of_some("mail_claimed", "claimed_by", where="claimed_by IS NOT NULL"),
        _index_of_some("mail_due_of_state", "state", "id", where="due_at IS NOT NULL"),
        Index("mail_of_person", "person_id", "id"),
        Index("mail_of_person_and_state", "person_id", "state", "id"),
        Index("mail_of_state", "state", "id"),
        _index_of_some("mail_lost_reply", "time", where="fingerprint IS NOT NULL"),
        _index_of_some("mail_refused_copy", "time", where="copy_refusal IS NOT NULL"),
        _index_of_some("mail_identity", "identity", where="identity IS NOT NULL"),
        _index_of_some("mail_by_others", "id", where="logged_by IS NOT NULL"),
        _index_of_some("mail_by_others_of_person", "person_id", "id", where="logged_by IS NOT NULL"),
    )


class FirstMailRow(Base):
    """Which of the mails with one identity has the blind copy (`way` `copy`), or is written for all of them
    (`api`)."""

    __tablename__ = "first_mail"
    identity: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    way: Mapped[str] = mapped_column(String(10), primary_key=True)
    mail_id: Mapped[str] = mapped_column(String(36))
    time: Mapped[datetime]

    __table_args__ = (Index("first_mail_time", "time"),)


class MailTextRow(Base):
    """The header and the beginning of the body of a mail that may be logged, encrypted; gone when the mail is
    settled."""

    __tablename__ = "mail_text"
    mail_id: Mapped[str] = mapped_column(ForeignKey("mail.id", ondelete="CASCADE"), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class MailFileRow(Base):
    """A piece of a file that was attached to a mail, encrypted, until the mail is settled. It comes before
    the mail's row does."""

    __tablename__ = "mail_file"
    mail_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    file: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]
    content: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (Index("mail_file_size", "size"),)


class WrittenRow(Base):
    """What was written to Salesforce for mails in a month (`2026-11`, UTC), in bytes."""

    __tablename__ = "written"
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    records: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)
    whole: Mapped[int] = mapped_column(BigInteger)
    file_bytes: Mapped[int] = mapped_column(BigInteger)


class MailLogRow(Base):
    """How far the worker has come with a mail: the records to write, those that are written, and the trouble
    that it met.

    `targets` are the records to write, each with what became of it; `not_before`: an uncertain write may
    still show."""

    __tablename__ = "mail_log"
    mail_id: Mapped[str] = mapped_column(ForeignKey("mail.id", ondelete="CASCADE"), primary_key=True)
    targets: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    trace: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    not_before: Mapped[datetime | None]
    trouble_code: Mapped[str | None] = mapped_column(String(80))
    trouble_detail: Mapped[str | None] = mapped_column(Text)


class IgnoredRow(Base):
    """An address or domain that is left out when a person's mails are matched."""

    __tablename__ = "ignored"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    pattern: Mapped[str] = mapped_column(String(ADDRESS_LENGTH), primary_key=True)


class OrganisationRow(Base):
    """A Salesforce organisation: the calls of its last 24 hours, and until when everything waits."""

    __tablename__ = "salesforce_organisation"
    id: Mapped[str] = mapped_column(String(18), primary_key=True)
    calls_used: Mapped[int]
    calls_total: Mapped[int]
    seen_at: Mapped[datetime]
    is_scarce: Mapped[bool]
    paused_until: Mapped[datetime | None]
    pause_code: Mapped[str | None] = mapped_column(String(80))
    pauses: Mapped[int]


class UnknownSenderRow(Base):
    """A sender address that belongs to none of the people here."""

    __tablename__ = "unknown_sender"
    key: Mapped[str] = mapped_column(String(ADDRESS_LENGTH), primary_key=True)
    address: Mapped[str] = mapped_column(String(ADDRESS_LENGTH))
    mails: Mapped[int]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]

    __table_args__ = (
        Index("unknown_sender_by_mails", "mails", "key"),
        Index("unknown_sender_by_time", "last_seen"),
    )


class LimitRefusalRow(Base):
    """How many mails of a person a limit has kept back; the words are those of `core.mail.limits`."""

    __tablename__ = "limit_refusal"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    limit_name: Mapped[str] = mapped_column(String(20), primary_key=True)
    mails: Mapped[int]
    first_seen: Mapped[datetime]
    last_seen: Mapped[datetime]


class ProcessRow(Base):
    """A running process and its last sign of life, by the database's clock."""

    __tablename__ = "process"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    host: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    started_at: Mapped[datetime]
    beat_at: Mapped[datetime]
    settings_revision: Mapped[int]
    home: Mapped[str | None] = mapped_column(String(80))
    listeners: Mapped[list[str]] = mapped_column(JSON)
    upstream_trouble: Mapped[str | None] = mapped_column(Text)
    journal_bytes: Mapped[int] = mapped_column(BigInteger)
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSON, server_default="[]")
    rows_lost: Mapped[int] = mapped_column(BigInteger, server_default="0")


class InstallationRow(Base):
    """One row: which installation this database is, every lineage that it has known (the last is its own),
    how often it was worked with, and when it was restored; `is_copy`: it is a backup that nobody has worked
    with yet."""

    __tablename__ = "installation"
    id: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(String(36))
    lineages: Mapped[list[str]] = mapped_column(JSON)
    tick: Mapped[int] = mapped_column(BigInteger)
    restored_at: Mapped[datetime | None]
    is_copy: Mapped[bool]


class JournalRow(Base):
    """A relay's journal, and the number of its last entry that is in this database."""

    __tablename__ = "journal"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    loaded: Mapped[int] = mapped_column(BigInteger)


class ConnectionRow(Base):
    """A person's connection to Salesforce. Tokens are encrypted; `generation` grows with every new access
    token; whoever asks for one has the turn until then."""

    __tablename__ = "salesforce_connection"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    standing: Mapped[str] = mapped_column(String(20))
    way: Mapped[str] = mapped_column(String(20))
    login_url: Mapped[str] = mapped_column(String(300))
    instance_url: Mapped[str] = mapped_column(String(300))
    organisation_id: Mapped[str] = mapped_column(String(18))
    user_id: Mapped[str] = mapped_column(String(18))
    username: Mapped[str] = mapped_column(String(300))
    time_zone: Mapped[str | None] = mapped_column(String(60))
    access_token: Mapped[str | None] = mapped_column(Text)
    refresh_token: Mapped[str | None] = mapped_column(Text)
    generation: Mapped[int]
    turn_of: Mapped[str | None] = mapped_column(String(36))
    turn_until: Mapped[datetime | None]
    connected_at: Mapped[datetime]
    last_used_at: Mapped[datetime | None]
    trouble_code: Mapped[str | None] = mapped_column(String(80))
    trouble_detail: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("connection_of_user", "organisation_id", "user_id"),)


class PickUpRow(Base):
    """What was found when a person's Email to Salesforce address was last looked up."""

    __tablename__ = "address_pick_up"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    outcome: Mapped[str] = mapped_column(String(20))
    looked_at: Mapped[datetime | None]
    is_another: Mapped[bool]
    user_id: Mapped[str | None] = mapped_column(String(18))
    senders: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))

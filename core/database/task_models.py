"""The tables of the tasks. Times are UTC."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import JSON, Date, ForeignKey, Index, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from core.database.models import Base


class TaskRow(Base):
    """A task. `uid` is its own in all the world; `base`: its values as both sides had them last; `edited_at`:
    when each field was edited here since; `sent`: what a create was begun with whose end nobody knows, and
    `not_before`: until when it may still show; `sends` grows with every record that it is to have in
    Salesforce; `bin_stamp`: what Salesforce says of it from then on is newer than why it is in the bin."""

    __tablename__ = "task"
    id: Mapped[int] = mapped_column(primary_key=True)
    uid: Mapped[str] = mapped_column(String(36))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"))
    organisation_id: Mapped[str | None] = mapped_column(String(18))
    salesforce_id: Mapped[str | None] = mapped_column(String(18))
    subject: Mapped[str] = mapped_column(Text)
    due: Mapped[date | None] = mapped_column(Date)
    status: Mapped[str] = mapped_column(String(255))
    is_open: Mapped[bool]
    priority: Mapped[str] = mapped_column(String(255))
    comments: Mapped[str] = mapped_column(Text)
    reminder: Mapped[datetime | None]
    open_status: Mapped[str | None] = mapped_column(String(255))
    base: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    edited_at: Mapped[dict[str, str]] = mapped_column(JSON)
    version: Mapped[int]
    is_wanted: Mapped[bool]
    is_waiting: Mapped[bool]
    sends: Mapped[int]
    sent: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    not_before: Mapped[datetime | None]
    is_by_bytes: Mapped[bool]
    binned_at: Mapped[datetime | None]
    bin_reason: Mapped[str | None] = mapped_column(String(20))
    bin_stamp: Mapped[datetime | None]
    is_gone: Mapped[bool]
    conflict_at: Mapped[datetime | None]
    trouble_code: Mapped[str | None] = mapped_column(String(80))
    trouble_detail: Mapped[str | None] = mapped_column(Text)
    who_id: Mapped[str | None] = mapped_column(String(18))
    who_name: Mapped[str | None] = mapped_column(String(255))
    what_id: Mapped[str | None] = mapped_column(String(18))
    what_name: Mapped[str | None] = mapped_column(String(255))
    created_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("organisation_id", "salesforce_id", name="task_of_record"),
        Index("task_of_person", "person_id", "is_open", "due"),
        Index("task_linked", "person_id", "organisation_id", "id"),
        Index(
            "task_waiting",
            "person_id",
            "id",
            sqlite_where=text("is_waiting = 1"),  # SQLite takes it only for a query that says the same
            postgresql_where=text("is_waiting"),
        ),
        Index(
            "task_unsettled",
            "person_id",
            sqlite_where=text("not_before IS NOT NULL"),
            postgresql_where=text("not_before IS NOT NULL"),
        ),
        Index(
            "task_reminder",
            "person_id",
            "reminder",
            sqlite_where=text("reminder IS NOT NULL"),
            postgresql_where=text("reminder IS NOT NULL"),
        ),
        Index(
            "task_bin",
            "binned_at",
            sqlite_where=text("binned_at IS NOT NULL"),
            postgresql_where=text("binned_at IS NOT NULL"),
        ),
        {"sqlite_autoincrement": True},
    )


class TaskHistoryRow(Base):
    """A value that a task had, or that Salesforce had, and that gave way to another; the words are those of
    `sync.tasks.merge`."""

    __tablename__ = "task_history"
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id", ondelete="CASCADE"), index=True)
    time: Mapped[datetime]
    field: Mapped[str] = mapped_column(String(20))
    value: Mapped[str | None] = mapped_column(Text)
    side: Mapped[str] = mapped_column(String(20))
    why: Mapped[str] = mapped_column(String(20))


class TaskSyncRow(Base):
    """One person's task sync: since when, how far it has read, when it is due (for what was changed here) and
    when Salesforce is to be looked at, who has it in hand, and what stands in its way.

    `plan` waits for the person's word: what a first sync, or a side that lost much, would do; `confirmed` is
    what got it."""

    __tablename__ = "task_sync"
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    organisation_id: Mapped[str | None] = mapped_column(String(18))
    user_id: Mapped[str | None] = mapped_column(String(18))
    is_on: Mapped[bool]
    enabled_at: Mapped[datetime]
    is_first: Mapped[bool]
    since: Mapped[datetime | None]
    due_at: Mapped[datetime]
    look_at: Mapped[datetime]
    claimed_by: Mapped[str | None] = mapped_column(String(36))
    claim: Mapped[int]
    attempts: Mapped[int]
    succeeded_at: Mapped[datetime | None]
    changed_at: Mapped[datetime | None]
    seen_at: Mapped[datetime | None]
    verified_id: Mapped[int]
    verify_at: Mapped[datetime | None]
    links: Mapped[int]
    progress: Mapped[int]
    is_restored: Mapped[bool] = mapped_column(server_default=false())
    """The database was restored since: what the sync would do is asked first."""
    plan: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    confirmed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    last_closed_status: Mapped[str | None] = mapped_column(String(255))
    trouble_code: Mapped[str | None] = mapped_column(String(80))
    trouble_detail: Mapped[str | None] = mapped_column(Text)


class TaskChoicesRow(Base):
    """What an organisation has of statuses, priorities and room, as it was last asked."""

    __tablename__ = "task_choices"
    organisation_id: Mapped[str] = mapped_column(String(18), primary_key=True)
    choices: Mapped[dict[str, Any]] = mapped_column(JSON)


class OwnTaskRow(Base):
    """A task in Salesforce that is the log of a mail: the task sync leaves it alone."""

    __tablename__ = "own_task"
    salesforce_id: Mapped[str] = mapped_column(String(18), primary_key=True)

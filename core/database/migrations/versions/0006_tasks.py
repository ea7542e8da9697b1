"""Tasks, the same here and in Salesforce; and where a process runs, so that who is dead is known at once."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("process", sa.Column("home", sa.String(80)))
    op.create_table(
        "task",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uid", sa.String(36), nullable=False),
        sa.Column("person_id", sa.Integer(), sa.ForeignKey("person.id"), nullable=False),
        sa.Column("organisation_id", sa.String(18)),
        sa.Column("salesforce_id", sa.String(18)),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("due", sa.Date()),
        sa.Column("status", sa.String(255), nullable=False),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.String(255), nullable=False),
        sa.Column("comments", sa.Text(), nullable=False),
        sa.Column("reminder", sa.DateTime()),
        sa.Column("open_status", sa.String(255)),
        sa.Column("base", sa.JSON()),
        sa.Column("edited_at", sa.JSON(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("is_wanted", sa.Boolean(), nullable=False),
        sa.Column("is_waiting", sa.Boolean(), nullable=False),
        sa.Column("sends", sa.Integer(), nullable=False),
        sa.Column("sent", sa.JSON()),
        sa.Column("not_before", sa.DateTime()),
        sa.Column("is_by_bytes", sa.Boolean(), nullable=False),
        sa.Column("binned_at", sa.DateTime()),
        sa.Column("bin_reason", sa.String(20)),
        sa.Column("bin_stamp", sa.DateTime()),
        sa.Column("is_gone", sa.Boolean(), nullable=False),
        sa.Column("conflict_at", sa.DateTime()),
        sa.Column("trouble_code", sa.String(80)),
        sa.Column("trouble_detail", sa.Text()),
        sa.Column("who_id", sa.String(18)),
        sa.Column("who_name", sa.String(255)),
        sa.Column("what_id", sa.String(18)),
        sa.Column("what_name", sa.String(255)),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("organisation_id", "salesforce_id", name="task_of_record"),
        sqlite_autoincrement=True,
    )
    for name, columns, where in (
        ("task_of_person", ["person_id", "is_open", "due"], None),
        ("task_linked", ["person_id", "organisation_id", "id"], None),
        ("task_waiting", ["person_id", "id"], "is_waiting = 1"),
        ("task_unsettled", ["person_id"], "not_before IS NOT NULL"),
        ("task_reminder", ["person_id", "reminder"], "reminder IS NOT NULL"),
        ("task_bin", ["binned_at"], "binned_at IS NOT NULL"),
    ):
        on_sqlite = None if where is None else sa.text(where)
        elsewhere = None if where is None else sa.text(where.removesuffix(" = 1"))
        op.create_index(name, "task", columns, sqlite_where=on_sqlite, postgresql_where=elsewhere)
    op.create_table(
        "task_history",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "task_id", sa.Integer(), sa.ForeignKey("task.id", ondelete="CASCADE"), nullable=False, index=True
        ),
        sa.Column("time", sa.DateTime(), nullable=False),
        sa.Column("field", sa.String(20), nullable=False),
        sa.Column("value", sa.Text()),
        sa.Column("side", sa.String(20), nullable=False),
        sa.Column("why", sa.String(20), nullable=False),
    )
    op.create_table(
        "task_sync",
        sa.Column("person_id", sa.Integer(), sa.ForeignKey("person.id"), primary_key=True),
        sa.Column("organisation_id", sa.String(18)),
        sa.Column("user_id", sa.String(18)),
        sa.Column("is_on", sa.Boolean(), nullable=False),
        sa.Column("enabled_at", sa.DateTime(), nullable=False),
        sa.Column("is_first", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime()),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("look_at", sa.DateTime(), nullable=False),
        sa.Column("claimed_by", sa.String(36)),
        sa.Column("claim", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("succeeded_at", sa.DateTime()),
        sa.Column("changed_at", sa.DateTime()),
        sa.Column("seen_at", sa.DateTime()),
        sa.Column("verified_id", sa.Integer(), nullable=False),
        sa.Column("verify_at", sa.DateTime()),
        sa.Column("links", sa.Integer(), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("plan", sa.JSON()),
        sa.Column("confirmed", sa.JSON()),
        sa.Column("last_closed_status", sa.String(255)),
        sa.Column("trouble_code", sa.String(80)),
        sa.Column("trouble_detail", sa.Text()),
    )
    op.create_table(
        "task_choices",
        sa.Column("organisation_id", sa.String(18), primary_key=True),
        sa.Column("choices", sa.JSON(), nullable=False),
    )
    op.create_table("own_task", sa.Column("salesforce_id", sa.String(18), primary_key=True))
    _note_own_tasks()


def _note_own_tasks() -> None:
    """The tasks that mails were logged as until now."""
    connection = op.get_bind()
    log = sa.table("mail_log", sa.column("targets", sa.JSON()))
    own = sa.table("own_task", sa.column("salesforce_id", sa.String()))
    ids = {
        target["id"][:15]
        for (targets,) in connection.execute(sa.select(log.c.targets))
        for target in targets or ()
        if target["kind"] == "Task" and target["id"] and target["id"].startswith("00T")
    }
    if ids:
        connection.execute(sa.insert(own), [{"salesforce_id": one} for one in sorted(ids)])

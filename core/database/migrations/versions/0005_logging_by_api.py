"""Mails that are logged through the API: what is due, the text until then, and what was written."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("mail", sa.Column("due_at", sa.DateTime()))
    op.add_column("mail", sa.Column("claimed_by", sa.String(36)))
    op.add_column("mail", sa.Column("claim", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("mail", sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"))
    is_due = sa.text("due_at IS NOT NULL")
    op.create_index("mail_due", "mail", ["due_at"], sqlite_where=is_due, postgresql_where=is_due)
    op.add_column("address_pick_up", sa.Column("user_id", sa.String(18)))
    op.create_table(
        "mail_text",
        sa.Column("mail_id", sa.String(36), sa.ForeignKey("mail.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("content", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "mail_log",
        sa.Column("mail_id", sa.String(36), sa.ForeignKey("mail.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("targets", sa.JSON()),
        sa.Column("trace", sa.JSON()),
        sa.Column("not_before", sa.DateTime()),
        sa.Column("trouble_code", sa.String(80)),
        sa.Column("trouble_detail", sa.Text()),
    )
    op.create_table(
        "ignored",
        sa.Column("person_id", sa.Integer(), sa.ForeignKey("person.id"), primary_key=True),
        sa.Column("pattern", sa.String(320), primary_key=True),
    )
    op.create_table(
        "salesforce_organisation",
        sa.Column("id", sa.String(18), primary_key=True),
        sa.Column("calls_used", sa.Integer(), nullable=False),
        sa.Column("calls_total", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(), nullable=False),
        sa.Column("is_scarce", sa.Boolean(), nullable=False),
        sa.Column("paused_until", sa.DateTime()),
        sa.Column("pause_code", sa.String(80)),
        sa.Column("pauses", sa.Integer(), nullable=False),
    )

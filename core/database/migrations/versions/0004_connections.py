"""Connections to Salesforce, and what was found of each person's address; no secret stays in the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "salesforce_connection",
        sa.Column("person_id", sa.Integer(), sa.ForeignKey("person.id"), primary_key=True),
        sa.Column("standing", sa.String(20), nullable=False),
        sa.Column("way", sa.String(20), nullable=False),
        sa.Column("login_url", sa.String(300), nullable=False),
        sa.Column("instance_url", sa.String(300), nullable=False),
        sa.Column("organisation_id", sa.String(18), nullable=False),
        sa.Column("user_id", sa.String(18), nullable=False),
        sa.Column("username", sa.String(300), nullable=False),
        sa.Column("access_token", sa.Text()),
        sa.Column("refresh_token", sa.Text()),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("turn_of", sa.String(36)),
        sa.Column("turn_until", sa.DateTime()),
        sa.Column("connected_at", sa.DateTime(), nullable=False),
        sa.Column("last_used_at", sa.DateTime()),
        sa.Column("trouble_code", sa.String(80)),
        sa.Column("trouble_detail", sa.Text()),
    )
    op.create_index("connection_of_user", "salesforce_connection", ["organisation_id", "user_id"])
    op.create_table(
        "address_pick_up",
        sa.Column("person_id", sa.Integer(), sa.ForeignKey("person.id"), primary_key=True),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("looked_at", sa.DateTime()),
        sa.Column("is_another", sa.Boolean(), nullable=False),
        sa.Column("senders", sa.JSON()),
    )
    op.execute(
        sa.text("UPDATE audit SET before = '(not shown)' WHERE what = 'bcc-address' AND before IS NOT NULL")
    )
    op.execute(
        sa.text("UPDATE audit SET after = '(not shown)' WHERE what = 'bcc-address' AND after IS NOT NULL")
    )

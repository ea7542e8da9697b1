"""Which installation this is, how far each relay's journal has been loaded, and what processes say of
themselves."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    installation = op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("uuid", sa.String(36), nullable=False),
        sa.Column("lineages", sa.JSON(), nullable=False),
        sa.Column("tick", sa.BigInteger(), nullable=False),
        sa.Column("restored_at", sa.DateTime()),
        sa.Column("is_copy", sa.Boolean(), nullable=False),
    )
    op.bulk_insert(
        installation,
        [{"id": 1, "uuid": str(uuid.uuid4()), "lineages": [str(uuid.uuid4())], "tick": 0, "is_copy": False}],
    )
    op.create_table(
        "journal",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("loaded", sa.BigInteger(), nullable=False),
    )
    # a relay of the first release that still runs does not name these columns
    op.add_column("process", sa.Column("findings", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("process", sa.Column("rows_lost", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column(
        "task_sync", sa.Column("is_restored", sa.Boolean(), nullable=False, server_default=sa.false())
    )

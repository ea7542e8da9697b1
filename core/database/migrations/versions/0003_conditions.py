"""A process says how it is with each beat."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("process", sa.Column("upstream_trouble", sa.Text(), nullable=True))
    op.add_column("process", sa.Column("journal_bytes", sa.BigInteger(), nullable=False, server_default="0"))

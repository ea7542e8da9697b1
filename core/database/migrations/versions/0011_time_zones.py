"""The time zone that a person has in Salesforce; what the reason of a mail is about."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("salesforce_connection", sa.Column("time_zone", sa.String(60), nullable=True))
    op.add_column("mail", sa.Column("detail", sa.String(80), nullable=True))

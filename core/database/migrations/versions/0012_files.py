"""The files of mails that wait to be logged; how much was written to Salesforce."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "mail_file",
        sa.Column("mail_id", sa.String(36), primary_key=True),
        sa.Column("file", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_index("mail_file_size", "mail_file", ["size"])
    op.create_table(
        "written",
        sa.Column("month", sa.String(7), primary_key=True),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in ("records", "bytes", "whole", "file_bytes")
        ),
    )

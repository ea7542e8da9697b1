"""Rows that nobody asks for twice are in no index for that: a mail costs two index entries less."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_index("mail_fingerprint", table_name="mail")
    op.drop_index("mail_copy_refusal", table_name="mail")
    for name, column in (("mail_lost_reply", "fingerprint"), ("mail_refused_copy", "copy_refusal")):
        is_set = sa.text(f"{column} IS NOT NULL")
        op.create_index(name, "mail", ["time"], sqlite_where=is_set, postgresql_where=is_set)

"""Indexes by which the worker's claims, the tidying and the pages cost what they find, not what lies in the
table."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_PARTIAL = (
    ("mail_due_of_person", ["person_id", "due_at"], "due_at IS NOT NULL"),
    ("mail_claimed", ["claimed_by"], "claimed_by IS NOT NULL"),
    ("mail_due_of_state", ["state", "id"], "due_at IS NOT NULL"),
)


def upgrade() -> None:
    for name, columns, where in _PARTIAL:
        op.create_index(name, "mail", columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
    op.create_index("unknown_sender_by_mails", "unknown_sender", ["mails", "key"])
    op.create_index("unknown_sender_by_time", "unknown_sender", ["last_seen"])
    op.create_index("mail_of_person_and_state", "mail", ["person_id", "state", "id"])

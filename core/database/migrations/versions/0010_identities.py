"""Which mails are one mail, and which of them was the first. Rows from before have no identity."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("mail", sa.Column("identity", sa.LargeBinary(32), nullable=True))
    op.add_column("mail", sa.Column("same_as", sa.String(36), nullable=True))
    op.add_column("mail", sa.Column("logged_by", sa.String(80), nullable=True))
    by_others = sa.text("logged_by IS NOT NULL")
    for name, columns in (("mail_by_others", ["id"]), ("mail_by_others_of_person", ["person_id", "id"])):
        op.create_index(name, "mail", columns, sqlite_where=by_others, postgresql_where=by_others)
    some = sa.text("identity IS NOT NULL")
    op.create_index("mail_identity", "mail", ["identity"], sqlite_where=some, postgresql_where=some)
    op.create_table(
        "first_mail",
        sa.Column("identity", sa.LargeBinary(32), primary_key=True),
        sa.Column("way", sa.String(10), primary_key=True),
        sa.Column("mail_id", sa.String(36), nullable=False),
        sa.Column("time", sa.DateTime(), nullable=False),
    )
    op.create_index("first_mail_time", "first_mail", ["time"])

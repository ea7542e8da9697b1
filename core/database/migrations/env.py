"""Alembic's entrance: the connection comes from `Database.migrate`."""

from alembic import context

from core.database import task_models  # noqa: F401  its tables are the base's too
from core.database.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()

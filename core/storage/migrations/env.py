"""Alembic's entrance: the connection comes from `Database.migrate`."""

from alembic import context

from core.storage.models import Base

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()

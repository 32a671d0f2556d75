"""Alembic's entry point: runs on the connection of `pipeline.store.database.migrate`."""

from alembic import context

from pipeline.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()

"""Alembic's way in: runs on the connection that `pipeline.store.database.migrate` hands over."""

from alembic import context

from pipeline.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()

"""Metadata, tags, job, model name and source of images; the start of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns; of images that exist the source is known."""
    for name, kind in (
        ("model_name", sa.String(128)),
        ("job_id", sa.String(36)),
        ("made_from", sa.String(36)),
        ("metadata", sa.JSON),
        ("tags", sa.JSON),
    ):
        op.add_column("images", sa.Column(name, kind))
    op.add_column("jobs", sa.Column("started_at", sa.DateTime(timezone=True)))
    op.create_index("images_by_source", "images", ["owner", "made_from"])
    images = sa.table("images", sa.column("model", sa.String), sa.column("request", sa.JSON), sa.column("made_from"))
    source = images.c.request["source"]["image_id"].as_string()
    op.execute(images.update().where(images.c.model != "", source.is_not(None)).values(made_from=source))

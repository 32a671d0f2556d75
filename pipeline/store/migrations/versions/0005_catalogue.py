"""Indexes for searches of images: the sessions they were made in, and their labels."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create both tables; of earlier images only the last of each session is known."""
    op.create_table(
        "image_sessions",
        sa.Column("image_id", sa.String(36), primary_key=True),
        sa.Column("session", sa.String(128), primary_key=True),
    )
    op.execute("INSERT INTO image_sessions (image_id, session) SELECT image_id, session FROM sessions")
    op.create_table(
        "image_labels",
        sa.Column("owner", sa.String(128), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("label", sa.String(128), primary_key=True),
        sa.Column("confidence", sa.Double, nullable=False),
    )
    op.create_index("image_labels_by_label", "image_labels", ["owner", "label"])

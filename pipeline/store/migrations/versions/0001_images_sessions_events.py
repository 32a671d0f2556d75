"""Images, sessions and the event log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the first tables."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "images",
        sa.Column("image_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("request", sa.JSON),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("created_at", moment, nullable=False),
    )
    op.create_index("ix_images_digest", "images", ["digest"])
    op.create_index("images_by_owner", "images", ["owner", "image_id"])
    op.create_table(
        "sessions",
        sa.Column("owner", sa.String(128), primary_key=True),
        sa.Column("session", sa.String(128), primary_key=True),
        sa.Column("image_id", sa.String(36), nullable=False),
        sa.Column("updated_at", moment, nullable=False),
    )
    op.create_index("ix_sessions_image_id", "sessions", ["image_id"])
    op.create_table(
        "events",
        sa.Column(
            "sequence",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("image_id", sa.String(36)),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_image_id", "events", ["image_id"])
    op.create_index("ix_events_created_at", "events", ["created_at"])

"""Webhooks and their deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the tables of webhooks."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "webhooks",
        sa.Column("webhook_id", sa.String(36), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("types", sa.JSON, nullable=False),
        sa.Column("secret", sa.String(128), nullable=False),
        sa.Column("cursor", sa.BigInteger, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("disabled_at", moment),
        sa.Column("disabled_reason", sa.Text),
    )
    op.create_index("webhooks_by_owner", "webhooks", ["owner", "webhook_id"])
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.String(36), primary_key=True),
        sa.Column("webhook_id", sa.String(36), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(36)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("last_status", sa.Integer),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("settled_at", moment),
        sa.UniqueConstraint("webhook_id", "sequence", name="one_delivery_of_each_event"),
    )
    op.create_index("deliveries_due", "deliveries", ["state", "next_at"])
    op.create_index("deliveries_of_subject", "deliveries", ["webhook_id", "subject", "sequence"])
    op.create_index("deliveries_of_webhook", "deliveries", ["webhook_id", "delivery_id"])

"""The previous secret of a webhook, and the last exchange of a delivery with its receiver."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("webhooks", sa.Column("previous_secret", sa.String(128)))
    op.add_column("webhooks", sa.Column("previous_secret_until", sa.Double))
    op.add_column("deliveries", sa.Column("last_exchange", sa.JSON))

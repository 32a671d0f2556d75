"""Ids of regions requested by points, a box or a text."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "image_regions",
        sa.Column("image_id", sa.String(36), primary_key=True),
        sa.Column("region_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("selector", sa.JSON, nullable=False),
        sa.Column("selector_digest", sa.String(64), nullable=False),
        sa.UniqueConstraint("image_id", "selector_digest", name="image_regions_by_selector"),
    )

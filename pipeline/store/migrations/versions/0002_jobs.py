"""Jobs, idempotency keys, and the job of an event; events get the type names of event streams."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

RENAMED = {"ImageCreated": "image.created", "ImageDeleted": "image.deleted"}


def upgrade() -> None:
    """Create the tables of jobs."""
    moment = sa.DateTime(timezone=True)
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.String(36), primary_key=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("request_id", sa.String(128), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("sessions", sa.JSON, nullable=False),
        sa.Column("is_waited_for", sa.Boolean, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("cancel_requested", sa.Boolean, nullable=False),
        sa.Column("holder", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.Column("result", sa.JSON(none_as_null=True)),
        sa.Column("problem", sa.JSON(none_as_null=True)),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("finished_at", moment),
    )
    op.create_index("jobs_by_owner", "jobs", ["owner", "job_id"])
    op.create_index("jobs_by_state", "jobs", ["state", "job_id"])
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.String(128), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("made", sa.String(36), nullable=False),
        sa.Column("created_at", moment, nullable=False),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])
    op.add_column("events", sa.Column("job_id", sa.String(36)))
    op.create_index("ix_events_job_id", "events", ["job_id"])
    op.create_index("events_by_owner", "events", ["owner", "sequence"])
    events = sa.table("events", sa.column("type", sa.String))
    for old, new in RENAMED.items():
        op.execute(events.update().where(events.c.type == old).values(type=new))

"""The SQL schema. A change needs a migration in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

images = Table(
    "images",
    metadata,
    Column("image_id", String(36), primary_key=True),  # sorts by time
    Column("owner", String(128), nullable=False),
    Column("digest", String(64), nullable=False, index=True),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),  # of the PNG
    Column("request", JSON),  # that generated it; of an upload what its PNG says; else NULL
    Column("model", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("model_name", String(128)),
    Column("job_id", String(36)),
    Column("made_from", String(36)),  # the id of the image it was made from
    Column("metadata", JSON),  # the client's own: values by key
    Column("tags", JSON),  # the client's own: true by tag
    Index("images_by_owner", "owner", "image_id"),
    Index("images_by_source", "owner", "made_from"),
)

# Indexes for searches of images.
image_sessions = Table(
    "image_sessions",
    metadata,
    Column("image_id", String(36), primary_key=True),
    Column("session", String(128), primary_key=True),  # in which it was made
)

# Requested regions, beside those of automatic segmentation: how to find each again.
image_regions = Table(
    "image_regions",
    metadata,
    Column("image_id", String(36), primary_key=True),
    Column("region_id", Integer, primary_key=True, autoincrement=False),
    Column("selector", JSON, nullable=False),
    Column("selector_digest", String(64), nullable=False),
    UniqueConstraint("image_id", "selector_digest", name="image_regions_by_selector"),
)

image_labels = Table(
    "image_labels",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("label", String(128), primary_key=True),  # from its description
    Column("confidence", Double, nullable=False),  # 0 to 1
    Index("image_labels_by_label", "owner", "label"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("session", String(128), primary_key=True),
    Column("image_id", String(36), nullable=False, index=True),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

# The outbox: written in the transaction of the change it reports, so that sequence order equals commit order.
events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("type", String(64), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("image_id", String(36), index=True),
    Column("job_id", String(36), index=True),
    Column("payload", JSON, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, index=True),
    Index("events_by_owner", "owner", "sequence"),
    sqlite_autoincrement=True,  # a number is never used twice, even after the newest event is pruned
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),  # sorts by time
    Column("kind", String(32), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("request", JSON, nullable=False),
    Column("sessions", JSON, nullable=False),
    Column("is_waited_for", Boolean, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("holder", String(64)),
    Column("lease_until", Double),  # seconds on the database's clock
    Column("result", JSON(none_as_null=True)),
    Column("problem", JSON(none_as_null=True)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True)),  # of the last attempt
    Column("finished_at", DateTime(timezone=True)),
    Index("jobs_by_owner", "owner", "job_id"),
    Index("jobs_by_state", "state", "job_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("made", String(36), nullable=False),  # the id of what it was used for
    Column("created_at", DateTime(timezone=True), nullable=False, index=True),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("webhook_id", String(36), primary_key=True),  # sorts by time
    Column("owner", String(128), nullable=False),
    Column("url", Text, nullable=False),
    Column("types", JSON, nullable=False),  # empty: all
    Column("secret", String(128), nullable=False),
    Column("previous_secret", String(128)),  # signs as well, after a rotation
    Column("previous_secret_until", Double),  # seconds on the database's clock
    Column("cursor", BigInteger, nullable=False),  # sequence of the last event turned into deliveries
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("disabled_at", DateTime(timezone=True)),
    Column("disabled_reason", Text),
    Index("webhooks_by_owner", "owner", "webhook_id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", String(36), primary_key=True),  # sorts by time
    Column("webhook_id", String(36), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("type", String(64), nullable=False),
    Column("subject", String(36)),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double, nullable=False),  # seconds on the database's clock
    Column("last_status", Integer),
    Column("last_error", Text),
    Column("last_exchange", JSON(none_as_null=True)),  # request and response of the last attempt
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("settled_at", DateTime(timezone=True)),
    UniqueConstraint("webhook_id", "sequence", name="one_delivery_of_each_event"),
    Index("deliveries_due", "state", "next_at"),
    Index("deliveries_of_subject", "webhook_id", "subject", "sequence"),
    Index("deliveries_of_webhook", "webhook_id", "delivery_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", String(36), primary_key=True),  # sorts by time
    Column("owner", String(64), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True, index=True),  # SHA-256 of the token
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
)

"""The facts in SQL. Changed only together with a migration in `migrations/versions`."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, DateTime, Index, Integer, MetaData, String, Table

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
    Column("request", JSON),  # what made it; NULL for an upload
    Column("model", String(64), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Index("images_by_owner", "owner", "image_id"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("session", String(128), primary_key=True),
    Column("image_id", String(36), nullable=False, index=True),
    Column("updated_at", DateTime(timezone=True), nullable=False),
)

# The outbox: written in the transaction of the fact it reports, so that sequence order equals commit order.
events = Table(
    "events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("type", String(64), nullable=False),
    Column("owner", String(128), nullable=False),
    Column("image_id", String(36), index=True),
    Column("payload", JSON, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, index=True),
    sqlite_autoincrement=True,  # a number is never used twice, even after the newest event is pruned
)

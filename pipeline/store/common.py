"""Ids of images and jobs, and idempotency keys."""

from __future__ import annotations

import secrets
import time
import uuid
from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from pipeline.errors import IdempotencyMismatch
from pipeline.jobs import IdempotencyKey
from pipeline.store.tables import idempotency_keys


def new_id() -> str:
    """Generate an id that sorts by time and can't be guessed: a UUID of version 7 (RFC 9562), to 244 nanoseconds."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000  # RFC 9562, 6.2, method 3
    bits = milliseconds << 80 | 0x7 << 76 | fraction << 64 | secrets.randbits(64)
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=bits))


def remember_key(connection: Connection, owner: str, key: IdempotencyKey, made: str) -> None:
    """Store the id of what a key was used for."""
    row = {"owner": owner, "key": key.key, "fingerprint": key.fingerprint, "made": made}
    connection.execute(insert(idempotency_keys).values(row | {"created_at": datetime.now(UTC)}))


def made_with(connection: Connection, owner: str, key: IdempotencyKey) -> str | None:
    """Return the id of what a key was used for; None if the key is new.

    Raises:
        IdempotencyMismatch: the key was used for another request.
    """
    used = select(idempotency_keys).where(idempotency_keys.c.owner == owner, idempotency_keys.c.key == key.key)
    row = connection.execute(used).one_or_none()
    if row is None:
        return None
    if row.fingerprint != key.fingerprint:
        raise IdempotencyMismatch(key=key.key)
    return str(row.made)

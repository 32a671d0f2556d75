"""Which request a client's key was used for, and what that made. All within a transaction of the caller's."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, insert, select

from pipeline.errors import IdempotencyMismatch
from pipeline.jobs import IdempotencyKey
from pipeline.store.tables import idempotency_keys


def remember_key(connection: Connection, owner: str, key: IdempotencyKey, made: str) -> None:
    """Write down what a key was used for."""
    row = {"owner": owner, "key": key.key, "fingerprint": key.fingerprint, "made": made}
    connection.execute(insert(idempotency_keys).values(row | {"created_at": datetime.now(UTC)}))


def made_with(connection: Connection, owner: str, key: IdempotencyKey) -> str | None:
    """Find the id of what a key was used for; None if it is new.

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

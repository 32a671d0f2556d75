"""What owners have, on SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine, insert

from pipeline.store import EventLog, OwnerUsage, UsageStore, WebhookStore, new_id
from pipeline.store.tables import images, jobs


@pytest.fixture
def usage(engine: Engine) -> UsageStore:
    return UsageStore(EventLog(engine))


def store_image(engine: Engine, owner: str, size_bytes: int) -> None:
    facts = {"image_id": new_id(), "owner": owner, "size_bytes": size_bytes, "created_at": datetime.now(UTC)}
    with EventLog(engine).writing() as connection:
        connection.execute(insert(images).values(digest="d", width=64, height=64, model="m", **facts))


def store_job(engine: Engine, owner: str, state: str) -> None:
    facts = {"job_id": new_id(), "owner": owner, "state": state, "created_at": datetime.now(UTC)}
    unused = {"kind": "generate", "request_id": "r", "request": {}, "sessions": [], "is_waited_for": False}
    with EventLog(engine).writing() as connection:
        connection.execute(insert(jobs).values(attempts=0, cancel_requested=False, **unused, **facts))


def test_an_owner_without_anything_uses_nothing(usage):
    assert usage.of("ann") == OwnerUsage(images=0, bytes=0, unfinished_jobs=0, webhooks=0)


def test_what_an_owner_has_is_counted(usage, engine):
    for size_bytes in (3 << 30, 5):
        store_image(engine, "ann", size_bytes)
    for state in ("queued", "running", "succeeded", "failed", "cancelled", "dead"):
        store_job(engine, "ann", state)
    WebhookStore(EventLog(engine)).register("ann", "https://example.com", secret="whsec_")
    store_image(engine, "bob", 7)
    store_job(engine, "bob", "queued")
    assert usage.of("ann") == OwnerUsage(images=2, bytes=(3 << 30) + 5, unfinished_jobs=2, webhooks=1)
    assert usage.of("bob") == OwnerUsage(images=1, bytes=7, unfinished_jobs=1, webhooks=0)

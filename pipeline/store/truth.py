"""The truth: facts in SQL, bytes in an object store.

Bytes are written before the row that names them, and removed after it: whatever is killed in between leaves bytes
nobody names, which the sweep removes, and never a row without its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.cache import CacheKey
from pipeline.errors import ImageNotFound
from pipeline.events import ImageCreated
from pipeline.jobs import IdempotencyKey, JobState, Lease
from pipeline.records import GenerationRequest, ImageRecord
from pipeline.settings import Retention
from pipeline.store.blobs import Blobs
from pipeline.store.catalogue import enter_sessions, forget_image, forget_picture, found_by, label_picture
from pipeline.store.facts import count_facts
from pipeline.store.idempotency import made_with, remember_key
from pipeline.store.interface import ALL_IMAGES, ImageFilter, StoreFacts
from pipeline.store.job_rows import settle
from pipeline.store.jobs import JobStore
from pipeline.store.keys import KeyStore
from pipeline.store.log import EventLog, as_utc, log
from pipeline.store.tables import events, images, sessions
from pipeline.store.webhooks import WebhookStore

ORPHAN_AGE = timedelta(hours=1)  # bytes without a row may be those of an image just being written


class TruthStore:
    """A `Store` on a database and an object store."""

    def __init__(self, engine: Engine, blobs: Blobs, retention: Retention) -> None:
        self.log = EventLog(engine)
        self._blobs = blobs
        self._retention = retention
        self.jobs = JobStore(self.log)
        self.webhooks = WebhookStore(self.log)
        self.keys = KeyStore(self.log)

    def add(
        self,
        record: ImageRecord,
        png: bytes,
        sessions_: Sequence[str],
        created: ImageCreated,
        lease: Lease | None = None,
        key: IdempotencyKey | None = None,
    ) -> ImageRecord:
        """See `Store.add`."""
        self._blobs.put(_png_name(record.image_id), png)
        row = {
            **{name: getattr(record, name) for name in ("image_id", "owner", "digest", "width", "height", "model")},
            "size_bytes": len(png),
            "request": asdict(record.request) if record.request else None,
            "created_at": record.created_at,
        }
        with self.log.writing() as connection:
            if key is not None and (made := made_with(connection, record.owner, key)) is not None:
                return _read(connection, made, record.owner)  # what was written in vain, the sweep finds
            connection.execute(insert(images).values(row))
            if key is not None:
                remember_key(connection, record.owner, key, record.image_id)
            enter_sessions(connection, record.image_id, sessions_)
            for session in sessions_:
                self._point(connection, record, session)
            job_id = lease.job_id if lease else None
            log(
                connection,
                "image.created",
                record.owner,
                image_id=record.image_id,
                job_id=job_id,
                payload=asdict(created),
            )
            if lease is not None:
                settle(connection, lease, JobState.SUCCEEDED, result={"image_id": record.image_id})
        return record

    def record(self, image_id: str, owner: str) -> ImageRecord:
        """See `Store.record`."""
        with self.log.engine.connect() as connection:
            return _read(connection, image_id, owner)

    def png(self, image_id: str) -> bytes:
        """See `Store.png`."""
        png = self._blobs.get(_png_name(image_id))
        if png is None:
            raise ImageNotFound(image_id=image_id)
        return png

    def last_image_id(self, owner: str, session: str) -> str | None:
        """See `Store.last_image_id`."""
        with self.log.engine.connect() as connection:
            found: str | None = connection.execute(
                select(sessions.c.image_id).where(sessions.c.owner == owner, sessions.c.session == session)
            ).scalar_one_or_none()
        return found

    def history(
        self, owner: str, *, limit: int, before: str | None = None, wanted: ImageFilter = ALL_IMAGES
    ) -> list[ImageRecord]:
        """See `Store.history`."""
        query = found_by(wanted, owner).limit(limit)
        if before is not None:
            query = query.where(images.c.image_id < before)
        with self.log.engine.connect() as connection:
            return [_record(row) for row in connection.execute(query)]

    def label(self, owner: str, digest: str, labels: Mapping[str, float]) -> None:
        """See `Store.label`."""
        with self.log.writing() as connection:
            label_picture(connection, owner, digest, labels)

    def delete(self, image_id: str, owner: str) -> None:
        """See `Store.delete`."""
        with self.log.writing() as connection:
            deleted = connection.execute(
                delete(images).where(images.c.image_id == image_id, images.c.owner == owner).returning(images.c.digest)
            ).one_or_none()
            if deleted is None:
                raise ImageNotFound(image_id=image_id)
            connection.execute(delete(sessions).where(sessions.c.image_id == image_id))
            forget_image(connection, image_id)
            log(connection, "image.deleted", owner, image_id=image_id, payload={})
            same = select(images.c.image_id).where(images.c.owner == owner, images.c.digest == deleted.digest)
            last_of_its_kind = connection.execute(same.limit(1)).one_or_none() is None
            if last_of_its_kind:
                forget_picture(connection, owner, deleted.digest)
        self._blobs.delete(_png_name(image_id))
        if last_of_its_kind:
            self._blobs.delete(*(name for name, _ in self._blobs.list(f"artifacts/{owner}/{deleted.digest}")))

    def artifact(self, key: CacheKey) -> bytes | None:
        """See `Store.artifact`."""
        return self._blobs.get(_artifact_name(key))

    def keep_artifact(self, key: CacheKey, encoded: bytes) -> None:
        """See `Store.keep_artifact`."""
        self._blobs.put(_artifact_name(key), encoded)

    def sweep(self) -> None:
        """See `Store.sweep`."""
        self._blobs.sweep_staged(ORPHAN_AGE.total_seconds())
        oldest_kept = datetime.now(UTC) - timedelta(days=self._retention.max_age_days)
        for image_id, owner in self._expired(oldest_kept):
            self._delete_if_there(image_id, owner)
        with self.log.writing() as connection:
            connection.execute(delete(sessions).where(sessions.c.updated_at < oldest_kept))
            connection.execute(delete(events).where(events.c.created_at < oldest_kept))
        self.jobs.prune(oldest_kept)
        self.webhooks.prune(oldest_kept)
        self._sweep_orphans()

    def facts(self) -> StoreFacts:
        """See `Store.facts`."""
        with self.log.engine.connect() as connection:
            return count_facts(connection)

    def _point(self, connection: Connection, record: ImageRecord, session: str) -> None:
        """Make an image the last one of a session."""
        upsert: Any = (postgresql if self.log.engine.dialect.name == "postgresql" else sqlite).insert(sessions)
        row = {
            "owner": record.owner,
            "session": session,
            "image_id": record.image_id,
            "updated_at": record.created_at,
        }
        changed = {"image_id": row["image_id"], "updated_at": row["updated_at"]}
        connection.execute(upsert.values(row).on_conflict_do_update(index_elements=["owner", "session"], set_=changed))

    def _expired(self, oldest_kept: datetime) -> list[tuple[str, str]]:
        """Name the images that are too old, and each owner's oldest beyond its bytes."""
        newer_bytes = func.sum(images.c.size_bytes).over(partition_by=images.c.owner, order_by=images.c.image_id.desc())
        ranked = select(images.c.image_id, images.c.owner, images.c.created_at, newer_bytes.label("total")).subquery()
        query = select(ranked.c.image_id, ranked.c.owner).where(
            (ranked.c.created_at < oldest_kept) | (ranked.c.total > self._retention.max_bytes_per_owner)
        )
        with self.log.engine.connect() as connection:
            return [(row.image_id, row.owner) for row in connection.execute(query)]

    def _delete_if_there(self, image_id: str, owner: str) -> None:
        try:
            self.delete(image_id, owner)
        except ImageNotFound:
            return  # another replica sweeps as well

    def _sweep_orphans(self) -> None:
        """Remove bytes that no row names."""
        before = datetime.now(UTC) - ORPHAN_AGE
        with self.log.engine.connect() as connection:
            ids = set(connection.execute(select(images.c.image_id)).scalars())
            pictures = {(row.owner, row.digest) for row in connection.execute(select(images.c.owner, images.c.digest))}
        pngs = [(name, at, name.split("/")[1].removesuffix(".png") in ids) for name, at in self._blobs.list("images")]
        results = [(name, at, tuple(name.split("/")[1:3]) in pictures) for name, at in self._blobs.list("artifacts")]
        for name, written_at, is_named in pngs + results:
            if written_at < before and not is_named:
                self._blobs.delete(name)


def _read(connection: Connection, image_id: str, owner: str) -> ImageRecord:
    row = connection.execute(select(images).where(images.c.image_id == image_id, images.c.owner == owner)).one_or_none()
    if row is None:
        raise ImageNotFound(image_id=image_id)
    return _record(row)


def _record(row: Row[Any]) -> ImageRecord:
    request = row.request and GenerationRequest.from_dict(row.request)
    return ImageRecord(
        image_id=row.image_id,
        digest=row.digest,
        owner=row.owner,
        width=row.width,
        height=row.height,
        request=request,
        model=row.model,
        created_at=as_utc(row.created_at),
    )


def _png_name(image_id: str) -> str:
    return f"images/{image_id}.png"


def _artifact_name(key: CacheKey) -> str:
    return f"artifacts/{key}"

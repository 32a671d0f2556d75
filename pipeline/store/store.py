"""The truth: facts in SQL, bytes in an object store.

Bytes are written before the row that names them, and removed after it: whatever is killed in between leaves bytes
nobody names, which the sweep removes, and never a row without its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, Select, delete, exists, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.cache import CacheKey
from pipeline.errors import ImageNotFound
from pipeline.events import ImageCreated
from pipeline.jobs import IdempotencyKey, JobState, Lease
from pipeline.records import GenerationRequest, ImageRecord
from pipeline.settings import Retention
from pipeline.store.api_keys import KeyStore
from pipeline.store.blobs import Blobs
from pipeline.store.common import made_with, remember_key
from pipeline.store.jobs import JobStore, settle
from pipeline.store.log import EventLog, as_utc, log
from pipeline.store.statistics import StoreStatistics, count_rows
from pipeline.store.tables import events, image_labels, image_sessions, images, sessions
from pipeline.store.webhooks import WebhookStore

ORPHAN_AGE = timedelta(hours=1)  # bytes without a row may be those of an image just being written


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """Which images are wanted; None is all of them."""

    session: str | None = None  # made in it
    label: str | None = None  # shown by it, as `Store.label` was told
    prompt: str | None = None  # a part of its prompt, in small or capital letters (SQLite knows those of ASCII)
    since: datetime | None = None
    until: datetime | None = None  # exclusive


ALL_IMAGES = ImageFilter()


class Store:
    """Images by id, the last image of each session, results worth keeping, and the stores of all else.

    Methods block: call them from a thread.
    """

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
        """Keep an image, make it the last one of these sessions of its owner, and log that it was created.

        Args:
            record: what is known of it.
            png: its bytes.
            sessions: whose last image it becomes.
            created: the event.
            lease: of the job whose result it is; the job is settled with it or not at all.
            key: the client's name for the request that brought it.

        Returns:
            The record; with a key that was used before, that of the image it was used for, and nothing is kept.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            ImageNotFound: the key was used for an image that is gone.
            LeaseLost: the job is somebody else's by now; the image is not kept.
        """
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
        """Read an image's record.

        Raises:
            ImageNotFound: the owner has no such image.
        """
        with self.log.engine.connect() as connection:
            return _read(connection, image_id, owner)

    def png(self, image_id: str) -> bytes:
        """Read an image's PNG.

        Raises:
            ImageNotFound: there is no such image.
        """
        png = self._blobs.get(_png_name(image_id))
        if png is None:
            raise ImageNotFound(image_id=image_id)
        return png

    def last_image_id(self, owner: str, session: str) -> str | None:
        """Find the session's last image; None if it has none."""
        with self.log.engine.connect() as connection:
            found: str | None = connection.execute(
                select(sessions.c.image_id).where(sessions.c.owner == owner, sessions.c.session == session)
            ).scalar_one_or_none()
        return found

    def history(
        self, owner: str, *, limit: int, before: str | None = None, wanted: ImageFilter = ALL_IMAGES
    ) -> list[ImageRecord]:
        """List an owner's images, newest first, from before the image id `before` on."""
        query = found_by(wanted, owner).limit(limit)
        if before is not None:
            query = query.where(images.c.image_id < before)
        with self.log.engine.connect() as connection:
            return [_record(row) for row in connection.execute(query)]

    def label(self, owner: str, digest: str, labels: Mapping[str, float]) -> None:
        """Say what an owner's picture shows, each label with its confidence from 0 to 1, so that it is found by it."""
        with self.log.writing() as connection:
            label_picture(connection, owner, digest, labels)

    def delete(self, image_id: str, owner: str) -> None:
        """Remove an image and all that was kept of it.

        Raises:
            ImageNotFound: the owner has no such image.
        """
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
        """Read a kept result; None if there is none."""
        return self._blobs.get(_artifact_name(key))

    def keep_artifact(self, key: CacheKey, encoded: bytes) -> None:
        """Keep a result as long as its image."""
        self._blobs.put(_artifact_name(key), encoded)

    def sweep(self) -> None:
        """Drop what is older or larger than retention allows, and what killed writes left behind."""
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

    def statistics(self) -> StoreStatistics:
        """Count what there is."""
        with self.log.engine.connect() as connection:
            return count_rows(connection)

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


def found_by(wanted: ImageFilter, owner: str) -> Select[Any]:
    """The query for an owner's images that a filter lets through, newest first."""
    query = select(images).where(images.c.owner == owner).order_by(images.c.image_id.desc())
    if wanted.session is not None:
        is_of_session = image_sessions.c.session == wanted.session
        query = query.where(exists().where(image_sessions.c.image_id == images.c.image_id, is_of_session))
    if wanted.label is not None:
        labelled = select(image_labels.c.digest).where(
            image_labels.c.owner == owner, image_labels.c.label == wanted.label
        )
        query = query.where(images.c.digest.in_(labelled))
    if wanted.prompt is not None:
        # Both in SQL: SQLite lowers ASCII alone, and what is written alike must be found.
        pattern = re.sub(r"([%_/])", r"/\1", wanted.prompt)
        prompt = func.lower(images.c.request["prompt"].as_string())
        query = query.where(prompt.like(func.lower(f"%{pattern}%"), escape="/"))
    if wanted.since is not None:
        query = query.where(images.c.created_at >= wanted.since)
    if wanted.until is not None:
        query = query.where(images.c.created_at < wanted.until)
    return query


def enter_sessions(connection: Connection, image_id: str, sessions: Sequence[str]) -> None:
    """Write down in which sessions an image was made."""
    if sessions:
        connection.execute(
            insert(image_sessions), [{"image_id": image_id, "session": session} for session in dict.fromkeys(sessions)]
        )


def label_picture(connection: Connection, owner: str, digest: str, labels: Mapping[str, float]) -> None:
    """Write down what a picture shows, instead of what was said of it before; one without an image is left out."""
    of_picture = (image_labels.c.owner == owner) & (image_labels.c.digest == digest)
    connection.execute(delete(image_labels).where(of_picture))
    exists = select(images.c.image_id).where(images.c.owner == owner, images.c.digest == digest).limit(1)
    if labels and connection.execute(exists).one_or_none() is not None:
        rows = [{"owner": owner, "digest": digest, "label": name, "confidence": c} for name, c in labels.items()]
        connection.execute(insert(image_labels), rows)


def forget_image(connection: Connection, image_id: str) -> None:
    """Remove an image from the sessions it was made in."""
    connection.execute(delete(image_sessions).where(image_sessions.c.image_id == image_id))


def forget_picture(connection: Connection, owner: str, digest: str) -> None:
    """Remove what a picture shows, when no image has it any more."""
    of_picture = (image_labels.c.owner == owner) & (image_labels.c.digest == digest)
    connection.execute(delete(image_labels).where(of_picture))

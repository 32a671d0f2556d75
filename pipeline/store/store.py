"""The store: rows in SQL, blobs in an object store.

Blobs are written before the row that names them, and deleted after it: a process killed in between leaves orphaned
blobs, which the sweep deletes, and never a row without its blob.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.cache import CacheKey
from pipeline.errors import ImageNotFound
from pipeline.event_records import IMAGE_UPDATED
from pipeline.events import ImageCreated
from pipeline.jobs import IdempotencyKey, JobState, Lease
from pipeline.records import Annotations, GenerationRequest, ImageRecord
from pipeline.settings import RetentionSettings
from pipeline.store.api_keys import KeyStore
from pipeline.store.blobs import Blobs
from pipeline.store.common import made_with, remember_key
from pipeline.store.jobs import JobStore, settle
from pipeline.store.log import EventLog, as_utc, log
from pipeline.store.pages import PageQuery
from pipeline.store.regions import RegionStore
from pipeline.store.search import ALL_IMAGES, ImageFilter, found_by
from pipeline.store.statistics import StoreStatistics, count_rows
from pipeline.store.tables import events, image_labels, image_regions, image_sessions, images, sessions
from pipeline.store.webhooks import WebhookStore

COPIED = (
    "image_id",
    "owner",
    "digest",
    "width",
    "height",
    "model",
    "created_at",
    "model_name",
    "job_id",
    "made_from",
)  # columns that are named like what they hold
ORPHAN_AGE = timedelta(hours=1)  # younger blobs without a row may belong to an image being written


class Store:
    """Images by id, the last image of each session, persistent results, and the stores of all else.

    Methods block: call them from a thread.
    """

    def __init__(self, engine: Engine, blobs: Blobs, retention: RetentionSettings) -> None:
        self.log = EventLog(engine)
        self._blobs = blobs
        self._retention = retention
        self.jobs = JobStore(self.log)
        self.webhooks = WebhookStore(self.log)
        self.keys = KeyStore(self.log)
        self.regions = RegionStore(self.log)

    def add(
        self,
        record: ImageRecord,
        png: bytes,
        sessions_: Sequence[str],
        created: ImageCreated,
        lease: Lease | None = None,
        key: IdempotencyKey | None = None,
    ) -> ImageRecord:
        """Store an image, make it the last one of these sessions of its owner, and log its creation.

        Args:
            record: its metadata.
            png: its bytes.
            sessions_: sessions whose last image it becomes.
            created: the event.
            lease: on the job whose result it is; both are committed together or not at all.
            key: idempotency key of the request.

        Returns:
            The record; for a key that was used before, that of its first image, and nothing is stored.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            ImageNotFound: the key was used for an image that has been deleted.
            LeaseLost: another holder has the lease by now; the image is not stored.
        """
        self._blobs.put(_png_name(record.image_id), png)
        row = {
            **{name: getattr(record, name) for name in COPIED},
            "size_bytes": len(png),
            "request": asdict(record.request) if record.request else None,
            **_annotated(record.annotations),
        }
        with self.log.writing() as connection:
            if key is not None and (made := made_with(connection, record.owner, key)) is not None:
                return _read(connection, made, record.owner)  # the sweep deletes the orphaned blob
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
        """Return the id of the session's last image; None if it has none."""
        with self.log.engine.connect() as connection:
            found: str | None = connection.execute(
                select(sessions.c.image_id).where(sessions.c.owner == owner, sessions.c.session == session)
            ).scalar_one_or_none()
        return found

    def history(self, owner: str, page: PageQuery, wanted: ImageFilter = ALL_IMAGES) -> list[ImageRecord]:
        """List an owner's images."""
        query = page.apply(found_by(wanted, owner), images.c.image_id, images.c.created_at)
        with self.log.engine.connect() as connection:
            return [_record(row) for row in connection.execute(query)]

    def annotate(
        self, image_id: str, owner: str, change: Callable[[Annotations], Annotations], request_id: str = ""
    ) -> ImageRecord:
        """Change an image's annotations, and log it.

        Args:
            change: returns the new ones; called within the transaction.

        Raises:
            ImageNotFound: the owner has no such image.
        """
        with self.log.writing() as connection:
            record = _read(connection, image_id, owner)
            changed = replace(record, annotations=change(record.annotations))
            if changed != record:
                row = _annotated(changed.annotations)
                connection.execute(update(images).where(images.c.image_id == image_id).values(row))
                facts = {"request_id": request_id, **asdict(changed.annotations)}
                log(connection, IMAGE_UPDATED, owner, image_id=image_id, payload=facts)
        return changed

    def label(self, owner: str, digest: str, labels: Mapping[str, float]) -> None:
        """Set the labels of an owner's picture, with confidences from 0 to 1, for searches by label."""
        with self.log.writing() as connection:
            label_picture(connection, owner, digest, labels)

    def delete(self, image_id: str, owner: str, request_id: str | None = None) -> None:
        """Delete an image and everything stored for it.

        Args:
            request_id: of the request; None if retention deletes it.

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
            facts = {} if request_id is None else {"request_id": request_id}
            log(connection, "image.deleted", owner, image_id=image_id, payload=facts)
            same = select(images.c.image_id).where(images.c.owner == owner, images.c.digest == deleted.digest)
            last_of_its_kind = connection.execute(same.limit(1)).one_or_none() is None
            if last_of_its_kind:
                forget_picture(connection, owner, deleted.digest)
        self._blobs.delete(_png_name(image_id))
        if last_of_its_kind:
            self._blobs.delete(*(name for name, _ in self._blobs.list(f"artifacts/{owner}/{deleted.digest}")))

    def artifact(self, key: CacheKey) -> bytes | None:
        """Read a stored result; return None if there is none."""
        return self._blobs.get(_artifact_name(key))

    def keep_artifact(self, key: CacheKey, encoded: bytes) -> None:
        """Store a result for as long as its image."""
        self._blobs.put(_artifact_name(key), encoded)

    def sweep(self) -> None:
        """Delete what exceeds the retention limits, and leftovers of killed writes."""
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
        """Return counts and ages for the metrics."""
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
        """Return id and owner of images that are too old, and of each owner's oldest beyond its byte limit."""
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
        """Delete blobs that no row names."""
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
        model_name=row.model_name or "",
        job_id=row.job_id,
        annotations=Annotations(metadata=row.metadata or {}, tags=tuple(row.tags or ())),
    )


def _annotated(annotations: Annotations) -> dict[str, Any]:
    """The columns of an image's annotations."""
    return {"metadata": dict(annotations.metadata) or None, "tags": dict.fromkeys(annotations.tags, True) or None}


def _png_name(image_id: str) -> str:
    return f"images/{image_id}.png"


def _artifact_name(key: CacheKey) -> str:
    return f"artifacts/{key}"


def enter_sessions(connection: Connection, image_id: str, sessions: Sequence[str]) -> None:
    """Store the sessions in which an image was made."""
    if sessions:
        connection.execute(
            insert(image_sessions), [{"image_id": image_id, "session": session} for session in dict.fromkeys(sessions)]
        )


def label_picture(connection: Connection, owner: str, digest: str, labels: Mapping[str, float]) -> None:
    """Replace the labels of a picture; one without an image gets none."""
    of_picture = (image_labels.c.owner == owner) & (image_labels.c.digest == digest)
    connection.execute(delete(image_labels).where(of_picture))
    exists = select(images.c.image_id).where(images.c.owner == owner, images.c.digest == digest).limit(1)
    if labels and connection.execute(exists).one_or_none() is not None:
        rows = [{"owner": owner, "digest": digest, "label": name, "confidence": c} for name, c in labels.items()]
        connection.execute(insert(image_labels), rows)


def forget_image(connection: Connection, image_id: str) -> None:
    """Remove an image from the sessions it was made in, and the requested regions."""
    for table in (image_sessions, image_regions):
        connection.execute(delete(table).where(table.c.image_id == image_id))


def forget_picture(connection: Connection, owner: str, digest: str) -> None:
    """Delete the labels of a picture without images."""
    of_picture = (image_labels.c.owner == owner) & (image_labels.c.digest == digest)
    connection.execute(delete(image_labels).where(of_picture))

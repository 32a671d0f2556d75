"""What the rest of the service knows of storage. All methods block: call them from a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.cache import CacheKey
from pipeline.events import ImageCreated
from pipeline.jobs import IdempotencyKey, Lease
from pipeline.records import ImageRecord
from pipeline.store.jobs import JobStore
from pipeline.store.keys import KeyStore
from pipeline.store.log import EventLog
from pipeline.store.webhooks import WebhookStore


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFacts:
    """What the store holds, for the metrics."""

    images: int
    image_bytes: int
    sessions: int
    events: int
    newest_event: int  # its number, which only grows; 0 before the first
    newest_image_age_s: float | None  # None without an image
    jobs: Mapping[str, int]  # by state, all of them
    oldest_job_age_s: Mapping[str, float]  # by state, of those that haven't ended; 0 without any
    deliveries: Mapping[str, int]  # by state, all of them
    oldest_delivery_age_s: float  # of those pending; 0 without any


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFilter:
    """Which images are wanted; None is all of them."""

    session: str | None = None  # made in it
    label: str | None = None  # shown by it, as `Store.label` was told
    prompt: str | None = None  # a part of its prompt, in small or capital letters (SQLite knows those of ASCII)
    since: datetime | None = None
    until: datetime | None = None  # exclusive


ALL_IMAGES = ImageFilter()


class Store(Protocol):
    """Images by id, the last image of each session, results worth keeping, and the log of what happened."""

    log: EventLog
    jobs: JobStore
    webhooks: WebhookStore
    keys: KeyStore

    def add(
        self,
        record: ImageRecord,
        png: bytes,
        sessions: Sequence[str],
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
            pipeline.errors.IdempotencyMismatch: the key was used for another request.
            pipeline.errors.ImageNotFound: the key was used for an image that is gone.
            pipeline.errors.LeaseLost: the job is somebody else's by now; the image is not kept.
        """

    def record(self, image_id: str, owner: str) -> ImageRecord:
        """Read an image's record.

        Raises:
            pipeline.errors.ImageNotFound: the owner has no such image.
        """

    def png(self, image_id: str) -> bytes:
        """Read an image's PNG.

        Raises:
            pipeline.errors.ImageNotFound: there is no such image.
        """

    def last_image_id(self, owner: str, session: str) -> str | None:
        """Find the session's last image; None if it has none."""

    def history(
        self, owner: str, *, limit: int, before: str | None = None, wanted: ImageFilter = ALL_IMAGES
    ) -> list[ImageRecord]:
        """List an owner's images, newest first, from before the image id `before` on."""

    def label(self, owner: str, digest: str, labels: Mapping[str, float]) -> None:
        """Say what an owner's picture shows, each label with its confidence from 0 to 1, so that it is found by it."""

    def delete(self, image_id: str, owner: str) -> None:
        """Remove an image and all that was kept of it.

        Raises:
            pipeline.errors.ImageNotFound: the owner has no such image.
        """

    def artifact(self, key: CacheKey) -> bytes | None:
        """Read a kept result; None if there is none."""

    def keep_artifact(self, key: CacheKey, encoded: bytes) -> None:
        """Keep a result as long as its image."""

    def sweep(self) -> None:
        """Drop what is older or larger than retention allows, and what killed writes left behind."""

    def facts(self) -> StoreFacts:
        """Count what there is."""

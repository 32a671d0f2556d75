"""What the rest of the service knows of storage. All methods block: call them from a thread."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.cache import CacheKey
from pipeline.events import ImageCreated
from pipeline.records import ImageRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFacts:
    """What the store holds, for the metrics."""

    images: int
    image_bytes: int
    sessions: int
    events: int
    newest_image_age_s: float | None  # None without an image


class Store(Protocol):
    """Images by id, the last image of each session, results worth keeping, and the log of what happened."""

    def add(self, record: ImageRecord, png: bytes, sessions: Sequence[str], created: ImageCreated) -> None:
        """Keep an image, make it the last one of these sessions of its owner, and log that it was created."""

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

    def history(self, owner: str, *, limit: int, before: str | None = None) -> list[ImageRecord]:
        """List an owner's images, newest first, from before the image id `before` on."""

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


def new_image_id() -> str:
    """Make an id that sorts by time and can't be guessed: a UUID of version 7 (RFC 9562), to 244 nanoseconds."""
    milliseconds, nanoseconds = divmod(time.time_ns(), 1_000_000)
    fraction = nanoseconds * 4096 // 1_000_000  # RFC 9562, 6.2, method 3
    bits = milliseconds << 80 | 0x7 << 76 | fraction << 64 | secrets.randbits(64)
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=bits))

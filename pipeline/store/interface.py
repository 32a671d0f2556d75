"""What the rest of the service knows of storage. All methods block: call them from a thread."""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Sequence
from typing import Protocol

from pipeline.records import ImageRecord


class Store(Protocol):
    """Images by id, and the last image of each session."""

    def add(self, record: ImageRecord, png: bytes, sessions: Sequence[str]) -> None:
        """Keep an image and make it the last one of these sessions of its owner."""

    def record(self, image_id: str) -> ImageRecord:
        """Read an image's record.

        Raises:
            pipeline.errors.ImageNotFound: there is no such image.
        """

    def png(self, image_id: str) -> bytes:
        """Read an image's PNG.

        Raises:
            pipeline.errors.ImageNotFound: there is no such image.
        """

    def last_image_id(self, owner: str, session: str) -> str | None:
        """Find the session's last image; None if it has none."""


def new_image_id() -> str:
    """Make an id that sorts by time and can't be guessed: a UUID of version 7 (RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    bits = milliseconds << 80 | secrets.randbits(80)
    bits = bits & ~(0xF << 76) | 0x7 << 76  # version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=bits))

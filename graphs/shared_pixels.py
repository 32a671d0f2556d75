"""Images in the object store: put there once by this process, read by any replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from graphs.workers.handles import SharedImage
from pipeline import images
from pipeline.cache import SizedLru
from pipeline.records import ImageRecord, Pixels
from pipeline.store import Store

MAX_BYTES = 256 << 20


class ImageShelf:
    """The images in use, least recently used dropped first.

    Args:
        store: where an image that is not on the shelf is read from.
        put: makes a reference of pixels: `ray.put`, or the identity without a cluster.
    """

    def __init__(self, store: Store, put: Callable[[Pixels], Any], max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._put = put
        self._shared: SizedLru[str, SharedImage] = SizedLru(max_bytes)

    def keep(self, digest: str, pixels: Pixels) -> SharedImage:
        """Put an image on the shelf."""
        shared = SharedImage(digest=digest, pixels=self._put(pixels))
        self._shared.put(digest, shared, pixels.nbytes)
        return shared

    async def get(self, record: ImageRecord) -> SharedImage:
        """Return an image, read from the store if need be."""
        shared = self._shared.get(record.digest)
        if shared is None:
            pixels = await asyncio.to_thread(lambda: images.decode_png(self._store.png(record.image_id)))
            shared = self.keep(record.digest, pixels)
        return shared

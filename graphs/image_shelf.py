"""Images in the object store: put there once by this process, read by any replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from graphs.workers import PixelsRef
from pipeline import images
from pipeline.cache import SizedLru
from pipeline.records import ImageRecord, Pixels
from pipeline.store import Store

MAX_BYTES = 256 << 20


class ImageShelf:
    """References to the images in use, least recently used dropped first.

    Args:
        store: where an image that is not on the shelf is read from.
        put: makes a reference of pixels: `ray.put`, or the identity without a cluster.
    """

    def __init__(self, store: Store, put: Callable[[Pixels], Any], max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._put = put
        self._refs: SizedLru[str, PixelsRef] = SizedLru(max_bytes)

    def keep(self, digest: str, pixels: Pixels) -> PixelsRef:
        """Put an image on the shelf and return the reference to it."""
        ref = self._put(pixels)
        self._refs.put(digest, ref, pixels.nbytes)
        return ref

    async def ref(self, record: ImageRecord) -> PixelsRef:
        """Return a reference to an image, read from the store if need be."""
        ref = self._refs.get(record.digest)
        if ref is None:
            pixels = await asyncio.to_thread(lambda: images.decode_png(self._store.png(record.image_id)))
            ref = self.keep(record.digest, pixels)
        return ref

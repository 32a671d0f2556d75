"""Images in the object store: put there once by this process, read by any replica."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from graphs.workers import PixelsRef
from pipeline import images
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
        self._max_bytes = max_bytes
        self._size_bytes = 0
        self._refs: OrderedDict[str, tuple[PixelsRef, int]] = OrderedDict()

    def keep(self, digest: str, pixels: Pixels) -> PixelsRef:
        """Put an image on the shelf and return the reference to it."""
        ref = self._put(pixels)
        self._refs[digest] = (ref, pixels.nbytes)
        self._size_bytes += pixels.nbytes
        while self._size_bytes > self._max_bytes and len(self._refs) > 1:
            _, (_, size_bytes) = self._refs.popitem(last=False)
            self._size_bytes -= size_bytes
        return ref

    async def ref(self, record: ImageRecord) -> PixelsRef:
        """Return a reference to an image, read from the store if need be."""
        if record.digest not in self._refs:
            pixels = await asyncio.to_thread(lambda: images.decode_png(self._store.png(record.image_id)))
            if record.digest not in self._refs:  # somebody else may have been as quick
                return self.keep(record.digest, pixels)
        self._refs.move_to_end(record.digest)
        return self._refs[record.digest][0]

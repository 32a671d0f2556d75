"""Label index: lets an image be found by the labels of its description."""

from __future__ import annotations

import asyncio
import logging

from cachetools import LRUCache

from pipeline.records import Descriptions, ImageRecord
from pipeline.store import Store

MAX_INDEXED = 10_000
MIN_CONFIDENCE = 0.1  # of a label that an image is found by

logger = logging.getLogger("ai_pipeline")


class LabelIndex:
    """Stores the labels of each image once, wherever its description came from."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._indexed: LRUCache[str, bool] = LRUCache(MAX_INDEXED)  # ids of images whose labels are stored

    async def add(self, record: ImageRecord, described: Descriptions) -> None:
        """Store the labels of the whole image; a failure is logged, and made up for by the next call."""
        if record.image_id in self._indexed:
            return
        (description,) = described
        labels = {score.label: score.confidence for score in description.top if score.confidence >= MIN_CONFIDENCE}
        try:
            await asyncio.to_thread(self._store.label, record.owner, record.digest, labels)
        except Exception:
            logger.exception("The labels of image %s could not be stored", record.image_id)
            return
        self._indexed[record.image_id] = True

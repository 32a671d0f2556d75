"""Background analysis: runs every stage for each new image, so that results exist before they are requested.

It yields to interactive calls: the segmenter checks for them between its batches of points. It is best effort: when too
many images wait, the oldest are dropped, and the first interactive call computes what is missing.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque

from opentelemetry.context import Context, get_current

from graphs.analysis.runner import StageRunner
from graphs.analysis.stages import DESCRIBE, STAGES
from graphs.images import ImageRepository
from pipeline.errors import PipelineError
from pipeline.events import DomainEvent, ImageCreated
from pipeline.traces import span, within

logger = logging.getLogger("ai_pipeline")


class AnalysisPrefetcher:
    """A bounded queue of new images, and the task that analyzes them.

    Args:
        max_waiting: images that wait; the oldest makes room for one more.
    """

    def __init__(self, images: ImageRepository, stages: StageRunner, max_waiting: int) -> None:
        self._images = images
        self._stages = stages
        self._waiting: deque[tuple[ImageCreated, Context]] = deque(maxlen=max_waiting)
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def on_event(self, event: DomainEvent) -> None:
        """Queue a new image; the first one starts the task."""
        if not isinstance(event, ImageCreated):
            return
        self._waiting.append((event, get_current()))
        self._more.set()
        if self._task is None:  # in a context of its own: this one is cancelled with the request
            self._task = asyncio.get_running_loop().create_task(self._work(), context=contextvars.Context())

    async def _work(self) -> None:
        while True:
            await self._more.wait()
            while self._waiting:
                created, context = self._waiting.popleft()
                with within(context), span("reaction", request_id=created.request_id, image_id=created.image_id):
                    await self._analyze(created)
            self._more.clear()

    async def _analyze(self, created: ImageCreated) -> None:
        try:
            record = await self._images.find(created.image_id, owner=created.owner, session="")
            await self._stages.describe(record, created.request_id, background=True)
            for stage in STAGES:  # each comes after what it builds on
                if stage is not DESCRIBE:
                    await self._stages.result(stage, record, created.request_id, background=True)
        except PipelineError as error:  # deleted meanwhile, or a model isn't ready
            logger.info("Image %s was not prefetched: %s", created.image_id, error)
        except Exception:
            logger.exception("Prefetching image %s failed", created.image_id)

"""The CLIP deployment: what an image and its regions show, and the vectors of texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from ray import serve

from deployments import HEALTH_INTERVAL_S
from deployments.engine_host import EngineHost
from deployments.traced_calls import traced
from pipeline.records import Computed, Descriptions, ModelStatus, Pixels, Segmentation, Vectors
from pipeline.regions import masked_crops
from pipeline.settings import UNTRACED, Accelerator, ClipSettings, Labelling, TraceSettings
from pipeline.traces import Span, here, open_traces, span

if TYPE_CHECKING:
    from pipeline.engines.clip import ClipEngine

CALLS_TOGETHER = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Asked:
    """A call that waits for its batch."""

    image: Pixels
    segmentation: Segmentation | None
    labelling: Labelling
    answer: asyncio.Future[Descriptions]
    span: Span


@serve.deployment(
    max_ongoing_requests=CALLS_TOGETHER,
    max_queued_requests=64,
    health_check_period_s=HEALTH_INTERVAL_S,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.25},
)
class Clip:
    """A shell round `ClipEngine`: calls that wait together are answered together."""

    def __init__(
        self,
        settings: ClipSettings,
        accelerator: Accelerator,
        threads: int,
        traces: TraceSettings = UNTRACED,
    ) -> None:
        def load(device: str) -> ClipEngine:
            from pipeline.engines.clip import ClipEngine

            return ClipEngine(settings, device)

        self.traces = open_traces(traces, "Clip")
        self._host = EngineHost("Clip", load, accelerator, threads, lambda engine: engine.fingerprint)
        self._asked: list[_Asked] = []
        self._driver: asyncio.Task[None] | None = None

    @traced
    async def describe(
        self, image: Pixels, segmentation: Segmentation | None, labelling: Labelling
    ) -> Computed[Descriptions]:
        """Classify an image, (h, w, 3) uint8, or each region of it: its crop, everything outside its mask blanked."""
        self._host.begin()
        answer: asyncio.Future[Descriptions] = asyncio.get_running_loop().create_future()
        self._asked.append(
            _Asked(image=image, segmentation=segmentation, labelling=labelling, answer=answer, span=here())
        )
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._drive())
        return Computed(value=await answer, model=self._host.fingerprint)

    @traced
    async def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, (n, d) unit norm."""
        return await self._host.call(span("forward", texts=len(texts))(lambda engine: engine.encode_texts(texts)))

    @traced
    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int]:
        """Count the tokens of texts, each with its beginning and end."""
        return await self._host.run(lambda engine: engine.count_tokens(texts))

    def status(self) -> ModelStatus:
        """Tell whether the model is loaded."""
        return self._host.status()

    async def _drive(self) -> None:
        """Answer until nobody waits; those of one batch have one labelling."""
        while self._asked:
            wanted = [asked for asked in self._asked if not asked.answer.done()]  # who has gone is cancelled
            batch = [asked for asked in wanted if asked.labelling == wanted[0].labelling][:CALLS_TOGETHER]
            self._asked = [asked for asked in wanted if asked not in batch]
            began_ns = time.time_ns()
            for asked, answer in zip(batch, await self._answer(batch), strict=True):
                if asked.answer.done():
                    continue
                forward = asked.span.child("forward", since_ns=began_ns, calls=len(batch))
                if isinstance(answer, Exception):
                    forward.end(answer)
                    asked.answer.set_exception(answer)
                else:
                    forward.end()
                    asked.answer.set_result(answer)

    async def _answer(self, batch: list[_Asked]) -> Sequence[Descriptions | Exception]:
        """Describe what all ask for together; if that fails, each alone, so that one call's fault stays its own."""
        try:
            return await self._host.run(partial(_describe, asked=batch))
        except Exception as error:
            if len(batch) < 2:
                return [error] * len(batch)
        return [answer for asked in batch for answer in await self._answer([asked])]


def _describe(engine: ClipEngine, asked: list[_Asked]) -> list[Descriptions]:
    """Describe the pictures of all calls in one batch, and give each its own."""
    pictures = [
        [one.image] if one.segmentation is None else list(masked_crops(one.image, one.segmentation, engine.fill))
        for one in asked
    ]
    if not asked:
        return []
    described = engine.describe([picture for own in pictures for picture in own], asked[0].labelling)
    ends = np.cumsum([len(own) for own in pictures])
    return [described.part(end - len(own), end) for own, end in zip(pictures, ends.tolist(), strict=True)]

"""The CLIP deployment: classification of images and regions, and embeddings of texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from opentelemetry.context import Context, get_current
from opentelemetry.trace import StatusCode
from ray import serve

from deployments import HEALTH_INTERVAL_S
from deployments.engine_replica import EngineReplica
from deployments.tracing import traced
from pipeline.imaging.masks import masked_crops
from pipeline.records import Computed, Descriptions, ModelStatus, Pixels, Segmentation, Vectors
from pipeline.settings import UNTRACED, Accelerator, ClipSettings, TraceSettings, ZeroShotSettings
from pipeline.traces import open_traces, span, start_span

if TYPE_CHECKING:
    from pipeline.engines.clip import ClipEngine

MAX_BATCH_CALLS = 8


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _PendingCall:
    """A waiting call, to be answered by a batch."""

    image: Pixels
    segmentation: Segmentation | None
    labelling: ZeroShotSettings
    answer: asyncio.Future[Descriptions]
    context: Context


@serve.deployment(
    max_ongoing_requests=MAX_BATCH_CALLS,
    max_queued_requests=64,
    health_check_period_s=HEALTH_INTERVAL_S,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.25},
)
class Clip:
    """A wrapper around `ClipEngine` that batches waiting calls."""

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
        self._replica = EngineReplica("Clip", load, accelerator, threads, lambda engine: engine.fingerprint)
        self._pending: list[_PendingCall] = []
        self._driver: asyncio.Task[None] | None = None

    @traced
    async def describe(
        self, image: Pixels, segmentation: Segmentation | None, labelling: ZeroShotSettings
    ) -> Computed[Descriptions]:
        """Classify an image, (h, w, 3) uint8, or the crop of each region, with all outside its mask blanked."""
        self._replica.count_call()
        answer: asyncio.Future[Descriptions] = asyncio.get_running_loop().create_future()
        self._pending.append(
            _PendingCall(
                image=image, segmentation=segmentation, labelling=labelling, answer=answer, context=get_current()
            )
        )
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._batch_loop())
        return Computed(value=await answer, model=self._replica.fingerprint)

    @traced
    async def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as (n, d), unit norm."""
        return await self._replica.run_exclusive(
            span("forward", texts=len(texts))(lambda engine: engine.encode_texts(texts))
        )

    @traced
    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int]:
        """Count the tokens of texts, each with its start and end token."""
        return await self._replica.run_shared(lambda engine: engine.count_tokens(texts))

    def status(self) -> ModelStatus:
        """Return whether the model is loaded."""
        return self._replica.status()

    async def _batch_loop(self) -> None:
        """Run batches until no call is pending; the calls of a batch share a labelling."""
        while self._pending:
            wanted = [call for call in self._pending if not call.answer.done()]  # cancelled callers are done
            batch = [call for call in wanted if call.labelling == wanted[0].labelling][:MAX_BATCH_CALLS]
            self._pending = [call for call in wanted if call not in batch]
            began_ns = time.time_ns()
            for call, answer in zip(batch, await self._describe_batch(batch), strict=True):
                if call.answer.done():
                    continue
                forward = start_span("forward", context=call.context, start_time=began_ns, calls=len(batch))
                if isinstance(answer, Exception):
                    forward.set_status(StatusCode.ERROR, type(answer).__name__)
                    call.answer.set_exception(answer)
                else:
                    call.answer.set_result(answer)
                forward.end()

    async def _describe_batch(self, batch: list[_PendingCall]) -> Sequence[Descriptions | Exception]:
        """Describe the pictures of all calls in one batch; if it fails, call by call, so that only one fails."""
        try:
            return await self._replica.run_shared(partial(_describe, call=batch))
        except Exception as error:
            if len(batch) < 2:
                return [error] * len(batch)
        return [answer for call in batch for answer in await self._describe_batch([call])]


def _describe(engine: ClipEngine, call: list[_PendingCall]) -> list[Descriptions]:
    """Describe the pictures of all calls in one batch, and split the result by call."""
    pictures = [
        [one.image] if one.segmentation is None else list(masked_crops(one.image, one.segmentation, engine.fill))
        for one in call
    ]
    if not call:
        return []
    described = engine.describe([picture for own in pictures for picture in own], call[0].labelling)
    ends = np.cumsum([len(own) for own in pictures])
    return [described.part(end - len(own), end) for own, end in zip(pictures, ends.tolist(), strict=True)]

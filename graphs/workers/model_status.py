"""Model status: fingerprints for cache keys, and readiness.

A busy replica doesn't respond for a while, so the last status counts and is refreshed in the background; a model
is ready as long as its last status is and Serve runs a replica of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

from graphs.workers.handles import ModelName, Workers
from pipeline.errors import ModelNotReady
from pipeline.records import ModelStatus

FIRST_ANSWER_S = 30.0  # how long a request waits for the first status of a model
ANSWER_S = 2.0  # how long readiness waits for it
REFRESH_S = 10.0  # age at which a status is refreshed
REPLICAS_S = 1.0  # how old Serve's replica counts may be; asking takes 44 ms

MODELS: tuple[ModelName, ...] = get_args(ModelName)

RunningReplicas = Callable[[], Mapping[str, int]]

logger = logging.getLogger("ai_pipeline")


class ModelStatusTracker:
    """Caches the status that replicas report of their models.

    Args:
        workers: report the status.
        running_replicas: counts the running replicas of each deployment; may block.
    """

    def __init__(self, workers: Workers, running_replicas: RunningReplicas) -> None:
        self._workers = workers
        self._running_replicas = running_replicas
        self._known: dict[ModelName, ModelStatus] = {}
        self._asked_at: dict[ModelName, float] = {}
        self._questions: dict[ModelName, asyncio.Task[None]] = {}
        self._replicas: tuple[float, Mapping[str, int]] = (0.0, {})

    async def fingerprint(self, model: ModelName) -> str:
        """Return the fingerprint of a model's weights.

        Raises:
            ModelNotReady: the model isn't loaded; says why.
        """
        status = self._known.get(model)
        if status is None or not status.ready:
            status = await self._answer(model, FIRST_ANSWER_S)
        if not status.ready:
            raise ModelNotReady(model=model, reason=status.reason)
        return status.fingerprint

    def knows(self, model: ModelName) -> bool:
        """Whether `fingerprint` returns without a call to a replica."""
        status = self._known.get(model)
        return status is not None and status.ready

    def note(self, model: ModelName, fingerprint: str) -> None:
        """Remember that a result came from other weights than expected: a new version is being rolled out."""
        self._known[model] = replace(self._known[model], fingerprint=fingerprint)

    async def statuses(self) -> dict[ModelName, ModelStatus]:
        """Return the status of every model."""
        counted_at, counts = self._replicas
        if time.monotonic() - counted_at > REPLICAS_S:
            counts = await asyncio.to_thread(self._running_replicas)
            self._replicas = (time.monotonic(), counts)
        return dict(zip(MODELS, await asyncio.gather(*(self._status(m, counts) for m in MODELS)), strict=True))

    async def _status(self, model: ModelName, replicas: Mapping[str, int]) -> ModelStatus:
        # While an update is being built, and after one that couldn't be, Serve names no deployment at all.
        if replicas and not replicas.get(model):
            return _not_ready("no replica of it is running yet")
        status = self._known.get(model)
        if status is None or not status.ready:
            return await self._answer(model, ANSWER_S)
        if time.monotonic() - self._asked_at[model] > REFRESH_S:
            self._ask(model)
        return status

    async def _answer(self, model: ModelName, within_s: float) -> ModelStatus:
        await asyncio.wait([self._ask(model)], timeout=within_s)
        return self._known.get(model) or _not_ready("its replica is still starting, or busy")

    def _ask(self, model: ModelName) -> asyncio.Task[None]:
        """Request a replica's status, unless a request is in flight."""
        question = self._questions.get(model)
        if question is None or question.done():
            self._asked_at[model] = time.monotonic()
            question = self._questions[model] = asyncio.get_running_loop().create_task(self._learn(model))
        return question

    async def _learn(self, model: ModelName) -> None:
        try:
            self._known[model] = await self._workers.status(model)
        except Exception as error:  # no replica to ask, or it died: what is known stays known
            logger.warning(
                "The status of the %s model's replica could not be read: %s: %s", model, type(error).__name__, error
            )


def _not_ready(reason: str) -> ModelStatus:
    return ModelStatus(ready=False, device="", fingerprint="", reason=reason)

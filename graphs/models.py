"""What is known of the models: fingerprints for the keys, readiness for those who ask.

A busy replica answers no question for a while, so an answer is remembered; a model is ready as long as its last
answer said so and Serve has a replica of it running.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

from graphs.workers import ModelName, WorkerDied, Workers
from pipeline.errors import ModelNotReady
from pipeline.records import ModelStatus

ANSWER_S = 2.0  # how long a replica may take to answer
REFRESH_S = 10.0  # how old an answer may be before readiness asks again
REPLICAS_S = 1.0  # how old Serve's replica counts may be; asking takes 44 ms

MODELS: tuple[ModelName, ...] = get_args(ModelName)

RunningReplicas = Callable[[], Mapping[str, int]]


class Models:
    """Remembers what the replicas said of their models.

    Args:
        workers: who to ask.
        running_replicas: counts the running replicas of each deployment; may block.
    """

    def __init__(self, workers: Workers, running_replicas: RunningReplicas) -> None:
        self._workers = workers
        self._running_replicas = running_replicas
        self._answers: dict[ModelName, tuple[float, ModelStatus]] = {}
        self._replicas: tuple[float, Mapping[str, int]] = (0.0, {})

    async def fingerprint(self, model: ModelName) -> str:
        """Name the weights a model's results come from.

        Raises:
            ModelNotReady: the model isn't loaded; says why.
        """
        _, status = self._answers.get(model, (0.0, None))
        if status is None or not status.ready:
            status = await self._ask(model)
        if not status.ready:
            raise ModelNotReady(model=model, reason=status.reason)
        return status.fingerprint

    def note(self, model: ModelName, fingerprint: str) -> None:
        """Remember that a result came from other weights than expected: a new version is being rolled out."""
        asked_at, status = self._answers[model]
        self._answers[model] = (asked_at, replace(status, fingerprint=fingerprint))

    async def statuses(self) -> dict[ModelName, ModelStatus]:
        """Tell the state of every model."""
        counted_at, counts = self._replicas
        if time.monotonic() - counted_at > REPLICAS_S:
            counts = await asyncio.to_thread(self._running_replicas)
            self._replicas = (time.monotonic(), counts)
        return dict(zip(MODELS, await asyncio.gather(*(self._status(m, counts) for m in MODELS)), strict=True))

    async def _status(self, model: ModelName, replicas: Mapping[str, int]) -> ModelStatus:
        if not replicas.get(model):
            return _not_ready("no replica of it is running yet")
        asked_at, status = self._answers.get(model, (0.0, None))
        if status is None or not status.ready or time.monotonic() - asked_at > REFRESH_S:
            return await self._ask(model)
        return status

    async def _ask(self, model: ModelName) -> ModelStatus:
        try:
            async with asyncio.timeout(ANSWER_S):
                status = await self._workers.status(model)
        except (TimeoutError, WorkerDied):
            _, known = self._answers.get(model, (0.0, None))
            return known or _not_ready("its replica is still starting")
        self._answers[model] = (time.monotonic(), status)
        return status


def _not_ready(reason: str) -> ModelStatus:
    return ModelStatus(ready=False, device="", fingerprint="", reason=reason)

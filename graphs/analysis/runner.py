"""Resolves stages: from memory, a computation in flight, the cache actor, the artifact store, or by calling a worker.

Interactive calls and background prefetching use the same stage and key, so nothing is computed twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TypeVar

from opentelemetry.trace import get_current_span

from graphs.analysis.cache_client import CacheActor, CacheClient
from graphs.analysis.label_index import LabelIndex
from graphs.analysis.stages import DESCRIBE, Stage
from graphs.concurrency import AdmissionLimiter, SingleFlight
from graphs.images import ImageRepository
from graphs.workers.handles import Workers, retry_once
from graphs.workers.model_status import ModelStatusTracker
from pipeline import artifacts
from pipeline.cache import CacheKey, Hit, Lease, SizedLru, parameter_digest
from pipeline.errors import StageFailed
from pipeline.events import CacheBypassed, DomainEvent, ResultReused, Source
from pipeline.records import Artifact, Computed, Description, ImageRecord
from pipeline.settings import CacheSettings, Profile
from pipeline.store import Store
from pipeline.traces import span

logger = logging.getLogger("ai_pipeline")

A = TypeVar("A", bound=Artifact)


class StageRunner:
    """Runs stages, each once for all calls of an owner.

    Args:
        admission: bounds the requests that have stages run.
    """

    def __init__(
        self,
        *,
        profile: Profile,
        cache_settings: CacheSettings,
        workers: Workers,
        models: ModelStatusTracker,
        cache: CacheActor,
        store: Store,
        images: ImageRepository,
        admission: AdmissionLimiter,
        emit: Callable[[DomainEvent], None],
    ) -> None:
        self._profile = profile
        self._workers = workers
        self._models = models
        self._cache = CacheClient(
            cache, cache_settings, lambda op, request_id: emit(CacheBypassed(operation=op, request_id=request_id))
        )
        self._store = store
        self._images = images
        self._admission = admission
        self._emit = emit
        self._label_index = LabelIndex(store)
        self._recent: SizedLru[CacheKey, Artifact] = SizedLru(cache_settings.recent_bytes)
        self._runs: SingleFlight[CacheKey, Artifact] = SingleFlight()

    async def describe(
        self, record: ImageRecord, request_id: str, *, background: bool = False, is_admitted: bool = False
    ) -> Description:
        """Classify the whole image, and index it by the labels it shows; see `result`."""
        described = await self.result(DESCRIBE, record, request_id, background=background, is_admitted=is_admitted)
        await self._label_index.add(record, described)
        (description,) = described
        return description

    async def describe_known(self, record: ImageRecord) -> Description | None:
        """Return the classes of the whole image if it was classified before; computes nothing."""
        known = await self.known(DESCRIBE, record)
        if known is None:
            return None
        (description,) = known
        return description

    async def result(
        self,
        stage: Stage[A],
        record: ImageRecord,
        request_id: str,
        *,
        background: bool = False,
        is_admitted: bool = False,
    ) -> A:
        """Return a stage's result.

        Args:
            background: whether the work yields to interactive calls; it needs no admission.
            is_admitted: whether the request was admitted before, so that the limit of analyses doesn't count.

        Raises:
            Overloaded: it would have to be computed, and too many requests wait for that already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        with span(f"stage {stage.name}", request_id=request_id, image_id=record.image_id, background=background):
            key = await self._key(stage, record)
            result = self._recent.get(key)
            if result is not None:
                self._record_reuse("memory", stage, record, request_id)
            else:
                if key in self._runs:
                    self._record_reuse("run", stage, record, request_id)
                result = await self._runs.run(
                    key, lambda: self._run(stage, key, record, request_id, background, is_admitted)
                )
            return _typed(stage, result)

    async def known(self, stage: Stage[A], record: ImageRecord) -> A | None:
        """Return a stage's result from memory or the store; None where a worker would have to compute it."""
        below: Stage[Artifact] | None = stage
        while below is not None:
            if below.model and not self._models.knows(below.model):
                return None
            below = below.builds_on
        key = await self._key(stage, record)
        result = self._recent.get(key)
        if result is not None:
            return _typed(stage, result)
        kept = await asyncio.to_thread(self._read_stored, key)
        if kept is None:
            return None
        encoded, artifact = kept
        return _typed(stage, self._remember(key, encoded, artifact))

    def _record_reuse(self, source: Source, stage: Stage[Artifact], record: ImageRecord, request_id: str) -> None:
        get_current_span().set_attribute("source", source)
        self._emit(ResultReused(request_id=request_id, image_id=record.image_id, stage=stage.name, source=source))

    async def _run(
        self,
        stage: Stage[Artifact],
        key: CacheKey,
        record: ImageRecord,
        request_id: str,
        background: bool,
        is_admitted: bool,
    ) -> Artifact:
        reply = await self._cache.acquire(key, request_id)
        if isinstance(reply, Hit):
            self._record_reuse("cache", stage, record, request_id)
            return self._remember(key, reply.value, artifacts.decode(reply.value))
        async with self._cache.holding(key, reply, request_id):
            with span("store read"):
                kept = await asyncio.to_thread(self._read_stored, key)
            if kept is not None:
                encoded, artifact = kept
                self._record_reuse("store", stage, record, request_id)
                await self._put_in_cache(key, reply, encoded, request_id)
                return self._remember(key, encoded, artifact)
            with nullcontext() if background or is_admitted else self._admission.admit(request_id):
                below = None
                if stage.builds_on:
                    below = await self.result(stage.builds_on, record, request_id, background=background)
                computed = await self._work(stage, below, record, request_id, background)
            if stage.model and computed.model != key.model:  # another version of the model answered
                self._models.note(stage.model, computed.model)
                key = await self._key(stage, record)
            encoded = artifacts.encode(computed.value)
            await self._put_in_cache(key, reply, encoded, request_id)
        with span("store write", size_bytes=len(encoded)):
            await asyncio.to_thread(self._write_stored, key, encoded)
        return self._remember(key, encoded, computed.value)

    def _read_stored(self, key: CacheKey) -> tuple[bytes, Artifact] | None:
        """Read a result from the store; None if it is missing, damaged or unreadable."""
        try:
            encoded = self._store.artifact(key)
            return None if encoded is None else (encoded, artifacts.decode(encoded))
        except Exception:
            logger.exception("A kept result of the stage %s could not be read", key.stage)
            return None

    def _write_stored(self, key: CacheKey, encoded: bytes) -> None:
        """Store a result; if that fails it is computed again after a restart."""
        try:
            self._store.keep_artifact(key, encoded)
        except Exception:
            logger.exception("A result of the stage %s could not be stored", key.stage)

    async def _put_in_cache(self, key: CacheKey, reply: Lease | None, encoded: bytes, request_id: str) -> None:
        """Put a result into the shared cache, unless that was unavailable before."""
        if reply is not None:
            await self._cache.put(key, encoded, request_id)

    def _remember(self, key: CacheKey, encoded: bytes, artifact: Artifact) -> Artifact:
        self._recent.put(key, artifact, len(encoded))
        return artifact

    async def _work(
        self, stage: Stage[A], below: Artifact | None, record: ImageRecord, request_id: str, background: bool
    ) -> Computed[A]:
        started = time.monotonic()
        image = await self._images.share(record)
        parameters = stage.parameters(self._profile)
        computed = await retry_once(
            stage.name, request_id, lambda: stage.work(self._workers, image, below, parameters, background), self._emit
        )
        self._emit(
            stage.emits(
                request_id=request_id,
                image_id=record.image_id,
                stage=stage.name,
                seconds=time.monotonic() - started,
                num_regions=stage.num_regions(computed.value),
            )
        )
        return computed

    async def _key(self, stage: Stage[Artifact], record: ImageRecord) -> CacheKey:
        below = str(await self._key(stage.builds_on, record)) if stage.builds_on else ""
        return CacheKey(
            owner=record.owner,
            digest=record.digest,
            stage=stage.name,
            model=await self._models.fingerprint(stage.model) if stage.model else "-",
            parameters=parameter_digest(stage.parameters(self._profile).model_dump_json(), below),
        )


def _typed(stage: Stage[A], artifact: Artifact) -> A:
    """Check that an artifact under a stage's key is what the stage produces.

    Raises:
        StageFailed: it is something else.
    """
    if not isinstance(artifact, stage.produces):
        raise StageFailed(stage=stage.name, reason=f"a stored result is a {type(artifact).__name__}")
    return artifact

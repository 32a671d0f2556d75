"""The one object that walks the graph of stages.

An explicit call and the reaction to an event are the same stage with the same key, so nothing is computed twice,
whoever asks first. Only the flow emits events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

import numpy as np

from graphs.admission import Gate
from graphs.cache_client import CacheActor, CacheClient
from graphs.image_shelf import ImageShelf
from graphs.models import Models
from graphs.shared_runs import SharedRuns
from graphs.stages import DESCRIBE, DESCRIBE_REGIONS, RENDER, SEGMENT, Stage
from graphs.together import together
from graphs.workers import WorkerDied, Workers
from pipeline import artifacts, images
from pipeline.cache import CacheKey, Hit, Lease, SizedLru, parameter_digest
from pipeline.errors import NoImageYet, StageFailed, WorkerLost
from pipeline.events import (
    CacheBypassed,
    Event,
    GenerationStarted,
    GenerationStepped,
    ImageCreated,
    ImageProbed,
    ResultReused,
    StageRetried,
)
from pipeline.records import (
    Artifact,
    Computed,
    Description,
    Descriptions,
    Drawings,
    GenerationRequest,
    ImageRecord,
    Pixels,
    Segmentation,
    StepProgress,
)
from pipeline.settings import Probing, Profile, ServiceSettings
from pipeline.store import Store, new_image_id

logger = logging.getLogger("ai_pipeline")

T = TypeVar("T")
A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedImage:
    """A new image and what it shows."""

    record: ImageRecord
    request: GenerationRequest
    png: bytes
    description: Description


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAnalysis:
    """The regions of an image: where they are, what they show, how they look."""

    segmentation: Segmentation
    regions: Descriptions
    drawings: Drawings


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """How well a text matches an image and its regions, each from 0 to 1."""

    image_match: float
    region_matches: tuple[float, ...]
    region_labels: tuple[str, ...]


class Flow:
    """Runs stages: once each, through the cache, with events.

    Args:
        put: makes a reference of pixels that workers can be given.
        emit: takes every event.
    """

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        profile: Profile,
        workers: Workers,
        models: Models,
        cache: CacheActor,
        store: Store,
        put: Callable[[Pixels], Any],
        emit: Callable[[Event], None],
    ) -> None:
        self.profile = profile
        self.models = models
        self.emit = emit
        self._workers = workers
        self._store = store
        self._shelf = ImageShelf(store, put)
        self._cache = CacheClient(
            cache, settings.cache, lambda op, request_id: emit(CacheBypassed(operation=op, request_id=request_id))
        )
        self._recent: SizedLru[CacheKey, Artifact] = SizedLru(settings.cache.recent_bytes)
        self._runs: SharedRuns[CacheKey, Artifact] = SharedRuns()
        self.generations = Gate("images", settings.admission.max_generations)
        self.stage_runs = Gate("analyses", settings.admission.max_stages)

    async def generate(
        self, request: GenerationRequest, *, owner: str, sessions: Sequence[str], request_id: str
    ) -> GeneratedImage:
        """Make an image, keep it as the last one of its sessions, and describe it.

        Raises:
            Overloaded: too many images are waiting already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        with self.generations.entered(request_id):
            started = time.monotonic()
            self.emit(
                GenerationStarted(
                    request_id=request_id, width=request.width, height=request.height, num_steps=request.steps
                )
            )
            image = await self._retried("generate", request_id, lambda: self._denoise(request, request_id))
            digest = images.digest(image.value)
            ref = self._shelf.keep(digest, image.value)
            png = await self._retried("encode_png", request_id, lambda: self._workers.encode_png(ref))
            record = ImageRecord(
                image_id=new_image_id(),
                digest=digest,
                owner=owner,
                width=request.width,
                height=request.height,
                request=request,
                model=image.model,
                created_at=datetime.now(UTC),
            )
            created = ImageCreated(
                request_id=request_id,
                image_id=record.image_id,
                digest=digest,
                seconds=time.monotonic() - started,
            )
            await asyncio.to_thread(self._store.add, record, png, sessions, created)
            self.emit(created)
            return GeneratedImage(
                record=record, request=request, png=png, description=await self.describe(record, request_id)
            )

    async def find(self, image_id: str | None, *, owner: str, session: str) -> ImageRecord:
        """Look up an image by id, or the last one of a session.

        Raises:
            ImageNotFound: there is none with this id.
            NoImageYet: the session has none.
        """

        def look_up() -> ImageRecord:
            found = image_id or self._store.last_image_id(owner, session)
            if found is None:
                raise NoImageYet
            return self._store.record(found, owner)

        return await asyncio.to_thread(look_up)

    async def describe(self, record: ImageRecord, request_id: str) -> Description:
        """Classify the whole image."""
        (description,) = cast(Descriptions, await self._result(DESCRIBE, record, request_id))
        return description

    async def segment(self, record: ImageRecord, request_id: str) -> Segmentation:
        """Take the image apart."""
        return cast(Segmentation, await self._result(SEGMENT, record, request_id))

    async def describe_regions(self, record: ImageRecord, request_id: str) -> Descriptions:
        """Classify every region."""
        return cast(Descriptions, await self._result(DESCRIBE_REGIONS, record, request_id))

    async def render(self, record: ImageRecord, request_id: str) -> Drawings:
        """Draw overlay and spotlights."""
        return cast(Drawings, await self._result(RENDER, record, request_id))

    async def analyze(self, record: ImageRecord, request_id: str) -> ImageAnalysis:
        """Do everything there is to do with an image's regions."""
        async with together() as group:
            segmentation = group.create_task(self.segment(record, request_id))
            regions = group.create_task(self.describe_regions(record, request_id))
            drawings = group.create_task(self.render(record, request_id))
        return ImageAnalysis(segmentation=segmentation.result(), regions=regions.result(), drawings=drawings.result())

    async def probe(self, record: ImageRecord, text: str, request_id: str) -> Probe:
        """Compare a text with the image and each of its regions."""
        started = time.monotonic()
        encode = self._retried("encode_text", request_id, lambda: self._workers.encode_text(text))
        async with together() as group:
            encoding = group.create_task(encode)
            describing = group.create_task(self.describe(record, request_id))
            describing_regions = group.create_task(self.describe_regions(record, request_id))
        image, regions = describing.result(), describing_regions.result()
        cosines = np.vstack([image.vector, regions.vectors]) @ encoding.result()[0]
        image_match, *region_matches = _matches(cosines, self.profile.clip.probing)
        self.emit(ImageProbed(request_id=request_id, image_id=record.image_id, seconds=time.monotonic() - started))
        return Probe(
            image_match=image_match,
            region_matches=tuple(region_matches),
            region_labels=tuple(labels[0] for labels in regions.labels),
        )

    async def _denoise(self, request: GenerationRequest, request_id: str) -> Computed[Pixels]:
        image: Computed[Pixels] | None = None
        async with aclosing(self._workers.generate(request)) as items:
            async for item in items:
                if isinstance(item, StepProgress):
                    self.emit(GenerationStepped(request_id=request_id, step=item.step, num_steps=item.num_steps))
                else:
                    image = item
        if image is None:
            raise StageFailed(stage="generate", reason="the stream ended without an image")
        return image

    async def _result(self, stage: Stage[Artifact], record: ImageRecord, request_id: str) -> Artifact:
        """Get a stage's result: from memory, from a run in progress, from the shared cache, or by running the stage."""
        key = await self._key(stage, record)
        recent = self._recent.get(key)
        if recent is not None:
            self.emit(ResultReused(request_id=request_id, image_id=record.image_id, stage=stage.name, source="memory"))
            return recent
        if key in self._runs:
            self.emit(ResultReused(request_id=request_id, image_id=record.image_id, stage=stage.name, source="run"))
        return await self._runs.join(key, lambda: self._run(stage, key, record, request_id))

    async def _run(self, stage: Stage[Artifact], key: CacheKey, record: ImageRecord, request_id: str) -> Artifact:
        reply = await self._cache.acquire(key, request_id)
        if isinstance(reply, Hit):
            self.emit(ResultReused(request_id=request_id, image_id=record.image_id, stage=stage.name, source="cache"))
            return self._remember(key, reply.value, artifacts.decode(reply.value))
        async with self._cache.holding(key, reply, request_id):
            kept = await asyncio.to_thread(self._kept, key)
            if kept is not None:
                encoded, artifact = kept
                self.emit(
                    ResultReused(request_id=request_id, image_id=record.image_id, stage=stage.name, source="store")
                )
                await self._offer(key, reply, encoded, request_id)
                return self._remember(key, encoded, artifact)
            with self._admitted(request_id):
                below = await self._result(stage.builds_on, record, request_id) if stage.builds_on else None
                computed = await self._work(stage, below, record, request_id)
            if stage.model and computed.model != key.model:  # another version of the model answered
                self.models.note(stage.model, computed.model)
                key = await self._key(stage, record)
            encoded = artifacts.encode(computed.value)
            await self._offer(key, reply, encoded, request_id)
        await asyncio.to_thread(self._keep, key, encoded)
        return self._remember(key, encoded, computed.value)

    def _kept(self, key: CacheKey) -> tuple[bytes, Artifact] | None:
        """Read a result from the store; one that is damaged is as good as none."""
        encoded = self._store.artifact(key)
        try:
            return None if encoded is None else (encoded, artifacts.decode(encoded))
        except ValueError:
            return None

    def _keep(self, key: CacheKey, encoded: bytes) -> None:
        """Keep a result in the store; without room there it is computed again after a restart."""
        try:
            self._store.keep_artifact(key, encoded)
        except Exception:
            logger.exception("A result of the stage %s could not be stored", key.stage)

    async def _offer(self, key: CacheKey, reply: Lease | None, encoded: bytes, request_id: str) -> None:
        """Put a result into the shared cache, unless that is away: asking it once was enough."""
        if reply is not None:
            await self._cache.put(key, encoded, request_id)

    def _admitted(self, request_id: str) -> AbstractContextManager[None]:
        """Take the request in, unless it is in already: a new image's own request may have it described."""
        return nullcontext() if request_id in self.generations else self.stage_runs.entered(request_id)

    def _remember(self, key: CacheKey, encoded: bytes, artifact: Artifact) -> Artifact:
        self._recent.put(key, artifact, len(encoded))
        return artifact

    async def _work(self, stage: Stage[A], below: Artifact | None, record: ImageRecord, request_id: str) -> Computed[A]:
        started = time.monotonic()
        image = await self._shelf.ref(record)
        parameters = stage.parameters(self.profile)
        computed = await self._retried(
            stage.name, request_id, lambda: stage.work(self._workers, image, below, parameters)
        )
        self.emit(
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
            digest=record.digest,
            stage=stage.name,
            model=await self.models.fingerprint(stage.model) if stage.model else "-",
            parameters=parameter_digest(stage.parameters(self.profile).model_dump_json(), below),
        )

    async def _retried(self, stage: str, request_id: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work, and once more if its worker dies: the seed is in the request, so the result is the same."""
        try:
            return await work()
        except WorkerDied:
            self.emit(StageRetried(request_id=request_id, stage=stage))
        try:
            return await work()
        except WorkerDied:
            raise WorkerLost(stage=stage) from None


def _matches(cosines: np.ndarray[Any, np.dtype[np.float32]], probing: Probing) -> list[float]:
    """Map cosines linearly from the profile's bounds to 0 … 1, clipped."""
    share = (cosines - probing.floor) / (probing.ceiling - probing.floor)
    return cast("list[float]", share.clip(0, 1).tolist())

"""What can be asked of the service: make an image, take one in, describe it, take it apart, draw it, probe it.

The flow composes workers, gallery and stages. Only it and its parts emit events.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphs.analysis.cache_client import CacheActor
from graphs.analysis.prefetch import AnalysisPrefetcher
from graphs.analysis.queries import EmbeddingQueries
from graphs.analysis.runner import StageRunner
from graphs.analysis.stages import DESCRIBE, DESCRIBE_REGIONS, RENDER, SEGMENT
from graphs.concurrency import AdmissionLimiter, task_group
from graphs.events.feed import EventBroker, EventFeed
from graphs.events.webhooks import WebhookDispatcher
from graphs.generation.generate_image import GENERATE
from graphs.generation.service import GenerationService
from graphs.images import ImageRepository
from graphs.workers.handles import SharedImage, TextModelName, Workers, retry_once
from graphs.workers.model_status import ModelStatusTracker
from pipeline.answer_warnings import warnings_of
from pipeline.events import Event, StageRetried
from pipeline.jobs import IdempotencyKey, Job
from pipeline.png_text import read_parameters
from pipeline.records import (
    AnswerWarning,
    Computed,
    Description,
    Descriptions,
    Drawings,
    Encoding,
    GenerationRequest,
    ImageRecord,
    Pixels,
    PointsAndBox,
    Segmentation,
    Upload,
)
from pipeline.settings import Profile, ServiceSettings
from pipeline.store import Store
from pipeline.traces import Traces, here


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageAnalysis:
    """The regions of an image: where they are, what they show, how they look."""

    segmentation: Segmentation
    regions: Descriptions
    drawings: Drawings


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedRegions:
    """The regions that a text names, among those that were looked at."""

    segmentation: Segmentation
    regions: Descriptions
    chosen: tuple[tuple[int, float], ...]  # numbers of those named, best first, each with its score from 0 to 1


class Flow:
    """Does the work of every route.

    Args:
        put: makes a reference of pixels that workers can be given.
        emit: takes every event.
        traces: begins and goes on with those of requests; none if left out.
    """

    def __init__(
        self,
        *,
        settings: ServiceSettings,
        profile: Profile,
        workers: Workers,
        models: ModelStatusTracker,
        cache: CacheActor,
        store: Store,
        hub: EventBroker | None,
        put: Callable[[Pixels], Any],
        emit: Callable[[Event], None],
        traces: Traces | None = None,
    ) -> None:
        self.profile = profile
        self.models = models
        self.traces = traces or Traces()
        self._emit = emit
        self.images = ImageRepository(store, workers, put, self.emit, embeds_parameters=settings.embed_parameters)
        self._workers = workers
        generations = AdmissionLimiter("images", settings.admission.max_generations)
        self.stage_runs = AdmissionLimiter("analyses", settings.admission.max_stages)
        self._stages = StageRunner(
            profile=profile,
            cache_settings=settings.cache,
            workers=workers,
            models=models,
            cache=cache,
            store=store,
            gallery=self.images,
            gate=self.stage_runs,
            free=generations,
            emit=self.emit,
        )
        self.feed = EventFeed(store.log, hub)
        self.webhooks = WebhookDispatcher(store.webhooks, settings.webhooks, public_url=settings.public_url)
        self.generations = GenerationService(
            settings=settings,
            profile=profile,
            workers=workers,
            store=store,
            gallery=self.images,
            feed=self.feed,
            gate=generations,
            describe=self.describe,
            emit=self.emit,
            traces=self.traces,
        )
        self.questions = EmbeddingQueries(profile.clip, workers, self.describe, self.describe_regions, self.emit)
        self.jobs = self.generations.jobs
        self.feed.consumers += [self.jobs.on_event, self.webhooks.on_event]
        self.reactions = AnalysisPrefetcher(self.images, self._stages, settings.reactions.max_waiting)

    async def run(self) -> None:
        """Work on jobs and tell of what happens until cancelled."""
        await self.feed.start()
        try:
            async with task_group() as group:
                group.create_task(self.jobs.run())
                group.create_task(self.webhooks.run())
        finally:
            self.feed.stop()

    def emit(self, event: Event) -> None:
        """Tell everybody who listens."""
        if isinstance(event, StageRetried):
            here().remark("worker lost", stage=event.stage)
        self._emit(event)

    async def upload(
        self,
        data: bytes,
        *,
        owner: str,
        sessions: Sequence[str],
        request_id: str,
        key: IdempotencyKey | None = None,
    ) -> ImageRecord:
        """Keep a picture from outside as the last image of its sessions.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            InvalidUpload: it can't be used; says why.
            Overloaded: too many analyses are running already.
        """
        with self.stage_runs.admit(request_id):
            upload = await self.decode(data, request_id)
            return await self.keep(upload, owner=owner, sessions=sessions, request_id=request_id, key=key)

    async def keep(
        self,
        upload: Upload,
        *,
        owner: str,
        sessions: Sequence[str],
        request_id: str,
        key: IdempotencyKey | None = None,
    ) -> ImageRecord:
        """Keep a picture from outside that was looked into.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        return await self.images.add(
            upload.pixels,
            owner=owner,
            sessions=sessions,
            request_id=request_id,
            started=time.monotonic(),
            request=read_parameters(upload.parameters),
            key=key,
        )

    async def decode(self, data: bytes, request_id: str) -> Upload:
        """Look into a picture from outside.

        Raises:
            InvalidUpload: it can't be used; says why.
            Overloaded: too many analyses are running already.
        """
        with self.stage_runs.admit(request_id):
            return await retry_once("decode_upload", request_id, lambda: self._workers.decode_upload(data), self.emit)

    async def count_tokens(self, model: TextModelName, texts: Sequence[str], request_id: str) -> int:
        """Count what a model makes of texts, all together."""
        if not texts:
            return 0
        counts = await retry_once(
            "count_tokens", request_id, lambda: self._workers.count_tokens(model, texts), self.emit
        )
        return sum(counts)

    async def encoded(self, record: ImageRecord, encoding: Encoding, request_id: str) -> bytes:
        """An image as it is asked for.

        Raises:
            Overloaded: too many analyses are running already.
        """
        if encoding == Encoding():
            return await self.images.png(record)
        with self.stage_runs.admit(request_id):
            return await self.images.encoded(record, encoding, request_id)

    async def describe(self, record: ImageRecord, request_id: str, background: bool = False) -> Description:
        """Classify the whole image."""
        described = await self._stages.result(DESCRIBE, record, request_id, background=background)
        (description,) = described
        return description

    async def described(self, record: ImageRecord) -> Description | None:
        """Return the classes of the whole image, if it was classified before; computes nothing."""
        kept = await self._stages.kept(DESCRIBE, record)
        if kept is None:
            return None
        (description,) = kept
        return description

    def warnings(self, record: ImageRecord, description: Description | None = None) -> tuple[AnswerWarning, ...]:
        """Return what callers should know of an image, and of what it shows as far as that is known."""
        made_from = record.request if record.model else None  # an upload was made by another model
        return warnings_of(self.profile, made_from, description)

    def job_warnings(self, job: Job) -> tuple[AnswerWarning, ...]:
        """Return what callers should know of the image that a job makes, from what it was asked for."""
        if job.order.kind != GENERATE:
            return ()
        return warnings_of(self.profile, GenerationRequest.from_dict(job.order.request))

    async def segment(self, record: ImageRecord, request_id: str) -> Segmentation:
        """Take the image apart."""
        return await self._stages.result(SEGMENT, record, request_id)

    async def cut_out(
        self, record: ImageRecord, prompts: Sequence[PointsAndBox], request_id: str
    ) -> tuple[Segmentation, Descriptions]:
        """Cut out what prompts show, one region for each, in their order, and say what it is.

        Raises:
            Overloaded: too many analyses are running already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        everything = self.profile.sam2.everything
        return await self._cut(
            record,
            "segment_prompts",
            lambda image: self._workers.segment_prompts(image, prompts, everything),
            request_id,
        )

    async def find(self, record: ImageRecord, text: str, request_id: str) -> NamedRegions:
        """Find what a text names: by SAM3 where the profile has it, else among all regions; maybe nothing.

        Raises:
            Overloaded: too many analyses are running already.
            ModelNotReady, StageFailed, WorkerLost: from the workers.
        """
        if (sam3 := self.profile.sam3) is not None:
            segmentation, regions = await self._cut(
                record, "find", lambda image: self._workers.find(image, text, sam3), request_id
            )
            return NamedRegions(
                segmentation=segmentation,
                regions=regions,
                chosen=tuple(enumerate(segmentation.predicted_iou.tolist())),
            )
        async with task_group() as group:
            segmenting = group.create_task(self.segment(record, request_id))
            describing = group.create_task(self.describe_regions(record, request_id))
            finding = group.create_task(self.questions.find(record, text, request_id))
        found = finding.result()
        return NamedRegions(
            segmentation=segmenting.result(),
            regions=describing.result(),
            chosen=tuple(zip(found.region_ids, found.scores, strict=True)),
        )

    async def _cut(
        self,
        record: ImageRecord,
        stage: str,
        work: Callable[[SharedImage], Awaitable[Computed[Segmentation]]],
        request_id: str,
    ) -> tuple[Segmentation, Descriptions]:
        """Cut regions out of an image, and say what they are."""
        with self.stage_runs.admit(request_id):
            image = await self.images.share(record)
            labelling = self.profile.clip.labelling
            regions = (await retry_once(stage, request_id, lambda: work(image), self.emit)).value
            described = await retry_once(
                f"describe_{stage}",
                request_id,
                lambda: self._workers.describe(image, regions, labelling),
                self.emit,
            )
            return regions, described.value

    async def describe_regions(self, record: ImageRecord, request_id: str) -> Descriptions:
        """Classify every region."""
        return await self._stages.result(DESCRIBE_REGIONS, record, request_id)

    async def render(self, record: ImageRecord, request_id: str) -> Drawings:
        """Draw overlay and spotlights."""
        return await self._stages.result(RENDER, record, request_id)

    async def analyze(self, record: ImageRecord, request_id: str) -> ImageAnalysis:
        """Do everything there is to do with an image's regions."""
        async with task_group() as group:
            segmentation = group.create_task(self.segment(record, request_id))
            regions = group.create_task(self.describe_regions(record, request_id))
            drawings = group.create_task(self.render(record, request_id))
        return ImageAnalysis(segmentation=segmentation.result(), regions=regions.result(), drawings=drawings.result())

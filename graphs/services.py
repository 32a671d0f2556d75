"""The services of one ingress process: what HTTP handlers call, wired together once."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from graphs.analysis.cache_client import CacheActor
from graphs.analysis.prefetch import AnalysisPrefetcher
from graphs.analysis.queries import ImageQueries
from graphs.analysis.regions import ImageRegions
from graphs.analysis.runner import StageRunner
from graphs.concurrency import AdmissionLimiter, task_group
from graphs.events.bus import EventBus
from graphs.events.feed import EventBroker, EventFeed
from graphs.events.webhooks import WebhookDispatcher
from graphs.generation.edits import EditRequests
from graphs.generation.generate_image import GENERATE, GenerateImageJob
from graphs.generation.job_worker import JobWorker
from graphs.generation.service import GenerationService
from graphs.images import ImageRepository
from graphs.workers.handles import Workers
from graphs.workers.model_status import ModelStatusTracker
from pipeline.records import Pixels
from pipeline.settings import Profile, ServiceSettings
from pipeline.store import KeyStore, Store, UsageStore
from pipeline.traces import Traces


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Makes no decisions: handlers call the parts."""

    settings: ServiceSettings
    profile: Profile
    bus: EventBus
    traces: Traces
    models: ModelStatusTracker
    images: ImageRepository
    stages: StageRunner
    queries: ImageQueries
    regions: ImageRegions
    edits: EditRequests
    generation: GenerationService
    jobs: JobWorker
    feed: EventFeed
    webhooks: WebhookDispatcher
    keys: KeyStore
    usage: UsageStore
    prefetcher: AnalysisPrefetcher
    analysis_admission: AdmissionLimiter
    started_at: float = field(default_factory=time.time)  # seconds since the epoch

    async def run(self) -> None:
        """Run jobs, deliver events and send webhooks until cancelled."""
        await self.feed.start()
        try:
            async with task_group() as group:
                group.create_task(self.jobs.run())
                group.create_task(self.webhooks.run())
        finally:
            self.feed.stop()


def build_services(
    *,
    settings: ServiceSettings,
    profile: Profile,
    workers: Workers,
    models: ModelStatusTracker,
    cache: CacheActor,
    store: Store,
    hub: EventBroker | None,
    put: Callable[[Pixels], Any],
    bus: EventBus,
    traces: Traces | None = None,
) -> Services:
    """Wire the services together.

    Args:
        hub: carries events between processes; None where there is one process only.
        put: makes a reference of pixels that workers can be given.
        bus: takes every event of this process.
        traces: begins and continues the traces of requests; none if left out.
    """
    emit = bus.publish
    traces = traces or Traces()
    generation_admission = AdmissionLimiter("images", settings.admission.max_generations)
    analysis_admission = AdmissionLimiter("analyses", settings.admission.max_stages)
    images = ImageRepository(
        store,
        workers,
        put,
        emit,
        admission=analysis_admission,
        embeds_parameters=settings.embed_parameters,
        model_name=profile.name,
    )
    stages = StageRunner(
        profile=profile,
        cache_settings=settings.cache,
        workers=workers,
        models=models,
        cache=cache,
        store=store,
        images=images,
        admission=analysis_admission,
        emit=emit,
    )
    queries = ImageQueries(profile=profile, workers=workers, stages=stages, emit=emit)
    regions = ImageRegions(
        profile=profile,
        workers=workers,
        images=images,
        stages=stages,
        queries=queries,
        store=store.regions,
        admission=analysis_admission,
        emit=emit,
    )
    feed = EventFeed(store.log, hub)
    webhooks = WebhookDispatcher(store.webhooks, settings.webhooks, public_url=settings.public_url)
    edits = EditRequests(profile, images, stages, regions)
    jobs = JobWorker(
        store.jobs,
        {GENERATE: GenerateImageJob(workers, images, edits, analysis_admission, feed, emit, traces)},
        capacity=settings.admission.max_generations,
        max_waiting=settings.admission.max_waiting_jobs,
        max_unfinished=settings.limits.unfinished_jobs,
    )
    feed.consumers += [jobs.on_event, webhooks.on_event]
    prefetcher = AnalysisPrefetcher(images, stages, settings.reactions.max_waiting)
    if settings.reactions.enabled:
        bus.subscribe(prefetcher.on_event)
    return Services(
        settings=settings,
        profile=profile,
        bus=bus,
        traces=traces,
        models=models,
        images=images,
        stages=stages,
        queries=queries,
        regions=regions,
        edits=edits,
        generation=GenerationService(
            profile=profile,
            jobs=jobs,
            images=images,
            feed=feed,
            log=store.log,
            stages=stages,
            admission=generation_admission,
        ),
        jobs=jobs,
        feed=feed,
        webhooks=webhooks,
        keys=store.keys,
        usage=UsageStore(store.log),
        prefetcher=prefetcher,
        analysis_admission=analysis_admission,
    )

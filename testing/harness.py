"""The services on fake workers, with every event they emit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from graphs.analysis.stages import DESCRIBE_REGIONS, RENDER, SEGMENT
from graphs.concurrency import task_group
from graphs.events.bus import EventBus
from graphs.events.feed import EventBroker
from graphs.generation.requests import GenerationJobSpec
from graphs.generation.service import GeneratedImage
from graphs.services import Services, build_services
from graphs.workers.model_status import ModelStatusTracker
from pipeline.events import DomainEvent
from pipeline.records import (
    Description,
    Descriptions,
    Drawings,
    GenerationRequest,
    ImageRecord,
    Scheduler,
    Segmentation,
)
from pipeline.settings import (
    AdmissionSettings,
    CacheSettings,
    OwnerLimits,
    ProbeCalibration,
    Profile,
    ReactionSettings,
    ServiceSettings,
    StorageSettings,
    TextSearchSettings,
    WebhookSettings,
)
from pipeline.store import Store, open_store
from pipeline.traces import Traces
from testing.fakes import FakeCache, FakeWorkers
from testing.waiting import PATIENCE_S

PROBING = ProbeCalibration(floor=0.0, ceiling=0.45)
FINDING = TextSearchSettings(min_cosine=0.12, logit_scale=14.0)


class Analysis(NamedTuple):
    segmentation: Segmentation
    regions: Descriptions
    drawings: Drawings


@dataclass
class Bench:
    """The services of one process and their dependencies."""

    services: Services
    workers: FakeWorkers
    cache: FakeCache
    settings: ServiceSettings
    store: Store
    events: list[DomainEvent] = field(default_factory=list)

    async def generate(self, spec: GenerationJobSpec) -> GeneratedImage:
        (generated,) = await self.services.generation.run([spec], describe=True)
        return generated

    async def image(self, seed: int = 1, sessions: tuple[str, ...] = ("s",)) -> ImageRecord:
        spec = GenerationJobSpec(request=a_request(seed), owner="public", sessions=sessions, request_id=f"r{seed}")
        return (await self.generate(spec)).record

    async def describe(self, image: ImageRecord, request_id: str) -> Description:
        return await self.services.stages.describe(image, request_id)

    async def segment(self, image: ImageRecord, request_id: str) -> Segmentation:
        return await self.services.stages.result(SEGMENT, image, request_id)

    async def analyze(self, image: ImageRecord, request_id: str) -> Analysis:
        async with task_group() as group:
            segmenting = group.create_task(self.segment(image, request_id))
            describing = group.create_task(self.services.stages.result(DESCRIBE_REGIONS, image, request_id))
            rendering = group.create_task(self.services.stages.result(RENDER, image, request_id))
        return Analysis(segmenting.result(), describing.result(), rendering.result())

    def of(self, kind: type) -> list[DomainEvent]:
        return [event for event in self.events if isinstance(event, kind)]


def a_request(seed: int = 1, steps: int = 3) -> GenerationRequest:
    return GenerationRequest(
        prompt="red apple",
        negative_prompt="",
        width=64,
        height=64,
        steps=steps,
        guidance=3.0,
        seed=seed,
        scheduler=Scheduler.DDIM,
    )


def make_bench(
    folder: Path,
    admission: AdmissionSettings | None = None,
    cache: FakeCache | None = None,
    workers: FakeWorkers | None = None,
    hub: EventBroker | None = None,
    webhooks: WebhookSettings | None = None,
    limits: OwnerLimits | None = None,
    traces: Traces | None = None,
    *,
    storage: StorageSettings | None = None,
    embed_parameters: bool = True,
    reacting: bool = False,
    profile: Profile | None = None,
) -> Bench:
    settings = ServiceSettings(
        data_dir=folder,
        admission=admission or AdmissionSettings(),
        cache=CacheSettings(call_deadline_s=PATIENCE_S),
        webhooks=webhooks or WebhookSettings(),
        limits=limits or OwnerLimits(),
        storage=storage or StorageSettings(),
        accelerator="cpu",
        embed_parameters=embed_parameters,
        reactions=ReactionSettings(enabled=reacting),
    )
    store = open_store(settings)
    workers = workers or FakeWorkers()
    cache = cache or FakeCache()
    events: list[DomainEvent] = []

    services = build_services(
        settings=settings,
        profile=with_own_bounds(profile or settings.load_profile()),
        workers=workers,
        models=ModelStatusTracker(workers, lambda: {"Diffusion": 1, "Clip": 1, "Segmenter": 1}),
        cache=cache,
        store=store,
        hub=hub,
        put=lambda pixels: pixels,
        bus=EventBus(events.append),
        traces=traces,
    )
    return Bench(services=services, workers=workers, cache=cache, settings=settings, store=store, events=events)


def with_own_bounds(profile: Profile) -> Profile:
    """Return the profile with thresholds for the fakes' cosines; its own change whenever CLIP is trained."""
    return profile.model_copy(update={"clip": profile.clip.model_copy(update={"probing": PROBING, "finding": FINDING})})


def with_admission(bench: Bench, admission: AdmissionSettings) -> Services:
    """Return the bench's services with other admission limits, for an HTTP application."""
    return replace(bench.services, settings=bench.settings.model_copy(update={"admission": admission}))


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator[None]:
    """Run jobs while the block runs."""
    task = asyncio.create_task(bench.services.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

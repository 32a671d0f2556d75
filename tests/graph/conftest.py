"""One flow over fakes, with every event it emits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from graphs.events.feed import EventBroker
from graphs.flow import Flow
from graphs.generation.requests import GenerationJobSpec
from graphs.workers.model_status import ModelStatusTracker
from pipeline.events import Event
from pipeline.records import GenerationRequest, Scheduler
from pipeline.settings import (
    Admission,
    CacheSettings,
    Finding,
    OwnerLimits,
    Probing,
    Profile,
    ServiceSettings,
    StorageSettings,
    WebhookSettings,
)
from pipeline.store import Store, open_store
from pipeline.traces import Traces
from tests.graph.fakes import FakeCache, FakeWorkers
from tests.graph.waiting import PATIENCE_S

PROBING = Probing(floor=0.0, ceiling=0.45)
FINDING = Finding(min_cosine=0.12, logit_scale=14.0)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Bench:
    """A flow and what stands round it."""

    flow: Flow
    workers: FakeWorkers
    cache: FakeCache
    settings: ServiceSettings
    store: Store
    events: list[Event] = field(default_factory=list)

    async def image(self, seed: int = 1, sessions: tuple[str, ...] = ("s",)):
        order = GenerationJobSpec(request=a_request(seed), owner="public", sessions=sessions, request_id=f"r{seed}")
        made = await self.flow.generations.generate(order)
        return made.record

    def of(self, kind: type) -> list[Event]:
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
    admission: Admission | None = None,
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
) -> Bench:
    settings = ServiceSettings(
        data_dir=folder,
        admission=admission or Admission(),
        cache=CacheSettings(call_deadline_s=PATIENCE_S),
        webhooks=webhooks or WebhookSettings(),
        limits=limits or OwnerLimits(),
        storage=storage or StorageSettings(),
        accelerator="cpu",
        embed_parameters=embed_parameters,
    )
    store = open_store(settings)
    workers = workers or FakeWorkers()
    cache = cache or FakeCache()
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if reacting:
            flow.reactions.on_event(event)

    flow = Flow(
        settings=settings,
        profile=with_own_bounds(settings.load_profile()),
        workers=workers,
        models=ModelStatusTracker(workers, lambda: {"Diffusion": 1, "Clip": 1, "Segmenter": 1}),
        cache=cache,
        store=store,
        hub=hub,
        put=lambda pixels: pixels,
        emit=emit,
        traces=traces,
    )
    return Bench(flow=flow, workers=workers, cache=cache, settings=settings, store=store, events=events)


def with_own_bounds(profile: Profile) -> Profile:
    """The profile with bounds for the fakes' cosines: those of its CLIP are measured anew whenever that is trained."""
    return profile.model_copy(update={"clip": profile.clip.model_copy(update={"probing": PROBING, "finding": FINDING})})


def with_admission(bench: Bench, admission: Admission) -> ServiceSettings:
    """The bench's settings, as its HTTP application gets them, with other bounds."""
    return bench.settings.model_copy(update={"admission": admission})


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Bench]:
    bench = make_bench(tmp_path)
    async with working(bench):
        yield bench


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator[None]:
    """Let the flow take jobs while the block runs."""
    task = asyncio.create_task(bench.flow.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

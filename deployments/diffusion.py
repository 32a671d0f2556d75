"""The diffusion deployment: text to image, with continuous batching of a replica's requests."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from ray import serve
from ray.serve.metrics import Counter

from deployments import HEALTH_INTERVAL_S
from deployments.engine_replica import EngineReplica
from deployments.tracing import traced
from pipeline.records import Computed, GenerationRequest, ModelStatus, Pixels, StepProgress
from pipeline.settings import DIFFUSION_REQUESTS, UNTRACED, Accelerator, DiffusionSettings, TraceSettings
from pipeline.traces import open_traces, start_span

if TYPE_CHECKING:
    from pipeline.engines.diffusion.batching import ContinuousDiffusion, DenoiseJob, StepResult

Outcome = StepProgress | Pixels | Exception


@dataclass(kw_only=True, slots=True)
class _Stream:
    """A request in flight."""

    context: Context  # has the span of the request
    every_s: float  # minimum time between two progress reports
    reported_at: float = -math.inf
    outcomes: asyncio.Queue[Outcome] = field(default_factory=asyncio.Queue)
    denoising: Span = INVALID_SPAN  # child span of the steps

    def put(self, outcome: Outcome, *, since_ns: int, images: int) -> None:
        """Record and report work that began at `since_ns` on the wall clock, on a batch of so many images."""
        if isinstance(outcome, StepProgress):
            if self.denoising is INVALID_SPAN:
                self.denoising = start_span(
                    "denoise", context=self.context, start_time=since_ns, steps=outcome.num_steps
                )
            self.denoising.add_event("step", {"step": outcome.step, "images": images})
            if outcome.step == outcome.num_steps:
                self.denoising.end()
        elif not isinstance(outcome, Exception):
            start_span("decode", context=self.context, start_time=since_ns).end()
        if not isinstance(outcome, StepProgress) or self._is_report_due():
            self.outcomes.put_nowait(outcome)

    def _is_report_due(self) -> bool:
        now = time.monotonic()
        is_due = now >= self.reported_at + self.every_s
        if is_due:
            self.reported_at = now
        return is_due


@serve.deployment(
    max_ongoing_requests=DIFFUSION_REQUESTS,
    max_queued_requests=64,
    health_check_period_s=HEALTH_INTERVAL_S,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.25},
)
class Diffusion:
    """A wrapper around `ContinuousDiffusion`: requests join and leave between its steps."""

    def __init__(
        self,
        settings: DiffusionSettings,
        accelerator: Accelerator,
        threads: int,
        traces: TraceSettings = UNTRACED,
    ) -> None:
        def load(device: str) -> ContinuousDiffusion:
            from pipeline.engines.diffusion.batching import ContinuousDiffusion
            from pipeline.engines.diffusion.engine import DiffusionEngine

            engine = DiffusionEngine(settings, device)
            engine.warm_up(settings.batch_rows if settings.compiled else settings.batch_rows[:1])
            return ContinuousDiffusion(engine, settings.batch_rows)

        self.traces = open_traces(traces, "Diffusion")
        self._replica = EngineReplica("Diffusion", load, accelerator, threads, lambda runner: runner.fingerprint)
        self._steps = Counter("pipeline_engine_steps", description="Denoising steps computed, of all images.")
        self._filled = Counter("pipeline_engine_rows_filled", description="Rows of the UNet's batches with an image.")
        self._computed = Counter("pipeline_engine_rows_computed", description="Rows of the UNet's batches, of all.")
        self._progress_every_s = settings.progress_every_s
        self._streams: dict[str, _Stream] = {}  # of the requests in flight, by job key
        self._arriving: list[DenoiseJob] = []
        self._leaving: list[str] = []
        self._driver: asyncio.Task[None] | None = None

    async def generate(
        self,
        request: GenerationRequest,
        owner: str = "",
        source: Pixels | None = None,
        previews: bool = False,
        traceparent: str = "",
    ) -> AsyncIterator[StepProgress | Computed[Pixels]]:
        """Yield the progress, then the image, (h, w, 3) uint8.

        Args:
            source: (h', w', 3) uint8, the image that `request.source` names.
            previews: whether the caller wants a preview with every step. Otherwise progress is throttled, as each
                report costs a way through proxies and processes.
            traceparent: the caller's span, if it has one.
        """
        from pipeline.engines.diffusion.batching import DenoiseJob
        from pipeline.engines.diffusion.img2img import origin_of

        origin = None if source is None else origin_of(request, source)
        job = DenoiseJob(key=uuid4().hex, request=request, owner=owner, origin=origin, previews=previews)
        with self.traces.continued(traceparent, "Diffusion.generate", kind=SpanKind.SERVER) as context:
            stream = self._join(job, context)
            try:
                while isinstance(outcome := await stream.outcomes.get(), StepProgress):
                    yield outcome
                if isinstance(outcome, Exception):
                    raise outcome
                yield Computed(value=outcome, model=self._replica.fingerprint)
            finally:
                if stream.denoising.is_recording():  # fewer steps than requested
                    stream.denoising.end()
                del self._streams[job.key]
                self._leaving.append(job.key)
                self._wake()

    @traced
    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int]:
        """Count the tokens of texts, each with its start and end token."""
        return await self._replica.run_shared(
            lambda runner: runner.count_tokens(texts)
        )  # the tokenizer belongs to the engine's thread

    def status(self) -> ModelStatus:
        """Return whether the model is loaded."""
        return self._replica.status()

    def _join(self, job: DenoiseJob, context: Context) -> _Stream:
        self._replica.count_call()
        every_s = 0.0 if job.previews else self._progress_every_s
        stream = self._streams[job.key] = _Stream(context=context, every_s=every_s)
        self._arriving.append(job)
        self._wake()
        return stream

    def _wake(self) -> None:
        if self._driver is None or self._driver.done():
            self._driver = asyncio.create_task(self._step_loop())

    async def _step_loop(self) -> None:
        """Step until no request is left, and all that left are removed from the engine."""
        while self._streams or self._leaving:
            arriving = [job for job in self._arriving if job.key in self._streams]
            work = partial(advance, arriving=arriving, leaving=self._leaving)
            self._arriving, self._leaving = [], []
            began_ns = time.time_ns()
            try:
                results = await self._replica.run_shared(work)
            except Exception as error:  # the runner itself is broken: no caller may wait for ever
                for stream in self._streams.values():
                    stream.outcomes.put_nowait(error)
                raise
            rows = self._replica.engine.pop_row_counts()
            if rows.computed:
                self._filled.inc(rows.filled)
                self._computed.inc(rows.computed)
            for result in results:
                if isinstance(result.outcome, StepProgress):
                    self._steps.inc()
                if result.key in self._streams:
                    stream = self._streams[result.key]
                    stream.put(result.outcome, since_ns=began_ns, images=len(results))


def advance(runner: ContinuousDiffusion, arriving: list[DenoiseJob], leaving: list[str]) -> list[StepResult]:
    """Remove leaving requests, admit arriving ones, then take a step."""
    for key in leaving:
        runner.cancel(key)
    failed = [result for job in arriving if (result := runner.admit(job)) is not None]
    return failed + runner.step()

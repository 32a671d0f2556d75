"""Overhead of durable jobs: `python -m benchmarks jobs`.

Prints how much longer a generation takes as a job than without one, interleaved, on the same flow with SQLite and
workers without models (their work is the same and would only add noise); and, for a real service, the latency of the
first event and the first preview of a stream.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from httpx_sse import connect_sse

from benchmarks.service.overview import percentiles, show
from graphs.generation.requests import GenerationJobSpec
from pipeline.records import Computed, GenerationRequest, Pixels
from testing.harness import Bench, a_request, make_bench, working
from testing.service_process import RunningService, serving

ROUNDS = 200
WARM_UP = 10
STREAMS = 30


def main() -> None:
    """Measure both."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(overhead(make_bench(Path(folder))))
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as service:
        first_events(service)


async def overhead(bench: Bench) -> None:
    """Generate images with and without a job, interleaved."""
    durable, direct = [], []
    async with working(bench):
        for i in range(WARM_UP + ROUNDS):
            request = a_request(seed=i)
            started = time.perf_counter()
            order = GenerationJobSpec(request=request, owner="public", sessions=["s"], request_id=f"durable {i}")
            await bench.generate(order)
            between = time.perf_counter()
            await without_job(bench, request, f"direct {i}")
            durable.append(1000 * (between - started))
            direct.append(1000 * (time.perf_counter() - between))
    durable, direct = durable[WARM_UP:], direct[WARM_UP:]
    differences = [a - b for a, b in zip(durable, direct, strict=True)]
    low, _, high = statistics.quantiles(differences, n=4)
    show("a generation as a job", percentiles(durable))
    show("without a job", percentiles(direct))
    show("difference", f"p50 {statistics.median(differences):.1f} ms, middle half {low:.1f} to {high:.1f} ms")


async def without_job(bench: Bench, request: GenerationRequest, request_id: str) -> None:
    """The work of a generation job, without the job."""
    started = time.monotonic()
    image: Computed[Pixels] | None = None
    async for item in bench.workers.generate(request, "public"):
        if isinstance(item, Computed):
            image = item
    assert image is not None
    record = await bench.services.images.add(
        image.value,
        owner="public",
        sessions=["s"],
        request_id=request_id,
        started=started,
        request=request,
        model=image.model,
    )
    await bench.services.images.png(record)
    await bench.describe(record, request_id)


def first_events(service: RunningService) -> None:
    """Time the first event of each stream, and count the steps before the first preview."""
    events_ms: list[float] = []
    previews: list[int] = []
    with service.client() as client:
        for seed in range(STREAMS):
            started = time.perf_counter()
            with connect_sse(client, "POST", "/generate", json={"prompt": "pear", "seed": seed}) as source:
                for i, event in enumerate(source.iter_sse()):
                    if i == 0:
                        events_ms.append(1000 * (time.perf_counter() - started))
                    if event.event == "generation.stepped" and event.json()["preview"] and len(previews) == seed:
                        previews.append(event.json()["step"])
    show("first event after POST", percentiles(events_ms))
    show("first preview of 15 steps", f"at step {statistics.median(previews):g}, at the latest {max(previews)}")

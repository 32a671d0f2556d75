"""Latency under Poisson arrivals at 0.8 of our engine's capacity, for our engine and for a FIFO queue.

The FIFO queue is overloaded at this rate, so its latency grows for the duration of the run, and so does the ratio of
both. The meaningful figure is our own latency relative to that of a single request.

The clock is simulated: all work is executed and timed, and the clock advances by the measured time; so nothing
sleeps, and both see the same arrivals.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.engines.diffusion import alone, request_for, together
from benchmarks.harness import Result, timed
from pipeline.engines.diffusion.batching import ContinuousDiffusion, DenoiseJob
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.records import GenerationRequest, StepProgress
from pipeline.settings import DiffusionSettings, ServiceSettings

ARRIVALS, ARRIVALS_QUICK = 220, 40
LOAD = 0.8  # arrival rate as a share of the capacity
CROWD = 8  # concurrent requests when measuring the capacity
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Run:
    """The outcome of all requests."""

    latencies_s: list[float]
    waits: list[float]  # whole steps that ran without them after their arrival

    @property
    def p99(self) -> float:
        """In seconds."""
        return float(np.quantile(self.latencies_s, 0.99))


def measure(quick: bool) -> list[Result]:
    """Latency under load of our runner and of a FIFO queue with one request at a time."""
    settings = ServiceSettings().load_profile().diffusion
    engine = DiffusionEngine(settings, "cpu")
    requests = [request_for(settings, "a red apple", seed) for seed in range(ARRIVALS_QUICK if quick else ARRIVALS)]
    unloaded = median(timed(lambda: alone(engine, requests[0])) for _ in range(15))
    capacity = CROWD / median(timed(lambda: together(engine, settings, requests[:CROWD])) for _ in range(3))
    rng = np.random.default_rng(SEED)
    arrivals = np.cumsum(rng.exponential(1 / (LOAD * capacity), len(requests))).tolist()
    ours = run_together(engine, settings, requests, arrivals)
    naive = run_queue(lambda request: alone(engine, request), requests, arrivals)
    words = (
        f"p50 unloaded {unloaded:.2f} s, p99 {ours.p99 / unloaded:.2f} × that, naive {naive.p99 / unloaded:.1f} ×; "
        f"admitted within {max(ours.waits):.0f} step(s)"
    )
    return [
        Result(
            suite="arrivals", case=f"{len(requests)} at {LOAD} of {capacity:.2f}/s, p99", ours=ours.p99,
            naive=naive.p99, unit="s", ratio=naive.p99 / ours.p99, ratio_min=naive.p99 / ours.p99,
            ratio_max=naive.p99 / ours.p99, fidelity=words, goal="p99 ≤ 2.5 × unloaded p50, wait ≤ 1 step",
        )
    ]  # fmt: skip


def run_together(
    engine: DiffusionEngine, settings: DiffusionSettings, requests: list[GenerationRequest], arrivals: list[float]
) -> Run:
    """Continuous batching."""
    runner = ContinuousDiffusion(engine, settings.batch_rows)
    coming = deque(enumerate(arrivals))
    clock, latencies = 0.0, []
    waiting: dict[str, int] = {}  # steps that ran since their arrival
    waits = []
    while coming or not runner.is_idle:
        if runner.is_idle and coming[0][1] > clock:
            clock = coming[0][1]
        started = time.perf_counter()
        while coming and coming[0][1] <= clock:
            number, _ = coming.popleft()
            runner.admit(DenoiseJob(key=str(number), request=requests[number]))
            waiting[str(number)] = 0
        happenings = runner.step()
        clock += time.perf_counter() - started
        for happening in happenings:
            if isinstance(happening.outcome, StepProgress):
                if happening.key in waiting:
                    waits.append(float(waiting.pop(happening.key)))
            else:
                latencies.append(clock - arrivals[int(happening.key)])
        waiting = {key: steps + 1 for key, steps in waiting.items()}
    return Run(latencies_s=latencies, waits=waits)


def run_queue(
    work: Callable[[GenerationRequest], object], requests: list[GenerationRequest], arrivals: list[float]
) -> Run:
    """One after the other, in order of arrival."""
    clock, latencies = 0.0, []
    for request, arrival in zip(requests, arrivals, strict=True):
        started = time.perf_counter()
        clock = max(clock, arrival)
        work(request)
        clock += time.perf_counter() - started
        latencies.append(clock - arrival)
    return Run(latencies_s=latencies, waits=[])

"""Prefetching: the background analysis of new images."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from graphs.analysis.prefetch import AnalysisPrefetcher
from pipeline.events import ImageCreated, RegionsRendered, ResultReused
from testing.harness import Bench, make_bench
from testing.waiting import until

pytestmark = pytest.mark.anyio


async def test_every_result_is_computed_before_it_is_requested(tmp_path: Path):
    bench = make_bench(tmp_path, reacting=True)
    image = await bench.image()
    await until(lambda: bench.of(RegionsRendered))
    before = dict(bench.workers.calls)
    assert [event.stage for event in bench.of(ResultReused)].count("describe") == 1  # the request's or the prefetcher's

    await bench.analyze(image, "later")

    assert bench.workers.calls == before
    assert before["segment"] == before["describe"] == before["describe_regions"] == before["render"] == 1
    assert {e.source for e in bench.of(ResultReused) if e.request_id == "later"} <= {"memory", "run"}


async def test_a_call_joins_the_prefetch_in_flight(tmp_path: Path):
    bench = make_bench(tmp_path, reacting=True)
    image = await bench.image()
    bench.workers.gate.clear()
    await until(lambda: bench.workers.calls["segment"])

    caller = asyncio.create_task(bench.segment(image, "caller"))
    await until(lambda: bench.of(ResultReused))
    bench.workers.gate.set()
    await caller

    assert bench.workers.calls["segment"] == 1


async def test_prefetching_needs_no_admission(tmp_path: Path):
    bench = make_bench(tmp_path, reacting=True)
    bench.services.analysis_admission.limit = 0

    await bench.image()

    await until(lambda: bench.of(RegionsRendered))


async def test_a_failed_prefetch_is_computed_on_request_and_the_next_one_runs(tmp_path: Path):
    bench = make_bench(tmp_path, reacting=True)
    bench.workers.deaths["segment"] = 2
    first = await bench.image(seed=1)
    second = await bench.image(seed=2)

    await until(lambda: bench.of(RegionsRendered))

    assert {event.image_id for event in bench.of(RegionsRendered)} == {second.image_id}
    assert len(await bench.segment(first, "r")) == 2


async def test_the_oldest_image_is_dropped_when_the_queue_is_full(bench: Bench):
    prefetcher = AnalysisPrefetcher(bench.services.images, bench.services.stages, max_waiting=2)
    images = [await bench.image(seed=seed) for seed in range(4)]
    for event in bench.of(ImageCreated):
        prefetcher.on_event(event)  # nothing runs before this test yields to the loop

    await until(lambda: len(bench.of(RegionsRendered)) == 2)

    assert [event.image_id for event in bench.of(RegionsRendered)] == [image.image_id for image in images[2:]]

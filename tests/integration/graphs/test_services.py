"""The analysis graph over fakes: each stage runs once, also when workers, callers or the cache fail."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from graphs.analysis.stages import STAGES
from graphs.generation.requests import GenerationJobSpec
from pipeline.errors import ImageNotFound, ModelNotReady, NoImageYet, Overloaded, WorkerLost
from pipeline.events import (
    CacheBypassed,
    GenerationStarted,
    GenerationStepped,
    ImageCreated,
    ImageDescribed,
    ImageSegmented,
    PreviewShown,
    RegionsDescribed,
    RegionsRendered,
    ResultReused,
    StageRetried,
)
from pipeline.imaging.masks import decode_mask
from pipeline.jobs import MAX_ATTEMPTS
from pipeline.records import FIRST_SELECTED_REGION, PointsAndBox
from pipeline.settings import AdmissionSettings
from testing.fakes import FakeCache, FakeWorkers
from testing.harness import Bench, a_request, make_bench
from testing.waiting import PATIENCE_S, pass_time, until

pytestmark = pytest.mark.anyio


def a_job(steps: int = 3) -> GenerationJobSpec:
    return GenerationJobSpec(request=a_request(steps=steps), owner="public", sessions=["s"], request_id="r")


async def test_the_stages_are_the_declared_ones():
    assert [(stage.name, stage.builds_on and stage.builds_on.name, stage.emits) for stage in STAGES] == [
        ("describe", None, ImageDescribed),
        ("segment", None, ImageSegmented),
        ("describe_regions", "segment", RegionsDescribed),
        ("render", "segment", RegionsRendered),
    ]


async def test_generate_emits_every_event(bench: Bench):
    generated = await bench.generate(a_job())

    assert [type(event) for event in bench.events] == [
        GenerationStarted,
        GenerationStepped,
        GenerationStepped,
        GenerationStepped,
        ImageCreated,
        ImageDescribed,
    ]
    assert {event.request_id for event in bench.events} == {"r"}
    assert generated.description.top[0].label == "apple"
    assert (await bench.services.images.find(None, owner="public", session="s")) == generated.record


async def test_the_first_preview_is_reported_once(bench: Bench):
    async for _ in bench.services.generation.stream([a_job()]):
        pass

    (shown,) = [event for event in bench.events if isinstance(event, PreviewShown)]
    (started,) = [event for event in bench.events if isinstance(event, GenerationStarted)]
    assert 0 <= started.waited_s <= shown.seconds < 60


async def test_everything_is_computed_once(bench: Bench):
    image = await bench.image()

    for _ in range(3):
        await bench.describe(image, "r")
        await bench.analyze(image, "r")

    assert {stage: bench.workers.calls[stage] for stage in ("describe", "segment", "describe_regions", "render")} == {
        "describe": 1,
        "segment": 1,
        "describe_regions": 1,
        "render": 1,
    }


async def test_a_cached_result_equals_the_computed_one(bench: Bench):
    image = await bench.image()

    computed = await bench.analyze(image, "r")
    cached = await bench.analyze(image, "r")

    assert cached.segmentation.rles == computed.segmentation.rles
    assert cached.segmentation.polygons == computed.segmentation.polygons
    assert cached.regions.labels == computed.regions.labels
    assert np.array_equal(cached.regions.vectors, computed.regions.vectors)
    assert cached.drawings == computed.drawings


async def test_concurrent_callers_share_one_run(bench: Bench):
    image = await bench.image()
    bench.workers.gate.clear()

    callers = [asyncio.create_task(bench.segment(image, f"r{i}")) for i in range(16)]
    await until(lambda: bench.workers.calls["segment"])
    bench.workers.gate.set()
    results = await asyncio.gather(*callers)

    assert bench.workers.calls["segment"] == 1
    assert all(result is results[0] for result in results)


async def test_two_ingress_replicas_share_one_run(tmp_path: Path):
    workers, cache = FakeWorkers(), FakeCache()
    one, two = (make_bench(tmp_path, workers=workers, cache=cache) for _ in range(2))
    image = await one.image()
    workers.gate.clear()

    callers = [asyncio.create_task(bench.segment(image, "r")) for bench in (one, two)]
    await until(lambda: cache.entries.stats.waits)
    workers.gate.set()
    await asyncio.gather(*callers)

    assert workers.calls["segment"] == 1
    assert two.of(ResultReused) == [
        ResultReused(request_id="r", image_id=image.image_id, stage="segment", source="cache")
    ]


async def test_cancelling_the_first_caller_leaves_the_result_to_the_others(bench: Bench):
    image = await bench.image()
    bench.workers.gate.clear()
    first, second = (asyncio.create_task(bench.segment(image, name)) for name in ("first", "second"))
    await until(lambda: bench.workers.calls["segment"])

    first.cancel()
    bench.workers.gate.set()

    assert len(await second) == 2
    assert first.cancelled()
    assert bench.workers.calls["segment"] == 1


async def test_work_without_a_caller_is_cancelled_and_releases_its_lease(bench: Bench):
    image = await bench.image()
    bench.workers.gate.clear()
    only = asyncio.create_task(bench.segment(image, "r"))
    await until(lambda: bench.workers.calls["segment"])

    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    bench.workers.gate.set()

    assert not bench.of(ImageSegmented)
    assert len(await bench.segment(image, "again")) == 2  # would wait for the lease to expire otherwise
    assert bench.workers.calls["segment"] == 2


async def test_a_disconnect_cancels_the_denoising(bench: Bench):
    bench.workers.gate.clear()
    caller = asyncio.create_task(bench.generate(a_job(steps=50)))
    await until(lambda: bench.workers.calls["generate"])

    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    bench.workers.gate.set()

    assert bench.workers.steps == 0
    assert len(bench.services.generation.admission) == 0


async def test_a_dead_cache_delays_the_result_but_loses_none(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    image = await bench.image()
    bench.cache.silent = True

    segmenting = asyncio.create_task(bench.segment(image, "r"))
    await until(lambda: bench.cache.unanswered)
    pass_time(monkeypatch, seconds=PATIENCE_S + 1)  # the deadline of the call

    assert len(await segmenting) == 2
    assert bench.of(CacheBypassed) == [CacheBypassed(request_id="r", operation="acquire")]


@pytest.mark.parametrize("stage", ["generate", "describe", "segment", "encode"])
async def test_a_stage_is_retried_once_after_a_lost_worker(bench: Bench, stage: str):
    bench.workers.deaths[stage] = 1

    await bench.segment(await bench.image(), "r")

    assert [event.stage for event in bench.of(StageRetried)] == [stage]
    assert bench.workers.calls[stage] == 2


async def test_a_worker_lost_in_every_attempt_raises_a_retriable_error(bench: Bench):
    bench.workers.deaths["generate"] = MAX_ATTEMPTS

    with pytest.raises(WorkerLost) as raised:
        await bench.image()

    assert raised.value.status == 503
    assert raised.value.retry_after_s


async def test_each_session_has_its_own_last_image(bench: Bench):
    images = {f"s{i}": await bench.image(seed=i, sessions=(f"s{i}",)) for i in range(5)}

    for session, image in images.items():
        assert (await bench.services.images.find(None, owner="public", session=session)) == image
    with pytest.raises(NoImageYet):
        await bench.services.images.find(None, owner="public", session="nobody")
    with pytest.raises(NoImageYet):
        await bench.services.images.find(None, owner="other", session="s1")


async def test_an_unknown_image_is_not_found(bench: Bench):
    with pytest.raises(ImageNotFound, match="0198"):
        await bench.services.images.find("0198", owner="public", session="s")


async def test_admission_rejects_requests_over_the_limit(tmp_path: Path):
    bench = make_bench(tmp_path, AdmissionSettings(max_generations=2))
    bench.workers.gate.clear()
    accepted = [asyncio.create_task(bench.image(seed=i)) for i in range(2)]
    await until(lambda: len(bench.services.generation.admission) == 2)

    with pytest.raises(Overloaded) as rejected:
        await bench.image(seed=9)
    bench.workers.gate.set()

    assert rejected.value.status == 429
    assert rejected.value.retry_after_s
    assert len(await asyncio.gather(*accepted)) == 2
    assert await bench.image(seed=9)


async def test_new_weights_change_the_cache_keys(bench: Bench):
    image = await bench.image()
    await bench.segment(image, "r")

    bench.workers.model = "weights-2"
    bench.services.models.note("Segmenter", "weights-2")
    await bench.segment(image, "r")

    assert bench.workers.calls["segment"] == 2


async def test_a_result_of_new_weights_is_not_cached_for_the_old_ones(bench: Bench):
    image = await bench.image()
    await bench.services.models.fingerprint("Segmenter")
    bench.workers.model = "weights-2"  # a rollout the ingress doesn't know of

    await bench.segment(image, "r")
    await bench.segment(image, "r")

    assert bench.workers.calls["segment"] == 1
    assert await bench.services.models.fingerprint("Segmenter") == "weights-2"


async def test_a_model_that_is_not_ready_reports_why(tmp_path: Path):
    bench = make_bench(tmp_path)
    image = await bench.image()
    other = make_bench(tmp_path)
    other.workers.reason = "sam2.1_b.pt is missing"

    with pytest.raises(ModelNotReady, match=r"sam2\.1_b\.pt is missing"):
        await other.segment(image, "r")


async def test_probe_maps_the_profile_s_bounds_to_percentages(bench: Bench):
    probe = await bench.services.queries.probe(await bench.image(), "apple", "r")

    assert probe.image_match == pytest.approx(0.125 / 0.45)  # 0.125 between 0 and 0.45
    assert probe.region_matches == (pytest.approx(0.125 / 0.45), pytest.approx(0.0))
    assert probe.region_labels == ("apple", "plate")


async def test_a_region_that_is_cut_out_has_an_id_by_which_it_is_found_again(bench):
    image = await bench.image(seed=3)
    inside, outside = (PointsAndBox(points=((x, y, True),)) for x, y in ((19, 19), (1, 1)))

    found = [await bench.services.regions.cut_out(image, prompt, "r") for prompt in (outside, inside, inside)]
    again = await bench.services.regions.get(image, found[1].chosen[0].region_id, "r")

    ids = [each.chosen[0].region_id for each in found]
    assert ids == [FIRST_SELECTED_REGION, FIRST_SELECTED_REGION + 1, FIRST_SELECTED_REGION + 1]
    masks = [decode_mask(each.segmentation.rles[0], each.segmentation.size) for each in (*found, again)]
    assert [bool(mask[1, 1]) for mask in masks] == [True, False, False, False]
    assert all(len(each.descriptions) == len(each.segmentation) == 1 for each in found)
    assert again.chosen == found[1].chosen

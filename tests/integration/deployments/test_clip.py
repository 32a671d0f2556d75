"""The CLIP deployment with the real engine, without a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from ray import serve

from deployments.clip import Clip
from graphs.workers.handles import ServeWorkers, SharedImage
from pipeline.engines.clip import ClipEngine
from pipeline.settings import ServiceSettings, TraceSettings, ZeroShotSettings
from pipeline.traces import within
from testing.tracing import CALLER, CALLER_TRACE, KeptTraces, spans_in
from testing.waiting import until
from tests.unit.shapes import draw_shapes, rectangle, segmentation_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def replica_spans(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("traces") / "replica.jsonl"


@pytest.fixture(scope="module")
def clip(replica_spans):
    settings = ServiceSettings().load_profile().clip
    app = Clip.bind(settings, "cpu", 1, TraceSettings(to=f"file:{replica_spans}"))
    return serve.run(app, name="clip", _local_testing_mode=True)


async def test_concurrent_calls_are_batched_and_each_gets_its_own_result(clip, monkeypatch):
    image = draw_shapes()
    regions = segmentation_of((128, 128), rectangle((128, 128), 8, 8, 60, 60), rectangle((128, 128), 60, 8, 120, 64))
    few, many = ZeroShotSettings(labels=("apple", "clock", "house"), top_k=2), ZeroShotSettings(labels=("apple", "bus"))
    calls = [(image, None, few), (image, regions, few), (image, None, many)] * 2
    alone = [(await clip.describe.remote(*each)).value for each in calls]
    batches = []
    describe = ClipEngine.describe
    monkeypatch.setattr(
        ClipEngine,
        "describe",
        lambda engine, images, labelling: batches.append(len(images)) or describe(engine, images, labelling),
    )
    batched = await asyncio.gather(*(clip.describe.remote(*each) for each in calls))
    assert len(batches) < len(calls)
    assert sum(batches) == 8
    for one, computed in zip(alone, batched, strict=True):
        assert len(computed.value) == len(one)
        assert computed.value.labels == one.labels
        assert np.allclose(computed.value.vectors, one.vectors, atol=1e-5)


async def test_a_failed_batch_is_retried_one_by_one_so_that_only_the_bad_call_fails(clip, monkeypatch):
    describe = ClipEngine.describe

    def describe_or_fail(engine, images, labelling):
        if any(image.shape[0] == 7 for image in images):
            raise ZeroDivisionError
        return describe(engine, images, labelling)

    monkeypatch.setattr(ClipEngine, "describe", describe_or_fail)
    images = [draw_shapes(), draw_shapes(7, 7), draw_shapes(64, 64)]
    good, bad, fine = await asyncio.gather(
        *(clip.describe.remote(image, None, ZeroShotSettings(labels=("apple", "bus"))) for image in images),
        return_exceptions=True,
    )
    assert isinstance(bad, ZeroDivisionError)
    assert len(good.value) == len(fine.value) == 1


async def test_a_failure_is_raised_only_in_the_calls_of_its_batch(clip, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ClipEngine, "describe", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await clip.describe.remote(draw_shapes(), None, ZeroShotSettings())
    assert len((await clip.describe.remote(draw_shapes(), None, ZeroShotSettings())).value) == 1


async def test_a_batch_is_in_the_trace_of_each_of_its_calls(clip, replica_spans):
    few = ZeroShotSettings(labels=("apple", "bus"))
    workers = ServeWorkers(diffusion=clip, clip=clip, segmenter=clip, renderer=clip)
    image = SharedImage(digest="", pixels=draw_shapes())
    with KeptTraces().request("POST", [CALLER]) as context, within(context):
        await asyncio.gather(*(workers.describe(image, None, few) for _ in range(3)), workers.encode_texts(["apple"]))
        assert (await workers.status("Clip")).ready  # a shared call, so in no trace
    await until(lambda: len(spans_in(replica_spans)) == 8)

    spans = spans_in(replica_spans)
    replies = {span["context"]["span_id"]: span["name"] for span in spans if span["name"] != "forward"}
    forwards = [span for span in spans if span["name"] == "forward"]
    assert {int(span["context"]["trace_id"], 16) for span in spans} == {CALLER_TRACE}
    assert sorted(replies[span["parent_id"]] for span in forwards) == ["Clip.describe"] * 3 + ["Clip.encode_texts"]
    assert sorted(span["attributes"].get("texts", 0) for span in forwards) == [0, 0, 0, 1]

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
from pipeline.settings import Labelling, ServiceSettings, TraceSettings
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


async def test_calls_that_wait_together_are_answered_together_and_each_gets_its_own(clip, monkeypatch):
    picture = draw_shapes()
    regions = segmentation_of((128, 128), rectangle((128, 128), 8, 8, 60, 60), rectangle((128, 128), 60, 8, 120, 64))
    few, many = Labelling(labels=("apple", "clock", "house"), top_k=2), Labelling(labels=("apple", "bus"))
    asked = [(picture, None, few), (picture, regions, few), (picture, None, many)] * 2
    alone = [(await clip.describe.remote(*each)).value for each in asked]
    batches = []
    describe = ClipEngine.describe
    monkeypatch.setattr(
        ClipEngine,
        "describe",
        lambda engine, pictures, labelling: batches.append(len(pictures)) or describe(engine, pictures, labelling),
    )
    together = await asyncio.gather(*(clip.describe.remote(*each) for each in asked))
    assert len(batches) < len(asked)
    assert sum(batches) == 8
    for one, computed in zip(alone, together, strict=True):
        assert len(computed.value) == len(one)
        assert computed.value.labels == one.labels
        assert np.allclose(computed.value.vectors, one.vectors, atol=1e-5)


async def test_what_fails_together_is_tried_alone_so_that_one_s_fault_is_its_own(clip, monkeypatch):
    describe = ClipEngine.describe

    def describe_or_fail(engine, pictures, labelling):
        if any(picture.shape[0] == 7 for picture in pictures):
            raise ZeroDivisionError
        return describe(engine, pictures, labelling)

    monkeypatch.setattr(ClipEngine, "describe", describe_or_fail)
    pictures = [draw_shapes(), draw_shapes(7, 7), draw_shapes(64, 64)]
    good, bad, fine = await asyncio.gather(
        *(clip.describe.remote(picture, None, Labelling(labels=("apple", "bus"))) for picture in pictures),
        return_exceptions=True,
    )
    assert isinstance(bad, ZeroDivisionError)
    assert len(good.value) == len(fine.value) == 1


async def test_what_fails_fails_those_who_waited_for_it_and_nobody_later(clip, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(ClipEngine, "describe", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await clip.describe.remote(draw_shapes(), None, Labelling())
    assert len((await clip.describe.remote(draw_shapes(), None, Labelling())).value) == 1


async def test_a_batch_is_in_the_trace_of_everyone_who_is_in_it(clip, replica_spans):
    few = Labelling(labels=("apple", "bus"))
    workers = ServeWorkers(diffusion=clip, clip=clip, segmenter=clip, renderer=clip)
    image = SharedImage(digest="", pixels=draw_shapes())
    with KeptTraces().of_request("POST", [CALLER]) as request, within(request):
        await asyncio.gather(*(workers.describe(image, None, few) for _ in range(3)), workers.encode_texts(["apple"]))
        assert (await workers.status("Clip")).ready  # asked for everybody, so in no trace
    await until(lambda: len(spans_in(replica_spans)) == 8)

    spans = spans_in(replica_spans)
    replies = {span["context"]["span_id"]: span["name"] for span in spans if span["name"] != "forward"}
    forwards = [span for span in spans if span["name"] == "forward"]
    assert {int(span["context"]["trace_id"], 16) for span in spans} == {CALLER_TRACE}
    assert sorted(replies[span["parent_id"]] for span in forwards) == ["Clip.describe"] * 3 + ["Clip.encode_texts"]
    assert sorted(span["attributes"].get("texts", 0) for span in forwards) == [0, 0, 0, 1]

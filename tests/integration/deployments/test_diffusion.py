"""The diffusion deployment with the real engine, without a cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from ray import serve

from deployments.diffusion import Diffusion
from graphs.workers.handles import ServeWorkers
from pipeline.engines.diffusion.batching import ContinuousDiffusion
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.records import GenerationRequest, Scheduler, StepProgress
from pipeline.settings import ServiceSettings, TraceSettings
from pipeline.traces import within
from testing.tracing import CALLER, CALLER_TRACE, KeptTraces, names_in, spans_in
from testing.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


def a_request(**changes) -> GenerationRequest:
    fields = {
        "prompt": "red apple",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 6,
        "guidance": 3.0,
        "seed": 7,
        "scheduler": Scheduler.DDIM,
    }
    return GenerationRequest(**(fields | changes))


@pytest.fixture(scope="module")
def replica_spans(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("traces") / "replica.jsonl"


@pytest.fixture(scope="module")
def diffusion(replica_spans):
    settings = ServiceSettings().load_profile().diffusion.model_copy(update={"progress_every_s": 3600})
    app = Diffusion.bind(settings, "cpu", 1, TraceSettings(to=f"file:{replica_spans}"))
    return serve.run(app, name="diffusion", _local_testing_mode=True)


@pytest.fixture
def workers(diffusion) -> ServeWorkers:
    return ServeWorkers(diffusion=diffusion, clip=diffusion, segmenter=diffusion, renderer=diffusion)


async def collected(workers, *, previews: bool = False, **changes) -> list:
    return [item async for item in workers.generate(a_request(**changes), "public", previews=previews)]


def start_after_admitting(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Delay the first step until so many requests are admitted."""
    admitted = []
    admit, step = ContinuousDiffusion.admit, ContinuousDiffusion.step
    monkeypatch.setattr(
        ContinuousDiffusion, "admit", lambda runner, order: admitted.append(order) or admit(runner, order)
    )
    monkeypatch.setattr(ContinuousDiffusion, "step", lambda runner: step(runner) if len(admitted) >= number else [])


async def test_requests_are_batched_and_each_gets_its_own_image(workers, monkeypatch):
    alone = [(await collected(workers, seed=seed))[-1] for seed in (1, 2)]
    sizes = []
    advance = DiffusionEngine.advance
    monkeypatch.setattr(
        DiffusionEngine,
        "advance",
        lambda engine, images, rows: sizes.append(len(images)) or advance(engine, images, rows),
    )
    start_after_admitting(monkeypatch, 2)
    batched = await asyncio.gather(*(collected(workers, seed=seed) for seed in (1, 2)))
    for one, (*_, image) in zip(alone, batched, strict=True):
        assert image.model == one.model
        assert np.abs(image.value.astype(int) - one.value).max() <= 1
    assert sizes == [2] * 6


async def test_every_step_is_reported_with_previews_and_throttled_without(workers):
    *every_step, followed = await collected(workers, seed=1, previews=True)
    *throttled, image = await collected(workers, seed=1)
    assert [each.step for each in every_step] == [1, 2, 3, 4, 5, 6]
    assert {each.num_steps for each in every_step} == {6}
    assert any(each.preview is not None for each in every_step)
    assert throttled == [StepProgress(step=1, num_steps=6)]
    assert (image.value == followed.value).all()


async def test_the_steps_and_decoding_of_each_image_are_in_the_trace_of_its_call(workers, replica_spans, monkeypatch):
    await collected(workers, seed=1)  # in no trace
    start_after_admitting(monkeypatch, 2)
    traces = KeptTraces()
    with traces.request("POST", [CALLER]) as context, within(context):
        await asyncio.gather(*(collected(workers, seed=seed) for seed in (1, 2)))
    await until(lambda: names_in(replica_spans)["Diffusion.generate"] == 2)

    assert names_in(replica_spans) == {"Diffusion.generate": 2, "denoise": 2, "decode": 2}
    spans = spans_in(replica_spans)
    assert {int(span["context"]["trace_id"], 16) for span in spans} == {CALLER_TRACE}
    calls = {f"0x{span.context.span_id:016x}" for span in traces.named("call generate")}
    replies = {span["context"]["span_id"]: span for span in spans if span["name"] == "Diffusion.generate"}
    assert {reply["parent_id"] for reply in replies.values()} == calls
    steps = [span["events"] for span in spans if span["name"] == "denoise"]
    assert [[event["attributes"]["step"] for event in events] for events in steps] == [[1, 2, 3, 4, 5, 6]] * 2
    assert [event["attributes"]["images"] for events in steps for event in events] == [2] * 12
    for span in spans:
        if span["name"] != "Diffusion.generate":
            assert replies[span["parent_id"]]["start_time"] <= span["start_time"] <= span["end_time"]


async def test_cancelling_one_request_lets_the_others_finish(workers, monkeypatch):
    leaving = workers.generate(a_request(steps=500), "public")
    await anext(leaving)
    other = asyncio.create_task(collected(workers, seed=3))
    cancelled = []
    cancel = ContinuousDiffusion.cancel
    monkeypatch.setattr(ContinuousDiffusion, "cancel", lambda runner, key: cancelled.append(key) or cancel(runner, key))
    await leaving.aclose()
    *_, image = await other
    assert image.value.shape == (64, 64, 3)
    assert cancelled


async def test_cancelling_the_last_request_leaves_the_engine_idle(workers, monkeypatch):
    idle = asyncio.Event()
    cancel = ContinuousDiffusion.cancel

    def cancel_and_check(runner, key):
        cancel(runner, key)
        if runner.is_idle:
            loop.call_soon_threadsafe(idle.set)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(ContinuousDiffusion, "cancel", cancel_and_check)
    leaving = workers.generate(a_request(steps=500), "public")
    await anext(leaving)
    await leaving.aclose()
    async with asyncio.timeout(PATIENCE_S):
        await idle.wait()


async def test_an_invalid_request_fails_alone(workers):
    odd, fine = await asyncio.gather(collected(workers, width=72), collected(workers, seed=4), return_exceptions=True)
    assert "multiples of 16" in str(odd)
    assert fine[-1].value.shape == (64, 64, 3)


async def test_counting_tokens_concurrently_changes_no_image(workers):
    prompts = [f"pear {number}" for number in range(20)]
    alone = [(await collected(workers, prompt=prompt, steps=1, seed=9, deterministic=True))[-1] for prompt in prompts]
    done = asyncio.Event()
    counting = asyncio.create_task(count_until(done, workers))
    others = [f"{prompt} " for prompt in prompts]  # not encoded yet
    meanwhile = [(await collected(workers, prompt=text, steps=1, seed=9, deterministic=True))[-1] for text in others]
    done.set()
    await counting

    assert all(np.array_equal(one.value, other.value) for one, other in zip(alone, meanwhile, strict=True))
    once, twice = await workers.count_tokens("Diffusion", ["red apple", "red apple red apple"])
    assert once - 2 == (twice - 2) / 2 > 0  # without the begin and end tokens


async def count_until(done: asyncio.Event, workers) -> None:
    while not done.is_set():
        await workers.count_tokens("Diffusion", ["a long prompt of several words"] * 50)

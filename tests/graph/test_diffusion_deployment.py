"""The diffusion deployment with the real engine, without a cluster."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from ray import serve

from deployments.diffusion import Diffusion
from graphs.workers import ServeWorkers
from pipeline.engines.continuous import ContinuousDiffusion
from pipeline.engines.diffusion import DiffusionEngine
from pipeline.records import GenerationRequest, Scheduler, StepProgress
from pipeline.settings import ServiceSettings

pytestmark = pytest.mark.anyio


def a_request(**changes) -> GenerationRequest:
    facts = {
        "prompt": "red apple",
        "negative_prompt": "",
        "width": 64,
        "height": 64,
        "steps": 6,
        "guidance": 3.0,
        "seed": 7,
        "scheduler": Scheduler.DDIM,
    }
    return GenerationRequest(**(facts | changes))


@pytest.fixture(scope="module")
def diffusion():
    settings = ServiceSettings().load_profile().diffusion
    return serve.run(Diffusion.bind(settings, "cpu", 1), name="diffusion", _local_testing_mode=True)


@pytest.fixture
def workers(diffusion) -> ServeWorkers:
    return ServeWorkers(diffusion=diffusion, clip=diffusion, segmenter=diffusion, renderer=diffusion)


async def collected(workers, **changes) -> list:
    return [item async for item in workers.generate(a_request(**changes), "public")]


async def test_requests_are_denoised_together_and_each_gets_its_own_image(workers, monkeypatch):
    alone = [(await collected(workers, seed=seed))[-1] for seed in (1, 2)]
    sizes = []
    advance = DiffusionEngine.advance
    monkeypatch.setattr(
        DiffusionEngine,
        "advance",
        lambda engine, images, rows: sizes.append(len(images)) or advance(engine, images, rows),
    )
    together = await asyncio.gather(*(collected(workers, seed=seed) for seed in (1, 2)))
    for one, (*steps, image) in zip(alone, together, strict=True):
        assert steps == [StepProgress(step=i, num_steps=6) for i in range(1, 7)]
        assert image.model == one.model
        assert np.abs(image.value.astype(int) - one.value).max() <= 1
    assert sizes.count(2) >= 4  # of six steps: the second may come a step later


async def test_who_leaves_frees_the_others(workers, monkeypatch):
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


async def test_the_last_who_leaves_is_forgotten_too(workers, monkeypatch):
    idle = asyncio.Event()
    cancel = ContinuousDiffusion.cancel

    def cancel_and_look(runner, key):
        cancel(runner, key)
        if runner.is_idle:
            loop.call_soon_threadsafe(idle.set)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(ContinuousDiffusion, "cancel", cancel_and_look)
    leaving = workers.generate(a_request(steps=500), "public")
    await anext(leaving)
    await leaving.aclose()
    async with asyncio.timeout(20):
        await idle.wait()


async def test_one_that_can_not_begin_is_its_own_failure(workers):
    odd, fine = await asyncio.gather(collected(workers, width=72), collected(workers, seed=4), return_exceptions=True)
    assert "multiples of 16" in str(odd)
    assert fine[-1].value.shape == (64, 64, 3)


async def test_counting_tokens_meanwhile_changes_no_image(workers):
    prompts = [f"pear {number}" for number in range(20)]
    alone = [(await collected(workers, prompt=prompt, steps=1, seed=9, deterministic=True))[-1] for prompt in prompts]
    over = asyncio.Event()
    counting = asyncio.create_task(counted_until(over, workers))
    others = [f"{prompt} " for prompt in prompts]  # not encoded yet
    meanwhile = [(await collected(workers, prompt=text, steps=1, seed=9, deterministic=True))[-1] for text in others]
    over.set()
    await counting

    assert all(np.array_equal(one.value, other.value) for one, other in zip(alone, meanwhile, strict=True))
    once, twice = await workers.count_tokens("Diffusion", ["red apple", "red apple red apple"])
    assert once - 2 == (twice - 2) / 2 > 0  # beside the beginning and the end


async def counted_until(over: asyncio.Event, workers) -> None:
    while not over.is_set():
        await workers.count_tokens("Diffusion", ["a long prompt of several words"] * 50)

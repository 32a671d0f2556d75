"""Eight requests at once: denoised in one batch, against diffusers' pipeline with one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from benchmarks.harness import Result, compare
from pipeline.engines.diffusion.batching import ContinuousDiffusion, DenoiseJob
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.engines.diffusion.schedulers import make_scheduler
from pipeline.records import GenerationRequest, Pixels, StepProgress
from pipeline.settings import DiffusionSettings, ServiceSettings

REQUESTS = 8


def measure(quick: bool) -> list[Result]:
    """Throughput of the miniature."""
    settings = ServiceSettings().load_profile().diffusion
    engine = DiffusionEngine(settings, "cpu")
    requests = [request_for(settings, f"a {colour} apple", seed) for seed, colour in enumerate(COLOURS)]
    pipeline = StableDiffusionPipeline.from_pretrained(settings.model.local_path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    rounds = 2 if quick else 6
    return [
        compare(
            "diffusion", f"{REQUESTS} images, throughput", lambda: together(engine, settings, requests),
            lambda: [naively(pipeline, request) for request in requests],
            rounds=rounds, goal="≥ 1.5", fidelity=agreement, per=REQUESTS,
        ),
        compare(
            "diffusion", f"{REQUESTS} images, against our own engine one at a time",
            lambda: together(engine, settings, requests), lambda: [alone(engine, request) for request in requests],
            rounds=rounds, goal="", fidelity=agreement, per=REQUESTS,
        ),
    ]  # fmt: skip


COLOURS = ("red", "green", "blue", "yellow", "purple", "pink", "white", "brown")


def request_for(settings: DiffusionSettings, prompt: str, seed: int) -> GenerationRequest:
    """A request with the profile's defaults."""
    defaults = settings.defaults
    return GenerationRequest(
        prompt=prompt,
        negative_prompt="",
        width=defaults.width,
        height=defaults.height,
        steps=defaults.steps,
        guidance=defaults.guidance,
        seed=seed,
        scheduler=defaults.scheduler,
    )


def together(engine: DiffusionEngine, settings: DiffusionSettings, requests: list[GenerationRequest]) -> list[Pixels]:
    """All in one batch, as in a replica."""
    runner = ContinuousDiffusion(engine, settings.batch_rows)
    images: dict[str, Any] = {}
    for number, request in enumerate(requests):
        runner.admit(DenoiseJob(key=str(number), request=request))
    while not runner.is_idle:
        for happening in runner.step():
            if not isinstance(happening.outcome, StepProgress):
                images[happening.key] = happening.outcome
    return [images[str(number)] for number in range(len(requests))]


def alone(engine: DiffusionEngine, request: GenerationRequest) -> Pixels:
    """One on its own."""
    *_, image = engine.generate(request)
    if not isinstance(image, np.ndarray):
        raise TypeError("the engine ended without an image")
    return image


def naively(pipeline: Any, request: GenerationRequest) -> Pixels:
    """Diffusers' own pipeline, one request at a time."""
    pipeline.scheduler = make_scheduler(request.scheduler, dict(pipeline.scheduler.config), request.steps, "cpu")
    image = pipeline(
        request.prompt,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator().manual_seed(request.seed),
    ).images[0]
    return np.asarray(image)


def agreement(ours: list[Pixels], theirs: list[Pixels]) -> str:
    """The maximum difference of a pixel."""
    return f"≤ {max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(ours, theirs, strict=True))}/255"

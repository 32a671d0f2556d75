"""Cost of the miniature models: their size, and their latency on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.settings import Profile
from training.diffusion.generated_images import STEPS, generate, load_engine
from training.evaluation.clip import load_clip
from training.evaluation.measures import Figure
from training.sam2.serving import open_engine, segment

ROUNDS = 15


def evaluate_cost(models: Path, side: int, profile: Profile) -> list[Figure]:
    """Measure the size of the weights, and median times of generating, segmenting and classifying an image."""
    size_mb = sum(file.stat().st_size for file in models.rglob("*.safetensors")) / 1e6
    diffusion = load_engine(models / "diffusion", side)
    clip = load_clip(models)
    picture = np.asarray(generate(diffusion, "red apple", 0, side))
    painting_s = time_median(lambda: generate(diffusion, "red apple", 0, side))
    segmenter = open_engine(models / "sam2")

    def segment_anew() -> None:
        segmenter.clear_cache()
        segment(segmenter, picture, profile.sam2.everything)

    segmenting_s = time_median(segment_anew)
    naming_s = time_median(lambda: clip.describe([picture], profile.clip.labelling))
    return [
        lesser("All: size of the weights", size_mb, 70, "MB", 1),
        lesser(f"Diffusion: {STEPS} steps at {side} px", painting_s, 1.2, "s", ROUNDS),
        lesser("SAM2: everything", 1000 * segmenting_s, 300, "ms", ROUNDS),
        lesser("CLIP: one image", 1000 * naming_s, 20, "ms", ROUNDS),
    ]


def lesser(what: str, value: float, goal: float, unit: str, samples: int) -> Figure:
    """A figure for which lower is better."""
    return Figure(what=what, value=value, goal=goal, samples=samples, unit=unit, smaller_is_better=True)


def time_median(work: Callable[[], object]) -> float:
    """Median time of the work after one warm-up, in seconds."""
    work()
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)

"""Probing a segmented image with a text: cached embeddings and one text encoding, against encoding everything again."""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np

from benchmarks.engines.crops import CROPS, draw_crops
from benchmarks.harness import Result, compare
from pipeline.engines.clip import ClipEngine
from pipeline.settings import ServiceSettings


def measure(quick: bool) -> list[Result]:
    """A cached text, and new ones."""
    profile = ServiceSettings().load_profile().clip
    engine = ClipEngine(profile, "cpu")
    crops = draw_crops()
    kept = engine.describe(crops, profile.labelling).vectors  # what the service caches of a segmented image
    numbers = count()

    def naive(text: str) -> Any:
        fresh = engine.encode_texts([text])
        return engine.describe(crops, profile.labelling).vectors @ fresh[0]

    def same(ours: np.ndarray, theirs: np.ndarray) -> str:
        return f"scores differ by {np.abs(ours - theirs).max():.0e}"

    rounds = 20 if quick else 100
    return [
        compare(
            "probe", f"known text, {CROPS} regions", lambda: kept @ engine.encode_texts(["red"])[0],
            lambda: naive("red"), rounds=rounds, goal="≥ 50, ≤ 3 ms", fidelity=same,
        ),
        compare(
            "probe", f"new text, {CROPS} regions", lambda: kept @ engine.encode_texts([f"red {next(numbers)}"])[0],
            lambda: naive(f"blue {next(numbers)}"), rounds=rounds, goal="", fidelity=lambda *_: "",
        ),
    ]  # fmt: skip

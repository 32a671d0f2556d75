"""Point prompts on an image with a cached encoding, against the first one, which encodes it."""

from __future__ import annotations

import numpy as np

from benchmarks.engines.everything import SEED, untrained_engine
from benchmarks.harness import Result, compare
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.imaging.masks import Mask, decode_mask
from pipeline.records import Pixels, PointsAndBox
from pipeline.settings import AutomaticMaskSettings, ServiceSettings
from training.scenes.render import draw_scene


def measure(quick: bool) -> list[Result]:
    """The miniature, and the real architecture with random weights."""
    profile = ServiceSettings().load_profile().sam2
    scene = np.array(draw_scene(SEED, 256, split="test").pixels)
    results = [one("mini", Sam2Engine(profile, "cpu"), scene, profile.everything, 5 if quick else 20)]
    if not quick:
        results.append(one("SAM2.1-b+ untrained", untrained_engine(), scene, AutomaticMaskSettings(), 3))
    return results


def one(case: str, engine: Sam2Engine, scene: Pixels, everything: AutomaticMaskSettings, rounds: int) -> Result:
    """Prompt the same point with and without a cached encoding."""
    prompt = PointsAndBox(points=((100.0, 120.0, True),))

    def again() -> Mask:
        found = engine.segment_prompts(scene, [prompt], everything)
        return decode_mask(found.rles[0], found.size)

    def first() -> Mask:
        engine.clear_cache()
        return again()

    return compare(
        "prompts", f"{case}, second prompt", again, first, rounds=rounds, goal="≥ 20",
        fidelity=lambda ours, theirs: "same mask" if np.array_equal(ours, theirs) else "ANOTHER MASK",
    )  # fmt: skip

"""Calibration of text search on CLIP's cosines: `python -m training.calibration.text_search_bounds models/mini`.

The scenes are disjoint from those of the evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.engines.clip import ClipEngine
from pipeline.records import Vectors
from pipeline.settings import Profile, ServiceSettings, TextSearchSettings
from pipeline.text_scoring import evidence, score
from training.evaluation.clip import load_clip
from training.evaluation.text_search import ALIKE, Sight, look_at, name
from training.scenes.dataset import SIDE, WORK, Choice, load_scenes

NUM = 300  # scenes
FIRST = 1_000_000  # seed; the evaluation's are below
FALSE_SHARE = 0.9  # target share of absent kinds that find nothing
SCALES = (2.0, 3.0, 5.0, 7.0, 10.0, 14.0, 20.0, 30.0, 50.0, 70.0, 100.0, 140.0, 200.0)

Values = npt.NDArray[np.float32]


def find_bounds(models: Path, scenes: Path, side: int, profile: Profile) -> TextSearchSettings:
    """Calibrate the profile's bound and scale for its models, from the names of kinds and scenes of two objects."""
    engine = load_clip(models)
    shown = load_scenes(Choice(num=NUM, side=side, split="test", num_things=2, first=FIRST), scenes)
    sights = look_at(shown, models, engine, profile)
    template = profile.clip.finding.template
    absent = compare_absent(engine, sights, template)
    cosines, right = compare_shown(engine, sights, template)
    bounded = profile.clip.finding.model_copy(update={"min_cosine": round(float(np.quantile(absent, FALSE_SHARE)), 2)})
    return bounded.model_copy(update={"logit_scale": fit_scale(cosines, right, bounded)})


def compare_absent(engine: ClipEngine, sights: list[Sight], template: str) -> Values:
    """The evidence for each absent kind, in each scene."""
    return np.array(
        [
            evidence(sight.regions, sight.picture, text)
            for sight in sights
            for text in encode_names(engine, sight.absent, template)
        ],
        np.float32,
    )


def compare_shown(engine: ClipEngine, sights: list[Sight], template: str) -> tuple[Values, npt.NDArray[np.bool_]]:
    """Cosines of all regions with the names of their scene's objects, and whether the region is that object."""
    cosines, right = [], []
    for sight in sights:
        texts = encode_names(engine, [kind for kind, _ in sight.things], template)
        cosines.append((texts @ sight.regions.T).ravel())
        right.append((sight.iou >= ALIKE).ravel())
    return np.concatenate(cosines), np.concatenate(right)


def encode_names(engine: ClipEngine, kinds: Sequence[str], template: str) -> Vectors:
    """The vectors, (n, d), of the kinds' names."""
    return engine.encode_texts([template.format(text=name(kind, None)) for kind in kinds])


def fit_scale(cosines: Values, right: npt.NDArray[np.bool_], bounded: TextSearchSettings) -> float:
    """The maximum-likelihood scale, with which scores best match the odds of a region being correct."""

    def loss(scale: float) -> float:
        scores = score(cosines, bounded.model_copy(update={"logit_scale": scale}))
        return float(-np.log(np.where(right, scores, 1 - scores).clip(1e-7)).mean())

    return SCALES[int(np.argmin([loss(scale) for scale in SCALES]))]


def main() -> None:
    """Read the command line and print the settings for a profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the models")
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    found = find_bounds(arguments.folder, arguments.work, SIDE, ServiceSettings().load_profile())
    for key, value in found.model_dump().items():
        print(f"{key}: {value}")


if __name__ == "__main__":
    main()

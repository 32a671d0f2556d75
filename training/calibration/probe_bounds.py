"""Calibration of probing with a trained CLIP: `python -m training.calibration.probe_bounds models/mini/clip`.

The scenes are disjoint from those of the evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.engines.clip import ClipEngine
from pipeline.settings import ClipSettings, ModelSource, ProbeCalibration, ZeroShotSettings
from training.evaluation.clip import cut_out
from training.scenes.dataset import COLOUR_NAMES, KIND_NAMES, NONE, SIDE, WORK, Choice, load_scenes

NUM = 300  # scenes
FIRST = 1_000_000  # seed; the evaluation's are below
FALSE_SHARE, TRUE_SHARE = 0.9, 0.95  # percentiles of the cosines of false and true texts for the bounds

Cosines = npt.NDArray[np.float32]


def find_bounds(folder: Path, scenes: Path, side: int) -> ProbeCalibration:
    """Calibrate the profile's bounds for a model, from the names of colours and regions of scenes of two objects."""
    engine = ClipEngine(ClipSettings(model=ModelSource(source=str(folder.resolve()))), "cpu")
    true, false = probe_colours(engine, scenes, side)
    return ProbeCalibration(
        floor=round(float(np.quantile(false, FALSE_SHARE)), 2), ceiling=round(float(np.quantile(true, TRUE_SHARE)), 2)
    )


def probe_colours(engine: ClipEngine, scenes: Path, side: int) -> tuple[Cosines, Cosines]:
    """Cosines of regions with the name of their colour, and with those of other colours."""
    shown = load_scenes(Choice(num=NUM, side=side, split="test", num_things=2, first=FIRST), scenes)
    words = engine.encode_texts(COLOUR_NAMES)
    true, false = [], []
    for i in range(NUM):
        colours = shown.colours[i][shown.colours[i] != NONE]
        crops = [cut_out(shown, i, number + 1, engine.fill) for number in range(len(colours))]
        cosines = engine.describe(crops, ZeroShotSettings(labels=KIND_NAMES)).vectors @ words.T  # (things, colours)
        is_true = np.arange(len(COLOUR_NAMES)) == colours[:, None]
        true.append(cosines[is_true])
        false.append(cosines[~is_true])
    return np.concatenate(true), np.concatenate(false)


def main() -> None:
    """Read the command line and print the settings for a profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("--work", type=Path, default=WORK)
    arguments = parser.parse_args()
    for name, value in find_bounds(arguments.folder, arguments.work, SIDE).model_dump().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()

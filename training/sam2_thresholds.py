"""Which grid and thresholds suit a trained SAM2: `python -m training.sam2_thresholds models/mini/sam2`.

Candidates are decoded once per grid, without any filter; every set of thresholds is then tried on the same ones. The
scenes are others than those of the evaluation.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

from pipeline.engines.sam2 import Sam2Engine
from pipeline.settings import Everything
from training.dataset import SIDE, WORK, Choice, Scenes, load_scenes
from training.evaluate_sam2 import Masks, Tally, masks_of, open_engine, pairwise_iou, segment, true_masks

NUM = 80  # scenes
FIRST = 1_000_000  # seed; the evaluation's are below
REGIONS = 1.4  # per true object; more than that costs
LENIENT = Everything(min_predicted_iou=0.3, min_stability=0.5, max_box_iou=1.0)

POINTS_PER_SIDE = (6, 8, 12)
MIN_PREDICTED_IOU = (0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)
MIN_STABILITY = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
MAX_BOX_IOU = (0.5, 0.6, 0.7, 0.8)
MIN_AREA = (0.001, 0.005, 0.01)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Everything a grid gives for one scene, before any filter."""

    predicted_iou: npt.NDArray[np.float32]  # (n,)
    stability: npt.NDArray[np.float32]  # (n,)
    boxes: npt.NDArray[np.float32]  # (n, 4)
    areas: npt.NDArray[np.float32]  # (n,), shares of the picture
    iou: npt.NDArray[np.float32]  # (things, n)


def find_thresholds(folder: Path, scenes: Path, side: int, image_size: int) -> tuple[Everything, Tally]:
    """Find the profile's settings for a model, and how they fare on the scenes they were chosen on."""
    engine = open_engine(folder)
    shown = load_scenes(Choice(num=NUM, side=side, split="test", first=FIRST), scenes)
    best: tuple[float, Everything, Tally] | None = None
    for points in POINTS_PER_SIDE:
        grid = LENIENT.model_copy(update={"image_size": image_size, "points_per_side": points})
        trials = [try_out(engine, shown, i, grid) for i in range(NUM)]
        for predicted_iou, stability, box_iou, area in product(MIN_PREDICTED_IOU, MIN_STABILITY, MAX_BOX_IOU, MIN_AREA):
            chosen = grid.model_copy(
                update={
                    "min_predicted_iou": predicted_iou,
                    "min_stability": stability,
                    "max_box_iou": box_iou,
                    "min_area": area,
                }
            )
            tally = tally_trials(trials, chosen)
            worth = rate(tally)
            if best is None or worth > best[0]:
                best = worth, chosen, tally
    if best is None:
        raise ValueError("there is nothing to choose from")
    return best[1], best[2]


def try_out(engine: Sam2Engine, scenes: Scenes, index: int, grid: Everything) -> Trial:
    """Take a scene apart with almost no filter."""
    found = segment(engine, scenes.pixels[index], grid)
    masks: Masks = masks_of(found)
    return Trial(
        predicted_iou=found.predicted_iou,
        stability=found.stability,
        boxes=found.boxes,
        areas=masks.mean((1, 2), dtype=np.float32),
        iou=pairwise_iou(true_masks(scenes, index)[1:], masks),
    )


def tally_trials(trials: list[Trial], chosen: Everything) -> Tally:
    """What thresholds would have left, in the engine's order: filters, duplicates, specks."""
    best: list[float] = []
    regions = 0
    for trial in trials:
        good = (trial.predicted_iou > chosen.min_predicted_iou) & (trial.stability > chosen.min_stability)
        index = np.flatnonzero(good)
        boxes, scores = torch.from_numpy(trial.boxes[index]), torch.from_numpy(trial.predicted_iou[index])
        index = index[nms(boxes, scores, chosen.max_box_iou).numpy()]
        index = index[trial.areas[index] >= chosen.min_area]
        best += trial.iou[:, index].max(1, initial=0).tolist()
        regions += len(index)
    return Tally(best=best, regions=regions, objects=sum(1 + len(trial.iou) for trial in trials))


def rate(tally: Tally) -> float:
    """Finding things well is what counts; many regions for each are a nuisance."""
    return float(np.mean(tally.found)) + tally.mean_best - max(0.0, tally.regions_each - REGIONS)


def main() -> None:
    """Read the command line and print the settings for a profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--image-size", type=int, default=256, help="of the model's input, in pixels")
    arguments = parser.parse_args()
    chosen, tally = find_thresholds(arguments.folder, arguments.work, SIDE, arguments.image_size)
    for name, value in chosen.model_dump().items():
        print(f"{name}: {value}")
    print(f"# found {np.mean(tally.found):.3f}, mean best IoU {tally.mean_best:.3f}, regions {tally.regions_each:.2f}")


if __name__ == "__main__":
    main()

"""Calibration of grid and thresholds for a trained SAM2: `python -m training.calibration.sam2_thresholds models/mini`.

Candidates are decoded once per grid, almost without a filter; every set of thresholds is then evaluated on the same
candidates: of drawn scenes, with known masks, and of generated images, with a known number of objects. All of them are
disjoint from those of the evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import nms

from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.records import Pixels
from pipeline.settings import AutomaticMaskSettings
from training.diffusion.generated_images import covers_border, load_images
from training.diffusion.prompt_sets import training_prompts
from training.evaluation.sam2 import Tally, pairwise_iou, true_masks
from training.sam2.serving import Masks, masks_of, open_engine, segment
from training.scenes.dataset import SIDE, WORK, Choice, load_scenes

DRAWN, GENERATED = 80, 80  # images
FIRST, FIRST_PROMPT = 1_000_000, 3_000_000  # seeds; the evaluation's and the training's are below
REGIONS = 1.15  # per true object; more are penalized
LENIENT = AutomaticMaskSettings(min_predicted_iou=0.5, min_stability=0.6, max_box_iou=1.0)
EVERY = 4  # side in pixels at which masks are compared with each other

POINTS_PER_SIDE = (8, 12)
MIN_PREDICTED_IOU = (0.5, 0.6, 0.7)
MIN_STABILITY = (0.6, 0.7, 0.8, 0.9)
MAX_BOX_IOU = (0.7, 1.0)
MAX_MASK_IOU = (0.3, 0.4, 0.5, 1.0)
MIN_AREA = (0.001, 0.003)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """All candidates of a grid for one image, before any filter."""

    predicted_iou: npt.NDArray[np.float32]  # (n,)
    stability: npt.NDArray[np.float32]  # (n,)
    boxes: npt.NDArray[np.float32]  # (n, 4)
    areas: npt.NDArray[np.float32]  # (n,), shares of the image
    overlaps: npt.NDArray[np.float32]  # (n, n), IoU of the masks with each other
    is_background: npt.NDArray[np.bool_]  # (n,), whether they cover the image's border
    num_things: int  # in the scene, or in the prompt
    iou: npt.NDArray[np.float32] | None  # (things, n); None where the masks aren't known


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Metrics of a set of thresholds."""

    drawn: Tally
    counted: list[bool]  # whether generated images have as many regions as things

    @property
    def worth(self) -> float:
        """The objective: recall without false regions, with a penalty for many regions per object."""
        excess = max(0.0, self.drawn.regions_each - REGIONS)
        return float(np.mean(self.drawn.found)) + self.drawn.mean_best + float(np.mean(self.counted)) - excess


def find_thresholds(
    models: Path, work: Path, side: int, grid: AutomaticMaskSettings
) -> tuple[AutomaticMaskSettings, Fit]:
    """Calibrate the profile's settings for a model; returns them with their metrics on the calibration images.

    Args:
        models: the folder with `diffusion` and `sam2`.
        work: where scenes and images are kept.
        side: of the images, in pixels.
        grid: the settings that are not searched.
    """
    engine = open_engine(models / "sam2")
    scenes = load_scenes(Choice(num=DRAWN, side=side, split="test", first=FIRST), work)
    prompts = training_prompts(GENERATED, FIRST_PROMPT)
    images = load_images(prompts, models / "diffusion", work, side)
    best: tuple[AutomaticMaskSettings, Fit] | None = None
    for points in POINTS_PER_SIDE:
        lenient = grid.model_copy(
            update={"points_per_side": points, "max_mask_iou": 1.0, "min_area": 0.0}
            | LENIENT.model_dump(include={"min_predicted_iou", "min_stability", "max_box_iou"})
        )
        trials = [try_out(engine, scenes.pixels[i], lenient, true_masks(scenes, i)[1:]) for i in range(DRAWN)] + [
            try_out(engine, image, lenient, None, len(prompt.things))
            for image, prompt in zip(images, prompts, strict=True)
        ]
        for chosen in list_candidates(lenient):
            fit = tally_trials(trials, chosen)
            if best is None or fit.worth > best[1].worth:
                best = chosen, fit
    if best is None:
        raise ValueError("there is nothing to choose from")
    return best


def list_candidates(lenient: AutomaticMaskSettings) -> Iterator[AutomaticMaskSettings]:
    """All sets of thresholds."""
    names = ("min_predicted_iou", "min_stability", "max_box_iou", "max_mask_iou", "min_area")
    for values in product(MIN_PREDICTED_IOU, MIN_STABILITY, MAX_BOX_IOU, MAX_MASK_IOU, MIN_AREA):
        yield lenient.model_copy(update=dict(zip(names, values, strict=True)))


def try_out(
    engine: Sam2Engine, pixels: Pixels, lenient: AutomaticMaskSettings, truth: Masks | None, num_things: int = 0
) -> Trial:
    """Segment an image with almost no filter."""
    found = segment(engine, np.asarray(pixels), lenient)
    masks: Masks = masks_of(found)
    coarse = masks[:, EVERY // 2 :: EVERY, EVERY // 2 :: EVERY]
    return Trial(
        predicted_iou=found.predicted_iou,
        stability=found.stability,
        boxes=found.boxes,
        areas=masks.mean((1, 2), dtype=np.float32),
        overlaps=pairwise_iou(coarse, coarse),
        is_background=np.array([covers_border(mask) for mask in masks], np.bool_),
        num_things=num_things if truth is None else len(truth),
        iou=None if truth is None else pairwise_iou(truth, masks),
    )


def tally_trials(trials: Sequence[Trial], chosen: AutomaticMaskSettings) -> Fit:
    """Evaluate thresholds on the candidates."""
    best: list[float] = []
    counted: list[bool] = []
    regions = objects = 0
    for trial in trials:
        index = keep(trial, chosen)
        if trial.iou is None:
            counted.append(bool((~trial.is_background[index]).sum() == trial.num_things))
        else:
            best += trial.iou[:, index].max(1, initial=0).tolist()
            regions += len(index)
            objects += 1 + trial.num_things
    return Fit(drawn=Tally(best=best, regions=regions, objects=objects), counted=counted)


def keep(trial: Trial, chosen: AutomaticMaskSettings) -> npt.NDArray[np.int64]:
    """Candidates kept after the engine's steps, in its order: filters, duplicates, overlaps, specks."""
    good = (trial.predicted_iou > chosen.min_predicted_iou) & (trial.stability > chosen.min_stability)
    index = np.flatnonzero(good)
    boxes, scores = torch.from_numpy(trial.boxes[index]), torch.from_numpy(trial.predicted_iou[index])
    kept: list[int] = []
    for i in index[nms(boxes, scores, chosen.max_box_iou).numpy()]:
        if not (trial.overlaps[i, kept] > chosen.max_mask_iou).any():
            kept.append(int(i))
    return np.array([i for i in kept if trial.areas[i] >= chosen.min_area], np.int64)


def main() -> None:
    """Read the command line and print the settings for a profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the models")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--image-size", type=int, default=256, help="of the model's input, in pixels")
    arguments = parser.parse_args()
    grid = AutomaticMaskSettings(image_size=arguments.image_size, points_per_batch=16)
    chosen, fit = find_thresholds(arguments.folder, arguments.work, SIDE, grid)
    for name, value in chosen.model_dump().items():
        print(f"{name}: {value}")
    drawn = fit.drawn
    print(f"# found {np.mean(drawn.found):.3f}, mean best IoU {drawn.mean_best:.3f}, regions {drawn.regions_each:.2f},")
    print(f"# generated images with as many regions as things: {np.mean(fit.counted):.3f}")


if __name__ == "__main__":
    main()

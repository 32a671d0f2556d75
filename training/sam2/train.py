"""A small SAM2 for drawn scenes, in ultralytics' architecture and the folder format of `pipeline.engines.sam2.loading`.

Its prompts are those of the service, mostly single points, and its targets the visible parts of the objects under them.
Of its three masks for a point the best one has the largest loss weight (Segment Anything, arXiv:2304.02643), and it
learns to predict the IoU of each. Training starts with small images and ends with the size it is served at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from pipeline.engines.device import pick_device
from pipeline.engines.sam2.loading import CONFIG_FILE, IMAGE_PARTS, WEIGHTS_FILE
from training.loop import Recipe, Run
from training.precision import mixed_precision
from training.sam2.model import ARCHITECTURE, LOUDNESS, TrainableSam2, prepare
from training.sam2.prompts import Prompts, draw_prompts
from training.scenes.dataset import Scenes

PICTURES, POINTS = 8, 6  # in a batch, and in each picture
BOXES = 0.15  # share of the steps with box prompts
SMALLEST = 0.004  # share of the image; the weight of smaller masks is capped
# Weights of losses relative to that of the best mask.
SINGLE, EVERY, QUALITY, KIN, DENSE, SCALE = 0.5, 0.5, 1.0, 0.5, 0.3, 0.01


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the training."""

    side: int  # pixels of the model's input
    loss_side: int  # pixels at which masks are compared
    recipe: Recipe


FULL_STAGES = (
    Stage(side=128, loss_side=64, recipe=Recipe(steps=14_000, learning_rate=8e-4, final_rate=0.1, ema=0.999)),
    Stage(side=256, loss_side=128, recipe=Recipe(steps=6_000, learning_rate=4e-4, ema=0.999, seed=1)),
)


def train_sam2(
    scenes: Scenes, stages: tuple[Stage, ...], checkpoints: Path | None, start: Path | None = None
) -> list[Run]:
    """Train all stages: from scratch, from the weights in the folder `start`, or from the checkpoints.

    Returns:
        A run for each stage; the last one holds the model.
    """
    torch.manual_seed(stages[0].recipe.seed)
    device = torch.device(pick_device("auto"))
    model = TrainableSam2()
    if start is not None:
        model.sam2.load_state_dict(load_file(start / WEIGHTS_FILE), strict=False)
    model.to(device)
    runs = []
    for stage in stages:
        run = Run(model, stage.recipe, checkpoints and checkpoints / f"sam2-{stage.side}.pt")
        runs.append(run)
        train_stage(run, stage, scenes, device)
        if stage is not stages[-1]:  # the next one starts from the averaged weights
            with run.averaged():
                averaged = {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(averaged)
    return runs


def train_stage(run: Run, stage: Stage, scenes: Scenes, device: torch.device) -> None:
    """Train to the end of a stage."""

    def loss_of(_step: int, rng: np.random.Generator) -> torch.Tensor:
        prompts = draw_prompts(scenes, PICTURES, POINTS, stage.side, rng)
        points = torch.from_numpy(prompts.points).to(device)
        boxes = torch.from_numpy(prompts.boxes).to(device) if rng.random() < BOXES else None
        with mixed_precision(device):
            answers = run.model(prepare(prompts.pictures, device), points, boxes)
        truth = torch.from_numpy(prompts.truth).to(device).flatten(0, 1).float()
        coarse = resize(truth, answers.kin.shape[-1])[:, None]
        return (
            loss_of_answers(answers.logits, answers.quality, resize(truth, stage.loss_side))
            + KIN * loss_of_masks(LOUDNESS * answers.kin, coarse).mean()
            + DENSE * loss_of_dense(answers.dense, prompts)
            # The neck has no norm: large features would drown the positions.
            + SCALE * functional.relu(answers.power - 1)
        )

    run.train(loss_of, f"SAM2 at {stage.side} px")


def loss_of_answers(logits: torch.Tensor, quality: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Loss of the best of the three masks, the single mask, every mask with a low weight, and predicted IoU.

    Args:
        logits: (q, 4, h, w); the first mask is the single one.
        quality: (q, 4), logits of the masks' IoU.
        truth: (q, H, W), shares of the pixels that are covered.
    """
    side, numbers = truth.shape[-1], torch.arange(len(truth), device=truth.device)
    three = loss_of_masks(logits[:, 1:], resize(truth, logits.shape[-1])[:, None])  # (q, 3)
    best = three.detach().argmin(1) + 1
    with torch.no_grad():
        shown, wanted = resize(logits, side) > 0, (truth > 0.5)[:, None]
        iou = (shown & wanted).sum((2, 3)) / (shown | wanted).sum((2, 3)).clamp(min=1)
    taught = resize(torch.stack([logits[numbers, best], logits[:, 0]], 1), side)
    of_best, of_single = loss_of_masks(taught, truth[:, None]).mean(0)
    of_quality = functional.binary_cross_entropy_with_logits(quality, iou)
    loss: torch.Tensor = of_best + SINGLE * of_single + EVERY * three.mean() + QUALITY * of_quality
    return loss


def loss_of_masks(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, with higher weights for small masks, and Dice, of masks (q, m, h, w), as (q, m)."""
    logits = logits / LOUDNESS
    truth = truth.expand_as(logits)
    areas = truth.mean((2, 3))
    entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    covered = logits.sigmoid()
    dice = 1 - 2 * (covered * truth).mean((2, 3)) / (covered.mean((2, 3)) + areas).clamp(min=1e-4)
    return 2 * entropy / areas.clamp(min=SMALLEST).sqrt() + dice


def loss_of_dense(dense: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """Loss of objectness at the centre of each cell, and of the distances to the sides of its box.

    Args:
        dense: (n, 5, h, w), the head's logits.
    """
    cells, side = dense.shape[-1], prompts.owners.shape[-1]
    middles = ((np.arange(cells) + 0.5) * side / cells).astype(int)
    owners = prompts.owners[:, middles][:, :, middles]  # (n, h, w)
    distances = np.zeros((len(owners), 4, cells, cells), np.float32)
    for i, whole in enumerate(prompts.owners):
        for number in np.unique(owners[i][owners[i] > 0]):
            rows, columns = np.nonzero(whole == number)
            left, right = middles - columns.min(), columns.max() - middles
            above, below = middles - rows.min(), rows.max() - middles
            boxed = np.stack(np.broadcast_arrays(left[None], right[None], above[:, None], below[:, None]))
            distances[i] = np.where(owners[i] == number, boxed / side, distances[i])
    is_thing = torch.from_numpy(owners > 0).to(dense.device)
    return loss_of_cells(dense, is_thing, torch.from_numpy(distances).to(dense.device))


def loss_of_cells(dense: torch.Tensor, is_thing: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """The head's loss against its targets.

    Args:
        dense: (n, 5, h, w), the head's logits.
        is_thing: (n, h, w) bool.
        distances: (n, 4, h, w) to the sides of the thing's box, as shares of the image's side.
    """
    boxes = (dense[:, 1:].sigmoid() - distances).abs().mean(1)
    known = functional.binary_cross_entropy_with_logits(dense[:, 0], is_thing.float())
    return known + 4 * (boxes * is_thing).sum() / is_thing.sum().clamp(min=1)


def resize(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Scale maps, (n, h, w) or (n, m, h, w), to a side: means of areas on the way down, bilinear on the way up."""
    stacked = maps if maps.ndim == 4 else maps[None]
    if side <= stacked.shape[-1]:
        scaled = functional.avg_pool2d(stacked, stacked.shape[-1] // side)
    else:
        scaled = functional.interpolate(stacked, (side, side), mode="bilinear", align_corners=False)
    return scaled if maps.ndim == 4 else scaled[0]


def save_sam2(run: Run, folder: Path) -> None:
    """Write the averaged weights as a folder the engine reads, in half precision, without the memory for videos."""
    prefix = "sam2."
    with run.averaged():
        state = {name.removeprefix(prefix): value for name, value in run.model.state_dict().items()}
        save_state(state, folder)


def save_state(state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write ultralytics' weights by their names, and the architecture, as a folder the engine reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(ARCHITECTURE, indent=2) + "\n")
    kept = {name: t.half().cpu().contiguous() for name, t in state.items() if name.startswith(IMAGE_PARTS)}
    save_file(kept, folder / WEIGHTS_FILE)

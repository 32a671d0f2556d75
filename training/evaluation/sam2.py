"""Evaluation of SAM2 on drawn scenes, through the serving engine: automatic segmentation, and single points."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pipeline.engines.sam2.engine import Sam2Engine, fit, upscaled_masks
from pipeline.records import Pixels
from pipeline.settings import AutomaticMaskSettings
from training.evaluation.measures import Figure
from training.sam2.model import ask, embed, prepare
from training.sam2.serving import Masks, masks_of, open_engine, segment
from training.scenes.contact_sheet import caption_cell, lay_out
from training.scenes.dataset import Choice, Scenes, load_scenes

NUM = 300  # scenes
VISIBLE = 0.02  # share of the image: less visible objects are skipped
FOUND = 0.8  # IoU
SHEET = 12  # scenes
TINTS = ((230, 60, 60), (60, 160, 240), (250, 210, 60), (90, 200, 90), (200, 90, 220), (250, 140, 50), (80, 220, 210))


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Recall and IoU accumulated over many scenes."""

    best: list[float]  # the highest IoU any region has with each thing
    regions: int
    objects: int  # things and backgrounds

    @property
    def found(self) -> list[bool]:
        """Whether each object was found."""
        return [iou >= FOUND for iou in self.best]

    @property
    def mean_best(self) -> float:
        """The mean of the best IoU."""
        return float(np.mean(self.best))

    @property
    def regions_each(self) -> float:
        """Regions per true object."""
        return self.regions / self.objects


def evaluate_sam2(folder: Path, scenes: Path, side: int, everything: AutomaticMaskSettings) -> list[Figure]:
    """Evaluate automatic segmentation and single points on held-out scenes.

    Args:
        folder: of the model.
        scenes: where drawn scenes are kept.
        side: of the scenes, in pixels.
        everything: the profile's grid and thresholds.
    """
    engine = open_engine(folder)
    shown = load_scenes(Choice(num=NUM, side=side, split="test"), scenes)
    segmentations = [segment(engine, shown.pixels[i], everything) for i in range(NUM)]
    tally = tally_up([(true_masks(shown, i), masks_of(found)) for i, found in enumerate(segmentations)])
    points = ask_points(engine, shown, everything.image_size)
    return [
        Figure.share("SAM2: true objects found at IoU ≥ 0.8", tally.found, 0.95),
        Figure(what="SAM2: mean best", value=tally.mean_best, goal=0.9, samples=len(tally.best), unit="IoU"),
        Figure(
            what="SAM2: regions per true object",
            unit="regions",
            value=tally.regions_each,
            goal=1.15,
            samples=tally.objects,
            smaller_is_better=True,
        ),
        Figure(
            what="SAM2: a point inside an object",
            unit="IoU",
            value=float(np.mean(points)),
            goal=0.9,
            samples=len(points),
        ),
    ]


def tally_up(scenes: list[tuple[Masks, Masks]]) -> Tally:
    """Compare true masks, the background first, with the regions found."""
    best: list[float] = []
    for truth, found in scenes:
        best += pairwise_iou(truth[1:], found).max(1, initial=0).tolist()
    return Tally(
        best=best, regions=sum(len(found) for _, found in scenes), objects=sum(len(truth) for truth, _ in scenes)
    )


def true_masks(scenes: Scenes, index: int) -> Masks:
    """Masks of the background and of every sufficiently visible object, (n, h, w)."""
    owners = np.asarray(scenes.owners[index])
    shares = np.bincount(owners.ravel(), minlength=1) / owners.size
    numbers = [0, *(number for number in range(1, len(shares)) if shares[number] >= VISIBLE)]
    masks: Masks = owners == np.array(numbers)[:, None, None]
    return masks


def pairwise_iou(left: Masks, right: Masks) -> npt.NDArray[np.float32]:
    """IoU of every mask with every other, (n, h, w) and (m, h, w) to (n, m)."""
    a, b = left.astype(np.float32), right.astype(np.float32)
    shared = np.tensordot(a, b, ((1, 2), (1, 2)))
    iou: npt.NDArray[np.float32] = shared / np.maximum(a.sum((1, 2))[:, None] + b.sum((1, 2)) - shared, 1)
    return iou


@torch.inference_mode()
def ask_points(engine: Sam2Engine, scenes: Scenes, image_size: int) -> list[float]:
    """IoU of the likeliest of the three masks for a random point on each thing of square scenes."""
    rng = np.random.default_rng(0)
    ious: list[float] = []
    for i in range(len(scenes)):
        things = true_masks(scenes, i)[1:]
        if len(things) == 0:
            continue
        side = things.shape[-1]
        inside = [rng.choice(np.argwhere(mask)) + rng.random(2) for mask in things]
        points = torch.from_numpy(np.array(inside)[None, :, ::-1].astype(np.float32) * image_size / side)
        share = (image_size, image_size)
        canvas = fit(np.asarray(scenes.pixels[i]), share, image_size)
        levels = embed(engine.model, prepare(canvas[None], torch.device("cpu")))
        logits, quality = ask(engine.model, levels, points)
        chosen = logits[torch.arange(len(things)), 1 + quality[:, 1:].argmax(1)]
        found = upscaled_masks(chosen, image_size, share, (side, side))
        ious += pairwise_iou(things, found).diagonal().tolist()
    return ious


def draw_masks_sheet(folder: Path, scenes: Path, side: int, everything: AutomaticMaskSettings) -> Image.Image:
    """Held-out scenes and their regions, each in a colour of its own."""
    engine = open_engine(folder)
    shown = load_scenes(Choice(num=NUM, side=side, split="test"), scenes)
    cells = []
    for i in range(SHEET):
        pixels = np.asarray(shown.pixels[i])
        truth, found = true_masks(shown, i), masks_of(segment(engine, pixels, everything))
        best = ", ".join(f"{iou:.2f}" for iou in pairwise_iou(truth[1:], found).max(1, initial=0))
        cells.append(
            caption_cell(np.hstack([pixels, tint(pixels, found)]), f"{len(found)} regions; IoU {best}", lines=1)
        )
    return lay_out(cells, columns=3)


def tint(pixels: Pixels, masks: Masks) -> Pixels:
    """Overlay regions, (n, h, w), on an image, the smallest on top."""
    painted = (pixels * 0.35).astype(np.uint8)
    for number, i in enumerate(np.argsort(-masks.sum((1, 2)))):
        colour = np.array(TINTS[number % len(TINTS)])
        painted[masks[i]] = (0.35 * pixels[masks[i]] + 0.65 * colour).astype(np.uint8)
    return painted

"""Prompts for SAM2: points and boxes in drawn scenes, with the true masks.

The mask of a point is the visible part of the object under it: the apple, or the plate without the apple, or the
background. The mask of a box is the object that it surrounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.engines.sam2.engine import fit
from training.scenes.dataset import Scenes

BACKGROUND_SHARE = 0.25  # of the points; the background is easy
THIN_SHARE = 0.3  # of the points that are placed on a part this thin, if there is one
THIN_PX = 5
MIN_PX = 8  # of a prompted object
SLACK = 0.08  # deviation of a box's sides, as a share of its length
RECOLOURED, SOFTENED, NOISY = 0.2, 0.4, 0.2  # shares of the pictures


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Images with several points each, their objects, and the boxes of these."""

    pictures: npt.NDArray[np.uint8]  # (n, s, s, 3)
    points: npt.NDArray[np.float32]  # (n, p, 2), x and y in pixels of the pictures
    boxes: npt.NDArray[np.float32]  # (n, p, 4): x0, y0, x1 and y1 in pixels of the images, with jitter
    truth: npt.NDArray[np.bool_]  # (n, p, h, w), at the scenes' own size
    owners: npt.NDArray[np.uint8]  # (n, h, w): 0 the background, then the things


def draw_prompts(scenes: Scenes, num: int, points_each: int, side: int, rng: np.random.Generator) -> Prompts:
    """Draw augmented scenes with prompts for objects and backgrounds.

    Args:
        num: pictures.
        points_each: in each picture.
        side: of the pictures; scenes are scaled to it as the engine does.
    """
    pictures, owners, chosen, points, boxes = [], [], [], [], []
    for i in rng.integers(len(scenes), size=num):
        pixels, owner = np.asarray(scenes.pixels[i]), np.asarray(scenes.owners[i])
        if rng.random() < 0.5:
            pixels, owner = np.ascontiguousarray(pixels[:, ::-1]), np.ascontiguousarray(owner[:, ::-1])
        pictures.append(fit(augment(pixels, rng), (side, side), side))
        owners.append(owner)
        chosen.append(choose_owners(owner, points_each, rng))
        points.append([draw_point(owner == number, rng) for number in chosen[-1]])
        boxes.append([draw_box(owner == number, rng) for number in chosen[-1]])
    maps = np.stack(owners)
    gain = side / maps.shape[1]
    return Prompts(
        pictures=np.stack(pictures),
        points=np.array(points, np.float32) * np.float32(gain),
        boxes=np.array(boxes, np.float32) * np.float32(gain),
        truth=maps[:, None] == np.stack(chosen)[:, :, None, None],
        owners=maps,
    )


def choose_owners(owners: npt.NDArray[np.uint8], num: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Choose prompted objects among those visible in a scene, (h, w), with equal probability."""
    visible = np.flatnonzero(np.bincount(owners.ravel()) >= MIN_PX)
    things = visible[visible > 0]
    if len(things) == 0 or len(things) == len(visible):
        return rng.choice(visible, size=num)
    chosen: npt.NDArray[np.int64] = rng.choice(things, size=num)
    chosen[rng.random(num) < BACKGROUND_SHARE] = 0
    return chosen


def draw_point(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Draw x and y of a point inside a mask, (h, w), sometimes on a part too thin for most grids."""
    inside = np.flatnonzero(mask)
    if rng.random() < THIN_SHARE:
        thick = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((THIN_PX, THIN_PX), np.uint8))
        thin = np.flatnonzero(mask & (thick == 0))
        inside = thin if len(thin) else inside
    y, x = divmod(int(rng.choice(inside)), mask.shape[1])
    return x + rng.random(), y + rng.random()


def draw_box(mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw a box around a mask, (h, w), with the imprecision of a user."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    x0, x1 = np.array([left, left + width]) + rng.normal(0, SLACK * width / 2, 2)
    y0, y1 = np.array([top, top + height]) + rng.normal(0, SLACK * height / 2, 2)
    return x0.clip(0), y0.clip(0), x1.clip(max=mask.shape[1]), y1.clip(max=mask.shape[0])


def augment(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Augmentation: recolour, blur or add noise, because generated images are blurrier and have other colours."""
    if rng.random() < RECOLOURED:
        pixels = np.ascontiguousarray(pixels[..., rng.permutation(3)])
    if rng.random() < SOFTENED:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.2)), np.uint8)
    if rng.random() < NOISY:
        rough = pixels + rng.normal(0, rng.uniform(1, 6), pixels.shape)
        pixels = rough.round().clip(0, 255).astype(np.uint8)
    return pixels

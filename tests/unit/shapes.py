"""Small pictures and segmentations made by hand, and drawn scenes."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.imaging.masks import Mask, encode_mask, outline
from pipeline.records import Pixels, Segmentation
from training.scenes.render import draw_scene

SIDE = 128


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def draw_shapes(height: int = SIDE, width: int = SIDE) -> Pixels:
    """Four plain shapes on grey: a rectangle, a disc, a triangle and a dot."""
    image: Pixels = np.full((SIDE, SIDE, 3), (200, 205, 210), dtype=np.uint8)
    cv2.rectangle(image, (10, 14), (50, 54), (212, 38, 38), cv2.FILLED)
    cv2.circle(image, (90, 36), 24, (45, 85, 215), cv2.FILLED)
    cv2.fillPoly(image, [np.array([[30, 112], [62, 70], [94, 112]])], (50, 165, 60))
    cv2.circle(image, (112, 100), 11, (245, 220, 50), cv2.FILLED)
    scaled: Pixels = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    return scaled


def draw_held_out(seed: int) -> Pixels:
    """A scene the models weren't trained on."""
    return np.array(draw_scene(seed, SIDE, split="test").pixels)


def rectangle(size: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def segmentation_of(size: tuple[int, int], *masks: Mask) -> Segmentation:
    boxes = [(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) for ys, xs in map(np.nonzero, masks)]
    return Segmentation(
        size=size,
        rles=tuple(map(encode_mask, masks)),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        predicted_iou=np.linspace(0.99, 0.9, len(masks), dtype=np.float32),
        stability=np.full(len(masks), 0.95, np.float32),
        polygons=tuple(map(outline, masks)),
    )

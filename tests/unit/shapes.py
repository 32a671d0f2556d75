"""Small pictures and segmentations made by hand."""

from __future__ import annotations

import numpy as np

from pipeline.records import Pixels, Segmentation
from pipeline.regions import Mask, encode_mask, outline


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


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

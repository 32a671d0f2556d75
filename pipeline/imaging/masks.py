"""Masks: run lengths, outlines and crops."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from pipeline.records import Pixels, Polygon, Segmentation

Mask = npt.NDArray[np.bool_]  # (h, w)

OUTLINE_TOLERANCE = 0.005  # of a contour's length
SPECK = 0.01  # of the area within all of a mask's contours: smaller ones are noise


def encode_mask(mask: Mask) -> bytes:
    """Encode a mask, (h, w) bool, as compressed COCO run lengths."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode_mask(rle: bytes, size: tuple[int, int]) -> Mask:
    """Decode compressed COCO run lengths to a mask of `size`, (h, w) bool."""
    return np.asarray(coco.decode({"size": list(size), "counts": rle}), dtype=np.bool_)


def outline(mask: Mask) -> Polygon:
    """Trace a mask's outer contours, simplified at 0.5 % of their length; specks and lines are dropped."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    areas = [cv2.contourArea(contour) for contour in contours]
    shapes = [contour for contour, area in zip(contours, areas, strict=True) if area >= SPECK * sum(areas)]
    simplified = (cv2.approxPolyDP(c, OUTLINE_TOLERANCE * cv2.arcLength(c, True), True) for c in shapes)
    return [contour.reshape(-1, 2).astype(int).tolist() for contour in simplified if len(contour) >= 3]


def masked_crops(pixels: Pixels, segmentation: Segmentation, fill: tuple[int, int, int]) -> Iterator[Pixels]:
    """Crop each region to its box, with everything outside its mask filled with `fill` (RGB).

    Yields:
        (box height, box width, 3) uint8, in the segmentation's order.
    """
    for region in segmentation:
        x0, y0, x1, y1 = region.box.astype(int)
        mask = decode_mask(region.rle, segmentation.size)[y0:y1, x0:x1]
        crop = np.full((y1 - y0, x1 - x0, 3), fill, dtype=np.uint8)
        np.copyto(crop, pixels[y0:y1, x0:x1], where=mask[..., None])
        yield crop

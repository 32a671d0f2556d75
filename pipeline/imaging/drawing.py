"""The pictures of a segmented image: one overlay of all outlines, one spotlight for each region."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from pipeline.imaging.codecs import encode_png
from pipeline.imaging.masks import Mask, decode_mask
from pipeline.records import Drawings, Pixels, Segmentation
from pipeline.settings import DrawingSettings

FONT = cv2.FONT_HERSHEY_PLAIN
NATURAL_SIDE = 512  # pixels: the image side at which labels have the font's natural size
SMALLEST_LABEL = 0.6  # of the natural size; smaller labels are unreadable


def render(pixels: Pixels, segmentation: Segmentation, style: DrawingSettings) -> Drawings:
    """Draw and encode the overlay and the spotlights of a segmentation.

    Args:
        pixels: (h, w, 3) uint8 RGB; not changed.
        segmentation: of this image.
        style: colours and dimming.
    """
    masks = [decode_mask(region.rle, segmentation.size) for region in segmentation]
    dimmed = cv2.convertScaleAbs(pixels, alpha=style.dim).astype(np.uint8, copy=False)
    return Drawings(
        overlay=encode_png(draw_overlay(pixels, segmentation, style.outline)),
        spotlights=tuple(_threads().map(lambda mask: encode_png(draw_spotlight(pixels, dimmed, mask)), masks)),
    )


def draw_overlay(pixels: Pixels, segmentation: Segmentation, colour: tuple[int, int, int]) -> Pixels:
    """Draw every region's outline, with `ID:n` at the top left of its box."""
    canvas = pixels.copy()
    scale = max(segmentation.size) / NATURAL_SIDE
    for region in segmentation:
        contours = [np.array(contour, dtype=np.int32) for contour in region.polygon]
        cv2.polylines(canvas, contours, isClosed=True, color=colour, thickness=max(1, round(2 * scale)))
    for region in segmentation:  # labels last, so that no outline crosses one
        _draw_label(canvas, f"ID:{region.region_id}", region.box, max(SMALLEST_LABEL, scale), colour)
    return canvas


def draw_spotlight(pixels: Pixels, dimmed: Pixels, mask: Mask) -> Pixels:
    """Return the image with everything outside of a region dimmed."""
    spotlight = dimmed.copy()
    cv2.copyTo(pixels, mask.astype(np.uint8), spotlight)
    return spotlight


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Return this process's thread pool: OpenCV releases the GIL while it works."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="drawing")


def _draw_label(
    canvas: Pixels,
    text: str,
    box: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    scale: float,
    colour: tuple[int, int, int],
) -> None:
    """Draw text on black at the top left of a box, shifted to lie inside the picture."""
    thickness = max(1, round(scale))
    (width, height), _ = cv2.getTextSize(text, FONT, scale, thickness)
    x = int(np.clip(box[0], 0, max(0, canvas.shape[1] - width - 2)))
    y = int(np.clip(box[1], 0, max(0, canvas.shape[0] - height - 3)))
    cv2.rectangle(canvas, (x, y), (x + width + 1, y + height + 2), (0, 0, 0), cv2.FILLED)
    cv2.putText(canvas, text, (x + 1, y + height + 1), FONT, scale, colour, thickness, cv2.LINE_AA)

"""The pictures of a segmented image: one overlay of all outlines, one spotlight for each region."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.images import encode_png
from pipeline.records import Drawings, Pixels, Segmentation
from pipeline.regions import Mask, decode_mask
from pipeline.settings import Drawing

LABEL_SIDE_PX = 512  # the image side at which a label has OpenCV's natural size times 0.5
FONT = cv2.FONT_HERSHEY_SIMPLEX


def render(pixels: Pixels, segmentation: Segmentation, style: Drawing) -> Drawings:
    """Draw and encode everything there is to see of a segmentation.

    Args:
        pixels: (h, w, 3) uint8 RGB; not changed.
        segmentation: of this image.
        style: colours and dimming.
    """
    masks = [decode_mask(region.rle, segmentation.size) for region in segmentation]
    dimmed = cv2.convertScaleAbs(pixels, alpha=style.dim).astype(np.uint8, copy=False)
    return Drawings(
        overlay=encode_png(draw_overlay(pixels, segmentation, style.outline)),
        spotlights=tuple(encode_png(draw_spotlight(pixels, dimmed, mask)) for mask in masks),
    )


def draw_overlay(pixels: Pixels, segmentation: Segmentation, colour: tuple[int, int, int]) -> Pixels:
    """Draw every region's outline, with `ID:n` where it is highest."""
    canvas = pixels.copy()
    scale = max(0.3, 0.5 * max(segmentation.size) / LABEL_SIDE_PX)
    thickness = max(1, round(max(segmentation.size) / LABEL_SIDE_PX))
    for region in segmentation:
        contours = [np.array(contour, dtype=np.int32) for contour in region.polygon]
        cv2.polylines(canvas, contours, isClosed=True, color=colour, thickness=thickness)
    for region in segmentation:  # labels last, so that no outline crosses one
        _draw_label(canvas, f"ID:{region.region_id}", region.box, scale, thickness, colour)
    return canvas


def draw_spotlight(pixels: Pixels, dimmed: Pixels, mask: Mask) -> Pixels:
    """Show the region in the image's own light and everything else dimmed."""
    spotlight = dimmed.copy()
    cv2.copyTo(pixels, mask.astype(np.uint8), spotlight)
    return spotlight


def _draw_label(
    canvas: Pixels,
    text: str,
    box: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    scale: float,
    thickness: int,
    colour: tuple[int, int, int],
) -> None:
    """Write text at the top left of a box, moved as far as it takes to lie inside the picture."""
    (width, height), baseline = cv2.getTextSize(text, FONT, scale, thickness)
    x = int(np.clip(box[0] + 1, 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(box[1] + height + 1, height, max(height, canvas.shape[0] - baseline)))
    cv2.putText(canvas, text, (x, y), FONT, scale, (0, 0, 0), thickness + 1, cv2.LINE_AA)  # legible on any colour
    cv2.putText(canvas, text, (x, y), FONT, scale, colour, thickness, cv2.LINE_AA)

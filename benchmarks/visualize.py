"""The pictures of a segmented image: kept ones made into an answer, beside drawing and encoding them for each call."""

from __future__ import annotations

import base64
import io
import json

import cv2
import numpy as np
from PIL import Image

from benchmarks.harness import Result, compare
from pipeline import drawing
from pipeline.records import Drawings, Pixels, Segmentation
from pipeline.regions import Mask, decode_mask, encode_mask, outline
from pipeline.settings import Drawing

SIDE, REGIONS = 512, 20


def measure(quick: bool) -> list[Result]:
    """Warm: from what is kept; and cold: drawn once, in parallel."""
    picture, segmentation = draw_regions()
    style = Drawing()
    kept = drawing.render(picture, segmentation, style)
    rounds = 5 if quick else 20

    def same(ours: bytes, theirs: bytes) -> str:
        a, b = (decode(json.loads(each)["spotlights"][3]) for each in (ours, theirs))
        return f"spotlights differ by {np.abs(a.astype(int) - b).max()} levels"

    return [
        compare(
            "visualize", f"warm, {REGIONS} regions at {SIDE} px", lambda: assemble(kept),
            lambda: draw_naively(picture, segmentation, style), rounds=rounds, goal="≥ 100", fidelity=same,
        ),
        compare(
            "visualize", f"cold, {REGIONS} regions at {SIDE} px",
            lambda: assemble(drawing.render(picture, segmentation, style)),
            lambda: draw_naively(picture, segmentation, style), rounds=rounds, goal="", fidelity=same,
        ),
    ]  # fmt: skip


def draw_regions() -> tuple[Pixels, Segmentation]:
    """A noisy gradient with discs, as hard to compress as a photograph."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    base = np.stack([x / 3, y / 3, (x + y) / 6], axis=2) + rng.normal(0, 8, (SIDE, SIDE, 3))
    picture = base.clip(0, 255).astype(np.uint8)
    masks: list[Mask] = []
    for cx, cy, radius in zip(*rng.integers(60, SIDE - 60, (2, REGIONS)), rng.integers(20, 80, REGIONS), strict=True):
        masks.append((x - cx) ** 2 + (y - cy) ** 2 < radius**2)
    boxes = [(xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) for ys, xs in map(np.nonzero, masks)]
    return picture, Segmentation(
        size=(SIDE, SIDE),
        rles=tuple(map(encode_mask, masks)),
        boxes=np.array(boxes, np.float32),
        predicted_iou=np.ones(REGIONS, np.float32),
        stability=np.ones(REGIONS, np.float32),
        polygons=tuple(map(outline, masks)),
    )


def assemble(drawings: Drawings) -> bytes:
    """What is left to do for a call whose pictures are kept."""
    spotlights = [base64.b64encode(each).decode() for each in drawings.spotlights]
    return json.dumps({"overlay": base64.b64encode(drawings.overlay).decode(), "spotlights": spotlights}).encode()


def draw_naively(picture: Pixels, segmentation: Segmentation, style: Drawing) -> bytes:
    """Draw with numpy and encode with Pillow, for each call."""

    def encode(pixels: Pixels) -> str:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    overlay = picture.copy()
    spotlights = []
    for region in segmentation:
        mask = decode_mask(region.rle, segmentation.size)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(overlay, contours, -1, style.outline, 2)
        spotlights.append(encode(np.where(mask[..., None], picture, (picture * style.dim).astype(np.uint8))))
    return json.dumps({"overlay": encode(overlay), "spotlights": spotlights}).encode()


def decode(text: str) -> Pixels:
    """A picture out of Base64."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))

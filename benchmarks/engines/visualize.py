"""Visualizations of a segmented image: responses from cached PNGs, against rendering and encoding for each call."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import cv2
import numpy as np
from PIL import Image

from benchmarks.harness import Result, compare
from graphs.http.routes.legacy import Regions, VisualizationWriter
from pipeline.imaging import drawing
from pipeline.imaging.masks import Mask, decode_mask, encode_mask, outline
from pipeline.records import Descriptions, Pixels, Segmentation
from pipeline.settings import DrawingSettings

SIDE, REGIONS = 512, 20


def measure(quick: bool) -> list[Result]:
    """Warm: from cached PNGs; and cold: rendered and encoded once, in parallel."""
    picture, segmentation = draw_regions()
    style = DrawingSettings()
    regions = Descriptions(
        vectors=np.zeros((REGIONS, 1), np.float32),
        labels=(("apple",),) * REGIONS,
        confidences=np.ones((REGIONS, 1), np.float32),
        unknown=np.zeros(REGIONS, np.float32),
    )
    kept = segmentation, regions, drawing.render(picture, segmentation, style)
    visualizations = VisualizationWriter()
    loop = asyncio.new_event_loop()
    rounds = 5 if quick else 20

    def assemble(found: Regions) -> bytes:
        return loop.run_until_complete(visualizations.write(found, request_id="r", image_id="i"))

    def same(ours: bytes, theirs: bytes) -> str:
        a, b = (decode(json.loads(each)["individual_spotlights"][3]["spotlight_image"]) for each in (ours, theirs))
        return f"spotlights differ by {np.abs(a.astype(int) - b).max()} levels"

    return [
        compare(
            "visualize", f"warm, {REGIONS} regions at {SIDE} px", lambda: assemble(kept),
            lambda: draw_naively(picture, segmentation, style), rounds=rounds, goal="≥ 100", fidelity=same,
        ),
        compare(
            "visualize", f"cold, {REGIONS} regions at {SIDE} px",
            lambda: assemble((segmentation, regions, drawing.render(picture, segmentation, style))),
            lambda: draw_naively(picture, segmentation, style), rounds=rounds, goal="", fidelity=same,
        ),
    ]  # fmt: skip


def draw_regions(seed: int = 0) -> tuple[Pixels, Segmentation]:
    """A noisy gradient with discs, as hard to compress as a photograph."""
    rng = np.random.default_rng(seed)
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


def draw_naively(picture: Pixels, segmentation: Segmentation, style: DrawingSettings) -> bytes:
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
        lit = np.where(mask[..., None], picture, (picture * style.dim).astype(np.uint8))
        spotlights.append({"spotlight_image": encode(lit), "polygon": region.polygon})
    return json.dumps({"master_overlay": encode(overlay), "individual_spotlights": spotlights}).encode()


def decode(text: str) -> Pixels:
    """Decode an image from Base64."""
    return np.array(Image.open(io.BytesIO(base64.b64decode(text))))

"""Draw `docs/miniatures.png` with the models of the profile `mini`: `python -m docs.draw_miniatures`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.imaging.drawing import draw_overlay, draw_spotlight
from pipeline.imaging.masks import decode_mask, masked_crops
from pipeline.records import Pixels
from pipeline.settings import DrawingSettings, Profile, ServiceSettings
from training.diffusion.generated_images import generate, load_engine
from training.evaluation.cards import MODELS
from training.evaluation.clip import load_clip
from training.sam2.serving import open_engine, segment

PROMPTS = (
    ("red apple in white plate", 3),
    ("a yellow pear in a blue bowl", 0),
    ("a purple tulip next to a green bus", 1),
)
SIDE, GAP, LINE = 168, 8, 22  # pixels in the picture
OUT = Path(__file__).parent / "miniatures.png"


def main() -> None:
    """Generate, segment, name, draw."""
    profile = ServiceSettings(profile="mini").load_profile()
    rows = [(f"“{prompt}”, seed {seed}", understand(profile, prompt, seed)) for prompt, seed in PROMPTS]
    widest = max(len(cells) for _, cells in rows)
    sheet = Image.new("RGB", (GAP + widest * (SIDE + GAP), len(rows) * (SIDE + 2 * LINE)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, cells) in enumerate(rows):
        top = number * (SIDE + 2 * LINE)
        draw.text((GAP, top + 3), title, "black", ImageFont.load_default(14))
        for k, (pixels, words) in enumerate(cells):
            left = GAP + k * (SIDE + GAP)
            sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top + LINE))
            draw.text((left + 2, top + LINE + SIDE + 3), words, "black", ImageFont.load_default(12))
    sheet.save(OUT)
    print(OUT)


def understand(profile: Profile, prompt: str, seed: int) -> list[tuple[Pixels, str]]:
    """The image, its overlay, and a spotlight for each region, each with its words."""
    side = profile.diffusion.defaults.width
    pixels = generate(load_engine(MODELS / "diffusion", side), prompt, seed, side)
    segmentation = segment(open_engine(MODELS / "sam2"), pixels, profile.sam2.everything)
    clip = load_clip(MODELS)
    named = clip.describe(list(masked_crops(pixels, segmentation, clip.fill)), profile.clip.labelling)
    style = DrawingSettings()
    dimmed = np.asarray(cv2.convertScaleAbs(pixels, alpha=style.dim), np.uint8)
    cells = [(pixels, "image"), (draw_overlay(pixels, segmentation, style.outline), "overlay")]
    for region, description in zip(segmentation, named, strict=True):
        best = description.top[0]
        spotlight = draw_spotlight(pixels, dimmed, decode_mask(region.rle, segmentation.size))
        cells.append((spotlight, f"ID {region.region_id}: {best.label}, {best.confidence:.0%}"))
    return cells


if __name__ == "__main__":
    main()

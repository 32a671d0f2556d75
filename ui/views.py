"""Convert responses of the API into values of components. Pure functions."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ai_pipeline_client import About, AnswerWarning, Concepts, ImageFields, Labels, Picture, RegionFields

MASK_OPACITY = 0.5
THUMBNAIL_SIDE = 236  # pixels: twice the size in the style sheet, for high-density screens
CLASSES = 5  # of the image
GOLDEN_ANGLE = 0.381966  # of a full turn: consecutive hues are far apart

Mask = np.ndarray[Any, np.dtype[Any]]  # (h, w), 0 to 1
Box = tuple[int, int, int, int]  # accepted by Gradio as well


def picture(png: bytes) -> Image.Image:
    """Decode a PNG."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def thumbnail(png: bytes) -> Image.Image:
    """Decode a PNG, no larger than the history shows it."""
    small = picture(png)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return small


def preview(png: bytes, width: int, height: int) -> Image.Image:
    """Decode a preview and stretch it to the size of the image to come."""
    return picture(png).resize((width, height), Image.Resampling.BICUBIC)


def progress(words: str, share: float) -> str:
    """Draw a progress bar.

    Args:
        share: completed, 0 to 1.
    """
    percent = round(100 * share)
    return (
        f'<div class="progress"><div class="track" role="progressbar" aria-label="{escape(words)}" '
        f'aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100"><div style="width: {percent}%"></div></div>'
        f"<span>{escape(words)}</span></div>"
    )


def facts(image: ImageFields) -> str:
    """Render how an image was made."""
    size = f"{image.width} × {image.height}"
    request = image.parameters
    if request is None:
        return f'<div class="facts"><b>Uploaded image</b> <span>{size}</span></div>'
    chips = [
        f"seed {request.seed}",
        f"{request.steps} steps",
        f"guidance {request.guidance:g}",
        request.scheduler,
        size,
    ]
    if request.negative_prompt:
        chips.insert(0, f"without {request.negative_prompt}")
    spans = " ".join(f"<span>{escape(chip)}</span>" for chip in chips)
    return f'<div class="facts"><b>{escape(request.prompt)}</b> {spans}</div>'


def warnings(found: Sequence[AnswerWarning]) -> str:
    """Render the warnings of an image; empty if there are none."""
    return "".join(f'<div class="warning" role="alert">{escape(warning.detail)}</div>' for warning in found)


def status(about: About) -> str:
    """Render the title with the service's status."""
    words = f"{about.status} · {about.device} · profile {about.profile}"
    return f'<div class="title"><h1>ai-pipeline</h1><span class="status">{escape(words)}</span></div>'


def classes(labels: Labels) -> pd.DataFrame:
    """List the best classes with their confidence in percent."""
    best = labels.labels[:CLASSES]
    return pd.DataFrame(
        {"class": [label.label for label in best], "confidence, %": [_percent(label.confidence) for label in best]}
    )


def matches(found: Concepts) -> pd.DataFrame:
    """List regions with how well the text matches them in percent; the image as a whole comes first."""
    names = ["whole image", *(name(region.region_id, region.label) for region in found.regions)]
    rows = [found.matches, *(region.matches for region in found.regions)]  # of one text
    return pd.DataFrame({"what": names, "match, %": [_percent(match.match) for (match,) in rows]})


def regions(found: Sequence[RegionFields]) -> pd.DataFrame:
    """List regions: the class of each, the confidence of CLIP and SAM2, and its box."""
    rows = []
    for region in found:
        x0, y0, x1, y1 = region.box
        rows.append(
            {
                "region": region.region_id,
                "class": region.label,
                "CLIP": f"{region.confidence:.2%}",
                "SAM2": f"{region.predicted_iou:.2f}",
                "box": f"{x1 - x0} × {y1 - y0} at {x0}, {y0}",
            }
        )
    return pd.DataFrame(rows, columns=["region", "class", "CLIP", "SAM2", "box"])


def masks(found: Sequence[RegionFields]) -> list[tuple[Mask | Box, str]]:
    """Pair each region's mask with its name."""
    return [(region.mask * MASK_OPACITY, name(region.region_id, region.label)) for region in found]


def colours(labels: list[str]) -> dict[str, str]:
    """Assign each label its own colour."""
    return {label: _hex(i * GOLDEN_ANGLE % 1) for i, label in enumerate(labels)}


def gallery(found: Sequence[RegionFields], spotlights: Sequence[Picture]) -> list[tuple[Image.Image, str]]:
    """Pair the spotlight of each region with its caption."""
    return [
        (picture(spotlight.data), name(region.region_id, region.label))
        for region, spotlight in zip(found, spotlights, strict=True)
    ]


def caption(image: ImageFields) -> str:
    """Name an image of the history."""
    return image.prompt or "Uploaded image"


def name(region_id: int, label: str) -> str:
    """Name a region as the legacy API does: `ID: 0 (apple)`."""
    return f"ID: {region_id} ({label})"


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _hex(hue: float) -> str:
    return "#" + "".join(f"{round(255 * level):02x}" for level in colorsys.hsv_to_rgb(hue, 0.75, 0.95))

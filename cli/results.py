"""Results of a generation: a folder for each image, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from rich.markup import escape
from rich.table import Table

from ai_pipeline_client import Image
from cli.console import console
from cli.picture import show_picture
from cli.service import own_fields

TOP = 5  # labels of a picture


def save(image: Image, folder: Path) -> dict[str, Any]:
    """Write an image, its regions and `result.json` to a new folder; return the document.

    Args:
        image: with its labels and regions.
    """
    for name in ("spotlights", "cutouts"):
        (folder / name).mkdir(parents=True)  # never overwrite a result
    image.save(folder / "image.png")
    image.overlay().save(folder / "overlay.png")
    for region in image.regions():
        region.spotlight().save(folder / "spotlights" / f"{region.region_id}.png")
        region.cutout().save(folder / "cutouts" / f"{region.region_id}.png")
    document = own_fields(image)
    (folder / "result.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    return document


def present(image: Image, folder: Path) -> None:
    """Print an image if the console can, what it shows, and where it was written."""
    show_picture((folder / "image.png").read_bytes(), console)
    console.print(_labels(image))
    console.print(_regions(image))
    for warning in image.warnings:
        console.print(f"[yellow]{escape(warning.detail)}", soft_wrap=True)
    console.print(f"Seed {image.seed}. Results in {folder}", soft_wrap=True)


def _labels(image: Image) -> Table:
    table = Table("label", "confidence", title="What it shows")
    for label in list(image.included_labels or ())[:TOP]:
        table.add_row(escape(label.label), f"{label.confidence:.2%}")
    return table


def _regions(image: Image) -> Table:
    table = Table("region", "label", "confidence", "predicted IoU", "box", title="Its regions")
    for region in image.regions():
        x0, y0, x1, y1 = region.box
        where = f"{x1 - x0} × {y1 - y0} at {x0}, {y0}"
        share, iou = f"{region.confidence:.2%}", f"{region.predicted_iou:.2f}"
        table.add_row(str(region.region_id), escape(region.label), share, iou, where)
    return table

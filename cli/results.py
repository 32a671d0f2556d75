"""Results of a generation, printed and written to a folder: the same for a local and a remote service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.picture import show_picture

TOP = 5  # classes of a picture

Scores = Sequence[tuple[str, float]]  # labels with their confidence, 0 to 1, best first


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A region of the image."""

    region_id: int
    labels: Scores
    predicted_iou: float
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels
    polygon: Any  # [[[x, y], …], …]
    spotlight: bytes  # PNG


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """An image, what it shows, and its parts."""

    image_id: str
    request: Mapping[str, Any]  # every parameter
    image: bytes  # PNG
    overlay: bytes  # PNG
    labels: Scores
    parts: Sequence[Part]
    warnings: Sequence[str]  # sentences


def progress_bars(console: Console) -> Progress:
    """Return progress bars that count steps."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def present(result: Result, folder: Path, console: Console) -> None:
    """Write the results to a folder; print the image if the console can, what it shows, and the folder."""
    _write(result, folder)
    show_picture(result.image, console)
    console.print(_classes(result))
    console.print(_regions(result))
    for warning in result.warnings:
        console.print(f"[yellow]{escape(warning)}", soft_wrap=True)
    console.print(f"Seed {result.request['seed']}. Results in {folder}", soft_wrap=True)


def _write(result: Result, folder: Path) -> None:
    spotlights = folder / "spotlights"
    spotlights.mkdir(parents=True)  # never overwrite a result
    (folder / "image.png").write_bytes(result.image)
    (folder / "overlay.png").write_bytes(result.overlay)
    for part in result.parts:
        (spotlights / f"{part.region_id}.png").write_bytes(part.spotlight)
    document = {
        "image_id": result.image_id,
        **result.request,
        "warnings": result.warnings,
        "clip_analysis": _scores(result.labels),
        "segmented_regions": [
            {
                "region_id": part.region_id,
                "sam_confidence": f"{part.predicted_iou:.2f}",
                "clip_analysis": _scores(part.labels),
                "polygon": part.polygon,
            }
            for part in result.parts
        ],
    }
    (folder / "result.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _scores(scores: Scores) -> list[dict[str, str]]:
    return [{"class": label, "confidence": f"{confidence:.2%}"} for label, confidence in scores[:TOP]]


def _classes(result: Result) -> Table:
    table = Table("class", "confidence", title="What it shows")
    for label, confidence in result.labels[:TOP]:
        table.add_row(label, f"{confidence:.2%}")
    return table


def _regions(result: Result) -> Table:
    table = Table("region", "class", "confidence", "predicted IoU", "box", title="Its parts")
    for part in result.parts:
        (label, confidence), (x0, y0, x1, y1) = part.labels[0], part.box
        where = f"{x1 - x0} × {y1 - y0} at {x0}, {y0}"
        table.add_row(str(part.region_id), label, f"{confidence:.2%}", f"{part.predicted_iou:.2f}", where)
    return table

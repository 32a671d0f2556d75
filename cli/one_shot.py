"""One image from prompt to parts, through the running service, onto the screen and into a folder."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path

import orjson
from ray import serve
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.launcher import Service
from graphs.flow import ImageAnalysis
from graphs.generations import GeneratedImage
from graphs.schemas import class_scores, percent, segmented_regions
from graphs.workers import translated
from pipeline.errors import StageFailed
from pipeline.events import GenerationStepped, ImageCreated, StageFinished
from pipeline.records import GenerationRequest, Region

STAGES_AFTER = 5  # what follows the steps: the image itself, its description, its regions, theirs, the drawings


def make_one(service: Service, request: GenerationRequest, out: Path, console: Console) -> None:
    """Make and analyze one image; print what it shows and write `out`/<image id>/."""
    made, analysis = _follow(service, request, console)
    folder = out / made.record.image_id
    _write(folder, made, analysis)
    console.print(_classes(made))
    console.print(_regions(analysis))
    console.print(f"Seed {request.seed}. Results in {folder}", soft_wrap=True)


def _follow(service: Service, request: GenerationRequest, console: Console) -> tuple[GeneratedImage, ImageAnalysis]:
    stream = serve.get_app_handle(service.app_name).options(stream=True)
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        steps = progress.add_task("Denoising", total=request.steps)
        stages = progress.add_task("Understanding", total=STAGES_AFTER)
        try:
            for item in stream.follow.remote(request, session="one-shot", request_id=str(uuid.uuid4())):
                match item:
                    case GenerationStepped():
                        progress.update(steps, completed=item.step, total=item.num_steps)
                    case ImageCreated() | StageFinished():
                        progress.advance(stages)
                    case (GeneratedImage() as made, ImageAnalysis() as analysis):
                        return made, analysis
        except Exception as error:
            raise translated(error, "generate") from None
    raise StageFailed(stage="generate", reason="the stream ended without a result")


def _write(folder: Path, made: GeneratedImage, analysis: ImageAnalysis) -> None:
    spotlights = folder / "spotlights"
    spotlights.mkdir(parents=True)
    (folder / "image.png").write_bytes(made.png)
    (folder / "overlay.png").write_bytes(analysis.drawings.overlay)
    for i, png in enumerate(analysis.drawings.spotlights):
        (spotlights / f"{i}.png").write_bytes(png)
    result = {
        "image_id": made.record.image_id,
        **asdict(made.request),
        "clip_analysis": [score.model_dump(by_alias=True) for score in class_scores(made.description)],
        "segmented_regions": [
            region.model_dump(by_alias=True) for region in segmented_regions(analysis.segmentation, analysis.regions)
        ],
    }
    (folder / "result.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))


def _classes(made: GeneratedImage) -> Table:
    table = Table("class", "confidence", title="What it shows")
    for score in made.description.top:
        table.add_row(score.label, percent(score.confidence))
    return table


def _regions(analysis: ImageAnalysis) -> Table:
    table = Table("region", "class", "confidence", "predicted IoU", "box", title="Its parts")
    for region, description in zip(analysis.segmentation, analysis.regions, strict=True):
        best = description.top[0]
        table.add_row(
            str(region.region_id), best.label, percent(best.confidence), f"{region.predicted_iou:.2f}", _box(region)
        )
    return table


def _box(region: Region) -> str:
    x0, y0, x1, y1 = region.box.astype(int)
    return f"{x1 - x0} × {y1 - y0} at {x0}, {y0}"

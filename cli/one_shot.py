"""One image from prompt to parts, through a service that was started for it."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path

from ray import serve
from rich.console import Console

from cli.launcher import Service
from cli.results import Part, Result, Scores, present, progress_bars
from graphs.flow import ImageAnalysis
from graphs.generations import GeneratedImage
from graphs.workers import translated
from pipeline.errors import StageFailed
from pipeline.events import GenerationStepped, ImageCreated, StageFinished
from pipeline.records import Description, GenerationRequest

STAGES_AFTER = 5  # what follows the steps: the image itself, its description, its regions, theirs, the drawings


def make_one(service: Service, request: GenerationRequest, out: Path, console: Console) -> None:
    """Make and analyze one image; print what it shows and write `out`/<image id>/."""
    made, analysis = _follow(service, request, console)
    present(_result(made, analysis), out / made.record.image_id, console)


def _follow(service: Service, request: GenerationRequest, console: Console) -> tuple[GeneratedImage, ImageAnalysis]:
    stream = serve.get_app_handle(service.app_name).options(stream=True)
    with progress_bars(console) as progress:
        steps = progress.add_task("Denoising", total=request.steps)
        stages = progress.add_task("Understanding", total=STAGES_AFTER)
        try:
            for item in stream.follow.remote(request, session="one-shot", request_id=str(uuid.uuid4())):
                match item:
                    case GenerationStepped():
                        progress.update(steps, completed=item.step, total=item.num_steps)
                    case ImageCreated():
                        progress.update(steps, completed=progress.tasks[steps].total)  # progress events are throttled
                        progress.advance(stages)
                    case StageFinished():
                        progress.advance(stages)
                    case (GeneratedImage() as made, ImageAnalysis() as analysis):
                        return made, analysis
        except Exception as error:
            raise translated(error, "generate") from None
    raise StageFailed(stage="generate", reason="the stream ended without a result")


def _result(made: GeneratedImage, analysis: ImageAnalysis) -> Result:
    regions = zip(analysis.segmentation, analysis.regions, analysis.drawings.spotlights, strict=True)
    return Result(
        image_id=made.record.image_id,
        request=asdict(made.request),
        image=made.png,
        overlay=analysis.drawings.overlay,
        labels=_scores(made.description),
        warnings=[warning.detail for warning in made.warnings],
        parts=[
            Part(
                region_id=region.region_id,
                labels=_scores(description),
                predicted_iou=region.predicted_iou,
                box=tuple(region.box.astype(int).tolist()),
                polygon=region.polygon,
                spotlight=spotlight,
            )
            for region, description, spotlight in regions
        ],
    )


def _scores(description: Description) -> Scores:
    return [(score.label, score.confidence) for score in description.top]

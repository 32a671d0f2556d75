"""Commands that call a running service over HTTP: its jobs, its events, and image generation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Unpack

import orjson
import typer
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Column, Table

from ai_pipeline_client import Client, Image, Label, Parameters, Progress
from ai_pipeline_client.results import FINISHED
from cli.console import console, report_errors
from cli.results import Part, Result, Scores, present, progress_bars

jobs = typer.Typer(no_args_is_help=True, help="The jobs of a running service: list, show, follow, cancel, retry.")

Server = Annotated[str, typer.Option(envvar="PIPELINE_SERVER", help="The service's URL.")]
ApiKey = Annotated[str, typer.Option(envvar="PIPELINE_API_KEY", help="API key, if the service requires one.")]
JobId = Annotated[str, typer.Argument(help="The job's id, from `jobs list`.")]
ID_CHARS = 36
PIPE_CHARS = 200  # width of the output if it isn't a terminal
HERE = "http://127.0.0.1:8000"


@jobs.command("list")
def list_jobs(
    server: Server = HERE,
    api_key: ApiKey = "",
    state: Annotated[list[str] | None, typer.Option(help="Only these states, such as running or dead.")] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of jobs.")] = 20,
) -> None:
    """List the newest jobs."""
    with connected(server, api_key) as client:
        listed = client.jobs.page(limit=limit, states=state or [])
    job_id = Column("job", no_wrap=True, min_width=ID_CHARS)  # never truncated: it is meant to be copied
    width = None if console.is_terminal else PIPE_CHARS
    table = Table(job_id, "state", "attempts", "submitted", "what", "result or problem", box=None, width=width)
    for job in listed:
        what = str(job.request.get("prompt", job.kind))
        outcome = job.image_id or (job.problem or {}).get("detail", "")
        submitted = job.created_at.isoformat(timespec="seconds")
        table.add_row(job.job_id, job.state, str(job.attempts), submitted, escape(what), escape(outcome))
    console.print(table, crop=False)


@jobs.command()
def show(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Print a job as JSON."""
    with connected(server, api_key) as client:
        console.print_json(orjson.dumps(asdict(client.jobs.get(job_id))).decode())


@jobs.command()
def cancel(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Cancel a job."""
    with connected(server, api_key) as client:
        job = client.jobs.cancel(job_id)
    console.print(f"Job {job_id} is {'being stopped' if job.cancel_requested else job.state}.")


@jobs.command()
def retry(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Retry a job that failed, was cancelled or is dead."""
    with connected(server, api_key) as client:
        client.jobs.retry(job_id)
    console.print(f"Job {job_id} is queued again.")


@jobs.command()
def follow(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Show a job's progress until it has ended."""
    with connected(server, api_key) as client, progress_bars(console) as progress:
        steps = progress.add_task("Waiting", total=None)
        for event in client.jobs.stream(job_id):
            if event.is_step:
                step = event.progress()
                progress.update(steps, description="Denoising", completed=step.step, total=step.num_steps)
            elif event.type == FINISHED:
                progress.console.print(f"Image {event.image_id}")


def events(
    server: Server = HERE,
    api_key: ApiKey = "",
    after: Annotated[int | None, typer.Option(help="Start after this event; 0 is the beginning.")] = None,
    types: Annotated[str, typer.Option("--type", help="Only these types, such as image.created,job.failed.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Stream new events until Ctrl-C.")] = False,
) -> None:
    """Print events, one JSON object per line; without --follow, only those so far."""
    wanted = [kind.strip() for kind in types.split(",") if kind.strip()]
    with connected(server, api_key) as client:
        try:
            found = (
                client.events.stream(after=after, types=wanted)
                if follow
                else client.events.list(after=after or 0, types=wanted)
            )
            for event in found:
                print(json.dumps({"type": event.type, **event.facts}), flush=True)
        except KeyboardInterrupt:
            return


def generate_remotely(
    client: Client, prompt: str, *, n: int, out: Path, preview: Path | None, **parameters: Unpack[Parameters]
) -> None:
    """Generate and analyze images on a running service; print the results and write `out`/<job id>/ for each.

    Args:
        n: number of images.
        preview: file for the preview of each step; `preview.png` in the job's folder if None.
    """
    folders: list[Path] = []  # of the images
    tasks: list[TaskID] = []
    with progress_bars(console) as bars:

        def report(progress: Progress) -> None:
            if not progress.step:
                folders.append(out / progress.job_id)
                tasks.append(bars.add_task("Denoising", total=progress.num_steps))
            bars.update(tasks[progress.number], completed=progress.step, total=progress.num_steps)
            if progress.preview is not None:
                _overwrite(preview or folders[progress.number] / "preview.png", progress.preview)

        images = client.images.generate_many(prompt, n=n, on_progress=report, **parameters)
        results = [_analyze(image) for image in bars.track(images, description="Understanding")]
    for result, folder in zip(results, folders, strict=True):
        present(result, folder, console)


def generate_one(client: Client, prompt: str, out: Path, **parameters: Unpack[Parameters]) -> None:
    """Generate and analyze one image; print the result and write `out`/<image id>/."""
    with progress_bars(console) as bars:
        steps = bars.add_task("Denoising", total=None)

        def show(progress: Progress) -> None:
            bars.update(steps, completed=progress.step, total=progress.num_steps)

        image = client.images.generate(prompt, on_progress=show, **parameters)
        (result,) = [_analyze(image) for image in bars.track([image], description="Understanding")]
    present(result, out / result.image_id, console)


def _analyze(image: Image) -> Result:
    labels = image.labels()
    return Result(
        image_id=image.image_id,
        request=asdict(image.parameters) if image.parameters else {},
        image=image.bytes(),
        overlay=bytes(image.overlay()),
        labels=_scores(labels.labels),
        warnings=[warning.detail for warning in labels.warnings],
        parts=[
            Part(
                region_id=region.region_id,
                labels=_scores(region.labels),
                predicted_iou=region.predicted_iou,
                box=region.box,
                polygon=region.polygons,
                spotlight=bytes(region.spotlight()),
            )
            for region in image.regions()
        ],
    )


def _scores(labels: Sequence[Label]) -> Scores:
    return [(label.label, label.confidence) for label in labels]


def _overwrite(path: Path, png: bytes) -> None:
    """Write a file atomically: readers may open it meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(png)
    unfinished.replace(path)


@contextmanager
def connected(server: str, api_key: str) -> Iterator[Client]:
    """Open a client of a service; its errors end the command with a message."""
    with report_errors(), Client(server, api_key=api_key or None) as client:
        yield client

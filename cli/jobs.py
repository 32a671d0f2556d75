"""`ai-pipeline jobs` and `ai-pipeline events`: the work of a running service."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape

from ai_pipeline_client.results import FINISHED
from cli.console import console, error_console
from cli.progress import progress_bars
from cli.service import HERE, ApiKey, AsJson, Quiet, Server, connected, print_json, print_pretty, print_table
from pipeline.jobs import JobState

jobs = typer.Typer(no_args_is_help=True, help="The jobs of a running service: list, show, follow, cancel, retry.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, from `jobs list`.")]


@jobs.command("list")
def list_jobs(
    server: Server = HERE,
    api_key: ApiKey = "",
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in this state; repeatable.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of jobs.")] = 20,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List jobs, newest first."""
    with connected(server, api_key) as client:
        listed = client.jobs.page(limit=limit, states=[each.value for each in state or ()]).items
    if as_json or quiet:
        for job in listed:
            print_json(asdict(job)) if as_json else print(job.job_id)
        return
    rows = [
        (
            job.job_id,
            job.state,
            str(job.attempts),
            f"{job.created_at:%Y-%m-%d %H:%M:%S}",
            escape(str(job.parameters.get("prompt", job.kind))),
            escape(job.image_id or (job.problem or {}).get("detail", "")),
        )
        for job in listed
    ]
    print_table(("job", "state", "attempts", "submitted", "what", "result or problem"), rows)


@jobs.command()
def show(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Print a job as JSON."""
    with connected(server, api_key) as client:
        print_pretty(asdict(client.jobs.get(job_id)))


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
    with connected(server, api_key) as client, progress_bars() as progress:
        steps = progress.add_task("Waiting", total=None)
        for event in client.jobs.stream(job_id):
            if event.is_step:
                step = event.progress()
                progress.update(steps, description="Denoising", completed=step.step, total=step.num_steps)
            elif event.type == FINISHED:
                console.print(f"Image {event.image_id}")


def events(
    server: Server = HERE,
    api_key: ApiKey = "",
    after: Annotated[int | None, typer.Option(help="Start after this event; 0 is the beginning.")] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type, such as image.created; repeat it for several.")
    ] = None,
    request_id: Annotated[str | None, typer.Option(help="Only those of this request.")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stream new events until Ctrl-C.")] = False,
) -> None:
    """Print events, one JSON object per line; without --follow, only those so far."""
    wanted = [kind.strip() for each in types or () for kind in each.split(",") if kind.strip()]
    with connected(server, api_key) as client:
        found = (
            client.events.stream(after=after, types=wanted, request_id=request_id)
            if follow
            else client.events.list(after=after or 0, types=wanted, request_id=request_id)
        )
        for event in found:
            print_json({"type": event.type, **event.facts})


def status(
    server: Server = HERE,
    api_key: ApiKey = "",
    wait: Annotated[float | None, typer.Option(help="Wait for so many seconds until it is ready.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show whether the service is ready; exit with 5 if it isn't."""
    with connected(server, api_key) as client:
        if wait is not None:
            client.wait_until_ready(wait)
        about, ready = client.about(), client.ready()
    if as_json:
        print_json({"ready": ready.ready, "device": about.device, "profile": about.profile, "missing": ready.missing})
    else:
        console.print(f"{server}: {'ready' if ready else 'not ready'}, profile {about.profile} on {about.device}")
        for model, reason in ready.missing.items():
            error_console.print(f"[red]{model}: {escape(reason)}")
    if not ready:
        raise typer.Exit(5)

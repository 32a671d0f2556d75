"""Commands that ask a running service over HTTP: its jobs, and what happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer
from httpx_sse import connect_sse
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.console import console

jobs = typer.Typer(no_args_is_help=True, help="The jobs of a running service: list, show, follow, cancel, retry.")

ANSWER_WITHIN_S = 30.0
HEARTBEAT_WITHIN_S = 30.0
QUIET_S = 2.0  # after which everything that has happened so far was told
RESUME_PAUSE_S = 1.0

Server = Annotated[str, typer.Option(envvar="PIPELINE_SERVER", help="The service's URL.")]
ApiKey = Annotated[str, typer.Option(envvar="PIPELINE_API_KEY", help="Where the service wants one.")]
JobId = Annotated[str, typer.Argument(help="As `jobs list` shows it.")]
HERE = "http://127.0.0.1:8000"


@jobs.command("list")
def list_jobs(
    server: Server = HERE,
    api_key: ApiKey = "",
    state: Annotated[list[str] | None, typer.Option(help="Only these, such as running or dead.")] = None,
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 20,
) -> None:
    """List the newest jobs."""
    with _client(server, api_key) as client:
        listed = _json(client.get("/v1/jobs", params={"limit": limit, "state": state or []}))["jobs"]
    table = Table("job", "state", "attempts", "submitted", "what", "result or problem", box=None)
    for job in listed:
        outcome = (job["result"] or {}).get("image_id") or (job["problem"] or {}).get("detail") or ""
        table.add_row(
            job["job_id"],
            job["state"],
            str(job["attempts"]),
            job["created_at"][:19],
            job["request"].get("prompt", job["kind"]),
            outcome,
        )
    console.print(table)


@jobs.command()
def show(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Tell all there is to know of a job, as JSON."""
    with _client(server, api_key) as client:
        console.print_json(json.dumps(_json(client.get(f"/v1/jobs/{job_id}"))))


@jobs.command()
def cancel(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Stop a job."""
    with _client(server, api_key) as client:
        job = _json(client.post(f"/v1/jobs/{job_id}/cancel"))
    console.print(f"Job {job_id} is {'being stopped' if job['cancel_requested'] else job['state']}.")


@jobs.command()
def retry(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Begin a job again that failed, was cancelled or is dead."""
    with _client(server, api_key) as client:
        _json(client.post(f"/v1/jobs/{job_id}/retry"))
    console.print(f"Job {job_id} is queued again.")


@jobs.command()
def follow(job_id: JobId, server: Server = HERE, api_key: ApiKey = "") -> None:
    """Show a job's progress until it has ended."""
    columns = (TextColumn("{task.description:<20}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _client(server, api_key) as client, Progress(*columns, console=console) as progress:
        steps = progress.add_task("Waiting", total=None)
        for kind, facts in _events(client, f"/v1/jobs/{job_id}/events", after="0"):
            if kind == "generation.stepped":
                progress.update(steps, description="Denoising", completed=facts["step"], total=facts["num_steps"])
            elif kind == "error":
                raise typer.BadParameter(facts["detail"])
            elif kind == "generation.finished":
                progress.console.print(f"Image {facts['image_id']}")
                return


def events(
    server: Server = HERE,
    api_key: ApiKey = "",
    after: Annotated[int | None, typer.Option(help="Begin after this event; 0 is the beginning.")] = None,
    types: Annotated[str, typer.Option("--type", help="Only these, such as image.created,job.failed.")] = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Print what happens, one JSON object on each line; without --follow what has happened so far."""
    with _client(server, api_key) as client:
        path = f"/v1/events?type={types}"
        if after is None and not follow:
            after = 0
        try:
            for kind, facts in _events(client, path, after=None if after is None else str(after), live=follow):
                print(json.dumps({"type": kind} | facts), flush=True)
        except KeyboardInterrupt:
            return


def _events(
    client: httpx.Client, path: str, after: str | None, live: bool = True
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield events with their facts; a stream that breaks off is resumed where it was."""
    was_heard = False
    while True:
        headers = {} if after is None else {"Last-Event-ID": after}
        try:
            with connect_sse(
                client, "GET", path, headers=headers, timeout=HEARTBEAT_WITHIN_S if live else QUIET_S
            ) as source:
                if source.response.is_error:
                    source.response.read()
                    _json(source.response)
                was_heard = True
                for event in source.iter_sse():
                    after = event.id or after
                    if event.data:  # else a heartbeat
                        yield event.event, event.json()
        except httpx.TransportError as error:
            if not was_heard:
                raise
            if not live and isinstance(error, httpx.ReadTimeout):
                return  # nothing more has happened
        time.sleep(RESUME_PAUSE_S)


@contextmanager
def _client(server: str, api_key: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with httpx.Client(base_url=server, headers=headers, timeout=ANSWER_WITHIN_S) as client:
            yield client
    except httpx.ConnectError:
        raise typer.BadParameter(f"Nothing answers at {server}. Is the service running?") from None


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        kind = response.headers.get("content-type", "")
        raise typer.BadParameter(response.json()["detail"] if "json" in kind else response.text)
    answer: dict[str, Any] = response.json()
    return answer

"""The command `ai-pipeline plan`: how many replicas and devices a target rate requires, from measured costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from cli.console import console, report_errors
from pipeline.records import Scheduler
from pipeline.settings import PROJECT_ROOT, Profile, ServiceSettings
from planning.costs import Costs, Database, costs_of, read_costs
from planning.demand import Workload
from planning.sizing import Objectives, Plan
from planning.sizing import plan as make_plan

COSTS = PROJECT_ROOT / "configs" / "costs"
HEADROOM = 0.3

Rate = Annotated[float, typer.Option(help="Images a second.")]
P95 = Annotated[float | None, typer.Option("--p95", help="Objective: 95 % of /generate within so many seconds.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; the profile's if left out.")]
Guidance = Annotated[
    float | None, typer.Option(help="Above 1, an image takes two rows of a batch; default: the profile's.")
]
Size = Annotated[int | None, typer.Option(help="Side of a square image in pixels; that of the costs if left out.")]
Reactions = Annotated[
    bool, typer.Option("--reactions/--no-reactions", help="Whether every image is segmented, described and drawn.")
]
Repeats = Annotated[float, typer.Option(help="Share of images with known pixels, whose analyses are cached.")]
CachedCalls = Annotated[float, typer.Option(help="Later calls for each image, whose results are cached.")]
Headroom = Annotated[float, typer.Option(help="Share of every server's time to keep free.")]
CostsFile = Annotated[
    Path | None, typer.Option("--costs", help="Measured costs, from `python -m benchmarks stage-costs --out FILE`.")
]
Cores = Annotated[int | None, typer.Option(help="Cores of a machine, where everything runs on CPUs.")]
AsDatabase = Annotated[Database, typer.Option(help="Database of the store.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")]


def plan(
    rate: Rate,
    profile: Annotated[str, typer.Option(help="A profile in configs/, or a YAML file.")] = "mini",
    p95: P95 = None,
    steps: Steps = None,
    guidance: Guidance = None,
    size: Size = None,
    reactions: Reactions = True,
    repeats: Repeats = 0.0,
    cached_calls: CachedCalls = 0.0,
    headroom: Headroom = HEADROOM,
    costs_file: CostsFile = None,
    cores: Cores = None,
    database: AsDatabase = "postgresql",
    as_json: AsJson = False,
) -> None:
    """Estimate how many replicas of each deployment, and how many GPUs, a rate of images requires; starts nothing."""
    with report_errors():
        wanted = ServiceSettings(profile=profile).load_profile()
        costs = read_costs(costs_file or costs_of(wanted.name, COSTS))
        if costs.profile != wanted.name:
            raise ValueError(f"These are the costs of the profile {costs.profile!r}, not of {wanted.name!r}.")
        workload = Workload(
            rate=rate,
            steps=calls_of_denoiser(wanted, steps),
            guidance=(wanted.diffusion.defaults.guidance if guidance is None else guidance) > 1,
            side=size or costs.side,
            reactions=reactions,
            repeats=repeats,
            cached_calls=cached_calls,
        )
        objectives = Objectives(p95_s=p95, headroom=headroom, cores=cores or costs.machine.cores, database=database)
        found = make_plan(costs, workload, objectives)
        if as_json:
            typer.echo(json.dumps(asdict(found) | {"costs": costs.machine.model_dump()}, indent=2))
        else:
            _show(found, costs, objectives)


def calls_of_denoiser(profile: Profile, steps: int | None) -> int:
    """Return the number of calls of the denoiser for an image: PNDM calls it once more than it has steps."""
    defaults = profile.diffusion.defaults
    return (steps or defaults.steps) + (defaults.scheduler is Scheduler.PNDM)


def _show(found: Plan, costs: Costs, objectives: Objectives) -> None:
    on_gpu = costs.accelerator == "cuda"
    device, many = (
        ("GPU", "GPUs")
        if on_gpu
        else (f"machine with {objectives.cores:g} cores", f"machines with {objectives.cores:g} cores")
    )
    table = Table("deployment", "replicas", "num_gpus", "busy", "95 % wait less than", box=None)
    for row in found.deployments:
        gpus = f"{row.num_gpus:g}" if row.num_gpus else ""
        table.add_row(row.name, str(row.replicas), gpus, f"{row.busy:.0%}", f"{row.wait_s:.2g} s")
    table.add_row("cache shards", str(found.cache_shards), "", "", "")
    console.print(f"[bold]{found.devices} {many if found.devices > 1 else device}[/], {found.cores:.1f} CPU cores")
    console.print(table)
    console.print(
        f"/generate: mean {found.mean_s:.2g} s, 95 % within {found.p95_s:.2g} s. "
        f"Saturated at {found.capacity:.3g} images a second.",
        soft_wrap=True,
    )
    limits = Table("shared resource", "images a second at most", "used", "remedy", box=None)
    for limit in found.limits:
        colour = "red" if limit.used > 1 else "yellow" if limit.used > 1 - objectives.headroom else "green"
        limits.add_row(limit.what, f"{limit.images_per_s:.0f}", f"[{colour}]{limit.used:.0%}[/]", limit.remedy)
    console.print(limits)
    for line in assumptions(found, costs, objectives):
        console.print(line, soft_wrap=True, highlight=False)


def assumptions(found: Plan, costs: Costs, objectives: Objectives) -> Iterator[str]:
    """Return the plan's assumptions as sentences; unmeasured costs come first."""
    for name, source in found.assumed.items():
        yield f"[yellow]Assumed, not measured:[/] {escape(name)}: {escape(source)}"
    if (machine := costs.machine).measured_on:
        where = f"{machine.gpu or machine.processor}, {machine.cores} cores, {machine.measured_on}"
        yield f"{'All else measured' if found.assumed else 'Measured'} on {escape(where)} (costs of {costs.profile})."
    yield (
        f"Assumed of the load: independent (Poisson) arrivals, {found.workload.steps} calls of the denoiser for each "
        f"image of {found.workload.side} px, {objectives.headroom:.0%} of every server's time free."
    )
    yield (
        "Assumed of the service: one replica of each engine on every device; what else a device does slows an engine "
        "down as if they took turns; requests spread evenly; GPU memory and the network are not considered. "
        "docs/capacity.md has the formulas with their sources."
    )

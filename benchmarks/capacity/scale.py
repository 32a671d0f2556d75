"""Simulates one to hundreds of GPUs: `python -m benchmarks scale [--costs FILE] [--plot PNG]`.

For each number of GPUs images arrive at 0.8 of their capacity, and pass the ingress, the database, the cache and the
GPUs of `planning.simulation`, whose costs were measured one by one (`python -m benchmarks stage-costs`). Prints the
throughput, the rejections, and the busiest component; first for the service of serve_config.yaml, then with each
limit lifted in turn. The seed is fixed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from planning.costs import Costs, read_costs
from planning.demand import Workload
from planning.simulation import Cluster, SimulationResult, simulate
from planning.sizing import MAX_GENERATIONS, Objectives, plan

ROOT = Path(__file__).parents[2]
COSTS = ROOT / "configs" / "costs" / "sd14-assumed.json"
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LOAD = 0.8  # of the GPUs' capacity
IMAGES = 8_000  # per point, at least approximately
SHORTEST_S, LONGEST_S = 12.0, 120.0  # of simulated time
TURNS = 4  # turnovers of the images in flight under overload, to measure a steady state
TOGETHER = 10  # images per transaction, if batched
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A configuration of the service."""

    name: str
    cluster: Callable[[int, int, int], Cluster]  # of GPUs, and of ingress replicas and cache shards as planned
    is_built: bool = True


VARIANTS = (
    Variant(name="serve_config.yaml: 2 ingress", cluster=lambda gpus, _, __: Cluster(devices=gpus, ingress=2)),
    Variant(name="+ ingress as planned", cluster=lambda gpus, ingress, _: Cluster(devices=gpus, ingress=ingress)),
    Variant(
        name=f"+ {TOGETHER} images in a transaction",
        cluster=lambda gpus, ingress, _: Cluster(devices=gpus, ingress=ingress, images_per_transaction=TOGETHER),
        is_built=False,
    ),
    Variant(
        name="+ cache shards as planned",
        cluster=lambda gpus, ingress, shards: Cluster(
            devices=gpus, ingress=ingress, cache_shards=shards, images_per_transaction=TOGETHER
        ),
        is_built=False,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One number of GPUs in one configuration."""

    gpus: int
    variant: str
    cluster: Cluster
    played: SimulationResult


def main(words: list[str] | None = None) -> None:
    """Read the command line, simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, default=COSTS)
    parser.add_argument("--steps", type=int, default=16, help="calls of the denoiser")
    parser.add_argument("--side", type=int, help="pixels; that of the costs if left out")
    parser.add_argument("--gpus", type=int, nargs="*", default=list(GPUS))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    costs = read_costs(arguments.costs)
    points = []
    for variant in VARIANTS:
        points += [point(costs, variant, gpus, arguments.steps, arguments.side) for gpus in arguments.gpus]
        Console(width=140).print(tabulate(variant, [each for each in points if each.variant == variant.name]))
    for name, source in costs.assumed.items():
        print(f"Assumed, not measured: {name}: {source}")
    if arguments.json:
        arguments.json.write_text(json.dumps([as_json(each) for each in points], indent=2) + "\n")
    if arguments.plot:
        draw(points, arguments.plot)


def point(costs: Costs, variant: Variant, gpus: int, steps: int, side: int | None) -> Point:
    """Simulate one number of GPUs."""
    workload = Workload(rate=1.0, steps=steps, side=side or costs.side)
    each = plan(costs, workload, Objectives(headroom=0.01)).capacity  # of one GPU
    workload = Workload(rate=LOAD * each * gpus, steps=steps, side=side or costs.side)
    planned = plan(costs, workload, Objectives(headroom=1 - LOAD - 0.01))
    ingress = next(row.replicas for row in planned.deployments if row.name == "Ingress")
    cluster = variant.cluster(gpus, min(ingress, 4 * gpus + 2), planned.cache_shards)
    seconds = min(LONGEST_S, max(SHORTEST_S, IMAGES / workload.rate))
    cache, database, _ = (limit.images_per_s for limit in planned.limits)
    most = min(cache * cluster.cache_shards, database * cluster.images_per_transaction)
    if most < workload.rate:
        seconds = max(seconds, TURNS * MAX_GENERATIONS * cluster.ingress / most)
    return Point(
        gpus=gpus,
        variant=variant.name,
        cluster=cluster,
        played=simulate(costs, workload, cluster, seconds=seconds, seed=SEED),
    )


def tabulate(variant: Variant, points: list[Point]) -> Table:
    """All numbers of GPUs in one configuration."""
    note = "" if variant.is_built else " (a what-if: the service can't do this yet)"
    columns = ("GPUs", "ingress, shards", "offered, 1/s", "made, 1/s", "refused", "p95, s", "not analyzed", "busy")
    table = Table(*columns, title=variant.name + note)
    for each in points:
        played = each.played
        short = played.made < 0.95 * played.offered
        table.add_row(
            str(each.gpus),
            f"{each.cluster.ingress}, {each.cluster.cache_shards}",
            f"{played.offered:.0f}",
            f"[{'red' if short else 'green'}]{played.made:.0f}[/]",
            f"{played.refused:.0%}",
            f"{played.within_s(0.95):.2f}",
            f"{played.not_followed:.0%}",
            ", ".join(f"{name} {min(busy, 1):.0%}" for name, busy in played.busy.items()),
        )
    return table


def as_json(each: Point) -> dict[str, object]:
    """A point as plain data."""
    played = {name: value for name, value in asdict(each.played).items() if name != "latencies_s"}
    return {"gpus": each.gpus, "variant": each.variant, "p95_s": each.played.within_s(0.95)} | played


def draw(points: list[Point], path: Path) -> None:
    """Plot throughput over GPUs, a line per configuration."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.4), dpi=90)
    gpus = sorted({each.gpus for each in points})
    offered = {each.gpus: each.played.offered for each in points}
    axes.plot(gpus, [offered[each] for each in gpus], color="0.7", linewidth=5, label=f"offered: {LOAD:g} of the GPUs")
    for number, variant in enumerate(VARIANTS):
        own = [each for each in points if each.variant == variant.name]
        style: dict[str, Any] = {
            "marker": "o",
            "markersize": 4,
            "linestyle": "-" if variant.is_built else "--",
            "color": f"C{number}",
        }
        axes.plot([each.gpus for each in own], [each.played.made for each in own], label=variant.name, **style)
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="images a second")
    axes.set_xticks(gpus, [str(each) for each in gpus])
    axes.minorticks_off()
    axes.set_ylim(top=2 * max(offered.values()), bottom=10 ** math.floor(math.log10(min(offered.values()))))
    axes.grid(color="0.9")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)

"""How many replicas on how many devices a workload takes, and which of the shared parts would be too slow.

Every device (a GPU, or a machine where everything is computed on CPUs) carries one replica of each engine: such a set
always fits, and fractions of GPUs then are shares of the work. What else a device does slows an engine down as if
it took turns with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from planning.costs import Costs, Database
from planning.demand import STAGES_AFTER, Demand, Workload, demand_of
from planning.queues import mean_wait_s, wait_within_s

SHARE = 0.95  # of the images, that the objective is for
MIN_INGRESS = 2  # so that one may die
MAX_GENERATIONS = 8  # images that an ingress replica has in hand, `admission` in pipeline/settings.py
SMALLEST_FRACTION = 0.1  # of a GPU: a replica's memory is fenced by it
RENDERER_THREADS = 8  # calls at a time, in deployments/renderer.py
STEADY = 0.5  # half the variation of arrivals alone: an engine's calls are much alike
MAX_DEVICES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A row of the plan."""

    name: str
    replicas: int
    num_gpus: float  # of each; 0 on CPUs
    busy: float  # share of the time, of each
    wait_s: float  # that 95 % of calls don't exceed


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Something that more replicas of the engines don't help."""

    what: str
    images_per_s: float
    used: float  # by the plan; more than 1 can't be
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What it takes."""

    workload: Workload
    devices: int  # GPUs, or machines
    cores: float  # CPUs in use, of all machines
    deployments: tuple[Deployment, ...]
    cache_shards: int
    mean_s: float  # latency of `/generate`
    p95_s: float
    capacity: float  # images a second at which the devices are busy all the time
    limits: tuple[Limit, ...]
    assumed: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wishes:
    """How well it is to be done.

    Raises:
        ValueError: something is out of range; says what.
    """

    p95_s: float | None = None
    headroom: float = 0.3  # share of every server's time that is to be free
    cores: int = 1  # of a machine, where everything is computed on CPUs
    database: Database = "postgresql"

    def __post_init__(self) -> None:
        if not 0 < self.headroom < 1:
            raise ValueError(f"Headroom is a share between 0 and 1, such as 0.3; not {self.headroom:g}.")
        if self.p95_s is not None and self.p95_s <= 0:
            raise ValueError("The objective must be more than 0 seconds.")
        if self.cores < 1:
            raise ValueError("A machine has at least one core.")


def plan(costs: Costs, workload: Workload, wishes: Wishes) -> Plan:
    """Find the fewest devices that do, and everything else to go with them.

    Raises:
        ValueError: no number of devices does: a single image takes too long already.
    """
    demand = demand_of(costs, workload)
    alone_s = demand.replica().latency_s(1) + _rest_s(demand)
    if wishes.p95_s is not None and alone_s > wishes.p95_s:
        raise ValueError(
            f"No number of devices makes 95 % of images within {wishes.p95_s:g} s: one alone takes {alone_s:.2g} s. "
            "Ask for fewer steps or smaller images, or a faster device."
        )
    devices = _fewest(costs, demand, workload.rate, wishes)
    while (found := _planned(costs, demand, workload, wishes, devices)) is None:
        devices += max(1, devices // 50)
        if devices > MAX_DEVICES:
            raise ValueError(f"More than {MAX_DEVICES} devices would not do.")
    return found


def shares(costs: Costs, demand: Demand, cores: int) -> dict[str, float]:
    """The seconds that an image keeps a device busy, by what does: a whole GPU, or a machine with all its cores."""
    diffusion, clip, segmenter = demand.diffusion(), demand.clip.all, demand.segmenter.all
    if costs.accelerator == "cuda":
        return {"Diffusion": diffusion.wall_s, "Clip": clip.wall_s, "Segmenter": segmenter.wall_s}
    by_name = {"Diffusion": diffusion.cpu_s, "Clip": clip.cpu_s, "Segmenter": segmenter.cpu_s}
    by_name |= {"Renderer": demand.renderer.all.cpu_s, "Ingress": demand.ingress_s, "other": demand.elsewhere_s}
    return {name: seconds / cores for name, seconds in by_name.items()}


def _idle(costs: Costs, cores: int) -> float:
    """The share of a device that a service takes which has nothing to do."""
    return 0.0 if costs.accelerator == "cuda" else min(0.9, costs.overheads.idle_cores / cores)


def _fewest(costs: Costs, demand: Demand, rate: float, wishes: Wishes) -> int:
    busy = rate * sum(shares(costs, demand, wishes.cores).values())
    usable = (1 - wishes.headroom) * (1 - _idle(costs, wishes.cores))
    engine_s = (1 - wishes.headroom) * demand.replica().capacity
    return max(1, math.ceil(busy / usable), math.ceil(rate / engine_s))


def _planned(costs: Costs, demand: Demand, workload: Workload, wishes: Wishes, devices: int) -> Plan | None:
    """The plan with so many devices; None if they don't meet the objective."""
    rate, usable = workload.rate, 1 - wishes.headroom
    by_name = shares(costs, demand, wishes.cores)
    idle = _idle(costs, wishes.cores)
    busy = {name: rate * seconds / devices for name, seconds in by_name.items()}
    slowed = {name: 1 / (1 - idle - (sum(busy.values()) - own)) for name, own in busy.items()}
    replica = demand.replica(slowed["Diffusion"])
    if rate / devices >= usable * replica.capacity:
        return None
    rest_s = _rest_s(demand)
    p95_s = replica.latency_within_s(SHARE, rate / devices) + rest_s
    clip = demand.clip.each.wall_s * slowed["Clip"]
    calls = demand.clip.calls * rate
    p95_s += wait_within_s(SHARE, devices, calls, clip, variability=STEADY)
    mean_s = replica.mean_latency_s(rate / devices) + rest_s + mean_wait_s(devices, calls, clip, variability=STEADY)
    if not math.isfinite(p95_s) or (wishes.p95_s is not None and p95_s > wishes.p95_s):
        return None
    deployments = _deployments(costs, demand, workload, wishes, devices, slowed, p95_s)
    cores = rate * (demand.ingress_s + demand.elsewhere_s + demand.renderer.all.cpu_s)
    cores += rate * (demand.diffusion() + demand.clip.all + demand.segmenter.all).cpu_s
    limits = _limits(costs, demand, rate, wishes.database)
    return Plan(
        workload=workload,
        devices=devices,
        cores=cores / usable,
        deployments=deployments,
        cache_shards=max(1, math.ceil(rate * demand.cache_calls * costs.shared.cache_call_s / usable)),
        mean_s=mean_s,
        p95_s=p95_s,
        capacity=min(devices * demand.replica().capacity, devices * (1 - idle) / sum(by_name.values())),
        limits=limits,
        assumed=costs.assumed | demand.assumed,
    )


def _rest_s(demand: Demand) -> float:
    """What `/generate` takes beside the diffusion, with nobody before it."""
    return demand.renderer.each.wall_s + demand.clip.each.wall_s + demand.ingress_s


def _deployments(
    costs: Costs,
    demand: Demand,
    workload: Workload,
    wishes: Wishes,
    devices: int,
    slowed: dict[str, float],
    p95_s: float,
) -> tuple[Deployment, ...]:
    rate, on_gpu = workload.rate, costs.accelerator == "cuda"
    by_name = shares(costs, demand, wishes.cores)
    fractions = _fractions({name: by_name[name] for name in ("Diffusion", "Clip", "Segmenter")}) if on_gpu else {}
    replica = demand.replica(slowed["Diffusion"])
    rows = [
        Deployment(
            name="Diffusion",
            replicas=devices,
            num_gpus=fractions.get("Diffusion", 0.0),
            busy=rate / devices / replica.capacity,
            wait_s=replica.latency_within_s(SHARE, rate / devices) - demand.replica().latency_s(1),
        )
    ]
    for name, engine in (("Clip", demand.clip), ("Segmenter", demand.segmenter)):
        each_s = engine.each.wall_s * slowed[name]
        rows.append(_row(name, devices, fractions.get(name, 0.0), engine.calls * rate, each_s))
    drawing = demand.renderer
    renderers = math.ceil(drawing.calls * rate * drawing.each.wall_s / RENDERER_THREADS / (1 - wishes.headroom))
    renderers = max(renderers, devices if not on_gpu else 1)
    rows.append(_row("Renderer", renderers, 0.0, drawing.calls * rate / RENDERER_THREADS, drawing.each.wall_s))
    ingress = _ingress(costs, demand, workload, wishes, p95_s, slowed)
    rows.append(_row("Ingress", ingress, 0.0, rate, demand.ingress_s))
    return tuple(rows)


def _row(name: str, replicas: int, fraction: float, calls_per_s: float, each_s: float) -> Deployment:
    wait_s = wait_within_s(SHARE, replicas, calls_per_s, each_s, variability=STEADY)
    busy = calls_per_s * each_s / replicas
    return Deployment(name=name, replicas=replicas, num_gpus=fraction, busy=busy, wait_s=wait_s)


def _fractions(seconds: dict[str, float]) -> dict[str, float]:
    """Shares of a GPU by work, in twentieths, none too small, together 1 at most."""
    small = {
        name: SMALLEST_FRACTION for name, own in seconds.items() if own < SMALLEST_FRACTION * sum(seconds.values())
    }
    left, work = 1 - sum(small.values()), sum(own for name, own in seconds.items() if name not in small)
    return small | {
        name: math.floor(20 * left * own / work + 1e-9) / 20 for name, own in seconds.items() if name not in small
    }


def _ingress(
    costs: Costs, demand: Demand, workload: Workload, wishes: Wishes, p95_s: float, slowed: dict[str, float]
) -> int:
    """Replicas that have the time, places for the images in hand, and hands for what follows them."""
    rate, usable = workload.rate, 1 - wishes.headroom
    spare = usable - rate * _hearing_s(costs, demand)
    busy = math.ceil(rate * demand.ingress_s / spare) if spare > 0 else MAX_DEVICES
    following_s = _following_s(costs, demand, slowed) if workload.reactions else 0.0
    return max(MIN_INGRESS, busy, math.ceil(rate * p95_s / MAX_GENERATIONS), math.ceil(rate * following_s / usable))


def _following_s(costs: Costs, demand: Demand, slowed: dict[str, float]) -> float:
    """How long an ingress replica is at one image's reactions, which it follows one by one (graphs/reactions.py)."""
    engines_s = demand.segmenter.all.wall_s * slowed["Segmenter"] + demand.clip.all.wall_s * slowed["Clip"]
    return engines_s + demand.renderer.all.wall_s + STAGES_AFTER * costs.overheads.stage.cpu_s


def _hearing_s(costs: Costs, demand: Demand) -> float:
    """What every ingress replica does for every image, whoever makes it: it hears of it."""
    return demand.events * costs.shared.log_row_s + demand.notices * costs.shared.notice_s


def _limits(costs: Costs, demand: Demand, rate: float, database: Database) -> tuple[Limit, ...]:
    seconds = {
        "segmentation cache, one shard": (
            demand.cache_calls * costs.shared.cache_call_s,
            "more shards, by the digest in the key; deployments/segmentation_cache.py starts one so far",
        ),
        f"transactions in {database}": (
            costs.shared.transactions_s[database],
            "several images in one transaction, or the log split by owner, each part with a lock of its own",
        ),
        "events that every ingress replica hears of": (
            _hearing_s(costs, demand),
            "steps only to replicas that have a reader of that job; the log read by owner",
        ),
    }
    return tuple(
        Limit(what=what, images_per_s=1 / each_s, used=rate * each_s, remedy=remedy)
        for what, (each_s, remedy) in seconds.items()
    )

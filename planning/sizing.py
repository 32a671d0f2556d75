"""How many replicas on how many devices a workload requires, and which shared resources would be too slow.

Every device (a GPU, or a machine where everything is computed on CPUs) has one replica of each engine: such a set
always fits, and fractions of GPUs then are shares of the work. A device's other work slows an engine down as if they
took turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.settings import RENDERER_THREADS, AdmissionSettings
from planning.costs import Costs, Database
from planning.demand import STAGES_AFTER, Demand, Workload, demand_of
from planning.queues import mean_wait_s, wait_within_s

SHARE = 0.95  # of the images, for which the objective holds
MIN_INGRESS = 2  # so that one may fail
MAX_GENERATIONS = AdmissionSettings().max_generations  # images in flight of an ingress replica
SMALLEST_FRACTION = 0.1  # of a GPU: a replica's memory is limited by it
STEADY = 0.5  # half the variation, of arrivals only: the service times of an engine vary little
MAX_DEVICES = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A row of the plan."""

    name: str
    replicas: int
    num_gpus: float  # of each; 0 on CPUs
    busy: float  # utilisation of each
    wait_s: float  # 95 % quantile over calls


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """The limit of a shared resource, which more replicas of the engines don't raise."""

    what: str
    images_per_s: float
    used: float  # share used by the plan; infeasible above 1
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The resources that a workload requires."""

    workload: Workload
    devices: int  # GPUs, or machines
    cores: float  # CPUs in use, of all machines
    deployments: tuple[Deployment, ...]
    cache_shards: int
    mean_s: float  # latency of `/generate`
    p95_s: float
    capacity: float  # images a second at which the devices are saturated
    limits: tuple[Limit, ...]
    assumed: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Objectives:
    """The objectives of a plan.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    p95_s: float | None = None
    headroom: float = 0.3  # share of every server's time to keep free
    cores: float = 1  # of a machine, where everything is computed on CPUs
    database: Database = "postgresql"

    def __post_init__(self) -> None:
        if not 0 < self.headroom < 1:
            raise ValueError(f"Headroom is a share between 0 and 1, such as 0.3; not {self.headroom:g}.")
        if self.p95_s is not None and self.p95_s <= 0:
            raise ValueError("The objective must be more than 0 seconds.")
        if self.cores < 1:
            raise ValueError("A machine has at least one core.")


def plan(costs: Costs, workload: Workload, objectives: Objectives) -> Plan:
    """Find the smallest sufficient number of devices, and the replicas and shards to go with it.

    Raises:
        ValueError: no number of devices is sufficient: a single image takes too long already.
    """
    demand = demand_of(costs, workload)
    alone_s = demand.replica().latency_s(1) + rest_s(demand)
    if objectives.p95_s is not None and alone_s > objectives.p95_s:
        raise ValueError(
            f"No number of devices makes 95 % of images within {objectives.p95_s:g} s: one alone takes "
            f"{alone_s:.2g} s. Ask for fewer steps or smaller images, or a faster device."
        )
    devices = _fewest(costs, demand, workload.rate, objectives)
    while devices <= MAX_DEVICES:
        layout = Layout(costs=costs, demand=demand, workload=workload, objectives=objectives, devices=devices)
        if layout.keeps_up and (objectives.p95_s is None or layout.p95_s <= objectives.p95_s):
            return layout.plan()
        devices += max(1, devices // 50)
    raise ValueError(f"More than {MAX_DEVICES} devices would not do.")


def shares(costs: Costs, demand: Demand, cores: float) -> dict[str, float]:
    """Return the seconds for which an image keeps a device (a GPU, or a machine with all its cores) busy, by engine."""
    diffusion, clip, segmenter = demand.diffusion(), demand.clip.all, demand.segmenter.all
    if costs.accelerator == "cuda":
        return {"Diffusion": diffusion.wall_s, "Clip": clip.wall_s, "Segmenter": segmenter.wall_s}
    by_name = {"Diffusion": diffusion.cpu_s, "Clip": clip.cpu_s, "Segmenter": segmenter.cpu_s}
    by_name |= {"Renderer": demand.renderer.all.cpu_s, "Ingress": demand.ingress_s, "other": demand.elsewhere_s}
    return {name: seconds / cores for name, seconds in by_name.items()}


def rest_s(demand: Demand) -> float:
    """Return the seconds of `/generate` besides the diffusion, without queueing."""
    return demand.renderer.each.wall_s + demand.clip.each.wall_s + demand.ingress_s


def _idle(costs: Costs, cores: float) -> float:
    """Return the share of a device that an idle service uses."""
    return 0.0 if costs.accelerator == "cuda" else min(0.9, costs.overheads.idle_cores / cores)


def _fewest(costs: Costs, demand: Demand, rate: float, objectives: Objectives) -> int:
    busy = rate * sum(shares(costs, demand, objectives.cores).values())
    usable = (1 - objectives.headroom) * (1 - _idle(costs, objectives.cores))
    engine_s = (1 - objectives.headroom) * demand.replica().capacity
    return max(1, math.ceil(busy / usable), math.ceil(rate / engine_s))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A workload on a given number of devices."""

    costs: Costs
    demand: Demand
    workload: Workload
    objectives: Objectives
    devices: int

    @property
    def keeps_up(self) -> bool:
        """Whether every diffusion replica has its headroom, given its device's other work."""
        own = self.workload.rate / self.devices
        return own < (1 - self.objectives.headroom) * self.demand.replica(self.slowed("Diffusion")).capacity

    @property
    def mean_s(self) -> float:
        """Mean latency of `/generate`."""
        waiting = mean_wait_s(self.devices, *self._described, variability=STEADY)
        replica = self.demand.replica(self.slowed("Diffusion"))
        return replica.mean_latency_s(self.workload.rate / self.devices) + rest_s(self.demand) + waiting

    @property
    def p95_s(self) -> float:
        """95 % quantile of the latency of `/generate`."""
        waiting = wait_within_s(SHARE, self.devices, *self._described, variability=STEADY)
        replica = self.demand.replica(self.slowed("Diffusion"))
        return replica.latency_within_s(SHARE, self.workload.rate / self.devices) + rest_s(self.demand) + waiting

    @property
    def _described(self) -> tuple[float, float]:
        """Calls of CLIP a second, and seconds of each."""
        clip = self.demand.clip
        return clip.calls * self.workload.rate, clip.each.wall_s * self.slowed("Clip")

    def slowed(self, name: str) -> float:
        """Return the factor by which its device's other work slows an engine down."""
        by_name = shares(self.costs, self.demand, self.objectives.cores)
        others = self.workload.rate * (sum(by_name.values()) - by_name[name]) / self.devices
        return 1 / (1 - others - _idle(self.costs, self.objectives.cores))

    def plan(self) -> Plan:
        """Return the plan for this layout."""
        costs, demand, rate, usable = self.costs, self.demand, self.workload.rate, 1 - self.objectives.headroom
        by_name = shares(costs, demand, self.objectives.cores)
        busy_share = (1 - _idle(costs, self.objectives.cores)) / sum(by_name.values())
        engines = demand.diffusion() + demand.clip.all + demand.segmenter.all + demand.renderer.all
        return Plan(
            workload=self.workload,
            devices=self.devices,
            cores=rate * (engines.cpu_s + demand.ingress_s + demand.elsewhere_s) / usable,
            deployments=self.deployments(),
            cache_shards=max(1, math.ceil(rate * demand.cache_calls * costs.shared.cache_call_s / usable)),
            mean_s=self.mean_s,
            p95_s=self.p95_s,
            capacity=self.devices * min(demand.replica().capacity, busy_share),
            limits=limits_of(costs, demand, rate, self.objectives.database),
            assumed=costs.assumed | demand.assumed,
        )

    def deployments(self) -> tuple[Deployment, ...]:
        """Return all deployments: one of each engine on every device, the renderer and the ingress."""
        demand, rate, usable = self.demand, self.workload.rate, 1 - self.objectives.headroom
        gpus = self._fractions()
        replica, own = demand.replica(self.slowed("Diffusion")), rate / self.devices
        diffusion = Deployment(
            name="Diffusion",
            replicas=self.devices,
            num_gpus=gpus.get("Diffusion", 0.0),
            busy=own / replica.capacity,
            wait_s=replica.latency_within_s(SHARE, own) - demand.replica().latency_s(1),
        )
        rows = [diffusion]
        for name, engine in (("Clip", demand.clip), ("Segmenter", demand.segmenter)):
            each_s = engine.each.wall_s * self.slowed(name)
            rows.append(_row(name, self.devices, engine.calls * rate, each_s, gpus.get(name, 0.0)))
        drawn, drawing_s = demand.renderer.calls * rate / RENDERER_THREADS, demand.renderer.each.wall_s
        least = 1 if gpus else self.devices
        rows.append(_row("Renderer", max(least, math.ceil(drawn * drawing_s / usable)), drawn, drawing_s))
        rows.append(_row("Ingress", self._ingress(), rate, demand.ingress_s))
        return tuple(rows)

    def _fractions(self) -> dict[str, float]:
        """Return the fractions of a GPU by work, in twentieths, none too small, at most 1 together."""
        if self.costs.accelerator == "cpu":
            return {}
        seconds = shares(self.costs, self.demand, self.objectives.cores)
        least = SMALLEST_FRACTION * sum(seconds.values())
        small = {name: SMALLEST_FRACTION for name, own in seconds.items() if own < least}
        left, work = 1 - sum(small.values()), sum(own for name, own in seconds.items() if name not in small)
        large = {name: left * own / work for name, own in seconds.items() if name not in small}
        return small | {name: math.floor(20 * share + 1e-9) / 20 for name, share in large.items()}

    def _ingress(self) -> int:
        """Return the replicas required for the CPU time, the images in flight, and following their reactions."""
        demand, rate, usable = self.demand, self.workload.rate, 1 - self.objectives.headroom
        spare = usable - rate * event_fanout_s(self.costs, demand)
        busy = math.ceil(rate * demand.ingress_s / spare) if spare > 0 else MAX_DEVICES
        following = math.ceil(rate * self._following_s() / usable) if self.workload.reactions else 0
        return max(MIN_INGRESS, busy, math.ceil(rate * self.p95_s / MAX_GENERATIONS), following)

    def _following_s(self) -> float:
        """Return the seconds of one image's reactions; an ingress replica follows one image after the other."""
        demand = self.demand
        engines_s = demand.segmenter.all.wall_s * self.slowed("Segmenter")
        engines_s += demand.clip.all.wall_s * self.slowed("Clip") + demand.renderer.all.wall_s
        return engines_s + STAGES_AFTER * self.costs.overheads.stage.cpu_s


def _row(name: str, replicas: int, calls_per_s: float, each_s: float, num_gpus: float = 0.0) -> Deployment:
    wait_s = wait_within_s(SHARE, replicas, calls_per_s, each_s, variability=STEADY)
    busy = calls_per_s * each_s / replicas
    return Deployment(name=name, replicas=replicas, num_gpus=num_gpus, busy=busy, wait_s=wait_s)


def event_fanout_s(costs: Costs, demand: Demand) -> float:
    """Return the seconds that every ingress replica spends on the events of every image, made by any replica."""
    return demand.events * costs.shared.log_row_s + demand.reported_steps * costs.shared.notice_s


def limits_of(costs: Costs, demand: Demand, rate: float, database: Database) -> tuple[Limit, ...]:
    """Return the limits of the shared resources, and how much of each a rate uses."""
    seconds = {
        "segmentation cache, one shard": (
            demand.cache_calls * costs.shared.cache_call_s,
            "more shards, by the digest in the key; deployments/segmentation_cache.py starts one so far",
        ),
        f"transactions in {database}": (
            costs.shared.transactions_s[database],
            "several images in one transaction, or the log split by owner, each part with a lock of its own",
        ),
        "events that every ingress replica receives": (
            event_fanout_s(costs, demand),
            "steps only to replicas that have a reader of that job; the log read by owner",
        ),
    }
    return tuple(
        Limit(what=what, images_per_s=1 / each_s, used=rate * each_s, remedy=remedy)
        for what, (each_s, remedy) in seconds.items()
    )

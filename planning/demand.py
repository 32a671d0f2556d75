"""The load that one image puts on every server: engines, the machine they share, and shared resources."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.settings import DIFFUSION_REQUESTS, DiffusionSettings
from planning.batching import BatchServer
from planning.costs import Cost, Costs

STAGES_AFTER = 3  # of an image beyond its description, in graphs/analysis/stages.py: segment, describe regions, render
CACHE_CALLS = 3  # for a stage that is run: acquire, put, release
CACHE_CALLS_KNOWN = 1  # for one whose result is cached
CACHE_CALLS_CACHED = 2  # for a later call: `/segment` requests two stages, whose results another replica may hold
PROGRESS_EVERY_S: float = DiffusionSettings.model_fields["progress_every_s"].default
EVENTS = 4  # of an image in the log: submitted, started, created, succeeded


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The target workload.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    rate: float  # images a second
    steps: int  # calls of the denoiser for an image
    guidance: bool = True  # an image takes two rows of a batch instead of one
    side: int  # pixels
    reactions: bool = True  # every image is segmented, its regions described and drawn, without a request
    repeats: float = 0.0  # share of images with known pixels, whose analyses are cached
    cached_calls: float = 0.0  # later calls for each image, whose results are cached

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"{self.rate:g} images a second: the rate must be more than 0.")
        if self.steps < 1 or self.side < 1:
            raise ValueError("An image has at least one step and one pixel.")
        if not 0 <= self.repeats < 1:
            raise ValueError(f"Repeats are a share from 0 to below 1, such as 0.3; not {self.repeats:g}.")
        if self.cached_calls < 0:
            raise ValueError("There can't be fewer than 0 cached calls for each image.")

    @property
    def rows(self) -> int:
        """Rows of an image in a batch."""
        return 2 if self.guidance else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """The load of an image on one kind of engine that takes one call at a time."""

    calls: float
    each: Cost  # on average

    @property
    def all(self) -> Cost:
        """Cost of all calls of an image."""
        return self.each.times(self.calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """The load of an image on everything."""

    cycles: tuple[Cost, ...]  # of a batch of one image, two …, from start to decoded
    steps: int
    gap_s: float  # of a cycle, for which the engine waits between steps
    clip: Engine
    segmenter: Engine
    renderer: Engine
    ingress_s: float  # CPU
    elsewhere_s: float  # CPU
    cache_calls: float
    reported_steps: float  # to the ingress, and to its other replicas; all of them if a client follows the image
    events: float = EVENTS
    assumed: dict[str, str] = field(default_factory=dict)

    def diffusion(self, together: int | None = None) -> Cost:
        """Return an image's share of the cost of a batch, by default the largest."""
        num = min(together or len(self.cycles), len(self.cycles))
        return self.cycles[num - 1].times(1 / num)

    def replica(self, stretch: float = 1.0) -> BatchServer:
        """Return a diffusion replica, slowed down by its device's other work."""
        cycles = tuple(stretch * (cycle.wall_s + self.gap_s) for cycle in self.cycles)
        return BatchServer(cycle_s=cycles, joining_s=stretch * self._step_s / 2)

    @property
    def _step_s(self) -> float:
        """Seconds of a step of the largest batch, approximately: an arriving image waits half of it."""
        return self.cycles[-1].wall_s / self.steps

    def cpu_s(self, together: int | None = None) -> float:
        """Return the CPU seconds of an image, if everything is computed on CPUs."""
        engines = (self.clip.all, self.segmenter.all, self.renderer.all, self.diffusion(together))
        return sum(cost.cpu_s for cost in engines) + self.ingress_s + self.elsewhere_s


def demand_of(costs: Costs, workload: Workload) -> Demand:
    """Add up the load of one image of a workload.

    Args:
        costs: of one profile.
        workload: what each image requires; its rate doesn't matter here.

    Raises:
        ValueError: an image takes more rows than the largest batch has.
    """
    larger = (workload.side / costs.side) ** 2
    cycles, gap_s = _cycles(costs, workload, larger), workload.steps * costs.overheads.step_gap_s
    reported = min(float(workload.steps), 1 + (cycles[-1].wall_s + gap_s) / PROGRESS_EVERY_S)
    fresh = 1 - workload.repeats
    stages = STAGES_AFTER if workload.reactions else 0
    described = costs.describe + costs.describe_picture
    regions = costs.describe + costs.describe_picture.times(costs.regions)
    followed = fresh if workload.reactions else 0.0
    overheads = costs.overheads
    parts = [(1.0, overheads.generation), (reported, overheads.step), (stages, overheads.stage)]
    parts.append((workload.cached_calls, overheads.cached_call))
    known = CACHE_CALLS * fresh + CACHE_CALLS_KNOWN * workload.repeats
    return Demand(
        cycles=cycles,
        steps=workload.steps,
        gap_s=gap_s,
        clip=_mixed((fresh, described), (followed, regions)),
        segmenter=_mixed((followed, costs.segment)),
        renderer=_mixed((1.0, costs.encode.times(larger)), (followed, costs.render.times(larger))),
        ingress_s=sum(times * each.ingress_s for times, each in parts),
        elsewhere_s=sum(times * each.elsewhere_s for times, each in parts),
        cache_calls=(1 + stages) * known + CACHE_CALLS_CACHED * workload.cached_calls,
        reported_steps=reported,
        assumed=_scaling(costs, workload),
    )


def _cycles(costs: Costs, workload: Workload, larger: float) -> tuple[Cost, ...]:
    most = min(DIFFUSION_REQUESTS, costs.buckets[-1] // workload.rows)
    if most < 1:
        raise ValueError(f"An image takes {workload.rows} rows, and the largest batch has {costs.buckets[-1]}.")
    own = costs.start + costs.decode.times(larger)
    return tuple(
        costs.step(num * workload.rows).times(workload.steps * larger) + own.times(num) for num in range(1, most + 1)
    )


def _mixed(*calls: tuple[float, Cost]) -> Engine:
    """Combine calls of several kinds, each with its number for an image."""
    number = sum(times for times, _ in calls)
    total = Cost(wall_s=0.0, cpu_s=0.0)
    for times, cost in calls:
        total += cost.times(times)
    return Engine(calls=number, each=total.times(1 / number) if number else total)


def _scaling(costs: Costs, workload: Workload) -> dict[str, str]:
    if workload.side == costs.side:
        return {}
    return {f"{workload.side} px": f"steps, decoding, drawing and PNG in proportion to the pixels of {costs.side} px"}

"""What one image asks of every server: engines, the machine they share, and what there is one of."""

from __future__ import annotations

from dataclasses import dataclass, field

from planning.batching import BatchServer
from planning.costs import Cost, Costs

MAX_ONGOING = 16  # requests that one diffusion replica takes on, in deployments/diffusion.py
STAGES_AFTER = 3  # of an image beyond its description, in graphs/analysis/stages.py: segment, describe regions, render
CACHE_CALLS = 3  # for a stage that is run: acquire, put, release
CACHE_CALLS_KNOWN = 1  # for one whose result is at hand
CACHE_CALLS_CACHED = 2  # for a later call: `/segment` asks for two stages, which another replica may remember
TOLD_EVERY_S = 0.5  # of an image that nobody follows, `progress_every_s` in pipeline/settings.py
EVENTS = 4  # of an image in the log: submitted, started, created, succeeded


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is wanted.

    Raises:
        ValueError: something is out of range; says what.
    """

    rate: float  # images a second
    steps: int  # calls of the denoiser for an image
    guidance: bool = True  # takes two rows of a batch instead of one
    side: int  # pixels
    reactions: bool = True  # every image is segmented, its regions described and drawn, before anybody asks
    repeats: float = 0.0  # share of images whose pixels were there before, so that analyses are at hand
    cached_calls: float = 0.0  # later calls for each image, whose results are at hand

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
        """Of an image in a batch."""
        return 2 if self.guidance else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """What an image asks of one kind of engine that takes one call at a time."""

    calls: float
    each: Cost  # on average

    @property
    def all(self) -> Cost:
        """Of an image."""
        return self.each.times(self.calls)


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What an image asks of everything."""

    cycles: tuple[Cost, ...]  # a batch of one image, two …, from start to decoded
    steps: int
    gap_s: float  # of them, that the engine waits between steps
    clip: Engine
    segmenter: Engine
    renderer: Engine
    ingress_s: float  # CPU
    elsewhere_s: float  # CPU
    cache_calls: float
    told: float  # steps that the ingress, and every other replica of it, hears of; more if somebody follows the image
    events: float = EVENTS
    assumed: dict[str, str] = field(default_factory=dict)

    def diffusion(self, together: int | None = None) -> Cost:
        """An image's share of a batch, of the largest if nothing else is said."""
        num = min(together or len(self.cycles), len(self.cycles))
        return self.cycles[num - 1].times(1 / num)

    def replica(self, stretch: float = 1.0) -> BatchServer:
        """A diffusion replica, slowed down by what else its device does."""
        cycles = tuple(stretch * (cycle.wall_s + self.gap_s) for cycle in self.cycles)
        return BatchServer(cycle_s=cycles, joining_s=stretch * self._step_s / 2)

    @property
    def _step_s(self) -> float:
        """A step of the largest batch, nearly: what an image that comes waits half of."""
        return self.cycles[-1].wall_s / self.steps

    def cpu_s(self, together: int | None = None) -> float:
        """Seconds of CPU for all of an image, if everything is computed on CPUs."""
        engines = (self.clip.all, self.segmenter.all, self.renderer.all, self.diffusion(together))
        return sum(cost.cpu_s for cost in engines) + self.ingress_s + self.elsewhere_s


def demand_of(costs: Costs, workload: Workload) -> Demand:
    """Add up what an image of this workload asks for.

    Args:
        costs: of one profile.
        workload: what is wanted of it; its rate doesn't count here.

    Raises:
        ValueError: an image takes more rows than the largest batch has.
    """
    larger = (workload.side / costs.side) ** 2
    cycles, gap_s = _cycles(costs, workload, larger), workload.steps * costs.overheads.step_gap_s
    told = min(float(workload.steps), 1 + (cycles[-1].wall_s + gap_s) / TOLD_EVERY_S)
    fresh = 1 - workload.repeats
    stages = STAGES_AFTER if workload.reactions else 0
    described = costs.describe + costs.describe_picture
    regions = costs.describe + costs.describe_picture.times(costs.regions)
    followed = fresh if workload.reactions else 0.0
    overheads = costs.overheads
    parts = [(1.0, overheads.generation), (told, overheads.step), (stages, overheads.stage)]
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
        told=told,
        assumed=_scaling(costs, workload),
    )


def _cycles(costs: Costs, workload: Workload, larger: float) -> tuple[Cost, ...]:
    most = min(MAX_ONGOING, costs.buckets[-1] // workload.rows)
    if most < 1:
        raise ValueError(f"An image takes {workload.rows} rows, and the largest batch has {costs.buckets[-1]}.")
    own = costs.start + costs.decode.times(larger)
    return tuple(
        costs.step(num * workload.rows).times(workload.steps * larger) + own.times(num) for num in range(1, most + 1)
    )


def _mixed(*calls: tuple[float, Cost]) -> Engine:
    """Calls of several kinds, each with how many an image makes of it."""
    number = sum(times for times, _ in calls)
    total = Cost(wall_s=0.0, cpu_s=0.0)
    for times, cost in calls:
        total += cost.times(times)
    return Engine(calls=number, each=total.times(1 / number) if number else total)


def _scaling(costs: Costs, workload: Workload) -> dict[str, str]:
    if workload.side == costs.side:
        return {}
    return {f"{workload.side} px": f"steps, decoding, drawing and PNG in proportion to the pixels of {costs.side} px"}

"""Simulation of a closed loop: clients that send the next call as soon as they get a response, on one machine whose
cores are shared. It is simulated because the batch size depends on where the other clients wait meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planning.costs import Cost, Costs, Overhead
from planning.demand import MAX_ONGOING, PROGRESS_EVERY_S
from planning.simulation import Batcher, Callback, Clock, Cores, Serve, Station

INGRESS = 2  # replicas
WARM_UP = 0.2  # share of the time that isn't counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Calls:
    """What a client does, repeatedly."""

    steps: int = 0  # of the image that it generates; 0 for none
    uploads: bool = False  # it uploads a picture instead
    stages: tuple[str, ...] = ()  # requested for the image: segment, describe_regions, render
    cached: int = 0  # calls whose results are cached; one that requests stages is counted among them


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedLoopResult:
    """Results of the simulation."""

    rate: float  # calls a second, everything a client does in one iteration counted as one
    cpu_s: float  # of one


def loop(costs: Costs, calls: Calls, *, clients: int, cores: float, seconds: float = 200.0) -> ClosedLoopResult:
    """Simulate the calls of clients.

    Args:
        costs: of every piece of work, on CPUs.
        calls: what each client does.
        clients: number of them, at least one.
        cores: of the service.
        seconds: of simulated time, of which the warm-up isn't counted.
    """
    clock = Clock()
    machine = _Machine(costs, calls, clock, cores)
    counted = 0

    def call() -> None:
        nonlocal counted
        counted += clock.now >= WARM_UP * seconds
        machine.run(machine.script(calls), call)

    for _ in range(clients):
        machine.run(machine.script(calls), call)
    clock.run(WARM_UP * seconds)
    before_s = machine.spent_s
    clock.run(seconds)
    rate = counted / ((1 - WARM_UP) * seconds)
    return ClosedLoopResult(rate=rate, cpu_s=(machine.spent_s - before_s) / max(1, counted))


class _Machine:
    """One replica of each engine, two of the ingress, and the cores they share."""

    def __init__(self, costs: Costs, calls: Calls, clock: Clock, cores: float) -> None:
        self._costs = costs
        self._cores = Cores(clock, cores, costs.machine.threads)
        self.spent_s = 0.0
        self._ingress: dict[float, Station] = {}
        self._clock = clock
        self._clip = Station(clock, 1, self._engine(costs.describe + costs.describe_picture))
        self._regions = costs.describe + costs.describe_picture.times(costs.regions)
        self._segmenter = Station(clock, 1, self._engine(costs.segment))
        largest = min(MAX_ONGOING, costs.buckets[-1] // 2)
        own = self._engine(costs.start + costs.decode)
        self._diffusion = Batcher(clock, self._step, largest, own, max(1, calls.steps))
        self._due = 0.0  # progress reports that are due

    def script(self, calls: Calls) -> list[Serve]:
        """Return everything that one client does, in order."""
        overheads = self._costs.overheads
        does: list[Serve] = []
        if calls.steps:
            half = overheads.generation.times(0.5)
            does += [self._serving(half), self._diffusion.visit, self._engine(self._costs.encode)]
            does += [self._clip.visit, self._serving(half)]
        if calls.uploads:
            does.append(self._serving(overheads.upload))
        does += [self._serving(overheads.cached_call)] * calls.cached
        engines: dict[str, Serve] = {
            "segment": self._segmenter.visit,
            "describe_regions": self._engine(self._regions),
            "render": self._engine(self._costs.render),
        }
        for stage in calls.stages:
            does += [engines[stage], self._serving(overheads.stage)]
        return does

    def run(self, does: list[Serve], then: Callback) -> None:
        """Run pieces of work one after the other."""
        if does:
            does[0](lambda: self.run(does[1:], then))
        else:
            then()

    def _engine(self, cost: Cost) -> Serve:
        """Return an engine's work, on as many cores as it keeps busy when it runs alone."""
        return self._spending(cost.cpu_s, max(1.0, cost.cpu_s / cost.wall_s) if cost.wall_s else 1.0)

    def _serving(self, overhead: Overhead) -> Serve:
        """Return the work of an ingress replica, followed by that of the other processes."""
        elsewhere = self._spending(overhead.elsewhere_s)
        station = self._station(overhead.ingress_s)
        return lambda then: station.visit(lambda: elsewhere(then))

    def _station(self, ingress_s: float) -> Station:
        if ingress_s not in self._ingress:
            serve = self._spending(ingress_s)
            self._ingress[ingress_s] = Station(self._clock, INGRESS, serve)
        return self._ingress[ingress_s]

    def _step(self, num: int, then: Callback) -> None:
        """Run a step for so many images, and report the progress of those for which it is due."""
        report, began = self._serving(self._costs.overheads.step), self._clock.now

        def finish() -> None:
            self._due += num * min(1.0, (self._clock.now - began) / PROGRESS_EVERY_S)
            while self._due >= 1:
                self._due -= 1
                report(lambda: None)
            self._clock.after(self._costs.overheads.step_gap_s, then)

        self._engine(self._costs.step(2 * num))(finish)

    def _spending(self, cpu_s: float, busy_cores: float | None = None) -> Callable[[Callback], None]:
        def spend(then: Callback) -> None:
            self.spent_s += cpu_s
            self._cores.work(cpu_s, then, busy_cores=busy_cores)

        return spend

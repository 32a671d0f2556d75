"""Discrete-event simulation of a whole service, with a fixed seed: images that arrive at random, and every queue that
they pass. It covers what the formulas leave out.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

import simpy

from pipeline.settings import ReactionSettings
from planning.costs import Costs, Database
from planning.demand import STAGES_AFTER, Workload, demand_of
from planning.sizing import MAX_GENERATIONS, event_fanout_s, shares

WARM_UP = 0.3  # share of the time that isn't counted
TRANSACTIONS = 3  # of an image: accepted, stored, labelled
LEAST_LEFT = 0.1  # share of a device that an engine gets at least, however busy the others are
DRAWERS = 8  # for each device: enough not to be the bottleneck

Process = Generator[simpy.Event, None, None]


class Visited(Protocol):
    """Something with a queue."""

    def visit(self) -> Process:
        """Wait in the queue, and for the service."""


class Station:
    """One queue for several equal servers, first come, first served.

    Args:
        servers: at least one.
        service_s: returns the seconds of a visit.
    """

    def __init__(self, environment: simpy.Environment, servers: int, service_s: Callable[[], float]) -> None:
        self._environment = environment
        self._servers = simpy.Resource(environment, servers)
        self._service_s = service_s
        self._busy_s = 0.0

    @property
    def busy(self) -> float:
        """Utilisation of the servers so far, by visits that have ended."""
        return self._busy_s / (self._servers.capacity * self._environment.now) if self._environment.now else 0.0

    def visit(self) -> Process:
        """Wait for a server and its service."""
        with self._servers.request() as turn:
            yield turn
            seconds = self._service_s()
            yield self._environment.timeout(seconds)
            self._busy_s += seconds


class DiffusionReplica:
    """A step for as many images as the largest batch takes, then one denoised image is decoded, as in
    `pipeline/engines/diffusion/batching.py`.

    Args:
        step_s: seconds of a step of so many images, from one to the largest batch.
        largest: size of the largest batch.
        own_s: seconds to start and decode one image.
        steps: of every image.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        step_s: Callable[[int], float],
        *,
        largest: int,
        own_s: float,
        steps: int,
    ) -> None:
        self._environment = environment
        self._step_s = step_s
        self._largest = largest
        self._own_s = own_s
        self._steps = steps
        self._denoising: deque[tuple[int, simpy.Event]] = deque()  # with the remaining steps
        self._denoised: deque[simpy.Event] = deque()
        self._arrived = environment.event()
        self._busy_s = 0.0
        environment.process(self._run())

    @property
    def busy(self) -> float:
        """Utilisation so far."""
        return self._busy_s / self._environment.now if self._environment.now else 0.0

    @property
    def in_flight(self) -> int:
        """Images that are in progress or waiting."""
        return len(self._denoising) + len(self._denoised)

    def visit(self) -> Process:
        """Join the batch at the next step, and wait until the image is finished."""
        finished = self._environment.event()
        self._denoising.append((self._steps, finished))
        if not self._arrived.triggered:
            self._arrived.succeed()
        yield finished

    def _run(self) -> Process:
        while True:
            yield self._arrived
            decoded_last = False
            while self.in_flight:
                if self._denoised and (not self._denoising or not decoded_last):
                    decoded_last = True
                    yield from self._work(self._own_s)
                    self._denoised.popleft().succeed()
                else:
                    decoded_last = False
                    yield from self._advance()
            self._arrived = self._environment.event()

    def _advance(self) -> Process:
        batch = [self._denoising.popleft() for _ in range(min(len(self._denoising), self._largest))]
        yield from self._work(self._step_s(len(batch)))
        for left, finished in batch:
            if left > 1:
                self._denoising.append((left - 1, finished))
            else:
                self._denoised.append(finished)

    def _work(self, seconds: float) -> Process:
        yield self._environment.timeout(seconds)
        self._busy_s += seconds


class Prefetchers:
    """Workers that each take one image through its background analysis before the next.

    Args:
        workers: at least one.
        max_waiting: capacity of the queue; when it is full, the oldest image is dropped.
        path: what an image passes.
    """

    def __init__(self, environment: simpy.Environment, workers: int, max_waiting: int, path: Sequence[Visited]) -> None:
        self._waiting: simpy.Store = simpy.Store(environment)
        self._max_waiting = max_waiting
        self._path = path
        self.dropped = 0
        self.finished = 0
        for _ in range(workers):
            environment.process(self._run())

    def add(self) -> None:
        """Queue an image."""
        if len(self._waiting.items) == self._max_waiting:
            self._waiting.items.pop(0)
            self.dropped += 1
        self._waiting.put(None)

    def _run(self) -> Process:
        while True:
            yield self._waiting.get()
            yield from visit_all(self._path)
            self.finished += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """The service's resources."""

    devices: int
    ingress: int
    cache_shards: int = 1
    database: Database = "postgresql"
    images_per_transaction: int = 1  # as implemented; more if several were committed together


@dataclass(kw_only=True, slots=True)
class SimulationResult:
    """Results of the simulation."""

    offered: float  # images a second
    made: float
    refused: float  # share
    latencies_s: list[float]
    not_followed: float = 0.0  # share of the images whose reactions were dropped
    busy: dict[str, float] = field(default_factory=dict)  # share of the time of each kind of server

    def within_s(self, share: float) -> float:
        """Return the latency quantile that so large a share doesn't exceed; 0 if nothing was made."""
        ordered = sorted(self.latencies_s)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def simulate(costs: Costs, workload: Workload, cluster: Cluster, *, seconds: float, seed: int = 0) -> SimulationResult:
    """Simulate arriving images.

    Args:
        costs: of every piece of work, on a GPU.
        workload: the arrival rate, and what each image requires.
        cluster: the resources that serve them.
        seconds: of simulated time, of which the warm-up isn't counted.
        seed: of the arrivals and of the router's choices.
    """
    environment, rng = simpy.Environment(), random.Random(seed)
    service = _Service(costs, workload, cluster, environment)
    limit = MAX_GENERATIONS * cluster.ingress
    counted_from = WARM_UP * seconds
    result = SimulationResult(offered=workload.rate, made=0.0, refused=0.0, latencies_s=[])
    arrived = refused = in_flight = 0

    def image() -> Process:
        nonlocal arrived, refused, in_flight
        began = environment.now
        arrived += began >= counted_from
        if in_flight >= limit:
            refused += began >= counted_from
            return
        in_flight += 1
        yield from visit_all(service.path(rng))
        in_flight -= 1
        if environment.now >= counted_from:
            result.latencies_s.append(environment.now - began)
        if workload.reactions:
            service.prefetchers.add()

    environment.process(arrivals(environment, workload.rate, rng, image))
    environment.run(until=seconds)
    result.made = len(result.latencies_s) / (seconds - counted_from)
    result.refused = refused / max(1, arrived)
    prefetchers = service.prefetchers
    result.not_followed = prefetchers.dropped / max(1, prefetchers.dropped + prefetchers.finished)
    result.busy = service.busy()
    return result


class _Service:
    """Everything that an image passes."""

    def __init__(self, costs: Costs, workload: Workload, cluster: Cluster, environment: simpy.Environment) -> None:
        self._costs, self._workload, self._cluster, self._environment = costs, workload, cluster, environment
        self._demand = demand = demand_of(costs, workload)
        shared, described = costs.shared, round(demand.cache_calls / (4 if workload.reactions else 1))
        heard_s = cluster.ingress * event_fanout_s(costs, demand)  # every replica receives the events of every image
        transaction_s = shared.transactions_s[cluster.database] / TRANSACTIONS / cluster.images_per_transaction
        self._replicas = self._make_replicas()
        self._ingress = self._station(cluster.ingress, demand.ingress_s + heard_s)
        self._writer = self._station(1, transaction_s)
        self._cache = self._station(cluster.cache_shards, shared.cache_call_s)
        self._clip = self._engine("Clip", demand.clip.each.wall_s)
        self._describing = [*[self._cache] * described, self._clip]
        self.prefetchers = Prefetchers(
            environment,
            cluster.ingress,
            ReactionSettings().max_waiting * cluster.ingress,
            self._analysis(round(demand.cache_calls) - described),
        )

    def _make_replicas(self) -> list[DiffusionReplica]:
        """Return one on every device."""
        demand, workload, slow = self._demand, self._workload, self._slowed("Diffusion")
        own_s = slow * (demand.cycles[0].wall_s - workload.steps * _step_s(self._costs, workload, 1))
        gap_s = self._costs.overheads.step_gap_s
        return [
            DiffusionReplica(
                self._environment,
                lambda num: slow * _step_s(self._costs, workload, num) + gap_s,
                largest=len(demand.cycles),
                own_s=own_s,
                steps=workload.steps,
            )
            for _ in range(self._cluster.devices)
        ]

    def _analysis(self, cache_calls: int) -> list[Visited]:
        """Return the stations of an image's prefetching; drawing and serving are on CPUs, of which there are enough."""
        drawers = DRAWERS * self._cluster.devices
        drawing = self._station(drawers, self._demand.renderer.each.wall_s)
        serving = self._station(drawers, STAGES_AFTER * self._costs.overheads.stage.cpu_s)
        segmenter = self._engine("Segmenter", self._demand.segmenter.each.wall_s)
        return [serving, segmenter, self._clip, drawing, *[self._cache] * cache_calls]

    def _station(self, servers: int, seconds: float) -> Station:
        return Station(self._environment, servers, lambda: seconds)

    def _engine(self, name: str, seconds: float) -> Station:
        """Return one on every device, slowed down by the device's other work."""
        return self._station(self._cluster.devices, self._slowed(name) * seconds)

    def _slowed(self, name: str) -> float:
        by_name = shares(self._costs, self._demand, self._costs.machine.cores)
        others = self._workload.rate * (sum(by_name.values()) - by_name[name]) / self._cluster.devices
        return 1 / max(LEAST_LEFT, 1 - others)

    def path(self, rng: random.Random) -> Sequence[Visited]:
        """Return what an image passes up to its response."""
        replica = least_busy(self._replicas, rng)
        return [self._ingress, self._writer, replica, self._writer, *self._describing, self._writer]

    def busy(self) -> dict[str, float]:
        """Return the utilisation of each kind of server."""
        return {
            "devices": fmean(each.busy for each in self._replicas),
            "ingress": self._ingress.busy,
            "database": self._writer.busy,
            "cache": self._cache.busy,
        }


def arrivals(environment: simpy.Environment, rate: float, rng: random.Random, make: Callable[[], Process]) -> Process:
    """Start a process at random times (Poisson)."""
    while True:
        yield environment.timeout(rng.expovariate(rate))
        environment.process(make())


def visit_all(path: Sequence[Visited]) -> Process:
    """Visit several queues, one after the other."""
    for each in path:
        yield from each.visit()


def least_busy(replicas: Sequence[DiffusionReplica], rng: random.Random) -> DiffusionReplica:
    """Return the less busy of two random ones, as Serve's router chooses."""
    one, other = rng.choice(replicas), rng.choice(replicas)
    return one if one.in_flight <= other.in_flight else other


def _step_s(costs: Costs, workload: Workload, num: int) -> float:
    """Return the seconds of a step of so many images."""
    return costs.step(num * workload.rows).wall_s * (workload.side / costs.side) ** 2

"""Simulation of a whole service: images that arrive at random, and every station they pass."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from planning.costs import Costs, Database
from planning.demand import STAGES_AFTER, Workload, demand_of
from planning.simulation import Batcher, Callback, Clock, Followers, Station, arrivals, delay, least_busy, visit_all
from planning.sizing import MAX_GENERATIONS, event_fanout_s, shares

WARM_UP = 0.3  # share of the time that isn't counted
TRANSACTIONS = 3  # of an image: accepted, stored, labelled
LEAST_LEFT = 0.1  # share of a device that an engine gets at least, however busy the others are
DRAWERS = 8  # for each device: enough not to be the bottleneck
MAX_WAITING = 64  # images whose reactions wait at each ingress replica, `reactions` in pipeline/settings.py


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


def play(costs: Costs, workload: Workload, cluster: Cluster, *, seconds: float, seed: int = 0) -> SimulationResult:
    """Simulate arriving images.

    Args:
        costs: of every piece of work, on a GPU.
        workload: the arrival rate, and what each image requires.
        cluster: the resources that serve them.
        seconds: of simulated time, of which the warm-up isn't counted.
        seed: of the arrivals and of the router's choices.
    """
    clock, chance = Clock(), random.Random(seed)
    stations = _Stations(costs, workload, cluster, clock)
    counted_from = WARM_UP * seconds
    played = SimulationResult(offered=workload.rate, made=0.0, refused=0.0, latencies_s=[])
    came = refused = in_flight = 0

    def arrive() -> None:
        nonlocal came, refused, in_flight
        counts, began = clock.now >= counted_from, clock.now
        came += counts
        if in_flight >= MAX_GENERATIONS * cluster.ingress:
            refused += counts
            return
        in_flight += 1

        def answered() -> None:
            nonlocal in_flight
            in_flight -= 1
            if clock.now >= counted_from:
                played.made += 1
                played.latencies_s.append(clock.now - began)
            if stations.after:
                stations.followers.follow(stations.after)

        visit_all(stations.path(chance), answered)

    arrivals(clock, workload.rate, chance, arrive)
    clock.run(seconds)
    played.made /= seconds - counted_from
    played.refused = refused / max(1, came)
    followers = stations.followers
    played.not_followed = followers.dropped / max(1, followers.dropped + followers.followed)
    played.busy = stations.busy()
    return played


class _Stations:
    """All stations that an image passes."""

    def __init__(self, costs: Costs, workload: Workload, cluster: Cluster, clock: Clock) -> None:
        self._costs, self._workload, self._cluster, self._clock = costs, workload, cluster, clock
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
        self.after = self._make_later(round(demand.cache_calls) - described) if workload.reactions else []
        self.followers = Followers(cluster.ingress, MAX_WAITING * cluster.ingress)

    def _make_replicas(self) -> list[Batcher]:
        """Return one on every device."""
        demand, workload, slow = self._demand, self._workload, self._slowed("Diffusion")
        own_s = slow * (demand.cycles[0].wall_s - workload.steps * _steps_s(self._costs, workload, 1))

        def step(num: int, then: Callback) -> None:
            seconds = slow * _steps_s(self._costs, workload, num) + self._costs.overheads.step_gap_s
            self._clock.after(seconds, then)

        own = delay(self._clock, lambda: own_s)
        return [
            Batcher(self._clock, step, len(demand.cycles), own, workload.steps) for _ in range(self._cluster.devices)
        ]

    def _make_later(self, cache_calls: int) -> list[Station]:
        """Return the stations of an image's reactions; drawing and serving are on CPUs, of which there are enough."""
        drawers = DRAWERS * self._cluster.devices
        drawing = self._station(drawers, self._demand.renderer.each.wall_s)
        serving = self._station(drawers, STAGES_AFTER * self._costs.overheads.stage.cpu_s)
        segmenter = self._engine("Segmenter", self._demand.segmenter.each.wall_s)
        return [serving, segmenter, self._clip, drawing, *[self._cache] * cache_calls]

    def _station(self, servers: int, seconds: float) -> Station:
        return Station(self._clock, servers, delay(self._clock, lambda: seconds))

    def _engine(self, name: str, seconds: float) -> Station:
        """Return one on every device, slowed down by the device's other work."""
        return self._station(self._cluster.devices, self._slowed(name) * seconds)

    def _slowed(self, name: str) -> float:
        by_name = shares(self._costs, self._demand, self._costs.machine.cores)
        others = self._workload.rate * (sum(by_name.values()) - by_name[name]) / self._cluster.devices
        return 1 / max(LEAST_LEFT, 1 - others)

    def path(self, chance: random.Random) -> Sequence[Station | Batcher]:
        """Return the stations of an image up to its response."""
        replica = least_busy(self._replicas, chance)
        return [self._ingress, self._writer, replica, self._writer, *self._describing, self._writer]

    def busy(self) -> dict[str, float]:
        """Return the utilisation of each kind of server."""
        return {
            "devices": fmean(each.busy for each in self._replicas),
            "ingress": self._ingress.busy,
            "database": self._writer.busy,
            "cache": self._cache.busy,
        }


def _steps_s(costs: Costs, workload: Workload, num: int) -> float:
    """Return the seconds of a step of so many images."""
    return costs.step(num * workload.rows).wall_s * (workload.side / costs.side) ** 2

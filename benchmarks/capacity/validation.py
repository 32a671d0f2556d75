"""Planned throughput against that of a real service: `python -m benchmarks capacity --costs FILE`.

The service runs on this machine, saturated by clients in a closed loop. The throughput at which `planning` says that it
is saturated, from the costs in FILE, which `benchmarks stage-costs` wrote, is compared with the measured one. Nothing
is fitted. The prediction takes two inputs from the run: how many cores other programs left, and how slow cores were
meanwhile (`benchmarks.cpu_speed`).
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from planning.costs import Costs, read_costs
from planning.demand import Workload
from planning.sizing import Objectives, plan

if TYPE_CHECKING:
    from benchmarks.capacity.serving_costs import Caller
    from benchmarks.cpu_seconds import Spent
    from benchmarks.cpu_speed import Pace
    from testing.service_process import RunningService

CLIENTS = 8
WARM_UP_S, WINDOW_S = 4.0, 15.0
ROUNDS = 2
GOAL = 0.15


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A kind of call, and what it costs."""

    name: str
    work: Callable[[int], object]
    workload: Workload  # the same, for the plan


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Prediction and measurement of a setting in one round."""

    name: str
    predicted: float  # calls per second
    measured: float
    slowness: float  # of a core, relative to when the costs were measured
    free_cores: float  # left by other programs
    used_cores: float  # by the service

    @property
    def error(self) -> float:
        """Relative error of the prediction."""
        return self.predicted / self.measured - 1


def main(words: list[str] | None = None) -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--costs", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds of each measurement")
    arguments = parser.parse_args(words)
    from benchmarks.capacity.serving_costs import Caller, quiet_service
    from benchmarks.cpu_speed import Pace

    costs = read_costs(arguments.costs)
    pace = Pace(costs.machine.tick_s)
    checked: list[Checked] = []
    with tempfile.TemporaryDirectory() as folder, quiet_service(Path(folder)) as service:
        settings = make_settings(Caller(service), costs.side)
        for setting in settings:  # warm-up: the first batch of each size takes longer
            run(service, setting, WARM_UP_S, pace)
        for _ in range(arguments.rounds):
            for setting in settings:
                checked.append(judge(setting, costs, *run(service, setting, arguments.window, pace)))
                print(setting.name, f"{checked[-1].measured:.2f}/s, {checked[-1].error:+.0%}", flush=True)
    Console(width=140).print(tabulate(checked))


def make_settings(caller: Caller, side: int) -> list[Setting]:
    """The kinds of images that are generated."""

    def generate_and_visualize(_: int) -> None:
        caller.ask(caller.generate(steps=15), "/visualize")

    alone = Workload(rate=1.0, steps=15, side=side, reactions=False)
    return [
        Setting(name="/generate, 15 steps", work=lambda _: caller.generate(steps=15), workload=alone),
        Setting(
            name="/generate, 40 steps", work=lambda _: caller.generate(steps=40), workload=replace(alone, steps=40)
        ),
        Setting(
            name="/generate, 15 steps, then /visualize",
            work=generate_and_visualize,
            workload=replace(alone, reactions=True, cached_calls=1.0),
        ),
    ]


def run(service: RunningService, setting: Setting, window_s: float, pace: Pace) -> tuple[float, Spent]:
    """Throughput in calls per second with all clients active, and the service's CPU time meanwhile."""
    from benchmarks.cpu_seconds import spending

    stopped = threading.Event()
    numbers = count()
    spans: list[tuple[float, float]] = []

    def client() -> None:
        while not stopped.is_set():
            started = time.perf_counter()
            setting.work(next(numbers))
            spans.append((started, time.perf_counter()))

    with pace.watched() as slowness, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client) for _ in range(CLIENTS)]
        try:
            stopped.wait(WARM_UP_S)
            opened = time.perf_counter()
            with spending(service) as spent:
                stopped.wait(window_s)
            closed = time.perf_counter()
        finally:
            stopped.set()
        for each in clients:
            each.result()
    spent.slowness = slowness.factor
    return done_within(spans, opened, closed) / (closed - opened), spent


def done_within(spans: list[tuple[float, float]], opened: float, closed: float) -> float:
    """Number of calls within a time window; a call across its border counts by the share within.

    Images of one batch also end together, so that counting whole ones would be off by up to a batch.
    """
    return sum(max(0.0, min(end, closed) - max(start, opened)) / (end - start) for start, end in spans)


def judge(setting: Setting, costs: Costs, measured: float, spent: Spent) -> Checked:
    """Compare one measurement with the plan for one machine; all work scales with the slowness of a core."""
    planned = plan(costs, setting.workload, Objectives(headroom=0.01, cores=spent.free_cores))
    return Checked(
        name=setting.name,
        predicted=planned.capacity / planned.devices / spent.slowness,
        measured=measured,
        slowness=spent.slowness,
        free_cores=spent.free_cores,
        used_cores=spent.cpu_s / spent.wall_s,
    )


def tabulate(checked: list[Checked]) -> Table:
    """Means over all rounds; for the errors also minimum and maximum."""
    table = Table(
        "calls",
        "predicted, 1/s",
        "measured, 1/s",
        "error",
        "slowness",
        "cores left / used",
    )
    for name in dict.fromkeys(each.name for each in checked):
        rounds = [each for each in checked if each.name == name]
        errors = [each.error for each in rounds]
        error = median(errors)
        table.add_row(
            name,
            f"{mean(each.predicted for each in rounds):.2f}",
            f"{mean(each.measured for each in rounds):.2f}",
            f"[{'green' if abs(error) <= GOAL else 'red'}]{error:+.0%}[/] ({min(errors):+.0%} to {max(errors):+.0%})",
            f"{mean(e.slowness for e in rounds):.2f}",
            f"{mean(e.free_cores for e in rounds):.2f} / {mean(e.used_cores for e in rounds):.2f}",
        )
    return table

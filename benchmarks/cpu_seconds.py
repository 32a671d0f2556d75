"""CPU seconds of a running service by role of its processes, and the cores that other programs leave."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from testing.service_process import RunningService

ROLES = re.compile(r"ServeReplica:pipeline:(\w+)|(SegmentationCache)|(Proxy)")
OTHER = "Ray"
COMPUTE = """
import torch
x, w = torch.rand(4, 64, 32, 32), torch.rand(64, 64, 3, 3)
print(flush=True)
while True:
    torch.nn.functional.conv2d(x, w, padding=1)
"""
IDLE = ("idle", "iowait", "guest", "guest_nice")  # guests are counted as user time already


@dataclass
class Spent:
    """Resources used by a workload, set when it has ended."""

    wall_s: float = 0.0
    by_role: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    free_cores: float = 0.0  # left to the service by other programs
    slowness: float = 1.0  # of a core at that time, if measured

    @property
    def cpu_s(self) -> float:
        """Sum over all the service's processes."""
        return sum(self.by_role.values())

    def at_pace(self, role: str | None = None) -> float:
        """CPU seconds of one role, or of all, normalized to the reference pace."""
        return (self.cpu_s if role is None else self.by_role[role]) / self.slowness


@contextmanager
def spending(service: RunningService) -> Iterator[Spent]:
    """Measure a service's CPU time while the block runs."""
    spent = Spent()
    started, before, machine = time.perf_counter(), by_process(service), machine_s()
    yield spent
    spent.wall_s = time.perf_counter() - started
    for process, (role, seconds) in by_process(service).items():
        spent.by_role[role] += seconds - before.get(process, (role, 0.0))[1]
    others_s = machine_s() - machine - spent.cpu_s
    spent.free_cores = (psutil.cpu_count() or 1) - max(0.0, others_s) / spent.wall_s


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keep so many cores busy with other processes while the block runs, as in a saturated service.

    A CPU second does less then: cores share caches, memory bandwidth and clock, and often are hyper-threads of one.
    """
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    others = [
        subprocess.Popen([sys.executable, "-c", COMPUTE], env=alone, stdout=subprocess.PIPE) for _ in range(cores)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it has started
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


def by_process(service: RunningService) -> dict[int, tuple[str, float]]:
    """Role and CPU seconds of every process so far."""
    found = {}
    for process in [service.process, *service.process.children(recursive=True)]:
        try:
            with process.oneshot():
                times = process.cpu_times()
                found[process.pid] = role_of(" ".join(process.cmdline())), times.user + times.system
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def role_of(command: str) -> str:
    """The deployment's name, or another role of a process."""
    matched = ROLES.search(command)
    return next(filter(None, matched.groups())) if matched else OTHER


def machine_s() -> float:
    """CPU seconds of the whole machine so far, including stolen time."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in IDLE))


def closed_loop(work: Callable[[int], object], numbers: Sequence[int], clients: int) -> None:
    """Run the work for each number, with so many clients in a closed loop."""
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, numbers))

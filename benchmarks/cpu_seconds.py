"""CPU seconds of a running service, by what its processes are for, and what others leave of the machine."""

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
    """What a piece of work took, filled in when it has ended."""

    wall_s: float = 0.0
    by_role: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    free_cores: float = 0.0  # that others left to the service
    slowness: float = 1.0  # of a core about that time, if somebody has found out

    @property
    def cpu_s(self) -> float:
        """Of all the service's processes."""
        return sum(self.by_role.values())

    def at_pace(self, role: str | None = None) -> float:
        """CPU seconds of one role, or of all, had cores not been slow."""
        return (self.cpu_s if role is None else self.by_role[role]) / self.slowness


@contextmanager
def spending(service: RunningService) -> Iterator[Spent]:
    """Count what a service spends while the block runs."""
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
    """Have others compute beside the block on so many cores, as in a service at its limit.

    A CPU second does less then: cores share caches, memory and clock, and often are two halves of one.
    """
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    others = [
        subprocess.Popen([sys.executable, "-c", COMPUTE], env=alone, stdout=subprocess.PIPE) for _ in range(cores)
    ]
    try:
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it has begun
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
    """The deployment's name, or what else a process is."""
    matched = ROLES.search(command)
    return next(filter(None, matched.groups())) if matched else OTHER


def machine_s() -> float:
    """CPU seconds that the machine has spent so far on anything, stolen ones among them."""
    times = psutil.cpu_times()._asdict()
    return float(sum(seconds for name, seconds in times.items() if name not in IDLE))


def closed_loop(work: Callable[[int], object], numbers: Sequence[int], clients: int) -> None:
    """Have so many clients do a piece of work for each number, each client the next one when it is done."""
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(work, numbers))

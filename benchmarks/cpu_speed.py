"""Current speed of a core: on shared machines it varies by half within minutes, which no counter shows.

Measurements from different minutes can be compared and added up once each is divided by the slowness at its time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean, median

import torch

TICKS = 9
EVERY_S = 0.8  # between samples
ROUNDS = 4  # of a convolution and a Python loop, which take about the same time
ADDITIONS = 60_000


@dataclass
class Slowness:
    """Slowdown relative to the reference pace, set when a workload has ended."""

    factor: float = 1.0


class Pace:
    """Times a fixed workload repeatedly.

    Args:
        tick_s: CPU seconds of the workload at the reference pace; measured now if left out.
    """

    def __init__(self, tick_s: float | None = None) -> None:
        self._pictures, self._weights = torch.rand(4, 64, 32, 32), torch.rand(64, 64, 3, 3)
        self.tick()  # warm-up of torch
        self.tick_s = tick_s or median(self.tick() for _ in range(TICKS))

    def slowness(self) -> float:
        """Current CPU seconds of the workload, relative to the reference."""
        return self.tick() / self.tick_s

    @contextmanager
    def watched(self) -> Iterator[Slowness]:
        """Mean slowness while the block runs; the block must not measure this process' own CPU time."""
        slowness, over, found = Slowness(), threading.Event(), [self.slowness()]

        def watch() -> None:
            while not over.wait(EVERY_S):
                found.append(self.slowness())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield slowness
        finally:
            over.set()
            watcher.join()
        slowness.factor = mean(found)

    def tick(self) -> float:
        """A small workload like that of engines and servers, in one thread."""
        torch.set_num_threads(1)
        started, number = time.thread_time(), 0
        for _ in range(ROUNDS):
            torch.nn.functional.conv2d(self._pictures, self._weights, padding=1)
            for each in range(ADDITIONS):
                number += each
        return time.thread_time() - started

"""How fast a core is just now: on machines that are shared it differs by half within minutes, and no counter tells.

What was measured in different minutes can be compared, and added up, once each is divided by the slowness of its own.
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
EVERY_S = 0.8  # while something else is watched
ROUNDS = 4  # of a convolution and some Python, which take about as long as each other
ADDITIONS = 60_000


@dataclass
class Slowness:
    """Beside the pace one wants to count at, filled in when a piece of work has ended."""

    factor: float = 1.0


class Pace:
    """Times the same piece of work again and again.

    Args:
        tick_s: CPU seconds that it took when the machine was as fast as one wants to count; now if left out.
    """

    def __init__(self, tick_s: float | None = None) -> None:
        self._pictures, self._weights = torch.rand(4, 64, 32, 32), torch.rand(64, 64, 3, 3)
        self._tick()  # torch gets ready
        self.tick_s = tick_s or median(self._tick() for _ in range(TICKS))

    def slowness(self) -> float:
        """CPU seconds that the work takes just now, beside those it took then."""
        return self._tick() / self.tick_s

    @contextmanager
    def watched(self) -> Iterator[Slowness]:
        """How slow cores are while the block runs, which must not count what this process spends."""
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

    def _tick(self) -> float:
        """A little of what engines and what servers do, in one thread."""
        torch.set_num_threads(1)
        started, number = time.thread_time(), 0
        for _ in range(ROUNDS):
            torch.nn.functional.conv2d(self._pictures, self._weights, padding=1)
            for each in range(ADDITIONS):
                number += each
        return time.thread_time() - started

"""Schedules that follow the wall clock: how far a stage is, and the learning rate at that point."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

Now = Callable[[], float]


class Schedule:
    """A stage from its start to a given time, or to its least number of steps if that comes later.

    Args:
        end_s: on the clock.
        min_steps: the stage isn't over before.
        now: a clock in seconds.
    """

    def __init__(self, end_s: float, min_steps: int, now: Now = time.monotonic) -> None:
        self.steps = 0
        self._now = now
        self._min_steps = min_steps
        self._start_s = now()
        self._end_s = end_s

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return self._now() - self._start_s

    @property
    def progress(self) -> float:
        """How much of the stage is done, from 0 to 1."""
        length = self._end_s - self._start_s
        by_time = self.seconds / length if length > 0 else 1.0
        return min(1.0, by_time, self.steps / self._min_steps)

    @property
    def is_over(self) -> bool:
        """Whether both the time is over and the steps are done."""
        return self.progress >= 1

    def rate(self, peak: float, warmup: int, final: float) -> float:
        """Return the learning rate of the next step: linear warm-up, then cosine decay.

        Args:
            peak: the highest rate.
            warmup: steps.
            final: share of the peak at the end.
        """
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return peak * min(1.0, (self.steps + 1) / warmup) * (final + (1 - final) * cosine)


class Interval:
    """Signals once per interval of so many seconds."""

    def __init__(self, seconds: float, now: Now = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._last = now()

    def has_passed(self) -> bool:
        """Return whether the interval has passed, and restart it if so."""
        if self._now() - self._last < self._seconds:
            return False
        self._last = self._now()
        return True

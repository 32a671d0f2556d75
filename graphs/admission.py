"""Clear admission: a bounded amount of work is in hand, everything else is refused at once with a time to come back."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import Overloaded

SMOOTHING = 0.2  # weight of the newest duration in the running mean


class Gate:
    """Lets at most `limit` pieces of work in at a time.

    Args:
        what: the work's name in the refusal, in the plural.
        limit: pieces in hand, running or queued behind a worker.
    """

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        self.in_hand = 0
        self._mean_s = 1.0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            Overloaded: every place is taken.
        """
        if self.in_hand >= self.limit:
            raise Overloaded(waiting=self.in_hand, what=self.what, retry_after_s=self.retry_after_s)
        self.in_hand += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.in_hand -= 1
            self._mean_s += SMOOTHING * ((time.monotonic() - started) - self._mean_s)

    @property
    def retry_after_s(self) -> int:
        """Half of the mean time from entry to exit, as places free up all the while; 1 to 60 seconds."""
        return min(60, max(1, math.ceil(self._mean_s / 2)))

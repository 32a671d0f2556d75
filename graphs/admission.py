"""Clear admission: a bounded number of requests is in hand, the others are refused at once with a time to come back."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import Overloaded

SMOOTHING = 0.2  # weight of the newest duration in the running mean


class Gate:
    """Lets at most `limit` requests in at a time; one that is in may enter again and again.

    Args:
        what: the work's name in the refusal, in the plural.
        limit: requests in hand, running or queued behind a worker.
    """

    def __init__(self, what: str, limit: int) -> None:
        self.what = what
        self.limit = limit
        self._inside: Counter[str] = Counter()  # entries by request id
        self._mean_s = 1.0

    def __len__(self) -> int:
        return len(self._inside)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._inside

    @contextmanager
    def entered(self, request_id: str) -> Iterator[None]:
        """Hold a place for a request while the block runs.

        Raises:
            Overloaded: every place is taken by others.
        """
        if request_id not in self and len(self) >= self.limit:
            raise Overloaded(waiting=len(self), what=self.what, retry_after_s=self.retry_after_s)
        self._inside[request_id] += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self._inside[request_id] -= 1
            if not self._inside[request_id]:
                del self._inside[request_id]
            self._mean_s += SMOOTHING * ((time.monotonic() - started) - self._mean_s)

    @property
    def retry_after_s(self) -> int:
        """Half of the mean time from entry to exit, as places free up all the while; 1 to 60 seconds."""
        return min(60, max(1, math.ceil(self._mean_s / 2)))

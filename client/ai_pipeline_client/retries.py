"""The retry policy: how often and how long a call is retried, and which calls may be."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any, Optional, Union

import httpx

from ai_pipeline_client.calls import Call
from ai_pipeline_client.errors import JOB_RUNNING, PipelineError, error_of, unreachable

ANSWER_WITHIN_S = 330.0  # a little longer than the service's own deadline


@dataclass(frozen=True)
class Retries:
    """Retry policy: exponential backoff with jitter, or the service's Retry-After if that is longer.

    Retried are failed connections, 429, 502, 503, 504 and the proxy's plain 500; a call that may have arrived only if
    it is idempotent, as is every call with an Idempotency-Key.
    """

    attempts: int = 5  # maximum, the first one included
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    within_s: float = 60.0  # of the first attempt; none starts later
    connection_attempts: int = 2  # maximum, until the service has answered for the first time

    def pause_s(self, failures: int, error: PipelineError, elapsed_s: float) -> Optional[float]:
        """Return the seconds to wait before the next attempt; None to give up.

        Args:
            failures: failed attempts so far, 1 or more.
            error: the error of the last attempt.
            elapsed_s: seconds since the first attempt.
        """
        if failures >= self.attempts or not error.is_passing:
            return None
        backoff_s = min(self.longest_pause_s, self.first_pause_s * 2.0 ** (failures - 1))
        pause_s = max(error.retry_after_s or 0.0, backoff_s * random.uniform(0.5, 1.0))
        return pause_s if elapsed_s + pause_s <= self.within_s else None


class Attempts:
    """The attempts to send one call, the first of which begins now.

    Args:
        call: the call.
        retries: the policy.
        has_answered: whether the service has ever answered this client.
    """

    def __init__(self, call: Call[Any], retries: Retries, *, has_answered: bool = True) -> None:
        self._call = call
        self._retries = retries
        self._has_answered = has_answered
        self._started = time.monotonic()
        self._failures = 0

    def pause_after(self, outcome: Union[httpx.Response, httpx.TransportError]) -> float:
        """Return the seconds to pause after a failed attempt, before the next one.

        While the first request with the same Idempotency-Key is in progress, attempts don't count.

        Args:
            outcome: an error response, or why there is none.

        Raises:
            PipelineError: there is no further attempt.
        """
        cause = outcome if isinstance(outcome, httpx.TransportError) else None
        error = error_of(outcome) if isinstance(outcome, httpx.Response) else unreachable(outcome)
        elapsed_s = time.monotonic() - self._started
        if error.code == JOB_RUNNING and elapsed_s < ANSWER_WITHIN_S:
            return error.retry_after_s or self._retries.first_pause_s
        self._has_answered = self._has_answered or isinstance(outcome, httpx.Response)
        self._failures += 1
        pause_s = self._retries.pause_s(self._failures, error, elapsed_s) if self._may_repeat(error, cause) else None
        if pause_s is None:
            raise error from cause
        return pause_s

    def _may_repeat(self, error: PipelineError, cause: Optional[httpx.TransportError]) -> bool:
        """Whether there may be a service, and a retry can't do anything twice.

        It can't if the call is idempotent, or certainly didn't arrive.
        """
        is_unreachable = isinstance(cause, (httpx.ConnectError, httpx.ConnectTimeout))
        if is_unreachable and not self._has_answered and self._failures >= self._retries.connection_attempts:
            return False
        never_arrived = isinstance(cause, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
        return self._call.is_repeatable or never_arrived or error.status == httpx.codes.TOO_MANY_REQUESTS

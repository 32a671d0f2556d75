"""The retry policy: how often and how long a call is retried, and which calls may be."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TypeVar

import httpx

from ai_pipeline_client.acts import Call, Pause, Request, Script
from ai_pipeline_client.errors import JOB_RUNNING, PipelineError, UnexpectedAnswer, error_of, unreachable

T = TypeVar("T")

ANSWER_WITHIN_S = 330.0  # a little longer than the service's own deadline


@dataclass(frozen=True, kw_only=True, slots=True)
class Retries:
    """Retry policy: exponential backoff with jitter, or the service's Retry-After if that is longer.

    Retried are failed connections, 429, 502, 503, 504 and the proxy's plain 500; a call that may have arrived only if
    it is idempotent, as is every call with an Idempotency-Key.
    """

    attempts: int = 5  # maximum, the first one included
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0
    within_s: float = 60.0  # of the first attempt; none starts later

    def pause_s(self, failures: int, error: PipelineError, elapsed_s: float) -> float | None:
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


def sending(call: Call[T], retries: Retries) -> Script[T]:
    """Send a call until it succeeds or the retry policy is exhausted.

    While the first request with the same Idempotency-Key is in progress, wait for its response.

    Raises:
        PipelineError: the error of the last attempt.
    """
    started = time.monotonic()
    failures = 0
    while True:
        cause: httpx.TransportError | None = None
        try:
            response: httpx.Response = yield Request(call=call)
        except httpx.TransportError as failure:
            error: PipelineError = unreachable(failure)
            cause = failure
        else:
            if not response.is_error:
                return _read(call, response)
            error = error_of(response)
        elapsed_s = time.monotonic() - started
        if error.code == JOB_RUNNING and elapsed_s < ANSWER_WITHIN_S:
            yield Pause(seconds=error.retry_after_s or retries.first_pause_s)
            continue
        failures += 1
        pause_s = retries.pause_s(failures, error, elapsed_s) if _may_repeat(call, error, cause) else None
        if pause_s is None:
            raise error from cause
        yield Pause(seconds=pause_s)


def _may_repeat(call: Call[T], error: PipelineError, cause: httpx.TransportError | None) -> bool:
    """Whether a retry can't do anything twice: the call is idempotent, or it certainly didn't arrive."""
    never_arrived = isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return call.is_repeatable or never_arrived or error.status == httpx.codes.TOO_MANY_REQUESTS


def _read(call: Call[T], response: httpx.Response) -> T:
    try:
        return call.read(response)
    except (KeyError, TypeError, ValueError) as error:
        raise UnexpectedAnswer(
            title="Unexpected answer",
            detail=f"{call.method} {response.url} was answered with what can't be read ({error!r}). "
            "Is it the service, and of the same age as this client?",
            status=response.status_code,
            request_id=response.headers.get("x-request-id", ""),
        ) from error

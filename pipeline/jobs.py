"""Jobs: accepted requests as facts that survive whoever works on them.

```
            ┌──── given back, lease ran out, worker lost ────┐
queued ──── leased ──▶ running ──▶ succeeded | failed | cancelled
   │                      └─ lost on its last attempt ──▶ dead
   └── cancelled          failed, cancelled, dead ── retried ──▶ queued
```
A worker holds a job by a lease that it renews. What it writes counts only while it holds the lease, so a job has one
result, however often it was begun. One that has lost its workers twice is suspected of killing them: its last attempt
runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

MAX_ATTEMPTS = 3
SERVER_ERROR = 500

# In a request, beside what decides the result.
PREVIEWS = "previews"  # whether anybody wants to see it on the way
TRACEPARENT = "traceparent"  # the span that the work belongs under, where traces are on
BESIDE = frozenset({PREVIEWS, TRACEPARENT})


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"  # its workers died under it, every time

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


ENDED = frozenset(f"job.{state.value}" for state in JobState if state.is_final)  # types of the notices of ends
AGAIN = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.DEAD})  # what may be retried


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOrder:
    """What somebody wants done."""

    job_id: str  # sorts by time
    kind: str  # such as "generate"
    owner: str
    request_id: str  # of the HTTP request that asked for it
    request: Mapping[str, Any]  # everything that is needed to do it, as JSON
    sessions: tuple[str, ...] = ()  # whose last image its result becomes
    is_waited_for: bool = False  # by a client on the line: it goes before those that are to be fetched later


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An order and what became of it."""

    order: JobOrder
    state: JobState
    attempts: int  # times it was begun
    cancel_requested: bool
    result: Mapping[str, Any] | None  # once it succeeded
    problem: Mapping[str, Any] | None  # once it failed
    created_at: datetime
    finished_at: datetime | None

    @property
    def job_id(self) -> str:
        """Its name."""
        return self.order.job_id

    @property
    def age_s(self) -> float:
        """Seconds since it was accepted."""
        return max(0.0, (datetime.now(UTC) - self.created_at).total_seconds())

    @property
    def is_worth_repeating(self) -> bool:
        """Whether it failed by the service's fault, so that whoever asks for it again may be luckier."""
        return self.state is JobState.FAILED and self.problem is not None and self.problem["status"] >= SERVER_ERROR


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The right to work on a job."""

    job_id: str
    holder: str  # a new name for each time jobs are taken, so that an earlier lease is never mistaken for a later one
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """An accepted job."""

    job: Job
    is_new: bool  # otherwise the one its idempotency key was used for before
    lease: Lease | None  # if it was to begin at once


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotencyKey:
    """What a client calls a request, so that sending it twice does it once."""

    key: str
    fingerprint: str  # of the request

"""Jobs: accepted requests, stored so that they survive their workers.

```
   ┌── released, lease expired, worker lost ──┐
queued ───── leased ─────────────────────▶ running ──▶ succeeded | failed | cancelled
   │                                          └─ lost on its last attempt ──▶ dead
   └── cancelled          failed, cancelled, dead ── retried ──▶ queued
```
A worker holds a lease on a job and renews it. Only the lease holder may settle the job, so a job has one result,
however many attempts it took. A job that has lost its worker twice is suspected of killing workers: its last attempt
runs alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pipeline.records import NO_ANNOTATIONS, Annotations, EditArea

MAX_ATTEMPTS = 3
SERVER_ERROR = 500

# Keys of a request beside those of a `GenerationRequest`.
PREVIEWS = "previews"  # whether the client wants previews
AREA = "area"  # of an edit; its mask is found when the job runs
ANNOTATIONS = "annotations"  # of the image that the job makes
TRACEPARENT = "traceparent"  # the parent span of the work, where traces are on


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEAD = "dead"  # its worker was lost on every attempt

    @property
    def is_final(self) -> bool:
        """Whether the state is final, except for a retry by the owner."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


ENDED = frozenset(f"job.{state.value}" for state in JobState if state.is_final)  # types of the events of final states
AGAIN = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.DEAD})  # states that may be retried


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOrder:
    """What a client submitted."""

    job_id: str  # sorts by time
    kind: str  # such as "generate"
    owner: str
    request_id: str  # of the HTTP request that submitted it
    request: Mapping[str, Any]  # everything a worker needs, as JSON
    sessions: tuple[str, ...] = ()  # sessions whose last image its result becomes
    is_waited_for: bool = False  # by a connected client: it goes before jobs to be fetched later


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An order and its state."""

    order: JobOrder
    state: JobState
    attempts: int  # times it was started
    cancel_requested: bool
    result: Mapping[str, Any] | None  # of a succeeded job
    problem: Mapping[str, Any] | None  # of a failed job
    created_at: datetime
    finished_at: datetime | None
    started_at: datetime | None = None  # of the last attempt

    @property
    def job_id(self) -> str:
        """The id of the order."""
        return self.order.job_id

    @property
    def annotations(self) -> Annotations:
        """Those of the image that it makes."""
        facts = self.order.request.get(ANNOTATIONS)
        return NO_ANNOTATIONS if facts is None else Annotations.from_dict(facts)

    @property
    def area(self) -> EditArea | None:
        """Where the image that is edited may change, if that is still to be found."""
        facts = self.order.request.get(AREA)
        return None if facts is None else EditArea.from_dict(facts)

    @property
    def age_s(self) -> float:
        """Seconds since the job was accepted."""
        return max(0.0, (datetime.now(UTC) - self.created_at).total_seconds())

    @property
    def is_worth_repeating(self) -> bool:
        """Whether the job failed by a fault of the service, so that a retry may succeed."""
        return self.state is JobState.FAILED and self.problem is not None and self.problem["status"] >= SERVER_ERROR


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """A worker's exclusive right to a job, for a limited time."""

    job_id: str
    holder: str  # a new name for each acquisition, so that an expired lease is never mistaken for a later one
    attempt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """An accepted job."""

    job: Job
    is_new: bool  # False: its idempotency key was used before
    lease: Lease | None  # if it starts at once


@dataclass(frozen=True, kw_only=True, slots=True)
class IdempotencyKey:
    """A client's name for a request, so that a retry has no further effect."""

    key: str
    fingerprint: str  # of the request

"""What streams and webhooks are told: facts of the event log, and steps that pass without being logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

STEPPED = "generation.stepped"  # passes, and is not logged
CANCEL_REQUESTED = "job.cancel_requested"  # of one that is being worked on
WEBHOOK_TYPES = "webhook."  # what begins like this concerns one webhook; no other is sent it
WEBHOOK_TESTED = f"{WEBHOOK_TYPES}tested"

TYPES = (
    "job.submitted",
    "job.started",
    "job.requeued",
    "job.retried",
    CANCEL_REQUESTED,
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "job.dead",
    "image.created",
    "image.deleted",
    WEBHOOK_TESTED,
)
"""Every type the log holds; webhooks are sent no others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something that happened to an owner's things."""

    sequence: int | None  # in the log, ascending in the order of commits; None for what passes
    type: str  # such as "image.created"
    owner: str
    image_id: str | None
    job_id: str | None
    payload: Mapping[str, Any]
    created_at: datetime

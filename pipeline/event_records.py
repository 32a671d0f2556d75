"""What streams and webhooks deliver: logged events, and ephemeral ones (steps), which are never logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

STEPPED = "generation.stepped"  # ephemeral: not logged
CANCEL_REQUESTED = "job.cancel_requested"  # of a running job
IMAGE_UPDATED = "image.updated"  # its metadata or tags have changed
WEBHOOK_TYPES = "webhook."  # prefix of types that are sent to one webhook alone
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
    IMAGE_UPDATED,
    "image.deleted",
    WEBHOOK_TESTED,
)
"""All types of the event log; webhooks are sent no others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRecord:
    """An event of one owner's images, jobs or webhooks."""

    sequence: int | None  # in the log, ascending in commit order; None if ephemeral
    type: str  # such as "image.created"
    owner: str
    image_id: str | None
    job_id: str | None
    payload: Mapping[str, Any]
    created_at: datetime

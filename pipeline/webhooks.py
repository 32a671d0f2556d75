"""Webhooks: subscriptions to events by HTTP, and deliveries, stored so that they survive their dispatcher.

```
            ┌─ retried, dispatcher lost ─┐
event ──▶ pending ──── sent ─────────────┴──▶ delivered
             │                                   │
             └── last attempt, gone ──▶ failed ──┴── redelivered ──▶ pending
```
Delivery is at least once: a receiver recognises duplicates by the delivery's id. Events of one image, or of one job,
are delivered in order; events of others don't wait for them.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pipeline.event_records import EventRecord

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, NEW_SECRET_BYTES, MAX_SECRET_BYTES = 24, 32, 64  # before base64; bounds by Standard Webhooks
JITTER = 0.2  # of the wait, either way: deliveries that failed together are not retried together


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"  # to be sent, being sent, or waiting for a retry
    DELIVERED = "delivered"  # accepted by the receiver
    FAILED = "failed"  # not accepted by the receiver; not retried any more


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """A receiver of an owner's events."""

    webhook_id: str  # sorts by time
    owner: str  # whose events are delivered
    url: str
    types: tuple[str, ...]  # event types; empty for all
    secret: str = field(repr=False)  # signs the requests: `whsec_` and base64
    created_at: datetime
    disabled_at: datetime | None  # nothing is sent from then on
    disabled_reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event for one webhook, and its state."""

    delivery_id: str  # sorts by time
    webhook_id: str
    sequence: int  # of the event
    type: str  # of the event
    subject: str | None  # the image or job within which deliveries are ordered; None: unordered
    state: DeliveryState
    attempts: int  # times it was started
    next_at: float  # when a pending one is due, in seconds on the database's clock
    last_status: int | None  # HTTP status of the last response
    last_error: str | None  # of the last attempt
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A delivery claimed by a dispatcher, with everything needed to send it."""

    delivery: Delivery
    url: str
    secret: str = field(repr=False)
    record: EventRecord


def new_secret() -> str:
    """Generate a signing secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def is_secret(text: str) -> bool:
    """Return whether a text is a valid signing secret."""
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        return False
    return text.startswith(SECRET_PREFIX) and MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES


def backoff_s(schedule_s: Sequence[float], attempt: int, jitter: float) -> float | None:
    """Return the wait after a failed attempt, in seconds; None if it was the last.

    Args:
        schedule_s: the waits after the first attempt, the second and so on, in seconds.
        attempt: its number, from 1.
        jitter: a random number from 0 to 1.
    """
    if attempt > len(schedule_s):
        return None
    return schedule_s[attempt - 1] * (1 + JITTER * (2 * jitter - 1))

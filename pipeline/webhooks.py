"""Webhooks: whom to tell by HTTP what happens, and each telling as a fact that survives whoever does it.

```
            ┌─ put off, dispatcher lost ─┐
event ──▶ pending ──── sent ─────────────┴──▶ delivered
             │                                   │
             └── last attempt, gone ──▶ failed ──┴── redelivered ──▶ pending
```
A delivery is sent at least once: who is told twice knows it by the delivery's id. What happens to one image, or to one
job, is told in the order in which it happened; what happens to others waits for none of it.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pipeline.notices import Notice

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, NEW_SECRET_BYTES, MAX_SECRET_BYTES = 24, 32, 64  # before base64; the bounds are Standard Webhooks'
JITTER = 0.2  # of the wait, either way: what failed together is not to come back together


class DeliveryState(StrEnum):
    """Where a delivery stands."""

    PENDING = "pending"  # to be sent, being sent, or waiting to be sent again
    DELIVERED = "delivered"  # the receiver said that it has it
    FAILED = "failed"  # nobody took it; it isn't sent again by itself


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Somebody to be told."""

    webhook_id: str  # sorts by time
    owner: str  # whose things are told of
    url: str
    types: tuple[str, ...]  # of events; empty for all
    secret: str = field(repr=False)  # signs what is sent: `whsec_` and base64
    created_at: datetime
    disabled_at: datetime | None  # nothing is sent from then on
    disabled_reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event for one webhook, and what became of it."""

    delivery_id: str  # sorts by time
    webhook_id: str
    sequence: int  # of the event
    type: str  # of the event
    subject: str | None  # the image or job whose deliveries come in order; None: in no order
    state: DeliveryState
    attempts: int  # times it was begun
    next_at: float  # when a pending one comes due, in seconds on the database's clock
    last_status: int | None  # of the last answer
    last_error: str | None  # of the last attempt
    created_at: datetime
    settled_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A delivery somebody took to send, with all that takes."""

    delivery: Delivery
    url: str
    secret: str = field(repr=False)
    notice: Notice


def new_secret() -> str:
    """Make a secret to sign with."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def is_secret(text: str) -> bool:
    """Whether a text can be a secret to sign with."""
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):  # the latter of what isn't ASCII
        return False
    return text.startswith(SECRET_PREFIX) and MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES


def backoff_s(schedule_s: Sequence[float], attempt: int, jitter: float) -> float | None:
    """How long to wait after an attempt that failed, in seconds; None if it was the last.

    Args:
        schedule_s: the waits after the first attempt, the second and so on, in seconds.
        attempt: its number, from 1.
        jitter: a random number from 0 to 1.
    """
    if attempt > len(schedule_s):
        return None
    return schedule_s[attempt - 1] * (1 + JITTER * (2 * jitter - 1))

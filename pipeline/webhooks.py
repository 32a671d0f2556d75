"""Webhooks: subscriptions to events by HTTP, and deliveries, stored so that they survive their dispatcher.

```
            ┌─ retried, dispatcher lost ─┐
event ──▶ pending ──── sent ─────────────┴──▶ delivered
             │                                   │
             └── last attempt, gone ──▶ failed ──┴──── retried ─────▶ pending
```
Delivery is at least once: a receiver recognises duplicates by the delivery's id. Events of one image, or of one job,
are delivered in order; events of others don't wait for them.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pipeline.event_records import EventRecord

SECRET_PREFIX = "whsec_"
MIN_SECRET_BYTES, NEW_SECRET_BYTES, MAX_SECRET_BYTES = 24, 32, 64  # before base64; bounds by Standard Webhooks
ROTATION_S = 24 * 3600.0  # for which the previous secret signs as well
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
    previous_secret_expires_at: datetime | None  # until then the previous secret signs as well; None if there was none
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
class SentRequest:
    """What was sent to a receiver."""

    url: str
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReceivedResponse:
    """What a receiver responded; headers and body may be cut off."""

    status: int
    headers: Mapping[str, str]
    body: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """One attempt of a delivery."""

    request: SentRequest
    response: ReceivedResponse | None  # None: the receiver didn't respond

    @classmethod
    def from_dict(cls, exchange: Mapping[str, Any]) -> Self:
        """Convert what `to_dict` returned."""
        response = exchange["response"]
        return cls(
            request=SentRequest(**exchange["request"]),
            response=None if response is None else ReceivedResponse(**response),
        )

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A delivery claimed by a dispatcher, with everything needed to send it."""

    delivery: Delivery
    url: str
    secrets: tuple[str, ...] = field(repr=False)  # each signs; the newest first
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

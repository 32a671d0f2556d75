"""What HTTP clients send and get of webhooks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from graphs.events.ssrf_guard import MAX_URL_CHARS
from graphs.http.schemas.generation import RequestBody
from pipeline.event_records import TYPES
from pipeline.webhooks import (
    MAX_SECRET_BYTES,
    MIN_SECRET_BYTES,
    SECRET_PREFIX,
    Delivery,
    DeliveryState,
    Webhook,
    is_secret,
)


def _known(types: list[str]) -> list[str]:
    unknown = [name for name in types if name not in TYPES]
    if unknown:
        raise ValueError(f"holds {unknown[0]!r}; send any of {', '.join(TYPES)}, or none for all")
    return list(dict.fromkeys(types))


def _usable(secret: str) -> str:
    if not is_secret(secret):
        raise ValueError(
            f"can't sign; send {SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, "
            "or none to be given one"
        )
    return secret


class WebhookBody(RequestBody):
    """A receiver of the events of one's images and jobs."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"url": "https://example.com/hook", "types": ["image.created", "job.failed"]}]}
    )

    url: str = Field(max_length=MAX_URL_CHARS, description="http or https, without credentials; redirects fail.")
    types: Annotated[list[str], AfterValidator(_known)] = Field([], description="Only these events; all if empty.")
    secret: Annotated[str, AfterValidator(_usable)] | None = Field(
        None, description="Signs what is sent, as Standard Webhooks says; one is made if left out."
    )


class WebhookStatus(BaseModel):
    """A webhook."""

    webhook_id: str = Field(description="Id of the webhook.")
    url: str = Field(description="URL that receives the events.")
    types: list[str] = Field(description="Only these events; all if empty.")
    enabled: bool = Field(description="Whether events are sent.")
    disabled_at: datetime | None = Field(description="When a 410 response disabled it; null if it is enabled.")
    disabled_reason: str | None = Field(description="Why it was disabled.")
    created_at: datetime = Field(description="When it was created.")

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        return cls(**_shown(webhook))


class WebhookMade(WebhookStatus):
    """A new webhook. Its secret is shown here, and later only to the same request with the same Idempotency-Key."""

    secret: str = Field(examples=["whsec_…"], description="Signing secret (Standard Webhooks).")

    @classmethod
    def of(cls, webhook: Webhook) -> Self:
        return cls(**_shown(webhook), secret=webhook.secret)


class Webhooks(BaseModel):
    """All webhooks one has, newest first."""

    webhooks: list[WebhookStatus] = Field(description="The webhooks.")


class DeliveryStatus(BaseModel):
    """One event for one webhook, and what became of it."""

    delivery_id: str = Field(description="The receiver gets it as `webhook-id`, the same each time it is sent.")
    event_id: str = Field(description="The event's number in the log.")
    type: str = Field(examples=["image.created"], description="Type of the event.")
    subject: str | None = Field(description="The image or job it happened to; these are delivered in order.")
    state: DeliveryState = Field(description="`pending`, `delivered` or `failed`.")
    attempts: int = Field(description="Number of attempts so far.")
    next_attempt_at: datetime | None = Field(description="Of one that is pending.")
    last_status: int | None = Field(description="What the receiver answered last.")
    last_error: str | None = Field(description="Why the last attempt failed; null if it did not.")
    created_at: datetime = Field(description="When the delivery was created.")
    settled_at: datetime | None = Field(description="When it succeeded or was given up; null while it is pending.")

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        is_pending = delivery.state is DeliveryState.PENDING
        return cls(
            delivery_id=delivery.delivery_id,
            event_id=str(delivery.sequence),
            type=delivery.type,
            subject=delivery.subject,
            state=delivery.state,
            attempts=delivery.attempts,
            next_attempt_at=datetime.fromtimestamp(delivery.next_at, UTC) if is_pending else None,
            last_status=delivery.last_status,
            last_error=delivery.last_error,
            created_at=delivery.created_at,
            settled_at=delivery.settled_at,
        )


class Deliveries(BaseModel):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryStatus] = Field(description="Deliveries of this page.")
    next: str | None = Field(description="Send it as `before` to get the next page; null on the last.")


def _shown(webhook: Webhook) -> dict[str, Any]:
    return {
        "webhook_id": webhook.webhook_id,
        "url": webhook.url,
        "types": list(webhook.types),
        "enabled": webhook.disabled_at is None,
        "disabled_at": webhook.disabled_at,
        "disabled_reason": webhook.disabled_reason,
        "created_at": webhook.created_at,
    }

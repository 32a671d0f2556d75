"""What HTTP clients send and get of webhooks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from graphs.events.ssrf_guard import MAX_URL_CHARS
from graphs.http.pagination import PageFields
from graphs.http.schemas.generation import RequestBody
from graphs.http.validation import suggestion
from pipeline import webhooks
from pipeline.event_records import TYPES
from pipeline.webhooks import MAX_SECRET_BYTES, MIN_SECRET_BYTES, SECRET_PREFIX, DeliveryState, is_secret


def _known(types: list[str]) -> list[str]:
    unknown = [name for name in types if name not in TYPES]
    if unknown:
        raise ValueError(
            f"holds {unknown[0]!r}{suggestion(unknown[0], TYPES)}; send any of {', '.join(TYPES)}, or none for all"
        )
    return list(dict.fromkeys(types))


def _usable(secret: str) -> str:
    if not is_secret(secret):
        raise ValueError(
            f"can't sign; send {SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, "
            "or none to be given one"
        )
    return secret


KnownTypes = AfterValidator(_known)
Secret = Annotated[str, AfterValidator(_usable)]

URL_EXAMPLE = "https://example.com/hook"


class WebhookBody(RequestBody):
    """A receiver of the events of one's images and jobs."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"url": URL_EXAMPLE, "types": ["image.created", "job.failed"]}]}
    )

    url: str = Field(max_length=MAX_URL_CHARS, description="http or https, without credentials; redirects fail.")
    types: Annotated[list[str], KnownTypes] = Field([], description="Only these events; all if empty.")
    secret: Secret | None = Field(
        None, description="Signs what is sent, as Standard Webhooks says; one is made if left out."
    )


class WebhookChanges(RequestBody):
    """What to change of a webhook; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"enabled": False}]})

    url: str | None = Field(
        None, max_length=MAX_URL_CHARS, description="http or https, without credentials; redirects fail."
    )
    types: Annotated[list[str], KnownTypes] | None = Field(None, description="Only these events; all if empty.")
    enabled: bool | None = Field(
        None,
        strict=True,
        description="`false` pauses the webhook, and its pending deliveries fail; `true` enables it for events from "
        "now on.",
    )


class SecretRotation(RequestBody):
    """The new secret of a webhook."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{}]})

    secret: Secret | None = Field(
        None, description="Signs what is sent, as Standard Webhooks says; one is made if left out."
    )


class Webhook(BaseModel):
    """A webhook."""

    webhook_id: str = Field(description="Id of the webhook.")
    url: str = Field(description="URL that receives the events.")
    types: list[str] = Field(description="Only these events; all if empty.")
    enabled: bool = Field(description="Whether events are sent.")
    disabled_at: datetime | None = Field(
        description="When its owner paused it, or a 410 response disabled it; null if it is enabled."
    )
    disabled_reason: str | None = Field(description="Why it was disabled.")
    previous_secret_expires_at: datetime | None = Field(
        description="Until then deliveries are signed with the previous secret as well; null if there was none."
    )
    created_at: datetime = Field(description="When it was created.")

    @classmethod
    def of(cls, webhook: webhooks.Webhook) -> Self:
        return cls(**_shown(webhook))


class WebhookWithSecret(Webhook):
    """A webhook with its secret, which is shown here, and later only to the same request with its Idempotency-Key."""

    secret: str = Field(examples=["whsec_…"], description="Signing secret (Standard Webhooks).")

    @classmethod
    def of(cls, webhook: webhooks.Webhook) -> Self:
        return cls(**_shown(webhook), secret=webhook.secret)


class WebhookList(PageFields):
    """A page of webhooks."""

    data: list[Webhook] = Field(description="Webhooks of this page.")
    webhooks: list[Webhook] = Field(description="The same as `data`.", deprecated=True)


class Delivery(BaseModel):
    """One event for one webhook, and what became of it."""

    delivery_id: str = Field(description="The receiver gets it as `webhook-id`, the same each time it is sent.")
    event_id: str = Field(description="The event's number in the log.")
    type: str = Field(examples=["image.created"], description="Type of the event.")
    subject: str | None = Field(description="The image or job it happened to; these are delivered in order.")
    state: DeliveryState = Field(description="`pending`, `delivered` or `failed`.")
    attempts: int = Field(description="Number of attempts so far.")
    next_attempt_at: datetime | None = Field(description="Of one that is pending.")
    response_status: int | None = Field(
        description="HTTP status of the last attempt's response; null if there was none."
    )
    last_status: int | None = Field(description="The same as `response_status`.", deprecated=True)
    last_error: str | None = Field(description="Why the last attempt failed; null if it did not.")
    created_at: datetime = Field(description="When the delivery was created.")
    finished_at: datetime | None = Field(description="When it succeeded or was given up; null while it is pending.")
    settled_at: datetime | None = Field(description="The same as `finished_at`.", deprecated=True)

    @classmethod
    def of(cls, delivery: webhooks.Delivery) -> Self:
        return cls(**_outcome(delivery))


class DeliveryRequest(BaseModel):
    """What was sent to the receiver."""

    url: str = Field(description="URL it was sent to.")
    headers: dict[str, str] = Field(description="Headers of the delivery, with its signatures.")
    body: str = Field(description="The CloudEvent as text, exactly as it was signed and sent.")


class DeliveryResponse(BaseModel):
    """What the receiver responded."""

    status: int = Field(description="HTTP status.")
    headers: dict[str, str] = Field(description="Headers, up to 4 KB.")
    body: str = Field(description="The first 4 KB of the body as text; other bytes than UTF-8 are replaced.")


class DeliveryDetails(Delivery):
    """A delivery with the request and the response of its last attempt."""

    request: DeliveryRequest | None = Field(description="Null until the first attempt has ended.")
    response: DeliveryResponse | None = Field(description="Null if the receiver did not respond.")

    @classmethod
    def with_exchange(cls, delivery: webhooks.Delivery, exchange: webhooks.Exchange | None) -> Self:
        sent = None if exchange is None else exchange.to_dict()
        return cls(**_outcome(delivery), **(sent or {"request": None, "response": None}))


class DeliveryList(PageFields):
    """A page of deliveries."""

    data: list[Delivery] = Field(description="Deliveries of this page.")
    deliveries: list[Delivery] = Field(description="The same as `data`.", deprecated=True)


class CloudEvent(BaseModel):
    """What a webhook's receiver gets: an event as a CloudEvent 1.0 in structured JSON."""

    specversion: Literal["1.0"] = Field(description="Version of CloudEvents.")
    id: str = Field(examples=["1042"], description="The event's number in the log.")
    source: str = Field(description="URL of the service, or `urn:ai-pipeline` if it isn't configured.")
    type: str = Field(examples=["image.created"], description="Type of the event; new types may come.")
    subject: str | None = Field(None, description="Id of the image or job; left out where there is none.")
    time: datetime = Field(description="When it happened.")
    datacontenttype: Literal["application/json"] = Field(description="Media type of `data`.")
    data: dict[str, Any] = Field(
        description="Facts of the event, with `job_id`, `job_url`, `image_id` and `image_url` where there are any. An "
        "event of more than 20 kB has these only."
    )


def _shown(webhook: webhooks.Webhook) -> dict[str, Any]:
    return {
        "webhook_id": webhook.webhook_id,
        "url": webhook.url,
        "types": list(webhook.types),
        "enabled": webhook.disabled_at is None,
        "disabled_at": webhook.disabled_at,
        "disabled_reason": webhook.disabled_reason,
        "previous_secret_expires_at": webhook.previous_secret_expires_at,
        "created_at": webhook.created_at,
    }


def _outcome(delivery: webhooks.Delivery) -> dict[str, Any]:
    is_pending = delivery.state is DeliveryState.PENDING
    return {
        "delivery_id": delivery.delivery_id,
        "event_id": str(delivery.sequence),
        "type": delivery.type,
        "subject": delivery.subject,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": datetime.fromtimestamp(delivery.next_at, UTC) if is_pending else None,
        "response_status": delivery.last_status,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": delivery.created_at,
        "finished_at": delivery.settled_at,
        "settled_at": delivery.settled_at,
    }

"""What a webhook is sent: a CloudEvent about what happened, signed as Standard Webhooks says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from standardwebhooks.webhooks import Webhook as Signer

from pipeline.notices import Notice
from pipeline.webhooks import Claim

MAX_BODY_BYTES = 20_000  # Standard Webhooks: large ones are refused by too many receivers
CONTENT_TYPE = "application/cloudevents+json"
USER_AGENT = "ai-pipeline"
NAMELESS = "urn:ai-pipeline"  # the source where the service doesn't know its own URL


def message(notice: Notice, subject: str | None, public_url: str | None) -> bytes:
    """Write down what happened as a CloudEvent 1.0 in structured JSON, without pixels but with the URLs of them.

    Args:
        notice: what happened.
        subject: the image or job it happened to.
        public_url: where clients reach the service; URLs are relative if None.
    """
    base = (public_url or "").rstrip("/")
    about = {"job_id": notice.job_id, "image_id": notice.image_id}
    if notice.job_id:
        about["job_url"] = f"{base}/v1/jobs/{notice.job_id}"
    if image_id := notice.image_id or _made(notice):
        about["image_url"] = f"{base}/v1/images/{image_id}/content"
    references = {name: value for name, value in about.items() if value is not None}
    event = {
        "specversion": "1.0",
        "id": str(notice.sequence),
        "source": base or NAMELESS,
        "type": notice.type,
        "time": notice.created_at.isoformat(),
        "datacontenttype": "application/json",
        "data": dict(notice.payload) | references,
    }
    if subject is not None:
        event["subject"] = subject
    body = orjson.dumps(event)
    if len(body) < MAX_BODY_BYTES:
        return body
    return orjson.dumps(event | {"data": references})  # the rest can be read there


def signed(claim: Claim, body: bytes, now: datetime) -> dict[str, str]:
    """Make the headers of a delivery.

    Args:
        claim: what is delivered; its id stays the same however often it is sent, so that receivers know it again.
        body: what is sent.
        now: when, with its zone.
    """
    moment, delivery_id = now.astimezone(UTC), claim.delivery.delivery_id
    return {
        "content-type": CONTENT_TYPE,
        "user-agent": USER_AGENT,
        "webhook-id": delivery_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": Signer(claim.secret).sign(delivery_id, moment, body.decode()),
    }


def _made(notice: Notice) -> Any:
    """The image a job made."""
    return (notice.payload.get("result") or {}).get("image_id")

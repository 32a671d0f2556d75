"""Catalogue of the event types, and the requests that webhooks send, for the OpenAPI document and docs/events.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphs.events.webhooks import CONTENT_TYPE
from graphs.http.schemas.webhooks import CloudEvent
from pipeline.event_records import CANCEL_REQUESTED, IMAGE_UPDATED, WEBHOOK_TESTED

OCCASIONS: Mapping[str, str] = {
    "job.submitted": "A job was accepted. `waits` is whether it is queued rather than started at once.",
    "job.started": "A worker has begun an attempt of a job.",
    "job.requeued": "A running job lost its worker, or its worker was stopped: the job is queued again.",
    "job.retried": "A job that had failed, was cancelled or dead was queued again at the request of its owner.",
    CANCEL_REQUESTED: "The cancellation of a running job was requested; it ends soon after.",
    "job.succeeded": "A job has made its image, `result.image_id`.",
    "job.failed": "A job has failed. `problem` is the error, with a `code` of docs/errors.md.",
    "job.cancelled": "A job was cancelled.",
    "job.dead": "A job lost its worker on every attempt. It starts again only if it is retried.",
    "image.created": "An image was generated or uploaded, and is stored.",
    IMAGE_UPDATED: "The metadata or the tags of an image were changed; the event has both as they are now.",
    "image.deleted": "An image was deleted, by its owner or because the limits of age or bytes were exceeded.",
    WEBHOOK_TESTED: "A test of a webhook was requested. Only that webhook receives it, whatever its types.",
}
"""When an event of each type of the log happens."""

_HEADERS = {
    "webhook-id": "Id of the delivery, the same for each attempt: recognises duplicates.",
    "webhook-timestamp": "Time of the attempt, in Unix seconds.",
    "webhook-signature": "Signatures by Standard Webhooks, separated by spaces: after a rotation one of each secret.",
}
_ACCEPTED = {"description": "Accepted. All other statuses but 410 are retried."}
_GONE = {"description": "Accepted no more: the webhook is disabled."}


def webhook_operations() -> dict[str, Any]:
    """Return the `webhooks` of the OpenAPI document: an operation for each event type."""
    return {type_: {"post": _operation(type_, occasion)} for type_, occasion in OCCASIONS.items()}


def cloud_event_schema() -> dict[str, Any]:
    """Return the schema of the body that webhooks send."""
    return CloudEvent.model_json_schema()


def _operation(type_: str, occasion: str) -> dict[str, Any]:
    first, *others = (word for part in type_.split(".") for word in part.split("_"))
    parameters = [
        {"name": name, "in": "header", "required": True, "description": about, "schema": {"type": "string"}}
        for name, about in _HEADERS.items()
    ]
    content = {CONTENT_TYPE: {"schema": {"$ref": f"#/components/schemas/{CloudEvent.__name__}"}}}
    return {
        "tags": ["webhooks"],
        "summary": type_,
        "description": occasion,
        "operationId": f"on{first.capitalize()}" + "".join(word.capitalize() for word in others),
        "parameters": parameters,
        "requestBody": {"required": True, "content": content},
        "responses": {"2XX": _ACCEPTED, "410": _GONE},
    }

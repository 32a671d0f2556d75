"""Every operation of /v1 has a method of the client."""

from __future__ import annotations

from operator import attrgetter

from ai_pipeline_client import Client, Image, Region
from docs.openapi import document

METHODS = {
    "POST /v1/images": "images.generate",
    "GET /v1/images": "images.list",
    "POST /v1/images/upload": "images.upload",
    "POST /v1/images/delete": "images.delete",
    "GET /v1/images/{image_id}": "images.get",
    "PATCH /v1/images/{image_id}": "images.update",
    "DELETE /v1/images/{image_id}": "images.delete",
    "GET /v1/images/{image_id}/content": "Image.bytes",
    "POST /v1/images/{image_id}/variations": "Image.vary",
    "POST /v1/images/{image_id}/edits": "Image.edit",
    "GET /v1/images/{image_id}/labels": "Image.labels",
    "POST /v1/images/{image_id}/probe": "Image.probe",
    "GET /v1/images/{image_id}/overlay.png": "Image.overlay",
    "GET /v1/images/{image_id}/regions": "Image.regions",
    "POST /v1/images/{image_id}/regions": "Image.region_at",
    "GET /v1/images/{image_id}/regions.coco.json": "Image.coco",
    "GET /v1/images/{image_id}/regions/{region_id}": "Image.region",
    "GET /v1/images/{image_id}/regions/{region_id}/mask.png": "Region.mask_picture",
    "GET /v1/images/{image_id}/regions/{region_id}/cutout.png": "Region.cutout",
    "GET /v1/images/{image_id}/regions/{region_id}/spotlight.png": "Region.spotlight",
    "GET /v1/jobs": "jobs.list",
    "GET /v1/jobs/{job_id}": "jobs.get",
    "GET /v1/jobs/{job_id}/events": "jobs.stream",
    "GET /v1/jobs/{job_id}/preview.png": "jobs.preview",
    "POST /v1/jobs/{job_id}/cancel": "jobs.cancel",
    "POST /v1/jobs/{job_id}/retry": "jobs.retry",
    "GET /v1/events": "events.stream",
    "POST /v1/webhooks": "webhooks.create",
    "GET /v1/webhooks": "webhooks.list",
    "GET /v1/webhooks/{webhook_id}": "webhooks.get",
    "PATCH /v1/webhooks/{webhook_id}": "webhooks.update",
    "DELETE /v1/webhooks/{webhook_id}": "webhooks.delete",
    "POST /v1/webhooks/{webhook_id}/rotate-secret": "webhooks.rotate_secret",
    "POST /v1/webhooks/{webhook_id}/test": "webhooks.test",
    "GET /v1/webhooks/{webhook_id}/deliveries": "webhooks.deliveries",
    "GET /v1/webhooks/{webhook_id}/deliveries/{delivery_id}": "webhooks.delivery",
    "POST /v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry": "webhooks.retry",
    "GET /v1/me": "me",
    "GET /v1/keys": "keys.list",
    "POST /v1/keys": "keys.create",
    "DELETE /v1/keys/{key_id}": "keys.delete",
    "POST /v1/embeddings": "embeddings",
    "GET /v1/models": "models.list",
    "GET /v1/models/{model}": "models.get",
}
WITHOUT = {  # for OpenAI's clients
    "POST /v1/images/generations",
    "POST /v1/images/edits",
}


def operations() -> set[str]:
    """Return the operations of v1 that aren't deprecated."""
    return {
        f"{method.upper()} {path}"
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
        if path.startswith("/v1/") and not operation.get("deprecated")
    }


def test_every_operation_has_a_method():
    assert operations() == METHODS.keys() | WITHOUT


def test_every_method_is_there():
    client = Client("http://test")
    for name in METHODS.values():
        kind, _, method = name.partition(".")
        owner = {"Image": Image, "Region": Region}.get(kind)
        assert callable(attrgetter(name)(client) if owner is None else getattr(owner, method))

"""Webhooks and their deliveries."""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter
from starlette.responses import Response

from graphs.http.context import CallerDep, KeyDep, ServicesDep
from graphs.http.deprecation import deprecated_by
from graphs.http.errors import error_responses
from graphs.http.responses import PAGE, Before, DeliveryIdPath, Limit, V1Route, WebhookIdPath, json_response, split_page
from graphs.http.schemas.webhooks import Deliveries, DeliveryStatus, WebhookBody, WebhookMade, Webhooks, WebhookStatus
from graphs.http.validation import REFUSALS
from pipeline.errors import WebhookNotFound

router = APIRouter(prefix="/v1/webhooks", route_class=V1Route, tags=["webhooks"], dependencies=REFUSALS)


@router.post(
    "",
    response_model=WebhookMade,
    status_code=201,
    responses=error_responses(400, 401, 404, 409, 413, 415, 422, 429, 503),
)
async def create_webhook(body: WebhookBody, services: ServicesDep, caller: CallerDep, key: KeyDep) -> Response:
    """Subscribe a URL to the events of your images and jobs from now on.

    Each event is sent as a CloudEvent (structured JSON) in a POST signed as Standard Webhooks specifies. Respond 2xx
    within 15 s to accept it, or 410 to disable the webhook; anything else is retried over half a day. Delivery is at
    least once: `webhook-id` identifies duplicates. Events of one image, or of one job, come in order.
    """
    made = await services.webhooks.register(caller.owner, body.url, types=body.types, secret=body.secret, key=key)
    created = json_response(WebhookMade.of(made), status_code=201)
    created.headers.update({"Location": f"/v1/webhooks/{made.webhook_id}", "Cache-Control": "no-store"})
    return created


@router.get("", response_model=Webhooks, responses=error_responses(401, 429, 503))
async def list_webhooks(services: ServicesDep, caller: CallerDep) -> Response:
    """List your webhooks, newest first."""
    found = await services.webhooks.list(caller.owner)
    return json_response(Webhooks(webhooks=[WebhookStatus.of(webhook) for webhook in found]))


@router.get("/{webhook_id}", response_model=WebhookStatus, responses=error_responses(401, 404, 422, 429, 503))
async def get_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return a webhook: its URL, its types, and whether it is enabled."""
    return json_response(WebhookStatus.of(await services.webhooks.get(str(webhook_id), caller.owner)))


@router.delete("/{webhook_id}", status_code=204, responses=error_responses(401, 404, 422, 429, 503))
async def delete_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Remove a webhook and its deliveries. The response is 204 also if there is no such webhook any more."""
    with suppress(WebhookNotFound):
        await services.webhooks.delete(str(webhook_id), caller.owner)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/enable",
    response_model=WebhookStatus,
    responses=error_responses(401, 404, 422, 429, 503),
    **deprecated_by("/v1/webhooks/{webhook_id}"),
)
async def enable_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Enable a webhook that a 410 has disabled, for events from now on.

    Failed deliveries can be redelivered one by one.
    """
    return json_response(WebhookStatus.of(await services.webhooks.enable(str(webhook_id), caller.owner)))


@router.post(
    "/{webhook_id}/test",
    response_model=DeliveryStatus,
    status_code=202,
    responses=error_responses(401, 404, 422, 429, 503),
)
async def test_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Send `webhook.tested` to this webhook alone, whatever its types."""
    sent = await services.webhooks.test(str(webhook_id), caller.owner)
    return json_response(DeliveryStatus.of(sent), status_code=202)


@router.get("/{webhook_id}/deliveries", response_model=Deliveries, responses=error_responses(401, 404, 422, 429, 503))
async def list_deliveries(
    webhook_id: WebhookIdPath,
    services: ServicesDep,
    caller: CallerDep,
    limit: Limit = PAGE,
    before: Before = None,
) -> Response:
    """List deliveries, newest first, with their outcome."""
    found = await services.webhooks.deliveries(
        str(webhook_id), caller.owner, limit=limit + 1, before=str(before) if before else None
    )
    page, last = split_page(found, limit, lambda delivery: delivery.delivery_id)
    return json_response(Deliveries(deliveries=[DeliveryStatus.of(delivery) for delivery in page], next=last))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    response_model=DeliveryStatus,
    status_code=202,
    responses=error_responses(401, 404, 422, 429, 503),
)
async def retry_delivery(
    webhook_id: WebhookIdPath, delivery_id: DeliveryIdPath, services: ServicesDep, caller: CallerDep
) -> Response:
    """Send a delivery again now, whatever its state."""
    again = await services.webhooks.redeliver(str(webhook_id), str(delivery_id), caller.owner)
    return json_response(DeliveryStatus.of(again), status_code=202)

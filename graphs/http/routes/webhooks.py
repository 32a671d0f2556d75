"""The webhooks one has."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from graphs.http.context import CallerDep, KeyDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.responses import PAGE, Before, JsonRoute, Limit, json_response, split_page
from graphs.http.schemas.webhooks import Deliveries, DeliveryStatus, WebhookBody, WebhookMade, Webhooks, WebhookStatus

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=JsonRoute)


@router.post(
    "",
    response_model=WebhookMade,
    status_code=201,
    responses=error_responses(400, 401, 404, 409, 413, 422, 429, 503),
)
async def register(body: WebhookBody, services: ServicesDep, caller: CallerDep, key: KeyDep) -> Response:
    """Be told by HTTP what happens to one's images and jobs from now on.

    Each event comes as a CloudEvent (structured JSON) in a POST that is signed as Standard Webhooks says. Answer
    2xx within 15 s to have it; 410 to be sent nothing any more. Anything else is tried again over half a day. An
    event may come twice: `webhook-id` stays the same. What happens to one image, or to one job, comes in order.
    """
    made = await services.webhooks.register(caller.owner, body.url, types=body.types, secret=body.secret, key=key)
    created = json_response(WebhookMade.of(made), status_code=201)
    created.headers.update({"Location": f"/v1/webhooks/{made.webhook_id}", "Cache-Control": "no-store"})
    return created


@router.get("", response_model=Webhooks, responses=error_responses(401, 429, 503))
async def webhooks(services: ServicesDep, caller: CallerDep) -> Response:
    """List the webhooks one has, newest first."""
    found = await services.webhooks.list(caller.owner)
    return json_response(Webhooks(webhooks=[WebhookStatus.of(webhook) for webhook in found]))


@router.get("/{webhook_id}", response_model=WebhookStatus, responses=error_responses(401, 404, 422, 429, 503))
async def webhook(webhook_id: UUID, services: ServicesDep, caller: CallerDep) -> Response:
    """Tell where a webhook leads, and whether it is enabled."""
    return json_response(WebhookStatus.of(await services.webhooks.get(str(webhook_id), caller.owner)))


@router.delete("/{webhook_id}", status_code=204, responses=error_responses(401, 404, 422, 429, 503))
async def delete(webhook_id: UUID, services: ServicesDep, caller: CallerDep) -> Response:
    """Remove a webhook and its deliveries."""
    await services.webhooks.delete(str(webhook_id), caller.owner)
    return Response(status_code=204)


@router.post("/{webhook_id}/enable", response_model=WebhookStatus, responses=error_responses(401, 404, 422, 429, 503))
async def enable(webhook_id: UUID, services: ServicesDep, caller: CallerDep) -> Response:
    """Be told again, what happens from now on, after a 410 has disabled the webhook.

    What failed meanwhile can be delivered again one by one.
    """
    return json_response(WebhookStatus.of(await services.webhooks.enable(str(webhook_id), caller.owner)))


@router.post(
    "/{webhook_id}/test",
    response_model=DeliveryStatus,
    status_code=202,
    responses=error_responses(401, 404, 422, 429, 503),
)
async def test(webhook_id: UUID, services: ServicesDep, caller: CallerDep) -> Response:
    """Send `webhook.tested` to this webhook alone, whatever its types."""
    sent = await services.webhooks.test(str(webhook_id), caller.owner)
    return json_response(DeliveryStatus.of(sent), status_code=202)


@router.get("/{webhook_id}/deliveries", response_model=Deliveries, responses=error_responses(401, 404, 422, 429, 503))
async def deliveries(
    webhook_id: UUID,
    services: ServicesDep,
    caller: CallerDep,
    limit: Limit = PAGE,
    before: Before = None,
) -> Response:
    """List what was sent or is to be sent, newest first, and what became of it."""
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
async def redeliver(webhook_id: UUID, delivery_id: UUID, services: ServicesDep, caller: CallerDep) -> Response:
    """Send a delivery again now, whatever became of it."""
    again = await services.webhooks.redeliver(str(webhook_id), str(delivery_id), caller.owner)
    return json_response(DeliveryStatus.of(again), status_code=202)

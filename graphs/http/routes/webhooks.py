"""Webhooks and their deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from graphs.http.context import CallerDep, KeyDep, ServicesDep
from graphs.http.deprecation import deprecated_by
from graphs.http.errors import error_responses
from graphs.http.pagination import PageDep, SplitCommas, split_page
from graphs.http.responses import DeliveryIdPath, V1Route, WebhookIdPath, json_response
from graphs.http.schemas.webhooks import (
    Delivery,
    DeliveryDetails,
    DeliveryList,
    KnownTypes,
    SecretRotation,
    Webhook,
    WebhookBody,
    WebhookChanges,
    WebhookList,
    WebhookWithSecret,
)
from graphs.http.validation import REFUSALS
from pipeline.errors import WebhookNotFound
from pipeline.webhooks import DeliveryState

NOT_STORED = {"Cache-Control": "no-store"}  # of responses with a secret

router = APIRouter(prefix="/v1/webhooks", route_class=V1Route, tags=["webhooks"], dependencies=REFUSALS)


@router.post(
    "",
    response_model=WebhookWithSecret,
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
    created = json_response(WebhookWithSecret.of(made), status_code=201)
    created.headers.update({"Location": f"/v1/webhooks/{made.webhook_id}"} | NOT_STORED)
    return created


@router.get("", response_model=WebhookList, responses=error_responses(401, 422, 429, 503))
async def list_webhooks(services: ServicesDep, caller: CallerDep, page: PageDep) -> Response:
    """List your webhooks, newest first."""
    found = await services.webhooks.list(caller.owner, page)
    shown, fields = split_page(found, page, lambda webhook: webhook.webhook_id)
    webhooks = [Webhook.of(webhook) for webhook in shown]
    return json_response(WebhookList(data=webhooks, webhooks=webhooks, **fields))


@router.get("/{webhook_id}", response_model=Webhook, responses=error_responses(401, 404, 422, 429, 503))
async def get_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return a webhook: its URL, its types, and whether it is enabled."""
    return json_response(Webhook.of(await services.webhooks.get(str(webhook_id), caller.owner)))


@router.patch(
    "/{webhook_id}", response_model=Webhook, responses=error_responses(400, 401, 404, 413, 415, 422, 429, 503)
)
async def update_webhook(
    webhook_id: WebhookIdPath, body: WebhookChanges, services: ServicesDep, caller: CallerDep
) -> Response:
    """Change the URL or the types of a webhook, pause it or enable it.

    A paused webhook, or one that a 410 response has disabled, receives the events from when it is enabled on. Failed
    deliveries can be retried one by one.
    """
    updated = await services.webhooks.update(
        str(webhook_id), caller.owner, url=body.url, types=body.types, enabled=body.enabled
    )
    return json_response(Webhook.of(updated))


@router.delete("/{webhook_id}", status_code=204, responses=error_responses(401, 404, 422, 429, 503))
async def delete_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Remove a webhook and its deliveries. The response is 204 also if there is no such webhook any more."""
    with suppress(WebhookNotFound):
        await services.webhooks.delete(str(webhook_id), caller.owner)
    return Response(status_code=204)


@router.post(
    "/{webhook_id}/rotate-secret",
    response_model=WebhookWithSecret,
    responses=error_responses(400, 401, 404, 413, 415, 422, 429, 503),
)
async def rotate_secret(
    webhook_id: WebhookIdPath,
    services: ServicesDep,
    caller: CallerDep,
    key: KeyDep,
    body: SecretRotation | None = None,
) -> Response:
    """Replace the secret of a webhook, and return the new one.

    For 24 h deliveries carry a signature of the previous secret as well, which another rotation within that time ends.
    """
    secret = None if body is None else body.secret
    rotated = await services.webhooks.rotate_secret(str(webhook_id), caller.owner, secret=secret, key=key)
    response = json_response(WebhookWithSecret.of(rotated))
    response.headers.update(NOT_STORED)
    return response


@router.post(
    "/{webhook_id}/enable",
    response_model=Webhook,
    responses=error_responses(401, 404, 422, 429, 503),
    **deprecated_by("/v1/webhooks/{webhook_id}"),
)
async def enable_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Enable a disabled webhook for events from now on."""
    return json_response(Webhook.of(await services.webhooks.update(str(webhook_id), caller.owner, enabled=True)))


@router.post(
    "/{webhook_id}/test",
    response_model=Delivery,
    status_code=202,
    responses=error_responses(401, 404, 422, 429, 503),
)
async def test_webhook(webhook_id: WebhookIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Send `webhook.tested` to this webhook alone, whatever its types."""
    sent = await services.webhooks.test(str(webhook_id), caller.owner)
    return json_response(Delivery.of(sent), status_code=202)


@router.get("/{webhook_id}/deliveries", response_model=DeliveryList, responses=error_responses(401, 404, 422, 429, 503))
async def list_deliveries(
    webhook_id: WebhookIdPath,
    services: ServicesDep,
    caller: CallerDep,
    page: PageDep,
    state: Annotated[
        Sequence[DeliveryState], SplitCommas, Query(description="Only deliveries in this state; repeat it for several.")
    ] = (),
    type_: Annotated[
        Sequence[str],
        SplitCommas,
        KnownTypes,
        Query(alias="type", description="Only deliveries of this event type; repeat it for several."),
    ] = (),
) -> Response:
    """List deliveries, newest first, with their outcome."""
    found = await services.webhooks.deliveries(str(webhook_id), caller.owner, page, states=state, types=type_)
    shown, fields = split_page(found, page, lambda delivery: delivery.delivery_id)
    deliveries = [Delivery.of(delivery) for delivery in shown]
    return json_response(DeliveryList(data=deliveries, deliveries=deliveries, **fields))


@router.get(
    "/{webhook_id}/deliveries/{delivery_id}",
    response_model=DeliveryDetails,
    responses=error_responses(401, 404, 422, 429, 503),
)
async def get_delivery(
    webhook_id: WebhookIdPath, delivery_id: DeliveryIdPath, services: ServicesDep, caller: CallerDep
) -> Response:
    """Return a delivery with what was sent and answered last."""
    delivery, exchange = await services.webhooks.delivery(str(webhook_id), str(delivery_id), caller.owner)
    return json_response(DeliveryDetails.with_exchange(delivery, exchange))


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/retry",
    response_model=Delivery,
    status_code=202,
    responses=error_responses(401, 404, 422, 429, 503),
)
async def retry_delivery(
    webhook_id: WebhookIdPath, delivery_id: DeliveryIdPath, services: ServicesDep, caller: CallerDep
) -> Response:
    """Send a delivery again now, whatever its state."""
    again = await services.webhooks.retry(str(webhook_id), str(delivery_id), caller.owner)
    return json_response(Delivery.of(again), status_code=202)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    response_model=Delivery,
    status_code=202,
    responses=error_responses(401, 404, 422, 429, 503),
    **deprecated_by("/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/retry"),
)
async def resend_delivery(
    webhook_id: WebhookIdPath, delivery_id: DeliveryIdPath, services: ServicesDep, caller: CallerDep
) -> Response:
    """Send a delivery again now, whatever its state."""
    return await retry_delivery(webhook_id, delivery_id, services, caller)

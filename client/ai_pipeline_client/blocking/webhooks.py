# Generated from aio/webhooks.py by scripts/write_client.py: do not edit.
"""`client.webhooks`: receivers of events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Optional, Union

from ai_pipeline_client import calls
from ai_pipeline_client.blocking.connection import Connection
from ai_pipeline_client.blocking.io import Items
from ai_pipeline_client.calls import Call, id_of
from ai_pipeline_client.decoding import decoded
from ai_pipeline_client.results import Delivery, DeliveryState, EventType, Page, Webhook

WEBHOOKS = "/v1/webhooks"
FULL_PAGE = 100

WebhookOrId = Union[Webhook, str]
DeliveryOrId = Union[Delivery, str]


class Webhooks:
    """Your webhooks. Every method raises `PipelineError`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, url: str, *, types: Sequence[EventType] = (), secret: Optional[str] = None) -> Webhook:
        """Subscribe a URL to the events of your images and jobs, from now on.

        Args:
            url: http or https, without credentials.
            types: only these events; all if left out.
            secret: signs what is sent, as Standard Webhooks specifies; one is made if None.

        Returns:
            The webhook with its secret, which isn't shown again.
        """
        call = Call(
            method="POST",
            path=WEBHOOKS,
            read=calls.read_as(Webhook),
            json=calls.without_none({"url": url, "types": list(types), "secret": secret}),
            headers=calls.idempotency_header(),
        )
        return self._connection.send(call)

    def list(self) -> Items[Webhook]:
        """Iterate over the webhooks, newest first."""
        after: Optional[str] = None
        while True:
            params = calls.without_none({"limit": FULL_PAGE, "after": after})
            read = calls.read_page(partial(decoded, Webhook), "webhooks")
            page = self._connection.send(Call(method="GET", path=WEBHOOKS, read=read, params=params))
            for webhook in page:
                yield webhook
            after = page.next
            if after is None:
                return

    def get(self, webhook: WebhookOrId) -> Webhook:
        """Get a webhook.

        Args:
            webhook: the webhook, or its id.
        """
        return self._connection.get(_path(webhook), partial(decoded, Webhook))

    def update(
        self,
        webhook: WebhookOrId,
        *,
        url: Optional[str] = None,
        types: Optional[Sequence[EventType]] = None,
        enabled: Optional[bool] = None,
    ) -> Webhook:
        """Change a webhook; what is None stays.

        Args:
            webhook: the webhook, or its id.
            url: http or https, without credentials.
            types: only these events; all if empty.
            enabled: False pauses it, and its pending deliveries fail.
        """
        body = {"url": url, "types": None if types is None else list(types), "enabled": enabled}
        call = Call(method="PATCH", path=_path(webhook), read=calls.read_as(Webhook), json=calls.without_none(body))
        return self._connection.send(call)

    def enable(self, webhook: WebhookOrId) -> Webhook:
        """Enable a webhook that was paused, or that a 410 has disabled, for events from now on.

        Args:
            webhook: the webhook, or its id.
        """
        return self.update(webhook, enabled=True)

    def rotate_secret(self, webhook: WebhookOrId, *, secret: Optional[str] = None) -> Webhook:
        """Replace the secret of a webhook. For a day, deliveries are signed with both.

        Args:
            webhook: the webhook, or its id.
            secret: one is made if None.

        Returns:
            The webhook with its new secret, which isn't shown again.
        """
        call = Call(
            method="POST",
            path=f"{_path(webhook)}/rotate-secret",
            read=calls.read_as(Webhook),
            json=calls.without_none({"secret": secret}),
            headers=calls.idempotency_header(),
        )
        return self._connection.send(call)

    def delete(self, webhook: WebhookOrId) -> None:
        """Delete a webhook and its deliveries; nothing happens if it is deleted already.

        Args:
            webhook: the webhook, or its id.
        """
        self._connection.send(Call(method="DELETE", path=_path(webhook), read=lambda _: None))

    def test(self, webhook: WebhookOrId) -> Delivery:
        """Send `webhook.tested` to a webhook, whatever its types.

        Args:
            webhook: the webhook, or its id.
        """
        call = Call(method="POST", path=f"{_path(webhook)}/test", read=calls.read_as(Delivery), is_repeatable=False)
        return self._connection.send(call)

    def deliveries(
        self,
        webhook: WebhookOrId,
        *,
        states: Sequence[DeliveryState] = (),
        types: Sequence[EventType] = (),
    ) -> Items[Delivery]:
        """Iterate over the deliveries of a webhook, newest first, over as many pages as it takes.

        Args:
            webhook: the webhook, or its id.
            states: only these, such as "failed".
            types: only of these events.
        """
        after: Optional[str] = None
        while True:
            page = self._deliveries_page(webhook, states, types, after)
            for delivery in page:
                yield delivery
            after = page.next
            if after is None:
                return

    def delivery(self, webhook: WebhookOrId, delivery: DeliveryOrId) -> Delivery:
        """Get a delivery, with the request and the response of its last attempt.

        Args:
            webhook: the webhook, or its id.
            delivery: the delivery, or its id.
        """
        return self._connection.get(_delivery_path(webhook, delivery), partial(decoded, Delivery))

    def retry(self, webhook: WebhookOrId, delivery: DeliveryOrId) -> Delivery:
        """Send a delivery again now, whatever its state.

        Args:
            webhook: the webhook, or its id.
            delivery: the delivery, or its id.
        """
        path = f"{_delivery_path(webhook, delivery)}/retry"
        return self._connection.send(Call(method="POST", path=path, read=calls.read_as(Delivery), is_repeatable=False))

    def _deliveries_page(
        self,
        webhook: WebhookOrId,
        states: Sequence[DeliveryState],
        types: Sequence[EventType],
        after: Optional[str],
    ) -> Page[Delivery]:
        params = {"limit": FULL_PAGE, "after": after, "state": list(states), "type": list(types)}
        call = Call(
            method="GET",
            path=f"{_path(webhook)}/deliveries",
            read=calls.read_page(partial(decoded, Delivery), "deliveries"),
            params=calls.query_parameters(params),
        )
        return self._connection.send(call)


def _path(webhook: WebhookOrId) -> str:
    return f"{WEBHOOKS}/{id_of(webhook, 'webhook')}"


def _delivery_path(webhook: WebhookOrId, delivery: DeliveryOrId) -> str:
    return f"{_path(webhook)}/deliveries/{id_of(delivery, 'delivery')}"

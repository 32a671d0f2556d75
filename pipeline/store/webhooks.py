"""Webhooks in SQL, as their owners see them: registered, listed, tested, delivered again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from pipeline.errors import DeliveryNotFound, TooManyWebhooks, WebhookNotFound
from pipeline.jobs import IdempotencyKey
from pipeline.notices import WEBHOOK_TESTED
from pipeline.store.deliveries import DeliveryQueue, as_delivery, insert_deliveries
from pipeline.store.idempotency import made_with, remember_key
from pipeline.store.ids import new_id
from pipeline.store.log import as_utc, log
from pipeline.store.tables import deliveries, events, webhooks
from pipeline.webhooks import Delivery, DeliveryState, Webhook


class WebhookStore(DeliveryQueue):
    """All webhooks and their deliveries. Methods block: call them from a thread."""

    def register(
        self,
        owner: str,
        url: str,
        *,
        types: Collection[str] = (),
        secret: str,
        max_per_owner: int | None = None,
        key: IdempotencyKey | None = None,
    ) -> Webhook:
        """Tell a URL what happens to an owner's things from now on; with a key used before, what it was used for.

        Args:
            owner: whose things.
            url: where to.
            types: of events; all if empty.
            secret: signs what is sent.
            max_per_owner: how many webhooks one may have.
            key: the client's name for the request.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            TooManyWebhooks: the owner has as many already.
            WebhookNotFound: the key was used for one that is deleted.
        """
        with self.log.writing() as connection:
            if key is not None and (made := made_with(connection, owner, key)) is not None:
                return _read(connection, made, owner)
            owned = select(func.count()).select_from(webhooks).where(webhooks.c.owner == owner)
            if max_per_owner is not None and connection.execute(owned).scalar_one() >= max_per_owner:
                raise TooManyWebhooks(registered=max_per_owner)
            webhook_id = new_id()
            row = {"webhook_id": webhook_id, "owner": owner, "url": url, "secret": secret}
            facts = {"types": [*types], "cursor": _newest(connection), "created_at": datetime.now(UTC)}
            if key is not None:
                remember_key(connection, owner, key, webhook_id)
            return _webhook(connection.execute(insert(webhooks).values(**row, **facts).returning(webhooks)).one())

    def list(self, owner: str) -> Sequence[Webhook]:
        """List an owner's webhooks, newest first."""
        query = select(webhooks).where(webhooks.c.owner == owner).order_by(webhooks.c.webhook_id.desc())
        with self.log.engine.connect() as connection:
            return [_webhook(row) for row in connection.execute(query)]

    def get(self, webhook_id: str, owner: str) -> Webhook:
        """Read a webhook.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.engine.connect() as connection:
            return _read(connection, webhook_id, owner)

    def delete(self, webhook_id: str, owner: str) -> None:
        """Remove a webhook and its deliveries.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.writing() as connection:
            _read(connection, webhook_id, owner)
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            connection.execute(delete(webhooks).where(webhooks.c.webhook_id == webhook_id))

    def enable(self, webhook_id: str, owner: str) -> Webhook:
        """Send to a disabled webhook again, what happens from now on; one that is enabled stays as it is.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.writing() as connection:
            if _read(connection, webhook_id, owner).disabled_at is not None:
                enabled = {"cursor": _newest(connection), "disabled_at": None, "disabled_reason": None}
                connection.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(enabled))
            return _read(connection, webhook_id, owner)

    def deliveries(self, webhook_id: str, owner: str, *, limit: int, before: str | None = None) -> Sequence[Delivery]:
        """List a webhook's deliveries, newest first, from before the delivery id `before` on.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        query = select(deliveries).where(deliveries.c.webhook_id == webhook_id)
        if before is not None:
            query = query.where(deliveries.c.delivery_id < before)
        with self.log.engine.connect() as connection:
            _read(connection, webhook_id, owner)
            rows = connection.execute(query.order_by(deliveries.c.delivery_id.desc()).limit(limit))
            return [as_delivery(row) for row in rows]

    def redeliver(self, webhook_id: str, delivery_id: str, owner: str) -> Delivery:
        """Make a delivery due now, as if it were new, whatever became of it; to a disabled webhook once it is enabled.

        Raises:
            WebhookNotFound: the owner has no such webhook.
            DeliveryNotFound: the webhook has no such delivery.
        """
        this = (deliveries.c.delivery_id == delivery_id, deliveries.c.webhook_id == webhook_id)
        with self.log.writing() as connection:
            _read(connection, webhook_id, owner)
            fresh = {"state": DeliveryState.PENDING, "attempts": 0, "settled_at": None}
            row = connection.execute(
                update(deliveries)
                .where(*this)
                .values(fresh | {"next_at": self.clock(connection)})
                .returning(deliveries)
            ).one_or_none()
            if row is None:
                raise DeliveryNotFound(delivery_id=delivery_id)
            return as_delivery(row)

    def test(self, webhook_id: str, owner: str) -> Delivery:
        """Log an event that is delivered to this webhook alone, whatever its types.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.writing() as connection:
            _read(connection, webhook_id, owner)
            sequence = log(connection, WEBHOOK_TESTED, owner, payload={"webhook_id": webhook_id})
            event = connection.execute(select(events).where(events.c.sequence == sequence)).one()
            (delivery_id,) = insert_deliveries(connection, [(webhook_id, event)], self.clock(connection))
            made = select(deliveries).where(deliveries.c.delivery_id == delivery_id)
            return as_delivery(connection.execute(made).one())

    def prune(self, oldest_kept: datetime) -> None:
        """Forget the deliveries of events from before a moment, and of those that are forgotten themselves."""
        kept = select(events.c.sequence).where(
            events.c.sequence == deliveries.c.sequence, events.c.created_at >= oldest_kept
        )
        with self.log.writing() as connection:
            connection.execute(delete(deliveries).where(~kept.exists()))


def _newest(connection: Connection) -> int:
    return int(connection.execute(select(func.coalesce(func.max(events.c.sequence), 0))).scalar_one())


def _read(connection: Connection, webhook_id: str, owner: str) -> Webhook:
    query = select(webhooks).where(webhooks.c.webhook_id == webhook_id, webhooks.c.owner == owner)
    row = connection.execute(query).one_or_none()
    if row is None:
        raise WebhookNotFound(webhook_id=webhook_id)
    return _webhook(row)


def _webhook(row: Row[Any]) -> Webhook:
    return Webhook(
        webhook_id=row.webhook_id,
        owner=row.owner,
        url=row.url,
        types=tuple(row.types),
        secret=row.secret,
        created_at=as_utc(row.created_at),
        disabled_at=row.disabled_at and as_utc(row.disabled_at),
        disabled_reason=row.disabled_reason,
    )

"""Webhooks and their deliveries in SQL.

Several processes claim deliveries concurrently. Each transaction is the only writing one, so that no event becomes two
deliveries of a webhook and none is claimed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from pipeline.errors import DeliveryNotFound, WebhookLimitReached, WebhookNotFound
from pipeline.event_records import WEBHOOK_TESTED, WEBHOOK_TYPES
from pipeline.jobs import IdempotencyKey
from pipeline.store.common import made_with, new_id, remember_key
from pipeline.store.database import database_time
from pipeline.store.log import EventLog, as_event_record, as_utc, log
from pipeline.store.pages import PageQuery
from pipeline.store.tables import deliveries, events, webhooks
from pipeline.webhooks import ROTATION_S, Claim, Delivery, DeliveryState, Exchange, Webhook

PAUSED = "Paused by its owner."


class WebhookStore:
    """Stores webhooks and their deliveries. Methods block: call them from a thread.

    Args:
        clock: returns the time in seconds, on a connection.
    """

    def __init__(self, log: EventLog, clock: Callable[[Connection], float] = database_time) -> None:
        self.log = log
        self.clock = clock

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
        """Subscribe a URL to an owner's events from now on; for a key used before, return the webhook of its first use.

        Args:
            owner: of the events.
            url: of the receiver.
            types: event types; all if empty.
            secret: signs the requests.
            max_per_owner: limit of webhooks of one owner.
            key: idempotency key of the request.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            WebhookLimitReached: the owner's limit is reached.
            WebhookNotFound: the key was used for a webhook that has been deleted.
        """
        with self.log.writing() as connection:
            if key is not None and (made := made_with(connection, owner, key)) is not None:
                return _read(connection, made, owner)
            if max_per_owner is not None and _count(connection, owner) >= max_per_owner:
                raise WebhookLimitReached(registered=max_per_owner)
            webhook_id = new_id()
            row = {"webhook_id": webhook_id, "owner": owner, "url": url, "secret": secret}
            facts = {"types": [*types], "cursor": _newest(connection), "created_at": datetime.now(UTC)}
            if key is not None:
                remember_key(connection, owner, key, webhook_id)
            return _webhook(connection.execute(insert(webhooks).values(**row, **facts).returning(webhooks)).one())

    def list(self, owner: str, page: PageQuery) -> Sequence[Webhook]:
        """List an owner's webhooks."""
        query = select(webhooks).where(webhooks.c.owner == owner)
        with self.log.engine.connect() as connection:
            rows = connection.execute(page.apply(query, webhooks.c.webhook_id, webhooks.c.created_at))
            return [_webhook(row) for row in rows]

    def get(self, webhook_id: str, owner: str) -> Webhook:
        """Read a webhook.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.engine.connect() as connection:
            return _read(connection, webhook_id, owner)

    def delete(self, webhook_id: str, owner: str) -> None:
        """Delete a webhook and its deliveries.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.writing() as connection:
            _read(connection, webhook_id, owner)
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            connection.execute(delete(webhooks).where(webhooks.c.webhook_id == webhook_id))

    def update(
        self,
        webhook_id: str,
        owner: str,
        *,
        url: str | None = None,
        types: Collection[str] | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change a webhook; what is None stays as it is.

        Args:
            webhook_id: of the webhook.
            owner: of the webhook.
            url: of the receiver, for all that is sent from now on.
            types: event types; all if empty.
            enabled: True enables a disabled webhook for events from now on; False disables an enabled one, and its
                pending deliveries fail.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        changed: dict[str, Any] = {} if url is None else {"url": url}
        if types is not None:
            changed["types"] = [*types]
        with self.log.writing() as connection:
            webhook = _read(connection, webhook_id, owner)
            if enabled and webhook.disabled_at is not None:
                changed |= {"cursor": _newest(connection), "disabled_at": None, "disabled_reason": None}
            if changed:
                connection.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(changed))
            if enabled is False:
                _disable(connection, webhook_id, PAUSED)
            return _read(connection, webhook_id, owner)

    def rotate_secret(self, webhook_id: str, owner: str, *, secret: str, key: IdempotencyKey | None = None) -> Webhook:
        """Replace a webhook's secret; for `ROTATION_S` the previous one signs as well, and any older one no more.

        The same secret again, or a key used before, changes nothing.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.writing() as connection:
            webhook = _read(connection, webhook_id, owner)
            if key is not None:
                if made_with(connection, owner, key) is not None:
                    return webhook
                remember_key(connection, owner, key, webhook_id)
            if secret == webhook.secret:
                return webhook
            until = self.clock(connection) + ROTATION_S
            rotated = {"secret": secret, "previous_secret": webhook.secret, "previous_secret_until": until}
            connection.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id).values(rotated))
            return _read(connection, webhook_id, owner)

    def deliveries(
        self,
        webhook_id: str,
        owner: str,
        page: PageQuery,
        *,
        states: Collection[DeliveryState] = (),
        types: Collection[str] = (),
    ) -> Sequence[Delivery]:
        """List a webhook's deliveries, without what was sent and answered.

        Args:
            webhook_id: of the webhook.
            owner: of the webhook.
            page: which of them.
            states: only in these; in any if empty.
            types: only of these event types; of any if empty.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        query = select(*_SHORT).where(deliveries.c.webhook_id == webhook_id)
        if states:
            query = query.where(deliveries.c.state.in_(states))
        if types:
            query = query.where(deliveries.c.type.in_(types))
        with self.log.engine.connect() as connection:
            _read(connection, webhook_id, owner)
            rows = connection.execute(page.apply(query, deliveries.c.delivery_id, deliveries.c.created_at))
            return [_as_delivery(row) for row in rows]

    def delivery(self, webhook_id: str, delivery_id: str, owner: str) -> tuple[Delivery, Exchange | None]:
        """Read a delivery, and its last attempt that has ended, if there is one.

        Raises:
            WebhookNotFound: the owner has no such webhook.
            DeliveryNotFound: the webhook has no such delivery.
        """
        this = (deliveries.c.delivery_id == delivery_id, deliveries.c.webhook_id == webhook_id)
        with self.log.engine.connect() as connection:
            _read(connection, webhook_id, owner)
            row = connection.execute(select(deliveries).where(*this)).one_or_none()
        if row is None:
            raise DeliveryNotFound(delivery_id=delivery_id)
        return _as_delivery(row), row.last_exchange and Exchange.from_dict(row.last_exchange)

    def retry(self, webhook_id: str, delivery_id: str, owner: str) -> Delivery:
        """Make a delivery in any state due now, as if it were new; of a disabled webhook, once that is enabled.

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
            return _as_delivery(row)

    def test(self, webhook_id: str, owner: str) -> Delivery:
        """Log a test event, delivered to this webhook alone, regardless of its types.

        Raises:
            WebhookNotFound: the owner has no such webhook.
        """
        with self.log.writing() as connection:
            _read(connection, webhook_id, owner)
            sequence = log(connection, WEBHOOK_TESTED, owner, payload={"webhook_id": webhook_id})
            event = connection.execute(select(events).where(events.c.sequence == sequence)).one()
            (delivery_id,) = _insert_deliveries(connection, [(webhook_id, event)], self.clock(connection))
            made = select(deliveries).where(deliveries.c.delivery_id == delivery_id)
            return _as_delivery(connection.execute(made).one())

    def prune(self, oldest_kept: datetime) -> None:
        """Delete the deliveries of events that are from before a moment or no longer logged."""
        kept = select(events.c.sequence).where(
            events.c.sequence == deliveries.c.sequence, events.c.created_at >= oldest_kept
        )
        with self.log.writing() as connection:
            connection.execute(delete(deliveries).where(~kept.exists()))

    def has_enabled(self) -> bool:
        """Return whether any webhook is enabled."""
        with self.log.engine.connect() as connection:
            return connection.execute(select(webhooks.c.webhook_id).where(_ENABLED).limit(1)).one_or_none() is not None

    def expand(self, limit: int) -> bool:
        """Turn up to `limit` events beyond the webhooks' cursors into deliveries; return whether there may be more."""
        with self.log.engine.connect() as connection:
            if _unpassed(connection, limit) is None:
                return False  # without locking the database
        with self.log.writing() as connection:
            unpassed = _unpassed(connection, limit)
            if unpassed is None:
                return False
            last, num_events = unpassed
            query = (
                select(webhooks.c.webhook_id, webhooks.c.types, events)
                .join(events, (events.c.owner == webhooks.c.owner) & (events.c.sequence > webhooks.c.cursor))
                .where(_ENABLED, events.c.sequence <= last, events.c.type.not_like(f"{WEBHOOK_TYPES}%"))
                .order_by(events.c.sequence)
            )
            wanted = [row for row in connection.execute(query) if not row.types or row.type in row.types]
            _insert_deliveries(connection, [(row.webhook_id, row) for row in wanted], self.clock(connection))
            connection.execute(update(webhooks).where(_ENABLED, webhooks.c.cursor < last).values(cursor=last))
            return num_events == limit

    def claim(
        self, limit: int, *, lease_s: float, per_webhook: int, in_hand: Mapping[str, int] = MappingProxyType({})
    ) -> Sequence[Claim]:
        """Claim due deliveries. One that isn't settled or put off before its lease expires is due again.

        A delivery waits until no older one of its webhook and subject is pending.

        Args:
            limit: maximum number of claims.
            lease_s: after which they are due again.
            per_webhook: maximum number of the caller's claims of one webhook; webhooks take turns.
            in_hand: the caller's claims in flight, by webhook.
        """
        with self.log.writing() as connection:
            now = self.clock(connection)
            place = func.row_number().over(
                partition_by=deliveries.c.webhook_id, order_by=(deliveries.c.next_at, deliveries.c.sequence)
            )
            columns = (deliveries.c.delivery_id, deliveries.c.webhook_id, deliveries.c.next_at, place.label("place"))
            due = _in_turn(select(*columns)).where(deliveries.c.next_at <= now).subquery()
            first = select(due).where(due.c.place <= per_webhook).order_by(due.c.place, due.c.next_at)
            turns = sorted(
                (row.place + in_hand.get(row.webhook_id, 0), row.next_at, row.delivery_id)
                for row in connection.execute(first)
            )
            ids = [delivery_id for place, _, delivery_id in turns if place <= per_webhook][:limit]
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id.in_(ids))
                .values(attempts=deliveries.c.attempts + 1, next_at=now + lease_s)
            )
            return [_claim(connection, delivery_id, now) for delivery_id in ids]

    def next_due_s(self, but: Collection[str] = ()) -> float | None:
        """Return the seconds until a delivery is due; at most 0 if one is due now, None if none is pending.

        Args:
            but: webhooks to ignore.
        """
        first = _in_turn(select(func.min(deliveries.c.next_at))).where(deliveries.c.webhook_id.not_in(but))
        with self.log.engine.connect() as connection:
            next_at = connection.execute(first).scalar_one()
            return None if next_at is None else next_at - self.clock(connection)

    def delivered(self, delivery_id: str, status: int, exchange: Exchange | None = None) -> None:
        """Settle a delivery that the receiver accepted, with its status; a settled one is left as it is."""
        with self.log.writing() as connection:
            settled = {"state": DeliveryState.DELIVERED, "settled_at": datetime.now(UTC)}
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id == delivery_id, deliveries.c.state == DeliveryState.PENDING)
                .values(settled | {"last_status": status, "last_error": None} | _recorded(exchange))
            )

    def put_off(
        self,
        delivery: Delivery,
        after_s: float | None,
        *,
        status: int | None,
        error: str,
        exchange: Exchange | None = None,
    ) -> None:
        """Schedule a retry of a claimed delivery, unless another dispatcher has claimed it by now.

        Args:
            delivery: as it was claimed.
            after_s: seconds until the retry; None settles it as failed.
            status: of the receiver's response, if there was one.
            error: description of the failure.
            exchange: what was sent and answered.
        """
        values: dict[str, Any] = {"last_status": status, "last_error": error} | _recorded(exchange)
        with self.log.writing() as connection:
            if after_s is None:
                values |= {"state": DeliveryState.FAILED, "settled_at": datetime.now(UTC)}
            else:
                values["next_at"] = self.clock(connection) + after_s
            is_held = (
                deliveries.c.delivery_id == delivery.delivery_id,
                deliveries.c.state == DeliveryState.PENDING,
                deliveries.c.attempts == delivery.attempts,
            )
            connection.execute(update(deliveries).where(*is_held).values(values))

    def disable(self, webhook_id: str, url: str, reason: str) -> None:
        """Disable a webhook that still has this URL until its owner enables it; its pending deliveries fail."""
        with self.log.writing() as connection:
            of_url = select(webhooks.c.webhook_id).where(webhooks.c.webhook_id == webhook_id, webhooks.c.url == url)
            if connection.execute(of_url).first() is not None:
                _disable(connection, webhook_id, reason)


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
        previous_secret_expires_at=row.previous_secret_until and datetime.fromtimestamp(row.previous_secret_until, UTC),
        created_at=as_utc(row.created_at),
        disabled_at=row.disabled_at and as_utc(row.disabled_at),
        disabled_reason=row.disabled_reason,
    )


_ENABLED = webhooks.c.disabled_at.is_(None)
_SHORT = [column for column in deliveries.c if column is not deliveries.c.last_exchange]


def _count(connection: Connection, owner: str) -> int:
    owned = select(func.count()).select_from(webhooks).where(webhooks.c.owner == owner)
    return int(connection.execute(owned).scalar_one())


def _disable(connection: Connection, webhook_id: str, reason: str) -> None:
    now = datetime.now(UTC)
    disabled = {"disabled_at": now, "disabled_reason": reason}
    changed = connection.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id, _ENABLED).values(disabled))
    if changed.rowcount:
        failed = {"state": DeliveryState.FAILED, "settled_at": now, "last_error": reason}
        pending = (deliveries.c.webhook_id == webhook_id, deliveries.c.state == DeliveryState.PENDING)
        connection.execute(update(deliveries).where(*pending).values(failed))


def _recorded(exchange: Exchange | None) -> dict[str, Any]:
    return {} if exchange is None else {"last_exchange": exchange.to_dict()}


def _insert_deliveries(connection: Connection, wanted: Sequence[tuple[str, Row[Any]]], now: float) -> Sequence[str]:
    """Insert deliveries of events to webhooks within the caller's transaction; return the deliveries' ids.

    Args:
        wanted: pairs of webhook id and event.
        now: seconds on the database's clock.
    """
    fresh = {"state": DeliveryState.PENDING, "attempts": 0, "next_at": now, "created_at": datetime.now(UTC)}
    rows = [
        fresh
        | {"delivery_id": new_id(), "webhook_id": webhook_id, "sequence": event.sequence, "type": event.type}
        | {"subject": event.image_id or event.job_id}
        for webhook_id, event in wanted
    ]
    if rows:
        connection.execute(insert(deliveries), rows)
    return [str(row["delivery_id"]) for row in rows]


def _as_delivery(row: Row[Any]) -> Delivery:
    """Convert a row of the deliveries."""
    return Delivery(
        delivery_id=row.delivery_id,
        webhook_id=row.webhook_id,
        sequence=row.sequence,
        type=row.type,
        subject=row.subject,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        next_at=row.next_at,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=as_utc(row.created_at),
        settled_at=row.settled_at and as_utc(row.settled_at),
    )


def _unpassed(connection: Connection, limit: int) -> tuple[int, int] | None:
    """Find up to `limit` events after the lowest cursor: return the last sequence and their number; None without any.

    The cursors of all enabled webhooks advance together, so the lowest is close to all others.
    """
    hindmost = select(func.min(webhooks.c.cursor)).where(_ENABLED).scalar_subquery()
    page = select(events.c.sequence).where(events.c.sequence > hindmost).order_by(events.c.sequence).limit(limit)
    found = page.subquery()
    last, num_events = connection.execute(select(func.max(found.c.sequence), func.count()).select_from(found)).one()
    return None if last is None else (last, num_events)


def _in_turn(query: Select[Any]) -> Select[Any]:
    """Restrict a query to pending deliveries of enabled webhooks that are the oldest of their subject."""
    older = deliveries.alias("older")
    is_blocked = (
        select(older.c.delivery_id)
        .where(
            older.c.webhook_id == deliveries.c.webhook_id,
            older.c.subject == deliveries.c.subject,  # never true without a subject
            older.c.sequence < deliveries.c.sequence,
            older.c.state == DeliveryState.PENDING,
        )
        .exists()
    )
    return (
        query.join(webhooks, webhooks.c.webhook_id == deliveries.c.webhook_id)
        .join(events, events.c.sequence == deliveries.c.sequence)  # excludes deliveries whose event was pruned
        .where(_ENABLED, deliveries.c.state == DeliveryState.PENDING, ~is_blocked)
    )


def _claim(connection: Connection, delivery_id: str, now: float) -> Claim:
    delivery = connection.execute(select(*_SHORT).where(deliveries.c.delivery_id == delivery_id)).one()
    webhook = connection.execute(select(webhooks).where(webhooks.c.webhook_id == delivery.webhook_id)).one()
    event = connection.execute(select(events).where(events.c.sequence == delivery.sequence)).one()
    secrets = [webhook.secret]
    if webhook.previous_secret_until is not None and now < webhook.previous_secret_until:
        secrets.append(webhook.previous_secret)
    return Claim(
        delivery=_as_delivery(delivery), url=webhook.url, secrets=tuple(secrets), record=as_event_record(event)
    )

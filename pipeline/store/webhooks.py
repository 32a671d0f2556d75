"""Webhooks and their deliveries in SQL.

Several processes claim deliveries at once. Each transaction is the only writing one, so that no event is turned into
two deliveries of a webhook and none is claimed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from pipeline.errors import DeliveryNotFound, TooManyWebhooks, WebhookNotFound
from pipeline.jobs import IdempotencyKey
from pipeline.notices import WEBHOOK_TESTED, WEBHOOK_TYPES
from pipeline.store.common import made_with, new_id, remember_key
from pipeline.store.database import database_time
from pipeline.store.log import EventLog, as_notice, as_utc, log
from pipeline.store.tables import deliveries, events, webhooks
from pipeline.webhooks import Claim, Delivery, DeliveryState, Webhook


class WebhookStore:
    """All webhooks and their deliveries. Methods block: call them from a thread.

    Args:
        clock: tells the time in seconds to a connection.
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
            return [_as_delivery(row) for row in rows]

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
            return _as_delivery(row)

    def test(self, webhook_id: str, owner: str) -> Delivery:
        """Log an event that is delivered to this webhook alone, whatever its types.

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
        """Forget the deliveries of events from before a moment, and of those that are forgotten themselves."""
        kept = select(events.c.sequence).where(
            events.c.sequence == deliveries.c.sequence, events.c.created_at >= oldest_kept
        )
        with self.log.writing() as connection:
            connection.execute(delete(deliveries).where(~kept.exists()))

    def has_enabled(self) -> bool:
        """Whether anybody is to be told anything."""
        with self.log.engine.connect() as connection:
            return connection.execute(select(webhooks.c.webhook_id).where(_ENABLED).limit(1)).one_or_none() is not None

    def expand(self, limit: int) -> bool:
        """Turn up to `limit` events that no webhook has passed yet into deliveries; says whether there may be more."""
        with self.log.engine.connect() as connection:
            if _unpassed(connection, limit) is None:
                return False  # without having locked the database
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
        """Take due deliveries to send. One that isn't settled or put off in time comes due again by itself.

        A delivery waits until no older one of its webhook and subject is pending.

        Args:
            limit: how many at most.
            lease_s: until they come due again.
            per_webhook: how many of one webhook the caller may have; webhooks take turns.
            in_hand: how many it has of each already.
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
            return [_claim(connection, delivery_id) for delivery_id in ids]

    def next_due_s(self, but: Collection[str] = ()) -> float | None:
        """Tell when there is something to claim, in seconds from now; at most 0 if there is, None if nothing waits.

        Args:
            but: webhooks that don't count.
        """
        first = _in_turn(select(func.min(deliveries.c.next_at))).where(deliveries.c.webhook_id.not_in(but))
        with self.log.engine.connect() as connection:
            next_at = connection.execute(first).scalar_one()
            return None if next_at is None else next_at - self.clock(connection)

    def delivered(self, delivery_id: str, status: int) -> None:
        """Settle a delivery that was taken, by the receiver's answer; one that is settled stays as it is."""
        with self.log.writing() as connection:
            settled = {"state": DeliveryState.DELIVERED, "settled_at": datetime.now(UTC)}
            connection.execute(
                update(deliveries)
                .where(deliveries.c.delivery_id == delivery_id, deliveries.c.state == DeliveryState.PENDING)
                .values(settled | {"last_status": status, "last_error": None})
            )

    def put_off(self, delivery: Delivery, after_s: float | None, *, status: int | None, error: str) -> None:
        """Have a claimed delivery sent again, unless somebody else has begun it again by now.

        Args:
            delivery: as it was claimed.
            after_s: in so many seconds; None settles it as failed.
            status: the receiver's answer, if there was one.
            error: what went wrong.
        """
        values: dict[str, Any] = {"last_status": status, "last_error": error}
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

    def disable(self, webhook_id: str, reason: str) -> None:
        """Send nothing more to a webhook until its owner enables it; what is pending fails."""
        now = datetime.now(UTC)
        with self.log.writing() as connection:
            disabled = {"disabled_at": now, "disabled_reason": reason}
            connection.execute(update(webhooks).where(webhooks.c.webhook_id == webhook_id, _ENABLED).values(disabled))
            failed = {"state": DeliveryState.FAILED, "settled_at": now, "last_error": reason}
            pending = (deliveries.c.webhook_id == webhook_id, deliveries.c.state == DeliveryState.PENDING)
            connection.execute(update(deliveries).where(*pending).values(failed))


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


_ENABLED = webhooks.c.disabled_at.is_(None)


def _insert_deliveries(connection: Connection, wanted: Sequence[tuple[str, Row[Any]]], now: float) -> Sequence[str]:
    """Write down that webhooks are to be told of events, within a transaction of the caller's; returns their ids.

    Args:
        wanted: webhook id and event.
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
    """Read a row of the deliveries."""
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
    """Find the events after the hindmost enabled webhook: the last of `limit`, and how many; None without any.

    All enabled webhooks advance together, so the hindmost is nearly everyone's place.
    """
    hindmost = select(func.min(webhooks.c.cursor)).where(_ENABLED).scalar_subquery()
    page = select(events.c.sequence).where(events.c.sequence > hindmost).order_by(events.c.sequence).limit(limit)
    found = page.subquery()
    last, num_events = connection.execute(select(func.max(found.c.sequence), func.count()).select_from(found)).one()
    return None if last is None else (last, num_events)


def _in_turn(query: Select[Any]) -> Select[Any]:
    """Only pending deliveries of enabled webhooks whose turn it is within their subject."""
    older = deliveries.alias("older")
    is_blocked = (
        select(older.c.delivery_id)
        .where(
            older.c.webhook_id == deliveries.c.webhook_id,
            older.c.subject == deliveries.c.subject,  # never true for one without
            older.c.sequence < deliveries.c.sequence,
            older.c.state == DeliveryState.PENDING,
        )
        .exists()
    )
    return (
        query.join(webhooks, webhooks.c.webhook_id == deliveries.c.webhook_id)
        .join(events, events.c.sequence == deliveries.c.sequence)  # else there is nothing left to tell
        .where(_ENABLED, deliveries.c.state == DeliveryState.PENDING, ~is_blocked)
    )


def _claim(connection: Connection, delivery_id: str) -> Claim:
    delivery = connection.execute(select(deliveries).where(deliveries.c.delivery_id == delivery_id)).one()
    webhook = connection.execute(select(webhooks).where(webhooks.c.webhook_id == delivery.webhook_id)).one()
    event = connection.execute(select(events).where(events.c.sequence == delivery.sequence)).one()
    return Claim(delivery=_as_delivery(delivery), url=webhook.url, secret=webhook.secret, notice=as_notice(event))

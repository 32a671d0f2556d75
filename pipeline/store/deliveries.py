"""Deliveries in SQL, as dispatchers see them: made of events, claimed, settled, or put off until later.

Several processes do so at once. Each transaction is the only writing one, so that no event is turned into two
deliveries of a webhook and none is claimed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, Row, Select, func, insert, select, update

from pipeline.notices import WEBHOOK_TYPES
from pipeline.store.database import database_time
from pipeline.store.ids import new_id
from pipeline.store.log import EventLog, as_notice, as_utc
from pipeline.store.tables import deliveries, events, webhooks
from pipeline.webhooks import Claim, Delivery, DeliveryState

_ENABLED = webhooks.c.disabled_at.is_(None)


class DeliveryQueue:
    """What is to be sent. Methods block: call them from a thread.

    Args:
        clock: tells the time in seconds to a connection.
    """

    def __init__(self, log: EventLog, clock: Callable[[Connection], float] = database_time) -> None:
        self.log = log
        self.clock = clock

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
            insert_deliveries(connection, [(row.webhook_id, row) for row in wanted], self.clock(connection))
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


def insert_deliveries(connection: Connection, wanted: Sequence[tuple[str, Row[Any]]], now: float) -> Sequence[str]:
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


def as_delivery(row: Row[Any]) -> Delivery:
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
    return Claim(delivery=as_delivery(delivery), url=webhook.url, secret=webhook.secret, notice=as_notice(event))

"""Row counts and ages of stored data, for the metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Table, func, select

from pipeline.jobs import JobState
from pipeline.store.log import as_utc
from pipeline.store.tables import deliveries, events, images, jobs, sessions
from pipeline.webhooks import DeliveryState


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreStatistics:
    """Counts and ages of stored data."""

    images: int
    image_bytes: int
    sessions: int
    events: int
    newest_event: int  # its sequence number, which only grows; 0 before the first
    newest_image_age_s: float | None  # None without an image
    jobs: Mapping[str, int]  # by state, all of them
    oldest_job_age_s: Mapping[str, float]  # by state, of those that haven't ended; 0 without any
    deliveries: Mapping[str, int]  # by state, all of them
    oldest_delivery_age_s: float  # of those pending; 0 without any


def count_rows(connection: Connection) -> StoreStatistics:
    """Count rows, bytes and ages."""
    num_images, image_bytes, newest = connection.execute(
        select(func.count(), func.coalesce(func.sum(images.c.size_bytes), 0), func.max(images.c.created_at))
    ).one()
    num_events, newest_event = connection.execute(select(func.count(), func.max(events.c.sequence))).one()
    unfinished = [state for state in JobState if not state.is_final]
    job_ages = _ages_s(connection, jobs, unfinished)
    return StoreStatistics(
        images=num_images,
        image_bytes=int(image_bytes),
        sessions=connection.execute(select(func.count()).select_from(sessions)).scalar_one(),
        events=num_events,
        newest_event=newest_event or 0,
        newest_image_age_s=_age_s(newest) if newest else None,
        jobs=_by_state(connection, jobs, JobState),
        oldest_job_age_s={state: job_ages.get(state, 0.0) for state in unfinished},
        deliveries=_by_state(connection, deliveries, DeliveryState),
        oldest_delivery_age_s=_ages_s(connection, deliveries, [DeliveryState.PENDING]).get(DeliveryState.PENDING, 0.0),
    )


def _by_state(connection: Connection, table: Table, states: type[StrEnum]) -> dict[str, int]:
    counts: Any = connection.execute(select(table.c.state, func.count()).group_by(table.c.state)).all()
    return dict.fromkeys(states, 0) | {row.state: row.count for row in counts}


def _ages_s(connection: Connection, table: Table, states: Collection[str]) -> dict[str, float]:
    """Return the age of each state's oldest row, in seconds."""
    oldest = select(table.c.state, func.min(table.c.created_at)).where(table.c.state.in_(states))
    return {state: _age_s(created_at) for state, created_at in connection.execute(oldest.group_by(table.c.state))}


def _age_s(created_at: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - as_utc(created_at)).total_seconds())

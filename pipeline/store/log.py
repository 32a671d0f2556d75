"""The event log (outbox): written in the transaction of the change it reports, read in commit order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, insert, select

from pipeline.event_records import EventRecord
from pipeline.store.database import writing
from pipeline.store.tables import events

LOGGED = "has_logged"  # mark of a connection that has logged


class EventLog:
    """The event log, and the transactions that may append to it.

    Attributes:
        on_append: called after each transaction that has appended, in its thread.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.on_append: Callable[[], None] = lambda: None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Open a transaction as in `database.writing`."""
        with writing(self.engine) as connection:
            connection.info.pop(LOGGED, None)
            yield connection
            has_grown = connection.info.pop(LOGGED, False)
        if has_grown:
            self.on_append()

    def newest(self) -> int:
        """Return the highest sequence number in the log; 0 if it is empty."""
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.coalesce(func.max(events.c.sequence), 0))).scalar_one())

    def read(
        self,
        *,
        after: int,
        limit: int,
        owner: str | None = None,
        types: Collection[str] = (),
        job_id: str | None = None,
        request_id: str | None = None,
    ) -> Sequence[EventRecord]:
        """Read the events after a sequence number, oldest first.

        Args:
            after: the last number the reader has seen.
            limit: maximum number of events.
            owner: only of this owner; of all if None.
            types: only these; all if empty.
            job_id: only of this job.
            request_id: only of this request.
        """
        query = select(events).where(events.c.sequence > after).order_by(events.c.sequence).limit(limit)
        if owner is not None:
            query = query.where(events.c.owner == owner)
        if types:
            query = query.where(events.c.type.in_(types))
        if job_id is not None:
            query = query.where(events.c.job_id == job_id)
        if request_id is not None:
            query = query.where(events.c.payload["request_id"].as_string() == request_id)
        with self.engine.connect() as connection:
            return [as_event_record(row) for row in connection.execute(query)]


def log(
    connection: Connection,
    type_: str,
    owner: str,
    *,
    payload: Mapping[str, Any],
    image_id: str | None = None,
    job_id: str | None = None,
) -> int:
    """Log an event; return its sequence number."""
    connection.info[LOGGED] = True
    written = connection.execute(
        insert(events)
        .values(
            type=type_,
            owner=owner,
            image_id=image_id,
            job_id=job_id,
            payload=dict(payload),
            created_at=datetime.now(UTC),
        )
        .returning(events.c.sequence)
    )
    return int(written.scalar_one())


def as_event_record(row: Row[Any]) -> EventRecord:
    """Convert a row of the log."""
    return EventRecord(
        sequence=row.sequence,
        type=row.type,
        owner=row.owner,
        image_id=row.image_id,
        job_id=row.job_id,
        payload=row.payload,
        created_at=as_utc(row.created_at),
    )


def as_utc(moment: datetime) -> datetime:
    """Return a time with its zone, UTC, which SQLite doesn't store."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

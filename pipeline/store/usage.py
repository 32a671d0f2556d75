"""What an owner has stored and in progress."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from pipeline.jobs import JobState
from pipeline.store.log import EventLog
from pipeline.store.tables import images, jobs, webhooks


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnerUsage:
    """Counts of one owner."""

    images: int
    bytes: int  # of their PNGs
    unfinished_jobs: int  # queued or running
    webhooks: int


class UsageStore:
    """Counts what owners have. Methods block: call them from a thread."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def of(self, owner: str) -> OwnerUsage:
        """Count what an owner has."""
        stored = select(func.count(), func.coalesce(func.sum(images.c.size_bytes), 0)).where(images.c.owner == owner)
        unfinished = [state for state in JobState if not state.is_final]
        in_progress = select(func.count()).where(jobs.c.owner == owner, jobs.c.state.in_(unfinished))
        subscribed = select(func.count()).where(webhooks.c.owner == owner)
        with self._log.engine.connect() as connection:
            num_images, size_bytes = connection.execute(stored).one()
            return OwnerUsage(
                images=num_images,
                bytes=int(size_bytes),
                unfinished_jobs=connection.execute(in_progress).scalar_one(),
                webhooks=connection.execute(subscribed).scalar_one(),
            )

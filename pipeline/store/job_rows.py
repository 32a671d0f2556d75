"""Rows of jobs and what is done to them, each change with the event that reports it.

Functions take the caller's connection: they are parts of its transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, insert, select, update

from pipeline.errors import JobNotFound, LeaseLost
from pipeline.jobs import MAX_ATTEMPTS, Job, JobOrder, JobState, Lease
from pipeline.store.log import as_utc, log
from pipeline.store.tables import jobs

Problem = Mapping[str, Any]


def accept(connection: Connection, order: JobOrder, *, waits: bool) -> Job:
    """Insert a new job, queued. `waits` tells readers of the log that nobody begins it at once."""
    row = {name: getattr(order, name) for name in ("job_id", "kind", "owner", "request_id", "is_waited_for")}
    row |= {"request": dict(order.request), "sessions": list(order.sessions), "created_at": datetime.now(UTC)}
    row |= {"state": JobState.QUEUED, "attempts": 0, "cancel_requested": False}
    accepted = connection.execute(insert(jobs).values(row).returning(jobs)).one()
    log(connection, "job.submitted", order.owner, job_id=order.job_id, payload={"kind": order.kind, "waits": waits})
    return as_job(accepted)


def begin_again(connection: Connection, job: Job) -> Job:
    """Queue a settled job as if it were new."""
    fresh = {"state": JobState.QUEUED, "attempts": 0, "cancel_requested": False}
    fresh |= {"problem": None, "finished_at": None, "is_waited_for": False}
    row = connection.execute(update(jobs).where(jobs.c.job_id == job.job_id).values(fresh).returning(jobs)).one()
    log(connection, "job.retried", job.order.owner, job_id=job.job_id, payload={})
    return as_job(row)


def begin(connection: Connection, job_id: str, holder: str, until: float) -> tuple[Job, Lease]:
    """Give a queued job to a holder until a time on the database's clock, in seconds."""
    row = connection.execute(
        update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(state=JobState.RUNNING, attempts=jobs.c.attempts + 1, holder=holder, lease_until=until)
        .returning(jobs)
    ).one()
    log(connection, "job.started", row.owner, job_id=job_id, payload={"attempt": row.attempts})
    return as_job(row), Lease(job_id=job_id, holder=holder, attempt=row.attempts)


def settle_row(
    connection: Connection, where: Any, state: JobState, values: dict[str, Any], owner: str, job_id: str
) -> None:
    """Write down a job's end, and that it came."""
    settled = {"state": state, "finished_at": datetime.now(UTC), "holder": None, "lease_until": None}
    connection.execute(update(jobs).where(where).values(settled | values))
    payload = {name: value for name, value in values.items() if value is not None}
    if "problem" in payload:
        payload["problem"] = {name: value for name, value in payload["problem"].items() if name != "facts"}
    log(connection, f"job.{state.value}", owner, job_id=job_id, payload=payload)


def requeue(connection: Connection, row: Row[Any], attempts: int) -> None:
    """Queue a running job again, with so many attempts counted."""
    connection.execute(
        update(jobs)
        .where(jobs.c.job_id == row.job_id)
        .values(state=JobState.QUEUED, attempts=attempts, holder=None, lease_until=None)
    )
    log(connection, "job.requeued", row.owner, job_id=row.job_id, payload={"attempt": row.attempts})


def lost(connection: Connection, row: Row[Any], problem: Problem) -> None:
    """Queue a running job again whose worker is gone, or settle it if it was cancelled or has no attempt left."""
    if row.cancel_requested:
        settle_row(connection, jobs.c.job_id == row.job_id, JobState.CANCELLED, {}, row.owner, row.job_id)
    elif row.attempts < MAX_ATTEMPTS:
        requeue(connection, row, attempts=row.attempts)
    else:
        values = {"problem": dict(problem)}
        settle_row(connection, jobs.c.job_id == row.job_id, JobState.DEAD, values, row.owner, row.job_id)


def held(connection: Connection, lease: Lease) -> Row[Any]:
    """Read the job of a lease.

    Raises:
        LeaseLost: somebody else has it by now, or it is settled.
    """
    row = connection.execute(select(jobs).where(is_held(lease))).one_or_none()
    if row is None:
        raise LeaseLost(job_id=lease.job_id)
    return row


def is_held(lease: Lease) -> Any:
    """Whether a lease is the one a job is held by, as a condition."""
    return and_(
        jobs.c.job_id == lease.job_id,
        jobs.c.state == JobState.RUNNING,
        jobs.c.holder == lease.holder,
        jobs.c.attempts == lease.attempt,
    )


def read_job(connection: Connection, job_id: str, owner: str) -> Job:
    """Read a job.

    Raises:
        JobNotFound: the owner has no such job.
    """
    row = connection.execute(select(jobs).where(jobs.c.job_id == job_id, jobs.c.owner == owner)).one_or_none()
    if row is None:
        raise JobNotFound(job_id=job_id)
    return as_job(row)


def as_job(row: Row[Any]) -> Job:
    """Read a row of the jobs."""
    return Job(
        order=JobOrder(
            job_id=row.job_id,
            kind=row.kind,
            owner=row.owner,
            request_id=row.request_id,
            request=row.request,
            sessions=tuple(row.sessions),
            is_waited_for=bool(row.is_waited_for),
        ),
        state=JobState(row.state),
        attempts=row.attempts,
        cancel_requested=bool(row.cancel_requested),
        result=row.result,
        problem=row.problem,
        created_at=as_utc(row.created_at),
        finished_at=row.finished_at and as_utc(row.finished_at),
    )


def settle(
    connection: Connection,
    lease: Lease,
    state: JobState,
    *,
    result: Mapping[str, Any] | None = None,
    problem: Problem | None = None,
) -> None:
    """Settle a leased job within a transaction of the caller's, so that its result commits with it or not at all.

    Raises:
        LeaseLost: somebody else has it by now, or it is settled.
    """
    row = held(connection, lease)
    values = {"result": None if result is None else dict(result), "problem": None if problem is None else dict(problem)}
    settle_row(connection, jobs.c.job_id == lease.job_id, state, values, row.owner, lease.job_id)

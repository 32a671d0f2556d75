"""Jobs in SQL: submitted, leased, renewed, settled. A change and its event are one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, delete, func, insert, or_, select, update

from pipeline.errors import (
    JobLimitReached,
    JobNotFound,
    JobNotRetriable,
    LeaseLost,
    QueueFull,
    WorkerLost,
    to_problem,
)
from pipeline.event_records import CANCEL_REQUESTED
from pipeline.jobs import AGAIN, MAX_ATTEMPTS, IdempotencyKey, Job, JobOrder, JobState, Lease, Submitted
from pipeline.store.common import made_with, remember_key
from pipeline.store.database import database_time
from pipeline.store.log import EventLog, as_utc, log
from pipeline.store.pages import PageQuery
from pipeline.store.tables import idempotency_keys, jobs

LONG_WAIT = timedelta(seconds=30)  # after which a job goes before new ones with a waiting caller


class JobStore:
    """Stores jobs. Methods block: call them from a thread.

    Args:
        clock: returns the time in seconds, on a connection.
    """

    def __init__(self, event_log: EventLog, clock: Callable[[Connection], float] = database_time) -> None:
        self.log = event_log
        self._clock = clock

    def submit(
        self,
        order: JobOrder,
        key: IdempotencyKey | None = None,
        *,
        holder: str | None = None,
        lease_s: float = 0,
        max_waiting: int | None = None,
        max_unfinished: int | None = None,
    ) -> Submitted:
        """Accept a job; for an idempotency key that the owner used before, return the job of its first use.

        That job is retried if it failed by a fault of the service.

        Args:
            order: the job.
            key: its idempotency key.
            holder: acquires a lease on it at once; if None, or while a suspect job is unfinished, it is queued.
            lease_s: duration of that lease.
            max_waiting: limit of queued jobs of all owners.
            max_unfinished: limit of queued and running jobs of this owner.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            QueueFull: it would have to be queued, and the limit is reached.
            JobLimitReached: the owner's limit is reached.
        """
        with self.log.writing() as connection:
            known = None if key is None else _known(connection, order.owner, key)
            if known is not None and not known.is_worth_repeating:
                return Submitted(job=known, is_new=False, lease=None)
            _check_unfinished(connection, order.owner, max_unfinished)
            if holder is not None and _suspect(connection):
                holder = None
            if holder is None and max_waiting is not None:
                waiting = select(func.count()).select_from(jobs).where(jobs.c.state == JobState.QUEUED)
                if connection.execute(waiting).scalar_one() >= max_waiting:
                    raise QueueFull(waiting=max_waiting)
            if known is not None:
                job = begin_again(connection, known)
            else:
                job = accept(connection, order, waits=holder is None)
                if key is not None:
                    remember_key(connection, order.owner, key, job.job_id)
            if holder is None:
                return Submitted(job=job, is_new=True, lease=None)
            job, lease = begin(connection, job.job_id, holder, self._clock(connection) + lease_s)
            return Submitted(job=job, is_new=True, lease=lease)

    def known(self, owner: str, key: IdempotencyKey) -> Job | None:
        """Return the job of a key's first use; None if the key is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        with self.log.engine.connect() as connection:
            return _known(connection, owner, key)

    def get(self, job_id: str, owner: str) -> Job:
        """Read a job.

        Raises:
            JobNotFound: the owner has no such job.
        """
        with self.log.engine.connect() as connection:
            return read_job(connection, job_id, owner)

    def list(
        self, owner: str, page: PageQuery, *, states: Collection[JobState] = (), request_id: str | None = None
    ) -> Sequence[Job]:
        """List an owner's jobs.

        Args:
            page: which of them.
            states: only in these; in any if empty.
            request_id: only of this request.
        """
        query = page.apply(select(jobs).where(jobs.c.owner == owner), jobs.c.job_id, jobs.c.created_at)
        if states:
            query = query.where(jobs.c.state.in_(states))
        if request_id is not None:
            query = query.where(jobs.c.request_id == request_id)
        with self.log.engine.connect() as connection:
            return [as_job(row) for row in connection.execute(query)]

    def lease(self, holder: str, *, lease_s: float, limit: int) -> Sequence[tuple[Job, Lease]]:
        """Acquire leases on up to `limit` queued jobs, after requeuing those whose leases have expired.

        Jobs with a waiting caller, and those queued for long, go first; then owners take turns by the number of their
        running jobs; then the oldest goes first. A job on its last attempt has lost its worker twice, and may be the
        cause. It runs alone: no other job is started from the moment it is queued until it has ended. If its last
        attempt is lost as well it is dead.

        Args:
            holder: the lease holder; unique for each call, so that a lease is never mistaken for another.
            lease_s: duration of the leases.
            limit: their maximum number.
        """
        with self.log.writing() as connection:
            now = self._clock(connection)
            self._recover(connection, now)
            suspect = _suspect(connection)
            if suspect is None:
                ids = list(connection.execute(_in_turn().limit(limit)).scalars())
            else:
                working = select(jobs.c.job_id).where(jobs.c.state == JobState.RUNNING).limit(1)
                ids = [] if connection.execute(working).one_or_none() else [suspect]
            return [begin(connection, job_id, holder, now + lease_s) for job_id in ids]

    def renew(self, leases: Collection[Lease], *, lease_s: float) -> tuple[Sequence[Lease], Sequence[Lease]]:
        """Renew leases.

        Returns:
            The renewed leases, and those whose work must stop: the job was cancelled, or the lease is lost.
        """
        kept: list[Lease] = []
        stopped: list[Lease] = []
        with self.log.writing() as connection:
            until = self._clock(connection) + lease_s
            for lease in leases:
                renewed = connection.execute(
                    update(jobs)
                    .where(is_held(lease), jobs.c.cancel_requested.is_(False))
                    .values(lease_until=until)
                    .returning(jobs.c.job_id)
                ).one_or_none()
                (kept if renewed else stopped).append(lease)
        return kept, stopped

    def succeed(self, lease: Lease, result: Mapping[str, Any]) -> None:
        """Settle a job as succeeded, with its result.

        Raises:
            LeaseLost: another holder has the lease by now, or the job is settled.
        """
        with self.log.writing() as connection:
            settle(connection, lease, JobState.SUCCEEDED, result=result)

    def fail(self, lease: Lease, problem: Problem) -> None:
        """Settle a job as failed, with its problem.

        Raises:
            LeaseLost: another holder has the lease by now, or the job is settled.
        """
        with self.log.writing() as connection:
            settle(connection, lease, JobState.FAILED, problem=problem)

    def lose(self, lease: Lease, problem: Problem) -> None:
        """Requeue a job whose worker was lost; after its last attempt settle it as dead, with this problem.

        Raises:
            LeaseLost: another holder has the lease by now, or the job is settled.
        """
        with self.log.writing() as connection:
            lost(connection, held(connection, lease), problem)

    def stop(self, lease: Lease) -> None:
        """Settle a job as cancelled, if that was requested; otherwise requeue it without counting the attempt.

        Raises:
            LeaseLost: another holder has the lease by now, or the job is settled.
        """
        with self.log.writing() as connection:
            row = held(connection, lease)
            if row.cancel_requested:
                settle(connection, lease, JobState.CANCELLED)
                return
            requeue(connection, row, attempts=row.attempts - 1)

    def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job: at once if queued, at its holder's next renewal if running. A settled one is left as it is.

        Raises:
            JobNotFound: the owner has no such job.
        """
        with self.log.writing() as connection:
            job = read_job(connection, job_id, owner)
            if job.state is JobState.QUEUED:
                settle_row(connection, jobs.c.job_id == job_id, JobState.CANCELLED, {})
            elif job.state is JobState.RUNNING:
                connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(cancel_requested=True))
                _log(connection, CANCEL_REQUESTED, job.order)
            return read_job(connection, job_id, owner)

    def retry(self, job_id: str, owner: str, max_unfinished: int | None = None) -> Job:
        """Retry a job that failed, was cancelled or is dead: queue it as if it were new.

        Raises:
            JobNotFound: the owner has no such job.
            JobNotRetriable: it is in another state.
            JobLimitReached: the owner's limit of queued and running jobs is reached.
        """
        with self.log.writing() as connection:
            job = read_job(connection, job_id, owner)
            if job.state not in AGAIN:
                raise JobNotRetriable(job_id=job_id, state=job.state.value)
            _check_unfinished(connection, owner, max_unfinished)
            return begin_again(connection, job)

    def end_leases(self) -> None:
        """Expire all leases: for a caller that knows that all holders are gone."""
        with self.log.writing() as connection:
            connection.execute(update(jobs).where(jobs.c.state == JobState.RUNNING).values(lease_until=0.0))

    def prune(self, oldest_kept: datetime) -> None:
        """Delete settled jobs, and idempotency keys, from before a moment."""
        with self.log.writing() as connection:
            connection.execute(delete(idempotency_keys).where(idempotency_keys.c.created_at < oldest_kept))
            connection.execute(delete(jobs).where(jobs.c.finished_at < oldest_kept))

    def _recover(self, connection: Connection, now: float) -> None:
        """Requeue the jobs whose leases have expired; settle those without an attempt left as dead."""
        expired = select(jobs).where(jobs.c.state == JobState.RUNNING, jobs.c.lease_until < now).order_by(jobs.c.job_id)
        for row in list(connection.execute(expired)):
            lost(connection, row, to_problem(WorkerLost(stage=row.kind)))


def _suspect(connection: Connection) -> str | None:
    """Return the id of the oldest job, queued or running, that must run alone."""
    waits = and_(jobs.c.state == JobState.QUEUED, jobs.c.attempts == MAX_ATTEMPTS - 1)
    runs = and_(jobs.c.state == JobState.RUNNING, jobs.c.attempts == MAX_ATTEMPTS)
    found = select(jobs.c.job_id).where(or_(waits, runs)).order_by(jobs.c.job_id).limit(1)
    job_id: str | None = connection.execute(found).scalar_one_or_none()
    return job_id


def _in_turn() -> Select[Any]:
    """Select the queued jobs in the order in which they are to be started."""
    running = (
        select(jobs.c.owner, func.count().label("number"))
        .where(jobs.c.state == JobState.RUNNING)
        .group_by(jobs.c.owner)
        .subquery()
    )
    is_urgent = or_(jobs.c.is_waited_for, jobs.c.created_at < datetime.now(UTC) - LONG_WAIT)
    place = func.row_number().over(partition_by=(jobs.c.owner, is_urgent), order_by=jobs.c.job_id) + func.coalesce(
        running.c.number, 0
    )
    return (
        select(jobs.c.job_id)
        .outerjoin(running, running.c.owner == jobs.c.owner)
        .where(jobs.c.state == JobState.QUEUED)
        .order_by(is_urgent.desc(), place, jobs.c.job_id)
    )


def _known(connection: Connection, owner: str, key: IdempotencyKey) -> Job | None:
    job_id = made_with(connection, owner, key)
    return None if job_id is None else read_job(connection, job_id, owner)


def _check_unfinished(connection: Connection, owner: str, limit: int | None) -> None:
    if limit is None:
        return
    unfinished = jobs.c.state.in_((JobState.QUEUED, JobState.RUNNING))
    query = select(func.count()).select_from(jobs).where(jobs.c.owner == owner, unfinished)
    if connection.execute(query).scalar_one() >= limit:
        raise JobLimitReached(limit=limit)


Problem = Mapping[str, Any]


def accept(connection: Connection, order: JobOrder, *, waits: bool) -> Job:
    """Insert a new job, queued. `waits` is logged: no holder starts it at once, so a worker must poll."""
    row = {name: getattr(order, name) for name in ("job_id", "kind", "owner", "request_id", "is_waited_for")}
    row |= {"request": dict(order.request), "sessions": list(order.sessions), "created_at": datetime.now(UTC)}
    row |= {"state": JobState.QUEUED, "attempts": 0, "cancel_requested": False}
    accepted = connection.execute(insert(jobs).values(row).returning(jobs)).one()
    _log(connection, "job.submitted", order, kind=order.kind, waits=waits)
    return as_job(accepted)


def begin_again(connection: Connection, job: Job) -> Job:
    """Queue a settled job as if it were new."""
    fresh = {"state": JobState.QUEUED, "attempts": 0, "cancel_requested": False}
    fresh |= {"problem": None, "started_at": None, "finished_at": None, "is_waited_for": False}
    row = connection.execute(update(jobs).where(jobs.c.job_id == job.job_id).values(fresh).returning(jobs)).one()
    _log(connection, "job.retried", job.order)
    return as_job(row)


def begin(connection: Connection, job_id: str, holder: str, until: float) -> tuple[Job, Lease]:
    """Lease a queued job to a holder until a time on the database's clock, in seconds."""
    row = connection.execute(
        update(jobs)
        .where(jobs.c.job_id == job_id)
        .values(
            state=JobState.RUNNING,
            attempts=jobs.c.attempts + 1,
            holder=holder,
            lease_until=until,
            started_at=datetime.now(UTC),
        )
        .returning(jobs)
    ).one()
    _log(connection, "job.started", row, attempt=row.attempts)
    return as_job(row), Lease(job_id=job_id, holder=holder, attempt=row.attempts)


def _log(connection: Connection, type_: str, job: JobOrder | Row[Any], **facts: Any) -> None:
    """Log an event of a job."""
    log(connection, type_, job.owner, job_id=job.job_id, payload={"request_id": job.request_id, **facts})


def settle_row(connection: Connection, where: Any, state: JobState, values: dict[str, Any]) -> None:
    """Settle a job, and log its final state."""
    settled = {"state": state, "finished_at": datetime.now(UTC), "holder": None, "lease_until": None}
    row = connection.execute(update(jobs).where(where).values(settled | values).returning(jobs)).one()
    payload = {name: value for name, value in values.items() if value is not None}
    if "problem" in payload:
        payload["problem"] = {name: value for name, value in payload["problem"].items() if name != "facts"}
    _log(connection, f"job.{state.value}", row, **payload)


def requeue(connection: Connection, row: Row[Any], attempts: int) -> None:
    """Requeue a running job with the given number of attempts."""
    connection.execute(
        update(jobs)
        .where(jobs.c.job_id == row.job_id)
        .values(state=JobState.QUEUED, attempts=attempts, holder=None, lease_until=None)
    )
    _log(connection, "job.requeued", row, attempt=row.attempts)


def lost(connection: Connection, row: Row[Any], problem: Problem) -> None:
    """Requeue a running job whose worker was lost, or settle it if it was cancelled or has no attempt left."""
    if row.cancel_requested:
        settle_row(connection, jobs.c.job_id == row.job_id, JobState.CANCELLED, {})
    elif row.attempts < MAX_ATTEMPTS:
        requeue(connection, row, attempts=row.attempts)
    else:
        values = {"problem": dict(problem)}
        settle_row(connection, jobs.c.job_id == row.job_id, JobState.DEAD, values)


def held(connection: Connection, lease: Lease) -> Row[Any]:
    """Return the row of a leased job.

    Raises:
        LeaseLost: another holder has the lease by now, or the job is settled.
    """
    row = connection.execute(select(jobs).where(is_held(lease))).one_or_none()
    if row is None:
        raise LeaseLost(job_id=lease.job_id)
    return row


def is_held(lease: Lease) -> Any:
    """Return the condition that a job is held by this lease."""
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
    """Convert a row of the jobs."""
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
        started_at=row.started_at and as_utc(row.started_at),
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
    """Settle a leased job within the caller's transaction, so that its result commits with it or not at all.

    Raises:
        LeaseLost: another holder has the lease by now, or the job is settled.
    """
    held(connection, lease)
    values = {"result": None if result is None else dict(result), "problem": None if problem is None else dict(problem)}
    settle_row(connection, jobs.c.job_id == lease.job_id, state, values)

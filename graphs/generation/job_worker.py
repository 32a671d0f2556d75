"""Job worker: runs the jobs this process accepts at once, and acquires jobs that wait or whose lease has expired."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol
from uuid import uuid4

from pipeline.errors import (
    InternalError,
    LeaseLost,
    ModelNotReady,
    Overloaded,
    PipelineError,
    StorageUnavailable,
    WorkerLost,
    to_problem,
)
from pipeline.event_records import CANCEL_REQUESTED, EventRecord
from pipeline.jobs import ENDED, IdempotencyKey, Job, JobOrder, JobState, Lease, Submitted
from pipeline.store.jobs import JobStore
from pipeline.store.pages import PageQuery

LEASE_S = 15.0  # after which another worker takes over the job of a dead one
RENEW_S = 4.0
POLL_S = 2.0  # for queued jobs, where no event announces them
PAUSE_S = 5.0  # after a model was not ready
MAX_PAUSE_S = 60.0  # while the storage keeps failing: every attempt makes the image again
STOP_WITHIN_S = 5.0

WAITING = frozenset({"job.submitted", "job.requeued", "job.retried"})  # types of events after which a job may be queued

logger = logging.getLogger("ai_pipeline")


class JobHandler(Protocol):
    """Runs the jobs of one kind."""

    async def run(self, job: Job, lease: Lease) -> None:
        """Run a job, and settle it as succeeded in one transaction with its result.

        Raises:
            WorkerLost: the job is retried, up to `MAX_ATTEMPTS` times.
            ModelNotReady, Overloaded, StorageUnavailable: a job without a waiting caller is queued again.
            Exception: the job has failed.
        """
        ...


class JobWorker:
    """The jobs in flight of one process.

    Args:
        store: where jobs are.
        handlers: by kind of job.
        capacity: jobs in flight at a time.
        max_waiting: jobs of all processes that may wait.
        max_unfinished: jobs of one owner that may wait or be worked on; None is no limit.
    """

    def __init__(
        self,
        store: JobStore,
        handlers: Mapping[str, JobHandler],
        *,
        capacity: int,
        max_waiting: int,
        max_unfinished: int | None = None,
    ) -> None:
        self._store = store
        self._handlers = handlers
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._max_unfinished = max_unfinished
        self._in_flight: dict[str, tuple[asyncio.Task[None], Lease]] = {}  # by job id
        self._reserved = 0  # slots of jobs that are being accepted
        self._has_looked = asyncio.Event()  # set while it isn't leasing jobs
        self._has_looked.set()
        self._wake_up = asyncio.Event()  # look for queued jobs
        self._may_wait = True  # whether jobs may be queued
        self._pause_until = 0.0  # no jobs are leased before, on the loop's clock
        self._storage_pause_s = PAUSE_S  # the next pause for want of storage
        self._accepting: set[asyncio.Task[Submitted]] = set()
        self._waiters: dict[str, asyncio.Event] = {}  # by id of a job that runs elsewhere

    async def find_by_key(self, owner: str, key: IdempotencyKey) -> Job | None:
        """Return the job that an idempotency key was used for; None if it is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        return await asyncio.to_thread(self._store.known, owner, key)

    async def submit(self, order: JobOrder, key: IdempotencyKey | None = None) -> Submitted:
        """Accept a job, and start it if there is a free slot.

        If the caller is cancelled meanwhile, so is the job, unless it has an idempotency key.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            QueueFull: no slot is free, and too many jobs are queued.
            JobLimitReached: the owner has too many.
        """
        accepting = asyncio.get_running_loop().create_task(self._accept(order, key), context=contextvars.Context())
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)
        try:
            return await asyncio.shield(accepting)
        except asyncio.CancelledError:
            if key is None:
                accepted = await accepting
                await self.cancel(accepted.job.job_id, order.owner)
            raise

    async def _accept(self, order: JobOrder, key: IdempotencyKey | None) -> Submitted:
        await self._has_looked.wait()  # else this job would be queued while a slot is free, and later ones overtake it
        with self._reserved_slot() as has_slot:
            accepted = await asyncio.to_thread(
                self._store.submit,
                order,
                key,
                holder=uuid4().hex if has_slot else None,
                lease_s=LEASE_S,
                max_waiting=self._max_waiting,
                max_unfinished=self._max_unfinished,
            )
        if accepted.lease is not None:
            self._begin(accepted.job, accepted.lease)
        return accepted

    @contextmanager
    def _reserved_slot(self) -> Iterator[bool]:
        has_slot = self._free_slots > 0
        self._reserved += has_slot
        try:
            yield has_slot
        finally:
            self._reserved -= has_slot

    async def wait_finished(self, job_id: str, owner: str) -> Job:
        """Wait until a job has ended, in this process or another.

        Raises:
            JobNotFound: the owner has no such job.
            StorageUnavailable: its end could not be stored.
        """
        while True:
            if job_id in self._in_flight:
                task, _ = self._in_flight[job_id]
                await asyncio.wait({task})
                if not task.cancelled() and (failure := task.exception()) is not None:
                    raise failure  # its end could not be stored: it starts again when its lease expires
            ended = self._waiters.setdefault(job_id, asyncio.Event())
            try:
                job = await asyncio.to_thread(self._store.get, job_id, owner)
            except BaseException:
                self._waiters.pop(job_id, None)
                raise
            if job.state.is_final:
                self._waiters.pop(job_id, None)
                return job
            if job_id not in self._in_flight:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await ended.wait()

    def on_event(self, record: EventRecord) -> None:
        """React to an event of a job, of this process or another."""
        if record.type in WAITING and record.payload.get("waits", True):
            self.wake()
        elif record.type == CANCEL_REQUESTED and record.job_id in self._in_flight:
            _cancel(self._in_flight[record.job_id][0])
        elif record.type in ENDED and (ended := self._waiters.pop(str(record.job_id), None)):
            ended.set()

    async def get(self, job_id: str, owner: str) -> Job:
        """Read a job.

        Raises:
            JobNotFound: the owner has no such job.
        """
        return await asyncio.to_thread(self._store.get, job_id, owner)

    async def list(
        self, owner: str, page: PageQuery, *, states: Collection[JobState] = (), request_id: str | None = None
    ) -> Sequence[Job]:
        """List an owner's jobs: those in one of these states, if any, and of this request, if given."""
        return await asyncio.to_thread(lambda: self._store.list(owner, page, states=states, request_id=request_id))

    async def retry(self, job_id: str, owner: str) -> Job:
        """Queue a job that ended without a result again.

        Raises:
            JobNotFound: the owner has no such job.
            JobNotRetriable: it has a result, or hasn't ended.
            JobLimitReached: the owner has too many.
        """
        job = await asyncio.to_thread(self._store.retry, job_id, owner, max_unfinished=self._max_unfinished)
        self.wake()
        return job

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job; one in flight here stops at once.

        Raises:
            JobNotFound: the owner has no such job.
        """
        job = await asyncio.to_thread(self._store.cancel, job_id, owner)
        if job_id in self._in_flight:
            _cancel(self._in_flight[job_id][0])
            return await self.wait_finished(job_id, owner)
        return job

    def wake(self) -> None:
        """Look for queued jobs now rather than at the next poll."""
        self._may_wait = True
        self._wake_up.set()

    async def run(self) -> None:
        """Lease jobs and renew leases until cancelled; then stop their work and requeue them."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._acquire_loop())
                group.create_task(self._renew_loop())
        finally:
            tasks = [task for task, _ in self._in_flight.values()]
            for task in tasks:
                _cancel(task)
            if tasks:
                await asyncio.wait(tasks, timeout=STOP_WITHIN_S)

    async def _acquire_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._wake_up.clear()
            if self._free_slots > 0 and loop.time() >= self._pause_until:
                self._has_looked.clear()
                try:
                    leased = await self._lease()
                    await self._begin_all(leased)
                except Exception:
                    logger.exception("No jobs could be leased")
                else:
                    self._may_wait = bool(leased)
                finally:
                    self._has_looked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):  # `wait_for` loses a cancellation that comes with the event
                    await self._wake_up.wait()

    async def _lease(self) -> Sequence[tuple[Job, Lease]]:
        """Lease jobs; release those leased while this worker is being cancelled."""
        leasing = asyncio.create_task(
            asyncio.to_thread(self._store.lease, uuid4().hex, lease_s=LEASE_S, limit=self._free_slots)
        )
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            try:
                for _, lease in await leasing:
                    await self._settle(self._store.stop, lease)
            except Exception:  # must not replace the cancellation
                logger.exception("Jobs leased at the end could not be released; they wait until their leases expire")
            raise

    async def _renew_loop(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            held = [lease for _, lease in self._in_flight.values()]
            if not held:
                continue
            try:
                _, stopped = await asyncio.to_thread(self._store.renew, held, lease_s=LEASE_S)
            except Exception:
                logger.exception("Leases could not be renewed")
                continue
            for lease in stopped:
                task, current = self._in_flight.get(lease.job_id, (None, None))
                if task is not None and current == lease:
                    _cancel(task)

    @property
    def _free_slots(self) -> int:
        """Jobs that can start now."""
        return self._capacity - len(self._in_flight) - self._reserved

    async def _begin_all(self, leased: Sequence[tuple[Job, Lease]]) -> None:
        is_paused = asyncio.get_running_loop().time() < self._pause_until  # since a job failed meanwhile
        for job, lease in leased:
            if is_paused:
                await self._settle(self._store.stop, lease)
            else:
                self._begin(job, lease)

    def _begin(self, job: Job, lease: Lease) -> None:
        earlier, _ = self._in_flight.get(job.job_id, (None, None))
        if earlier is not None:  # its lease ran out before it could be renewed
            _cancel(earlier)
        # In a context of its own: this one may be a request's, and would be cancelled with it.
        task = asyncio.get_running_loop().create_task(self._execute(job, lease), context=contextvars.Context())
        self._in_flight[job.job_id] = task, lease
        task.add_done_callback(lambda task: self._end(task, lease))

    def _end(self, task: asyncio.Task[None], lease: Lease) -> None:
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.error("The end of job %s could not be stored: %s", lease.job_id, failure)
        if self._in_flight.get(lease.job_id, (None, None))[1] == lease:  # else this process has begun it again
            del self._in_flight[lease.job_id]
        if self._may_wait:
            self._wake_up.set()

    async def _execute(self, job: Job, lease: Lease) -> None:
        try:
            await self._handlers[job.order.kind].run(job, lease)
            self._storage_pause_s = PAUSE_S
        except asyncio.CancelledError:
            await self._settle(self._store.stop, lease)
        except LeaseLost:
            logger.info("Job %s went on elsewhere", job.job_id)
        except WorkerLost as error:
            await self._settle(self._store.lose, lease, to_problem(error))
        except (ModelNotReady, Overloaded, StorageUnavailable) as error:
            if job.order.is_waited_for:
                await self._settle(self._store.fail, lease, to_problem(error))
            else:  # no caller is waiting for a Retry-After: the job is kept until it can run
                self._pause(error)
                await self._settle(self._store.stop, lease)
        except PipelineError as error:
            await self._settle(self._store.fail, lease, to_problem(error))
        except Exception:
            logger.exception("Job %s failed unexpectedly", job.job_id)
            await self._settle(self._store.fail, lease, to_problem(InternalError()))

    def _pause(self, error: PipelineError) -> None:
        now, pause_s = asyncio.get_running_loop().time(), PAUSE_S
        if isinstance(error, StorageUnavailable):
            if now < self._pause_until:
                return  # jobs that fail together count as one failure
            pause_s = self._storage_pause_s
            self._storage_pause_s = min(MAX_PAUSE_S, 2 * pause_s)
        self._pause_until = max(self._pause_until, now + pause_s)

    async def _settle(self, settle: Callable[..., None], *facts: object) -> None:
        with suppress(
            LeaseLost
        ):  # and begun, it is done: a cancellation that comes now would leave the job to its lease
            await asyncio.shield(asyncio.to_thread(settle, *facts))


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel work once: the caller's cancel arrives as an event too, and a second one would interrupt the settling."""
    if not task.cancelling():
        task.cancel()

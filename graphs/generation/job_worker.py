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
    LeaseLost,
    ModelNotReady,
    Overloaded,
    PipelineError,
    StorageUnavailable,
    WorkerLost,
    to_problem,
)
from pipeline.jobs import ENDED, IdempotencyKey, Job, JobOrder, JobState, Lease, Submitted
from pipeline.notices import CANCEL_REQUESTED, Notice
from pipeline.store.jobs import JobStore

LEASE_S = 15.0  # after which a job of a dead holder is taken over
RENEW_S = 4.0
POLL_S = 2.0  # for jobs that wait, where nobody says that there are any
PAUSE_S = 5.0  # after a model was not ready
STOP_WITHIN_S = 5.0

WAITING = frozenset({"job.submitted", "job.requeued", "job.retried"})  # a job may wait for somebody to take it

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
        self._reserved = 0  # places of jobs that are just being accepted
        self._has_looked = asyncio.Event()  # or isn't looking for jobs to take
        self._has_looked.set()
        self._wake_up = asyncio.Event()  # it is time to look for jobs to take
        self._may_wait = True  # some did when one last looked, or have come since
        self._pause_until = 0.0  # no jobs are taken before, on the loop's clock
        self._accepting: set[asyncio.Task[Submitted]] = set()
        self._waiters: dict[str, asyncio.Event] = {}  # by id of a job that others work on

    async def find_by_key(self, owner: str, key: IdempotencyKey) -> Job | None:
        """Find the job a key was used for; None if it is new.

        Raises:
            IdempotencyMismatch: the key was used for another request.
        """
        return await asyncio.to_thread(self._store.known, owner, key)

    async def submit(self, order: JobOrder, key: IdempotencyKey | None = None) -> Submitted:
        """Accept a job, and begin it if there is room.

        A caller who is cancelled meanwhile leaves no job behind, unless it has a key by which to come back for it.

        Raises:
            IdempotencyMismatch: the key was used for another request.
            TooManyJobs: there is no room, and too many wait for some.
            TooManyUnfinished: the owner has too many.
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
        await self._has_looked.wait()  # else this job would wait for a place that nobody needs, and later ones pass it
        with self._reserved_place() as has_place:
            accepted = await asyncio.to_thread(
                self._store.submit,
                order,
                key,
                holder=uuid4().hex if has_place else None,
                lease_s=LEASE_S,
                max_waiting=self._max_waiting,
                max_unfinished=self._max_unfinished,
            )
        if accepted.lease is not None:
            self._begin(accepted.job, accepted.lease)
        return accepted

    @contextmanager
    def _reserved_place(self) -> Iterator[bool]:
        has_place = self._free_slots > 0
        self._reserved += has_place
        try:
            yield has_place
        finally:
            self._reserved -= has_place

    async def wait_finished(self, job_id: str, owner: str) -> Job:
        """Wait for the end of a job, whoever works on it.

        Raises:
            JobNotFound: the owner has no such job.
            StorageUnavailable: how it ended could not be written down.
        """
        while True:
            if job_id in self._in_flight:
                task, _ = self._in_flight[job_id]
                await asyncio.wait({task})
                if not task.cancelled() and (failure := task.exception()) is not None:
                    raise failure  # how it ended could not be written down: when its lease runs out it begins again
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

    def on_event(self, notice: Notice) -> None:
        """Take note of what happened to jobs, here or elsewhere."""
        if notice.type in WAITING and notice.payload.get("waits", True):
            self.wake()
        elif notice.type == CANCEL_REQUESTED and notice.job_id in self._in_flight:
            _cancel(self._in_flight[notice.job_id][0])
        elif notice.type in ENDED and (ended := self._waiters.pop(str(notice.job_id), None)):
            ended.set()

    async def get(self, job_id: str, owner: str) -> Job:
        """Read a job.

        Raises:
            JobNotFound: the owner has no such job.
        """
        return await asyncio.to_thread(self._store.get, job_id, owner)

    async def list(self, owner: str, *, limit: int, before: str | None, states: Collection[JobState]) -> Sequence[Job]:
        """List an owner's jobs, newest first."""
        return await asyncio.to_thread(lambda: self._store.list(owner, limit=limit, before=before, states=states))

    async def retry(self, job_id: str, owner: str) -> Job:
        """Queue a job that ended without a result again.

        Raises:
            JobNotFound: the owner has no such job.
            JobNotRetriable: it has a result, or hasn't ended.
            TooManyUnfinished: the owner has too many.
        """
        job = await asyncio.to_thread(self._store.retry, job_id, owner, max_unfinished=self._max_unfinished)
        self.wake()
        return job

    async def cancel(self, job_id: str, owner: str) -> Job:
        """Cancel a job: one in hand here at once.

        Raises:
            JobNotFound: the owner has no such job.
        """
        job = await asyncio.to_thread(self._store.cancel, job_id, owner)
        if job_id in self._in_flight:
            _cancel(self._in_flight[job_id][0])
            return await self.wait_finished(job_id, owner)
        return job

    def wake(self) -> None:
        """Have a look for jobs now rather than at the next poll."""
        self._may_wait = True
        self._wake_up.set()

    async def run(self) -> None:
        """Take jobs and renew leases until cancelled; then stop the work and give the jobs back."""
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
                    taken = await self._lease()
                except Exception:
                    logger.exception("No jobs could be taken")
                else:
                    for job, lease in taken:
                        self._begin(job, lease)
                    self._may_wait = bool(taken)
                finally:
                    self._has_looked.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):  # `wait_for` loses a cancellation that comes with the event
                    await self._wake_up.wait()

    async def _lease(self) -> Sequence[tuple[Job, Lease]]:
        """Take jobs; what is taken while this runner ends is given back, as nobody here would do it."""
        leasing = asyncio.create_task(
            asyncio.to_thread(self._store.lease, uuid4().hex, lease_s=LEASE_S, limit=self._free_slots)
        )
        try:
            return await asyncio.shield(leasing)
        except asyncio.CancelledError:
            for _, lease in await leasing:
                await self._settle(self._store.stop, lease)
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
        """Jobs that can be begun now."""
        return self._capacity - len(self._in_flight) - self._reserved

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
            logger.error("How job %s ended could not be written down: %s", lease.job_id, failure)
        if self._in_flight.get(lease.job_id, (None, None))[1] == lease:  # else this process has begun it again
            del self._in_flight[lease.job_id]
        if self._may_wait:
            self._wake_up.set()

    async def _execute(self, job: Job, lease: Lease) -> None:
        try:
            await self._handlers[job.order.kind].run(job, lease)
        except asyncio.CancelledError:
            await self._settle(self._store.stop, lease)
        except LeaseLost:
            logger.info("Job %s went on elsewhere", job.job_id)
        except WorkerLost as error:
            await self._settle(self._store.lose, lease, to_problem(error))
        except (ModelNotReady, Overloaded, StorageUnavailable) as error:
            if job.order.is_waited_for:
                await self._settle(self._store.fail, lease, to_problem(error))
            else:  # nobody is told to come back later: it is kept until it can be done
                self._pause_until = asyncio.get_running_loop().time() + PAUSE_S
                await self._settle(self._store.stop, lease)
        except PipelineError as error:
            await self._settle(self._store.fail, lease, to_problem(error))
        except Exception:
            logger.exception("Job %s failed unexpectedly", job.job_id)
            await self._settle(self._store.fail, lease, to_problem(PipelineError()))

    async def _settle(self, settle: Callable[..., None], *facts: object) -> None:
        with suppress(
            LeaseLost
        ):  # and begun, it is done: a cancellation that comes now would leave the job to its lease
            await asyncio.shield(asyncio.to_thread(settle, *facts))


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel work once: who asked hears of it by its own notice as well, and a second time would hit the settling."""
    if not task.cancelling():
        task.cancel()

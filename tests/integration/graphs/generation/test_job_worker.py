"""Jobs run by workers that share a store."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import pytest
from sqlalchemy import select

from graphs.generation import job_worker as job_runner
from graphs.generation.job_worker import JobWorker
from pipeline.errors import StageFailed, StorageUnavailable
from pipeline.event_records import CANCEL_REQUESTED
from pipeline.jobs import JobOrder, JobState
from pipeline.store import EventLog, new_id, open_database
from pipeline.store.jobs import JobStore
from pipeline.store.tables import jobs
from testing.waiting import PATIENCE_S, until
from tests.unit.conftest import Clock

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def short_intervals(monkeypatch):
    for name in ("RENEW_S", "POLL_S"):
        monkeypatch.setattr(job_runner, name, 0.05)


@pytest.fixture
def clock() -> Clock:
    """The clock of leases, advanced by tests."""
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    engine = open_database(f"sqlite:///{tmp_path / 'truth.sqlite'}")
    yield JobStore(EventLog(engine), clock)
    engine.dispose()


class Worker:
    """Runs jobs once its gate is open."""

    def __init__(self, store: JobStore) -> None:
        self.store = store
        self.gate = asyncio.Event()
        self.started: list[int] = []
        self.stopped: list[int] = []

    async def run(self, job, lease) -> None:
        number = job.order.request["number"]
        self.started.append(number)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.stopped.append(number)
            raise
        if number < 0:
            raise StageFailed(stage="generate", reason="it is negative")
        if number > 100:
            raise ZeroDivisionError
        await asyncio.to_thread(self.store.succeed, lease, {"number": number})


@asynccontextmanager
async def running(store, worker, capacity=2) -> AsyncIterator[JobWorker]:
    runner = JobWorker(store, {"test": worker}, capacity=capacity, max_waiting=10)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def order(number: int) -> JobOrder:
    return JobOrder(job_id=new_id(), kind="test", owner="public", request_id=f"r{number}", request={"number": number})


async def test_a_job_starts_at_once_and_can_be_waited_for(store):
    worker = Worker(store)
    worker.gate.set()
    async with running(store, worker) as runner:
        job = (await runner.submit(order(1))).job
        assert job.state is JobState.RUNNING
        settled = await runner.wait_finished(job.job_id, "public")
    assert (settled.state, settled.result) == (JobState.SUCCEEDED, {"number": 1})


async def test_failures_are_reported_as_problems(store):
    worker = Worker(store)
    worker.gate.set()
    async with running(store, worker) as runner:
        known, unknown = [
            await runner.wait_finished((await runner.submit(order(n))).job.job_id, "public") for n in (-1, 101)
        ]
    assert known.state is unknown.state is JobState.FAILED
    assert (known.problem["code"], known.problem["detail"]) == (
        "stage_failed",
        "The stage 'generate' failed: it is negative",
    )
    assert unknown.problem["code"] == "internal_error"


async def test_jobs_over_the_capacity_wait_in_the_store(store):
    worker = Worker(store)
    async with running(store, worker) as runner:
        accepted = [(await runner.submit(order(n))).job for n in range(5)]
        assert [job.state for job in accepted] == [JobState.RUNNING] * 2 + [JobState.QUEUED] * 3
        worker.gate.set()
        settled = [await runner.wait_finished(job.job_id, "public") for job in accepted]
    assert [job.result["number"] for job in settled] == [0, 1, 2, 3, 4]
    assert sorted(worker.started) == [0, 1, 2, 3, 4]


async def test_a_running_job_is_cancelled_at_once(store):
    worker = Worker(store)
    async with running(store, worker) as runner:
        job = (await runner.submit(order(1))).job
        await until(lambda: worker.started)
        assert (await runner.cancel(job.job_id, "public")).state is JobState.CANCELLED
    assert worker.stopped == [1]


async def test_a_cancellation_received_twice_ends_the_job_once(store):
    worker = Worker(store)
    busy = threading.Event()
    with ThreadPoolExecutor(1) as pool:  # outlives the worker, which reads and writes until its end
        async with running(store, worker) as runner:
            job = (await runner.submit(order(1))).job
            await until(lambda: worker.started)
            store.cancel(job.job_id, "public")
            [record] = store.log.read(after=0, limit=1, types=[CANCEL_REQUESTED])
            asyncio.get_running_loop().set_default_executor(pool)
            pool.submit(busy.wait)  # delays the final state
            runner.on_event(record)
            await until(lambda: worker.stopped)
            runner.on_event(record)
            finishing = asyncio.create_task(runner.wait_finished(job.job_id, "public"))
            await asyncio.sleep(0)
            busy.set()
            async with asyncio.timeout(PATIENCE_S):
                assert (await finishing).state is JobState.CANCELLED


async def test_a_storage_that_fails_at_the_end_does_not_keep_the_worker(store, monkeypatch, caplog):
    leasing, failing = threading.Event(), threading.Event()

    def lease(*_: object, **__: object) -> None:
        leasing.set()
        failing.wait(PATIENCE_S)
        raise StorageUnavailable

    monkeypatch.setattr(store, "lease", lease)
    task = asyncio.create_task(JobWorker(store, {}, capacity=2, max_waiting=10).run())
    await until(leasing.is_set)
    task.cancel()
    await asyncio.sleep(0)
    failing.set()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert "could not be released" in caplog.text


async def test_attempts_are_further_and_further_apart_while_the_storage_fails(store, monkeypatch):
    loop, passed_s = asyncio.get_running_loop(), 0.0
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + passed_s)
    attempts: list[float] = []

    class Failing:
        async def run(self, job, lease) -> None:
            attempts.append(loop.time())
            raise StorageUnavailable

    async with running(store, Failing()) as runner:
        await runner.submit(order(1))
        async with asyncio.timeout(100 * PATIENCE_S):
            while len(attempts) < 7:
                await asyncio.sleep(0)
                passed_s += 0.01
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert all(pause >= least for pause, least in zip(pauses, (5, 10, 20, 40, 60, 60), strict=True)), pauses


async def test_a_job_of_another_worker_is_cancelled_at_its_lease_renewal(store):
    worker, other = Worker(store), Worker(store)
    async with running(store, worker) as runner, running(store, other) as second:
        job = (await runner.submit(order(1))).job
        await until(lambda: worker.started)
        assert (await second.cancel(job.job_id, "public")).cancel_requested
        assert (await second.wait_finished(job.job_id, "public")).state is JobState.CANCELLED
    assert worker.stopped == [1]


async def test_the_lease_of_a_long_job_is_renewed(store, clock):
    worker, other = Worker(store), Worker(store)
    async with running(store, worker) as runner, running(store, other):
        job = (await runner.submit(order(1))).job
        for _ in range(3):
            clock.now += job_runner.LEASE_S / 2
            await until(lambda: lease_until(store) == clock.now + job_runner.LEASE_S)
        worker.gate.set()
        assert (await runner.wait_finished(job.job_id, "public")).attempts == 1
    assert other.started == []


def lease_until(store: JobStore) -> float:
    """Return the expiry time of the only job's lease."""
    with store.log.engine.connect() as connection:
        return connection.execute(select(jobs.c.lease_until)).scalar_one()


async def test_jobs_of_a_dead_worker_are_taken_over(store, clock):
    dead = store.submit(order(1), holder="dead", lease_s=20).job
    worker = Worker(store)
    worker.gate.set()
    async with running(store, worker) as runner:
        clock.now += 21
        settled = await runner.wait_finished(dead.job_id, "public")
    assert (settled.state, settled.attempts) == (JobState.SUCCEEDED, 2)


async def test_a_worker_that_stops_releases_its_jobs(store):
    worker = Worker(store)
    async with running(store, worker) as runner:
        job = (await runner.submit(order(1))).job
        await until(lambda: worker.started)
    released = store.get(job.job_id, "public")
    assert (released.state, released.attempts) == (JobState.QUEUED, 0)
    assert worker.stopped == [1]


async def test_a_job_leased_while_the_worker_stops_is_released(store, monkeypatch):
    worker, lease = Worker(store), store.lease
    leasing, proceed, has_leased = threading.Event(), threading.Event(), threading.Event()

    def slow_lease(*args, **kwargs):
        leasing.set()
        proceed.wait(PATIENCE_S)
        try:
            return lease(*args, **kwargs)
        finally:
            has_leased.set()

    async with running(store, worker) as runner:
        job = (await runner.submit(order(1))).job
        await until(lambda: worker.started)
        monkeypatch.setattr(store, "lease", slow_lease)
        runner.wake()
        await until(leasing.is_set)
        releasing = asyncio.create_task(set_after_turns(proceed))
    await releasing
    await until(has_leased.is_set)
    released = store.get(job.job_id, "public")
    assert (released.state, released.attempts) == (JobState.QUEUED, 0)


async def set_after_turns(event: threading.Event, turns: int = 20) -> None:
    """Set an event after so many turns of the loop, so that a cancellation has reached every task."""
    for _ in range(turns):
        await asyncio.sleep(0)
    event.set()


async def test_the_result_of_a_lost_lease_is_rejected(store):
    worker = Worker(store)
    async with running(store, worker) as runner:
        accepted = store.submit(order(1), holder="gone", lease_s=-1)
        await until(lambda: worker.started)  # taken over from the dead worker
        with pytest.raises(job_runner.LeaseLost):
            store.succeed(accepted.lease, {"number": "wrong"})
        worker.gate.set()
        assert (await runner.wait_finished(accepted.job.job_id, "public")).result == {"number": 1}

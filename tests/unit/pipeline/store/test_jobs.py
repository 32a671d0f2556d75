"""Jobs on SQLite and PostgreSQL: accepted once, leased to one worker at a time, settled once."""

from __future__ import annotations

import hashlib
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.errors import IdempotencyMismatch, JobNotFound, JobNotRetriable, LeaseLost, QueueFull
from pipeline.jobs import MAX_ATTEMPTS, IdempotencyKey, JobOrder, JobState
from pipeline.store import EventLog, PageQuery, new_id, open_database
from pipeline.store.jobs import JobStore

LEASE_S = 30.0


@pytest.fixture
def store(engine, clock) -> JobStore:
    return JobStore(EventLog(engine), clock)


def an_order(number: int = 0, owner: str = "public") -> JobOrder:
    return JobOrder(
        job_id=new_id(),
        kind="generate",
        owner=owner,
        request_id=f"r{number}",
        request={"seed": number},
        sessions=("s1", "s2"),
    )


def take(store: JobStore, holder: str = "w1", limit: int = 1):
    return store.lease(holder, lease_s=LEASE_S, limit=limit)


def types_of(store: JobStore, **choice: object) -> list[str]:
    return [event.type for event in store.log.read(owner="public", after=0, limit=100, **choice)]


def test_a_job_goes_from_submission_to_its_result(store):
    ordered = an_order(7)
    accepted = store.submit(ordered)
    submitted = accepted.job
    assert (accepted.is_new, accepted.lease, submitted.state, submitted.order) == (
        True,
        None,
        JobState.QUEUED,
        ordered,
    )

    ((job, lease),) = take(store)
    assert (job.job_id, job.state, job.attempts) == (submitted.job_id, JobState.RUNNING, 1)
    store.succeed(lease, {"image_id": "i"})

    settled = store.get(job.job_id, "public")
    assert (settled.state, settled.result, settled.problem) == (JobState.SUCCEEDED, {"image_id": "i"}, None)
    assert settled.finished_at is not None
    assert types_of(store) == ["job.submitted", "job.started", "job.succeeded"]
    assert types_of(store, job_id="another") == []
    assert types_of(store, types=["job.started"]) == ["job.started"]


def test_a_job_may_be_leased_on_submission(store):
    accepted = store.submit(an_order(), holder="w1", lease_s=LEASE_S)
    assert (accepted.job.state, accepted.job.attempts) == (JobState.RUNNING, 1)
    assert take(store, "w2") == []
    store.succeed(accepted.lease, {})
    assert types_of(store) == ["job.submitted", "job.started", "job.succeeded"]


def test_the_oldest_jobs_are_leased_first_and_none_twice(store):
    ids = [store.submit(an_order(i)).job.job_id for i in range(5)]
    first, second = take(store, limit=3), take(store, "w2", limit=3)
    assert [job.job_id for job, _ in [*first, *second]] == ids
    assert take(store, "w3") == []


def test_an_expired_lease_cannot_settle_the_job(store, clock):
    store.submit(an_order())
    ((job, first),) = take(store)
    clock.now += LEASE_S + 1
    ((_, second),) = take(store, "w2")

    for settle in (lambda: store.succeed(first, {}), lambda: store.fail(first, {}), lambda: store.stop(first)):
        with pytest.raises(LeaseLost):
            settle()
    assert store.renew([first, second], lease_s=LEASE_S) == ([second], [first])
    store.succeed(second, {"by": "second"})
    with pytest.raises(LeaseLost):
        store.succeed(second, {"by": "second, again"})
    assert store.get(job.job_id, "public").result == {"by": "second"}
    assert types_of(store).count("job.succeeded") == 1


def test_a_worker_cannot_settle_an_earlier_attempt(store, clock):
    store.submit(an_order())
    ((_, first),) = take(store)
    clock.now += LEASE_S + 1
    take(store)
    with pytest.raises(LeaseLost):
        store.succeed(first, {})


def test_a_renewed_lease_does_not_expire(store, clock):
    store.submit(an_order())
    ((_, lease),) = take(store)
    for _ in range(3):
        clock.now += LEASE_S - 1
        assert store.renew([lease], lease_s=LEASE_S) == ([lease], [])
    assert take(store, "w2") == []


def test_a_job_that_loses_every_holder_is_dead_and_can_be_retried(store, clock):
    ordered = an_order()
    job_id = store.submit(ordered).job.job_id
    for attempt in range(1, MAX_ATTEMPTS + 1):
        ((job, _),) = take(store)
        assert job.attempts == attempt
        clock.now += LEASE_S + 1
    assert take(store) == []
    assert store.get(job_id, "public").state is JobState.DEAD

    again = store.retry(job_id, "public")
    assert (again.state, again.attempts, again.order) == (JobState.QUEUED, 0, ordered)
    assert len(take(store)) == 1
    with pytest.raises(JobNotRetriable, match="is running"):
        store.retry(job_id, "public")


def test_a_job_whose_worker_is_lost_is_requeued_and_finally_dead(store):
    job_id = store.submit(an_order()).job.job_id
    for attempt in range(1, MAX_ATTEMPTS + 1):
        ((job, lease),) = take(store)
        assert job.attempts == attempt
        store.lose(lease, {"code": "worker_lost", "facts": {}})
    dead = store.get(job_id, "public")
    assert (dead.state, dead.problem["code"]) == (JobState.DEAD, "worker_lost")
    assert types_of(store)[-3:] == ["job.requeued", "job.started", "job.dead"]


def test_a_job_suspected_of_killing_its_workers_is_leased_alone(store):
    suspect, second, third = (store.submit(an_order(i)).job.job_id for i in range(3))
    for _ in range(MAX_ATTEMPTS - 1):
        ((job, lease),) = take(store)
        assert job.job_id == suspect
        store.lose(lease, {})

    other = store.submit(an_order(3), holder="w2", lease_s=LEASE_S)
    assert other.lease is None  # no job is leased while the suspect waits
    ((job, lease),) = take(store, limit=3)
    assert job.job_id == suspect
    assert take(store, "w2", limit=3) == []
    store.succeed(lease, {})
    assert [job.job_id for job, _ in take(store, "w2", limit=3)] == [second, third, other.job.job_id]


def test_a_suspect_waits_until_no_other_job_is_running(store):
    suspect = store.submit(an_order(), holder="w1", lease_s=LEASE_S)
    store.lose(suspect.lease, {})
    ((_, second),) = take(store)
    beside = store.submit(an_order(1), holder="w2", lease_s=LEASE_S)
    store.lose(second, {})  # now it is suspected, while another is running
    assert take(store) == []
    store.succeed(beside.lease, {})
    assert [job.job_id for job, _ in take(store, limit=3)] == [suspect.job.job_id]


def test_interactive_jobs_go_first_and_owners_alternate(store):
    def submit(owner: str, is_waited_for: bool = False) -> str:
        return store.submit(replace(an_order(owner=owner), is_waited_for=is_waited_for)).job.job_id

    ann = [submit("ann") for _ in range(4)]
    bob = [submit("bob") for _ in range(2)]
    cleo = submit("cleo", is_waited_for=True)
    taken = [job.job_id for _ in range(7) for job, _ in take(store)]  # one at a time, as slots become free
    assert taken == [cleo, ann[0], bob[0], ann[1], bob[1], ann[2], ann[3]]


def test_the_number_of_queued_jobs_is_limited(store):
    for _ in range(2):
        store.submit(an_order(), max_waiting=2)
    with pytest.raises(QueueFull):
        store.submit(an_order(), max_waiting=2)
    assert store.submit(an_order(), max_waiting=2, holder="w1", lease_s=LEASE_S).lease is not None


def test_a_queued_job_is_cancelled_immediately(store):
    job_id = store.submit(an_order()).job.job_id
    assert store.cancel(job_id, "public").state is JobState.CANCELLED
    assert take(store) == []
    assert store.cancel(job_id, "public").state is JobState.CANCELLED
    assert types_of(store) == ["job.submitted", "job.cancelled"]


def test_a_running_job_is_cancelled_by_its_holder(store):
    job_id = store.submit(an_order()).job.job_id
    ((_, lease),) = take(store)
    assert store.cancel(job_id, "public").cancel_requested
    assert store.renew([lease], lease_s=LEASE_S) == ([], [lease])
    store.stop(lease)
    assert store.get(job_id, "public").state is JobState.CANCELLED


def test_a_cancelled_job_with_an_expired_lease_is_not_restarted(store, clock):
    job_id = store.submit(an_order()).job.job_id
    take(store)
    store.cancel(job_id, "public")
    clock.now += LEASE_S + 1
    assert take(store) == []
    assert store.get(job_id, "public").state is JobState.CANCELLED


def test_a_returned_job_does_not_count_as_an_attempt(store):
    job_id = store.submit(an_order()).job.job_id
    for _ in range(2 * MAX_ATTEMPTS):
        ((_, lease),) = take(store)
        store.stop(lease)
    assert store.get(job_id, "public").state is JobState.QUEUED
    assert store.get(job_id, "public").attempts == 0


def test_an_idempotency_key_submits_one_job(store):
    key = IdempotencyKey(key="k", fingerprint="f")
    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(lambda i: store.submit(an_order(i), key), range(32)))
    assert len({each.job.job_id for each in accepted}) == 1
    assert [each.is_new for each in accepted].count(True) == 1
    with pytest.raises(IdempotencyMismatch, match="'k'"):
        store.submit(an_order(), IdempotencyKey(key="k", fingerprint="other"))
    assert store.submit(an_order(owner="other"), key).is_new  # keys are separate per owner
    store.prune(datetime.now(UTC) + timedelta(seconds=1))
    assert store.submit(an_order(), key).is_new


def work(database_url: str, name: str, begin: Any, done: Any) -> None:
    """Run a worker process: lease jobs until none is left, and return the ids of those it settled."""
    engine = open_database(database_url)
    store = JobStore(EventLog(engine))
    mine = []
    while taken := take(store, name, limit=2):
        if not mine:
            begin.wait()  # until both have leased some
        for job, lease in taken:
            hashlib.pbkdf2_hmac("sha256", b"work", b"", 20_000)  # leaves the database to the other worker
            store.succeed(lease, {"by": name})
            mine.append(job.job_id)
    engine.dispose()
    done.put((name, mine))


def test_concurrent_processes_lease_disjoint_jobs(database_url, store):
    ids = [store.submit(an_order(i)).job.job_id for i in range(60)]
    context = multiprocessing.get_context("spawn")
    begin, done = context.Barrier(2), context.Queue()
    workers = [context.Process(target=work, args=(database_url, name, begin, done)) for name in ("w1", "w2")]
    for worker in workers:
        worker.start()
    by = dict(done.get(timeout=300) for _ in workers)
    for worker in workers:
        worker.join()

    assert sorted(by["w1"] + by["w2"]) == ids
    assert by["w1"]
    assert by["w2"]
    assert {store.get(job_id, "public").result["by"] for job_id in by["w1"]} == {"w1"}
    sequences = [event.sequence for event in store.log.read(owner="public", after=0, limit=1000)]
    assert sequences == sorted(sequences)
    assert len(sequences) == 3 * len(ids)


def test_jobs_of_other_owners_are_not_found(store):
    job_id = store.submit(an_order(owner="other")).job.job_id
    for method in (store.get, store.cancel, store.retry):
        with pytest.raises(JobNotFound):
            method(job_id, "public")
    assert store.list("public", PageQuery(limit=10)) == []
    assert store.log.read(owner="public", after=0, limit=10) == []


def test_jobs_are_paginated_newest_first_and_filtered_by_state(store):
    ids = [store.submit(an_order(i)).job.job_id for i in range(5)]
    ((_, lease),) = take(store)
    store.fail(lease, {"code": "stage_failed"})
    first = store.list("public", PageQuery(limit=2))
    rest = store.list("public", PageQuery(limit=10, after=first[-1].job_id))
    assert [job.job_id for job in [*first, *rest]] == ids[::-1]
    (failed,) = store.list("public", PageQuery(limit=10), states=[JobState.FAILED])
    assert (failed.job_id, failed.problem) == (ids[0], {"code": "stage_failed"})


def test_only_settled_jobs_are_pruned(store):
    done, waiting = (store.submit(an_order(i)).job.job_id for i in range(2))
    ((_, lease),) = take(store)
    store.succeed(lease, {})
    store.prune(datetime.now(UTC) + timedelta(seconds=1))
    with pytest.raises(JobNotFound):
        store.get(done, "public")
    assert store.get(waiting, "public").state is JobState.QUEUED

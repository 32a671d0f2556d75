"""The event feed over a real log: order, resumption, slow subscribers, and several processes with one hub."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from graphs.events import feed as feeds
from graphs.events.feed import EventFeed
from pipeline.event_records import EventRecord
from pipeline.store import EventLog, open_database
from pipeline.store.log import log
from testing.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_log(tmp_path) -> Callable[[], EventLog]:
    """Return a function that opens the log like another process."""
    return lambda: EventLog(open_database(f"sqlite:///{tmp_path / 'truth.sqlite'}"))


class FakeHub:
    """The hub actor in this process; `silent` makes it fail."""

    def __init__(self) -> None:
        self.connections: list[FakeConnection] = []
        self.silent = False

    def connect(self) -> FakeConnection:
        self.connections.append(FakeConnection(self))
        return self.connections[-1]


class FakeConnection:
    """The connection of one feed to the hub."""

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.has_peers = True
        self.received: asyncio.Queue[Sequence[EventRecord]] = asyncio.Queue()

    async def publish(self, transient: Sequence[EventRecord]) -> None:
        if self.hub.silent:
            raise ConnectionError
        for connection in self.hub.connections:
            if connection is not self:
                connection.received.put_nowait(transient)

    async def listen(self) -> Sequence[EventRecord]:
        return await self.received.get()


def write(log_: EventLog, *names: str, owner: str = "public", job_id: str | None = None) -> None:
    with log_.writing() as connection:
        for name in names:
            log(connection, name, owner, job_id=job_id, payload={})


def step(number: int, owner: str = "public", job_id: str = "j") -> EventRecord:
    return EventRecord(
        sequence=None,
        type="generation.stepped",
        owner=owner,
        image_id=None,
        job_id=job_id,
        payload={"step": number},
        created_at=datetime.now(UTC),
    )


async def taken(feed: EventFeed, number: int, **filters) -> list[EventRecord]:
    found: list[EventRecord] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(feed.follow("public", **filters)) as records:
        async for record in records:
            found.append(record)
            if len(found) == number:
                break
    return found


async def test_logged_events_are_delivered_before_new_ones(open_log):
    log_ = open_log()
    write(log_, "a", "b", "c")
    feed = EventFeed(log_, None)
    following = asyncio.create_task(taken(feed, 4, after=1))
    await until(lambda: feed.num_streams == 1)
    await asyncio.to_thread(write, log_, "d", "e")
    assert [(record.sequence, record.type) for record in await following] == [(2, "b"), (3, "c"), (4, "d"), (5, "e")]
    feed.stop()


async def test_a_stream_is_filtered_by_owner_type_and_job(open_log):
    log_ = open_log()
    feed = EventFeed(log_, None)
    write(log_, "a", owner="other")
    write(log_, "a", job_id="j")
    write(log_, "b", job_id="j")
    write(log_, "a", job_id="k")
    assert [record.job_id for record in await taken(feed, 2, after=0, types={"a"})] == ["j", "k"]
    assert [record.type for record in await taken(feed, 2, after=0, job_id="j")] == ["a", "b"]
    feed.stop()


async def test_a_step_is_delivered_after_the_facts_logged_before_it(open_log):
    log_ = open_log()
    feed = EventFeed(log_, None)
    following = asyncio.create_task(taken(feed, 40))
    await until(lambda: feed.num_streams == 1)
    for number in range(20):
        await asyncio.to_thread(write, log_, "fact")
        feed.publish(step(number))
    received = await following
    facts = [record.sequence for record in received if record.sequence]
    assert facts == list(range(1, 21))
    assert [record.payload["step"] for record in received if record.sequence is None] == list(range(20))
    for i, record in enumerate(received):
        if record.sequence is None:
            assert record.payload["step"] + 1 in [earlier.sequence for earlier in received[:i]]
    feed.stop()


class SlowLog(EventLog):
    """A log whose reads block while `may_read` is cleared."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.may_read = threading.Event()
        self.may_read.set()

    def read(self, **filters) -> Sequence[EventRecord]:
        assert self.may_read.wait(PATIENCE_S)
        return super().read(**filters)


async def test_steps_are_delivered_before_the_end_of_their_job_even_if_the_log_is_read_late(open_log):
    log_ = SlowLog(open_log().engine)
    feed = EventFeed(log_, None)
    following = asyncio.create_task(taken(feed, 7))
    await until(lambda: feed.num_streams == 1)
    log_.may_read.clear()
    await asyncio.to_thread(write, log_, "job.started", job_id="j")
    for number in range(3):
        feed.publish(step(number))
    feed.publish(step(9, job_id="k"))
    await asyncio.to_thread(write, log_, "image.created", "job.succeeded", job_id="j")
    log_.may_read.set()

    seen = [record.payload.get("step", record.type) for record in await following]
    assert seen == ["job.started", 0, 1, 2, "image.created", "job.succeeded", 9]
    feed.stop()


async def test_a_step_after_the_end_of_its_job_is_dropped_unless_the_job_is_retried(open_log):
    hub = FakeHub()
    log_ = open_log()
    connection = hub.connect()
    feed = EventFeed(log_, connection)
    seen: list[str | int] = []

    async def follow() -> None:
        async for record in feed.follow("public"):
            seen.append(record.payload.get("step", record.type))  # noqa: PERF401  # the test reads it meanwhile

    following = asyncio.create_task(follow())
    await until(lambda: feed.num_streams == 1)
    await asyncio.to_thread(write, log_, "job.failed", job_id="j")
    await until(lambda: seen == ["job.failed"])
    connection.received.put_nowait([step(1), step(8, job_id="k")])
    await until(lambda: seen == ["job.failed", 8])
    await asyncio.to_thread(write, log_, "job.retried", "job.started", job_id="j")
    await until(lambda: seen[2:] == ["job.retried", "job.started"])
    connection.received.put_nowait([step(2)])
    await until(lambda: seen[4:] == [2])
    following.cancel()
    feed.stop()


async def test_a_late_subscriber_receives_the_newest_step(open_log):
    feed = EventFeed(open_log(), None)
    await feed.start()
    for number in range(3):
        feed.publish(step(number))
    await taken(feed, 1, job_id="j")  # every published step has arrived
    (newest,) = await taken(feed, 1, job_id="j")
    assert newest.payload == {"step": 2}
    feed.stop()


async def test_a_slow_subscriber_loses_its_stream_but_no_fact(open_log, monkeypatch):
    monkeypatch.setattr(feeds, "MAX_WAITING", 30)
    monkeypatch.setattr(feeds, "PAGE", 3)
    log_ = open_log()
    feed = EventFeed(log_, None)
    slow = feed.follow("public")
    first_record = asyncio.ensure_future(anext(slow))
    quick = asyncio.create_task(taken(feed, 100, after=0))
    await until(lambda: feed.num_streams == 2)
    await asyncio.to_thread(write, log_, "fact")
    first = await first_record
    for _ in range(33):
        await asyncio.to_thread(write, log_, "fact", "fact", "fact")
    assert [record.sequence for record in await quick] == list(range(1, 101))

    read = [first.sequence] + [record.sequence async for record in slow]
    assert read == list(range(1, len(read) + 1))
    assert len(read) < 100
    rest = await taken(feed, 100 - len(read), after=read[-1])
    assert [record.sequence for record in rest] == list(range(len(read) + 1, 101))
    feed.stop()


async def test_closing_subscriptions_ends_followers_but_not_callers_that_wait(open_log):
    log_ = open_log()
    feed = EventFeed(log_, None)
    write(log_, "a")
    following = asyncio.create_task(taken(feed, 10, after=0))
    async with feed.stream("public") as waited_for:
        await until(lambda: feed.num_streams == 2)
        feed.close_subscriptions()
        assert [record.type for record in await following] == ["a"]
        assert waited_for.waiting.empty()
    write(log_, "b")
    assert [record.type for record in await taken(feed, 1, after=1)] == ["b"]
    feed.stop()


@pytest.mark.parametrize("silent", [False, True], ids=["hub", "dead hub"])
async def test_events_of_one_process_are_received_in_another(open_log, monkeypatch, silent):
    monkeypatch.setattr(feeds, "POLL_S", 0.05 if silent else 60)
    hub = FakeHub()
    hub.silent = silent
    log_ = open_log()
    here, there = EventFeed(log_, hub.connect()), EventFeed(open_log(), hub.connect())
    await here.start()
    following = asyncio.create_task(taken(there, 1 if silent else 2))
    await until(lambda: there.num_streams == 1)
    await asyncio.to_thread(write, log_, "fact")
    here.publish(step(7))
    fact, *steps = await following
    assert fact.type == "fact"
    assert [record.payload for record in steps] == ([] if silent else [{"step": 7}])
    here.stop()
    there.stop()


async def test_fifty_reconnecting_subscribers_receive_every_fact_once_and_in_order(open_log, seed):
    """Two processes publish to 50 subscribers, which disconnect and resume from their last sequence number."""
    rng = random.Random(seed)
    hub = FakeHub()
    logs = [open_log(), open_log()]
    processes = [EventFeed(log_, hub.connect()) for log_ in logs]
    for feed in processes:
        await feed.start()
    total = 400

    async def subscribe() -> list[int]:
        seen: list[int] = []
        while len(seen) < total:
            remaining = rng.randint(1, 60)
            feed = rng.choice(processes)
            async with aclosing(feed.follow("public", after=seen[-1] if seen else 0)) as records:
                async for record in records:
                    if record.sequence is not None:
                        seen.append(record.sequence)
                    remaining -= 1
                    if len(seen) == total or remaining == 0:
                        break
        return seen

    async def publish(number: int) -> None:
        for _ in range(total // 4):
            await asyncio.to_thread(write, logs[number], "a", "b")
            processes[number].publish(step(number))

    async with asyncio.timeout(PATIENCE_S):
        subscribers = [asyncio.create_task(subscribe()) for _ in range(50)]
        await asyncio.gather(publish(0), publish(1))
        for seen in await asyncio.gather(*subscribers):
            assert seen == list(range(1, total + 1)), f"seed {seed}"
    for feed in processes:
        feed.stop()

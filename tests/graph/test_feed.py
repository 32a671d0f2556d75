"""The feed over a real log: order, resumption, slow readers, and several processes round one hub."""

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
from pipeline.notices import Notice
from pipeline.store import EventLog, open_database
from pipeline.store.log import log
from testing.waiting import PATIENCE_S, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def open_log(tmp_path) -> Callable[[], EventLog]:
    """Opens the log as another process would."""
    return lambda: EventLog(open_database(f"sqlite:///{tmp_path / 'truth.sqlite'}"))


class FakeHub:
    """The actor's behaviour in this process; `silent` makes it a dead one."""

    def __init__(self) -> None:
        self.ears: list[FakeEar] = []
        self.silent = False

    def ear(self) -> FakeEar:
        self.ears.append(FakeEar(self))
        return self.ears[-1]


class FakeEar:
    """One feed's side of the hub."""

    def __init__(self, hub: FakeHub) -> None:
        self.hub = hub
        self.has_peers = True
        self.heard: asyncio.Queue[Sequence[Notice]] = asyncio.Queue()

    async def publish(self, passing: Sequence[Notice]) -> None:
        if self.hub.silent:
            raise ConnectionError
        for ear in self.hub.ears:
            if ear is not self:
                ear.heard.put_nowait(passing)

    async def listen(self) -> Sequence[Notice]:
        return await self.heard.get()


def write(log_: EventLog, *names: str, owner: str = "public", job_id: str | None = None) -> None:
    with log_.writing() as connection:
        for name in names:
            log(connection, name, owner, job_id=job_id, payload={})


def step(number: int, owner: str = "public", job_id: str = "j") -> Notice:
    return Notice(
        sequence=None,
        type="generation.stepped",
        owner=owner,
        image_id=None,
        job_id=job_id,
        payload={"step": number},
        created_at=datetime.now(UTC),
    )


async def taken(feed: EventFeed, number: int, **choice) -> list[Notice]:
    found: list[Notice] = []
    async with asyncio.timeout(PATIENCE_S), aclosing(feed.follow("public", **choice)) as notices:
        async for notice in notices:
            found.append(notice)
            if len(found) == number:
                break
    return found


async def test_what_was_logged_before_comes_first_and_then_what_happens(open_log):
    log_ = open_log()
    write(log_, "a", "b", "c")
    feed = EventFeed(log_, None)
    following = asyncio.create_task(taken(feed, 4, after=1))
    await until(lambda: feed.num_streams == 1)
    await asyncio.to_thread(write, log_, "d", "e")
    assert [(notice.sequence, notice.type) for notice in await following] == [(2, "b"), (3, "c"), (4, "d"), (5, "e")]
    feed.stop()


async def test_a_stream_holds_what_its_reader_may_see_and_wants(open_log):
    log_ = open_log()
    feed = EventFeed(log_, None)
    write(log_, "a", owner="somebody")
    write(log_, "a", job_id="j")
    write(log_, "b", job_id="j")
    write(log_, "a", job_id="k")
    assert [notice.job_id for notice in await taken(feed, 2, after=0, types={"a"})] == ["j", "k"]
    assert [notice.type for notice in await taken(feed, 2, after=0, job_id="j")] == ["a", "b"]
    feed.stop()


async def test_what_passes_comes_after_what_was_logged_before_it(open_log):
    log_ = open_log()
    feed = EventFeed(log_, None)
    following = asyncio.create_task(taken(feed, 40))
    await until(lambda: feed.num_streams == 1)
    for number in range(20):
        await asyncio.to_thread(write, log_, "fact")
        feed.publish(step(number))
    told = await following
    facts = [notice.sequence for notice in told if notice.sequence]
    assert facts == list(range(1, 21))
    assert [notice.payload["step"] for notice in told if notice.sequence is None] == list(range(20))
    for i, notice in enumerate(told):
        if notice.sequence is None:
            assert notice.payload["step"] + 1 in [earlier.sequence for earlier in told[:i]]
    feed.stop()


class SlowLog(EventLog):
    """A log that is read only while `may_read` is set."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.may_read = threading.Event()
        self.may_read.set()

    def read(self, **choice) -> Sequence[Notice]:
        assert self.may_read.wait(PATIENCE_S)
        return super().read(**choice)


async def test_steps_come_before_the_end_of_their_job_however_late_the_log_is_read(open_log):
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

    seen = [notice.payload.get("step", notice.type) for notice in await following]
    assert seen == ["job.started", 0, 1, 2, "image.created", "job.succeeded", 9]
    feed.stop()


async def test_a_step_that_arrives_after_its_job_s_end_is_dropped_unless_the_job_begins_again(open_log):
    hub = FakeHub()
    log_ = open_log()
    ear = hub.ear()
    feed = EventFeed(log_, ear)
    seen: list[str | int] = []

    async def follow() -> None:
        async for notice in feed.follow("public"):
            seen.append(notice.payload.get("step", notice.type))  # noqa: PERF401  # it is looked at meanwhile

    following = asyncio.create_task(follow())
    await until(lambda: feed.num_streams == 1)
    await asyncio.to_thread(write, log_, "job.failed", job_id="j")
    await until(lambda: seen == ["job.failed"])
    ear.heard.put_nowait([step(1), step(8, job_id="k")])
    await until(lambda: seen == ["job.failed", 8])
    await asyncio.to_thread(write, log_, "job.retried", "job.started", job_id="j")
    await until(lambda: seen[2:] == ["job.retried", "job.started"])
    ear.heard.put_nowait([step(2)])
    await until(lambda: seen[4:] == [2])
    following.cancel()
    feed.stop()


async def test_who_comes_late_is_told_the_newest_step(open_log):
    feed = EventFeed(open_log(), None)
    await feed.start()
    for number in range(3):
        feed.publish(step(number))
    await taken(feed, 1, job_id="j")  # whatever was on its way has arrived
    (newest,) = await taken(feed, 1, job_id="j")
    assert newest.payload == {"step": 2}
    feed.stop()


async def test_a_slow_reader_loses_its_stream_and_no_fact(open_log, monkeypatch):
    monkeypatch.setattr(feeds, "MAX_WAITING", 30)
    monkeypatch.setattr(feeds, "PAGE", 3)
    log_ = open_log()
    feed = EventFeed(log_, None)
    slow = feed.follow("public")
    beginning = asyncio.ensure_future(anext(slow))
    quick = asyncio.create_task(taken(feed, 100, after=0))
    await until(lambda: feed.num_streams == 2)
    await asyncio.to_thread(write, log_, "fact")
    first = await beginning
    for _ in range(33):
        await asyncio.to_thread(write, log_, "fact", "fact", "fact")
    assert [notice.sequence for notice in await quick] == list(range(1, 101))

    read = [first.sequence] + [notice.sequence async for notice in slow]
    assert read == list(range(1, len(read) + 1))
    assert len(read) < 100
    rest = await taken(feed, 100 - len(read), after=read[-1])
    assert [notice.sequence for notice in rest] == list(range(len(read) + 1, 101))
    feed.stop()


async def test_readers_who_are_sent_away_come_back_and_others_stay(open_log):
    log_ = open_log()
    feed = EventFeed(log_, None)
    write(log_, "a")
    following = asyncio.create_task(taken(feed, 10, after=0))
    async with feed.stream("public") as waited_for:
        await until(lambda: feed.num_streams == 2)
        feed.close_subscriptions()
        assert [notice.type for notice in await following] == ["a"]
        assert waited_for.waiting.empty()
    write(log_, "b")
    assert [notice.type for notice in await taken(feed, 1, after=1)] == ["b"]
    feed.stop()


@pytest.mark.parametrize("silent", [False, True], ids=["hub", "dead hub"])
async def test_what_happens_in_one_process_is_told_in_another(open_log, monkeypatch, silent):
    monkeypatch.setattr(feeds, "POLL_S", 0.05 if silent else 60)
    hub = FakeHub()
    hub.silent = silent
    log_ = open_log()
    here, there = EventFeed(log_, hub.ear()), EventFeed(open_log(), hub.ear())
    await here.start()
    following = asyncio.create_task(taken(there, 1 if silent else 2))
    await until(lambda: there.num_streams == 1)
    await asyncio.to_thread(write, log_, "fact")
    here.publish(step(7))
    fact, *passed = await following
    assert fact.type == "fact"
    assert [notice.payload for notice in passed] == ([] if silent else [{"step": 7}])
    here.stop()
    there.stop()


async def test_fifty_readers_that_come_and_go_see_every_fact_once_and_in_order(open_log, seed):
    """Two processes write, and read for 25 readers each; readers leave and resume by the last number they know."""
    dice = random.Random(seed)
    hub = FakeHub()
    logs = [open_log(), open_log()]
    processes = [EventFeed(log_, hub.ear()) for log_ in logs]
    for feed in processes:
        await feed.start()
    total = 400

    async def reads() -> list[int]:
        seen: list[int] = []
        while len(seen) < total:
            patience = dice.randint(1, 60)
            feed = dice.choice(processes)
            async with aclosing(feed.follow("public", after=seen[-1] if seen else 0)) as notices:
                async for notice in notices:
                    if notice.sequence is not None:
                        seen.append(notice.sequence)
                    patience -= 1
                    if len(seen) == total or patience == 0:
                        break
        return seen

    async def writes(number: int) -> None:
        for _ in range(total // 4):
            await asyncio.to_thread(write, logs[number], "a", "b")
            processes[number].publish(step(number))

    async with asyncio.timeout(PATIENCE_S):
        readers = [asyncio.create_task(reads()) for _ in range(50)]
        await asyncio.gather(writes(0), writes(1))
        for seen in await asyncio.gather(*readers):
            assert seen == list(range(1, total + 1)), f"seed {seed}"
    for feed in processes:
        feed.stop()

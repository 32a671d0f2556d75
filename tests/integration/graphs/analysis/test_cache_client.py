"""The cache client: a deadline on every call, a pause after a failure, renewed leases."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace

import pytest

from graphs.analysis.cache_client import PAUSE_S, CacheClient
from pipeline.cache import Busy, CacheKey, Hit, Lease, LeasedLru
from pipeline.settings import CacheSettings
from testing.fakes import FakeCache
from testing.waiting import until

pytestmark = pytest.mark.anyio

KEY = CacheKey(owner="o", digest="d", stage="segment", model="m", parameters="p")
SHORT_DEADLINE = CacheSettings(call_deadline_s=0.01)
LONG_DEADLINE = CacheSettings(call_deadline_s=30, lease_s=0.01)  # renewed every 3 ms


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class CountingCache(FakeCache):
    """Counts its calls; its leases have their own clock, which each renewal advances by half a lease."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.broken = False
        self.slow = asyncio.Event()  # replies to acquire wait for it
        self.slow.set()
        self.clock = Clock()
        self.entries = LeasedLru(1 << 20, lease_s=10, clock=self.clock)

    async def acquire(self, key: str) -> Hit[bytes] | Lease | Busy:
        await self._count("acquire")
        reply = await super().acquire(key)
        await self.slow.wait()
        return reply

    async def renew(self, key: str, token: int) -> bool:
        await self._count("renew")
        self.clock.now_s += 5
        return await super().renew(key, token)

    async def release(self, key: str, token: int) -> None:
        await self._count("release")
        await super().release(key, token)

    async def put(self, key: str, value: bytes) -> None:
        await self._count("put")
        await super().put(key, value)

    async def _count(self, operation: str) -> None:
        self.calls[operation] += 1
        if self.broken:
            raise ConnectionError("the actor is gone")


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The client's clock."""
    clock = Clock()
    monkeypatch.setattr("graphs.analysis.cache_client.time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
async def actor(anyio_backend: str) -> CountingCache:
    return CountingCache()


@pytest.fixture
def bypassed() -> list[tuple[str, str]]:
    return []


def client_of(actor: FakeCache, settings: CacheSettings, bypassed: list[tuple[str, str]]) -> CacheClient:
    return CacheClient(actor, settings, lambda *call: bypassed.append(call))


async def test_a_value_put_by_one_client_is_a_hit_for_another(actor, bypassed):
    one, two = (client_of(actor, LONG_DEADLINE, bypassed) for _ in range(2))
    assert isinstance(await one.acquire(KEY, "r1"), Lease)
    await one.put(KEY, b"value", "r1")
    assert await two.acquire(KEY, "r2") == Hit(value=b"value")
    assert bypassed == []


@pytest.mark.parametrize("failure", ["silent", "broken"])
async def test_a_failed_acquire_is_reported_and_the_next_ones_bypass_the_cache(actor, bypassed, failure):
    setattr(actor, failure, True)
    client = client_of(actor, SHORT_DEADLINE, bypassed)

    for _ in range(3):
        assert await client.acquire(KEY, "r") is None

    assert bypassed == [("acquire", "r")]
    assert actor.calls == {"acquire": 1}


@pytest.mark.parametrize("failure", ["silent", "broken"])
async def test_a_failed_put_is_reported_and_raises_no_error(actor, bypassed, failure):
    setattr(actor, failure, True)
    client = client_of(actor, SHORT_DEADLINE, bypassed)

    await client.put(KEY, b"value", "r")

    assert bypassed == [("put", "r")]


async def test_the_cache_is_called_again_after_a_pause(actor, bypassed, clock):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    actor.broken = True
    await client.acquire(KEY, "r1")
    actor.broken = False

    clock.now_s += 0.9 * PAUSE_S
    assert await client.acquire(KEY, "r2") is None
    clock.now_s += 0.2 * PAUSE_S
    assert isinstance(await client.acquire(KEY, "r3"), Lease)

    assert bypassed == [("acquire", "r1")]


async def test_each_failure_after_a_pause_is_reported(actor, bypassed, clock):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    actor.broken = True
    for request_id in ("r1", "r2"):
        await client.acquire(KEY, request_id)
        clock.now_s += PAUSE_S

    assert bypassed == [("acquire", "r1"), ("acquire", "r2")]


async def test_a_failed_put_does_not_pause_acquire(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    actor.broken = True
    await client.put(KEY, b"value", "r")
    actor.broken = False
    assert isinstance(await client.acquire(KEY, "r"), Lease)


async def test_a_lease_granted_after_the_deadline_is_released(actor, bypassed):
    client = client_of(actor, SHORT_DEADLINE, bypassed)
    actor.slow = asyncio.Event()
    assert await client.acquire(KEY, "r") is None

    actor.slow.set()
    await until(lambda: actor.calls["release"])

    assert isinstance(actor.entries.acquire(str(KEY)), Lease)


async def test_a_lease_for_a_cancelled_caller_is_released(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    actor.slow = asyncio.Event()
    caller = asyncio.create_task(client.acquire(KEY, "r"))
    await until(lambda: actor.calls["acquire"])
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)

    actor.slow.set()
    await until(lambda: actor.calls["release"])

    assert caller.cancelled()
    assert isinstance(actor.entries.acquire(str(KEY)), Lease)
    assert bypassed == []


async def test_a_caller_that_finds_a_key_busy_waits_for_its_value(actor, bypassed):
    holder, waiter = (client_of(actor, LONG_DEADLINE, bypassed) for _ in range(2))
    await holder.acquire(KEY, "r1")
    waiting = asyncio.create_task(waiter.acquire(KEY, "r2"))
    await until(lambda: actor.entries.stats.waits)

    await holder.put(KEY, b"value", "r1")

    assert await waiting == Hit(value=b"value")


async def test_a_waiting_caller_gets_the_released_lease(actor, bypassed):
    holder, waiter = (client_of(actor, LONG_DEADLINE, bypassed) for _ in range(2))
    lease = await holder.acquire(KEY, "r1")
    async with holder.holding(KEY, lease, "r1"):
        waiting = asyncio.create_task(waiter.acquire(KEY, "r2"))
        await until(lambda: actor.entries.stats.waits)

    assert isinstance(await waiting, Lease)


async def test_a_lease_is_renewed_while_it_is_held(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    lease = await client.acquire(KEY, "r")

    async with client.holding(KEY, lease, "r"):
        await until(lambda: actor.calls["renew"] >= 5)  # 25 s of a lease of 10 s
        assert actor.entries.acquire(str(KEY)) == Busy()

    renewals = actor.calls["renew"]
    assert actor.calls["release"] == 1
    assert isinstance(actor.entries.acquire(str(KEY)), Lease)
    await asyncio.sleep(0)
    assert actor.calls["renew"] == renewals


async def test_a_lease_is_released_when_the_work_fails(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    lease = await client.acquire(KEY, "r")

    with pytest.raises(ValueError, match="odd"):
        async with client.holding(KEY, lease, "r"):
            raise ValueError("odd")

    assert isinstance(actor.entries.acquire(str(KEY)), Lease)


async def test_a_lease_is_released_when_the_work_is_cancelled(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    lease = await client.acquire(KEY, "r")
    held = asyncio.Event()

    async def work() -> None:
        async with client.holding(KEY, lease, "r"):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await held.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert task.cancelled()
    assert isinstance(actor.entries.acquire(str(KEY)), Lease)


async def test_a_value_outlives_its_lease(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    lease = await client.acquire(KEY, "r")
    async with client.holding(KEY, lease, "r"):
        await client.put(KEY, b"value", "r")
    assert await client.acquire(KEY, "r") == Hit(value=b"value")


async def test_a_cache_that_dies_during_the_work_raises_no_error(actor, bypassed):
    client = client_of(actor, SHORT_DEADLINE, bypassed)
    lease = await client.acquire(KEY, "r")
    async with client.holding(KEY, lease, "r"):
        actor.silent = True
        await client.put(KEY, b"value", "r")
    assert bypassed == [("put", "r"), ("release", "r")]


async def test_holding_without_a_lease_calls_nothing(actor, bypassed):
    client = client_of(actor, LONG_DEADLINE, bypassed)
    async with client.holding(KEY, None, "r"):
        await asyncio.sleep(0)
    assert not actor.calls

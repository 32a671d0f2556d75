"""The shared segmentation cache: one named, detached Ray actor around `pipeline.cache.LeasedLru`.

Lossy by design. It is back within a second of a crash, empty, and no caller may depend on it: every call has a
deadline (see `graphs.analysis.cache_client`), after which the caller computes without it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TypeAlias, cast

import ray
from ray.util.metrics import Counter, Gauge

from deployments import detached_actor
from pipeline.cache import Busy, Hit, Lease, LeasedLru
from pipeline.settings import CacheSettings

PROTOCOL = 1  # raised when a method's meaning changes; versions run concurrently during a rollout
INLINE_BYTES = 1 << 20  # larger values go into the object store, owned by this actor so that they live as long
REPORT_INTERVAL_S = 2.0  # a gauge that isn't set repeatedly vanishes from the exporter
COUNTS = ("hits", "misses", "waits", "evictions")

Value: TypeAlias = "bytes | ray.ObjectRef"


class SegmentationCache:
    """Single flight and LRU for every replica in the cluster."""

    def __init__(self, settings: CacheSettings) -> None:
        self._entries: LeasedLru[Value] = LeasedLru(settings.max_bytes, settings.lease_s, time.monotonic)
        self._idle_exit_s = settings.idle_exit_s
        self._changed: dict[str, asyncio.Event] = {}
        self._last_call_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._reporter = self._loop.create_task(self._report())

    async def acquire(self, key: str) -> Hit[Value] | Lease | Busy:
        """Acquire a key; see `LeasedLru.acquire`."""
        self._last_call_at = time.monotonic()
        return self._entries.acquire(key)

    @ray.method(concurrency_group="waiters")  # type: ignore[untyped-decorator]
    async def wait(self, key: str, timeout_s: float) -> None:
        """Return when the key's computation has succeeded or failed, or after `timeout_s`.

        Waiters have a concurrency group of their own, or enough of them would keep `put` from ever running. Ray runs
        each group in its own thread with its own event loop, so the waiting itself runs on the loop of the others.
        """
        waiting = asyncio.run_coroutine_threadsafe(self._wait(key, timeout_s), self._loop)
        await asyncio.wrap_future(waiting)

    async def renew(self, key: str, token: int) -> bool:
        """Renew a lease; return False if it was lost."""
        return self._entries.renew(key, token)

    async def release(self, key: str, token: int) -> None:
        """Release a lease without a value and wake the waiters: one of them acquires it."""
        self._entries.release(key, token)
        self._wake(key)

    async def put(self, key: str, value: bytes) -> None:
        """Store a value and wake its waiters."""
        self._entries.put(key, value if len(value) <= INLINE_BYTES else ray.put(value), len(value))
        self._wake(key)

    async def stats(self) -> dict[str, int]:
        """Return the counts of `CacheStats`."""
        return asdict(self._entries.stats)

    async def _wait(self, key: str, timeout_s: float) -> None:
        if not self._entries.is_busy(key):
            return
        changed = self._changed.setdefault(key, asyncio.Event())
        try:
            await asyncio.wait_for(changed.wait(), timeout_s)
        except TimeoutError:
            return

    async def end(self) -> None:
        """End this actor; `exit_actor` works only within a call of its own."""
        ray.actor.exit_actor()

    def _wake(self, key: str) -> None:
        if event := self._changed.pop(key, None):
            event.set()

    async def _report(self) -> None:
        counters = {
            name: Counter(f"pipeline_cache_{name}", description=f"Segmentation cache: {name}.") for name in COUNTS
        }
        gauges = {
            "entries": Gauge("pipeline_cache_entries", description="Segmentation cache: values kept."),
            "size_bytes": Gauge("pipeline_cache_bytes", description="Segmentation cache: bytes kept."),
        }
        reported = dict.fromkeys(COUNTS, 0)
        while time.monotonic() - self._last_call_at < self._idle_exit_s:
            now = await self.stats()
            for name, counter in counters.items():
                if now[name] > reported[name]:
                    counter.inc(now[name] - reported[name])
                    reported[name] = now[name]
            for name, gauge in gauges.items():
                gauge.set(now[name])
            for key in self._entries.expire():  # their holders died
                self._wake(key)
            await asyncio.sleep(min(REPORT_INTERVAL_S, self._idle_exit_s))
        ray.get_runtime_context().current_actor.end.remote()


def find_or_start(settings: CacheSettings, shard: int = 0) -> ray.actor.ActorHandle:
    """Return the running cache actor, or start one."""
    actor = ray.remote(concurrency_groups={"waiters": 10_000})(SegmentationCache)
    return detached_actor.find_or_start(actor, f"segmentation-cache-v{PROTOCOL}-{shard}", settings, num_cpus=0.1)


class RemoteCache:
    """A client of the actor: plain awaitable methods, values as bytes."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._actor = find_or_start(settings)

    async def acquire(self, key: str) -> Hit[bytes] | Lease | Busy:
        reply = await self._call("acquire", key)
        if isinstance(reply, Hit) and isinstance(reply.value, ray.ObjectRef):
            return Hit(value=await reply.value)
        return cast("Hit[bytes] | Lease | Busy", reply)

    async def wait(self, key: str, timeout_s: float) -> None:
        await self._call("wait", key, timeout_s)

    async def renew(self, key: str, token: int) -> bool:
        return bool(await self._call("renew", key, token))

    async def release(self, key: str, token: int) -> None:
        await self._call("release", key, token)

    async def put(self, key: str, value: bytes) -> None:
        await self._call("put", key, value)

    async def _call(self, method: str, *args: object) -> object:
        try:
            return await getattr(self._actor, method).remote(*args)
        except ray.exceptions.ActorDiedError:  # permanently: it ended itself, or its node is gone
            self._actor = find_or_start(self._settings)
            raise

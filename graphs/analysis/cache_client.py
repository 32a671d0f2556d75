"""The flow's side of the shared cache: deadlines on every call, and no error ever.

A cache that is dead, slow or empty means computing again. After a question that got no answer, no more are asked for
a second, so that a dead cache costs one deadline and not one for every stage of a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from pipeline.cache import Busy, CacheKey, Hit, Lease
from pipeline.settings import CacheSettings
from pipeline.traces import span

T = TypeVar("T")

WAIT_S = 2.0  # one long poll; a waiter asks again after it
PAUSE_S = 1.0  # after a question that got no answer
BYTES_PER_S = 10_000_000  # what a value's transfer adds to the deadline
RENEW_SHARE = 0.3  # of a lease's life, after which it is renewed


class CacheActor(Protocol):
    """What the client asks of the cache: `deployments.segmentation_cache.RemoteCache`, or a test's own."""

    async def acquire(self, key: str) -> Hit[bytes] | Lease | Busy: ...
    async def wait(self, key: str, timeout_s: float) -> None: ...
    async def renew(self, key: str, token: int) -> bool: ...
    async def release(self, key: str, token: int) -> None: ...
    async def put(self, key: str, value: bytes) -> None: ...


class CacheClient:
    """Asks the cache with a deadline.

    Args:
        actor: the cache, or a stand-in.
        settings: deadline and lease.
        bypassed: told each operation that got no answer, and the request it was for.
    """

    def __init__(self, actor: CacheActor, settings: CacheSettings, bypassed: Callable[[str, str], None]) -> None:
        self._actor = actor
        self._settings = settings
        self._bypassed = bypassed
        self._resume_at = 0.0
        self._abandoned: set[asyncio.Future[None]] = set()

    async def acquire(self, key: CacheKey, request_id: str) -> Hit[bytes] | Lease | None:
        """Get the key's value or the right to compute it, waiting while someone else does; None without a cache."""
        while time.monotonic() >= self._resume_at:
            asked = asyncio.ensure_future(self._actor.acquire(str(key)))
            try:
                reply = await self._ask("acquire", request_id, asyncio.shield(asked))
            except asyncio.CancelledError:
                self._abandon(key, asked)
                raise
            if not isinstance(reply, Busy):
                if reply is None:
                    self._abandon(key, asked)
                return reply
            await self._ask("wait", request_id, self._actor.wait(str(key), WAIT_S), extra_s=WAIT_S)
        return None

    @asynccontextmanager
    async def holding(self, key: CacheKey, lease: Lease | None, request_id: str) -> AsyncIterator[None]:
        """Renew the lease while the block runs, and give it back at its end (after a `put` there is nothing left)."""
        if lease is None:
            yield
            return
        renewal = asyncio.create_task(self._renew(key, lease, request_id))
        try:
            yield
        finally:
            renewal.cancel()
            await self._ask("release", request_id, self._actor.release(str(key), lease.token))

    async def put(self, key: CacheKey, value: bytes, request_id: str) -> None:
        """Keep a value, if the cache answers."""
        await self._ask("put", request_id, self._actor.put(str(key), value), extra_s=len(value) / BYTES_PER_S)

    async def _renew(self, key: CacheKey, lease: Lease, request_id: str) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s * RENEW_SHARE)
            await self._ask("renew", request_id, self._actor.renew(str(key), lease.token))

    async def _ask(self, operation: str, request_id: str, call: Awaitable[T], extra_s: float = 0.0) -> T | None:
        try:
            with span(f"cache {operation}"):
                async with asyncio.timeout(self._settings.call_deadline_s + extra_s):
                    return await call
        except Exception:  # whatever is wrong with the cache, the work goes on
            if operation in ("acquire", "wait"):
                self._resume_at = time.monotonic() + PAUSE_S
            self._bypassed(operation, request_id)
            return None

    def _abandon(self, key: CacheKey, asked: asyncio.Future[Any]) -> None:
        """Give back the lease that a question may still bring, after whoever asked has gone."""

        async def give_back() -> None:
            try:
                reply = await asked
                if isinstance(reply, Lease):
                    await self._actor.release(str(key), reply.token)
            except Exception:
                return  # the cache is dead, and the lease with it

        task = asyncio.ensure_future(give_back())
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

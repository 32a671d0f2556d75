"""Client of the shared cache: a deadline on every call, and no errors.

A cache that is dead, slow or empty means computing again. After a call without an answer none are made for a second,
so that a dead cache costs one deadline and not one for every stage of a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from pipeline.cache import Busy, CacheKey, Hit, Lease
from pipeline.settings import CacheSettings
from pipeline.traces import span

T = TypeVar("T")

logger = logging.getLogger("ai_pipeline")

WAIT_S = 2.0  # one long poll; a waiter repeats it
PAUSE_S = 1.0  # after a call without an answer
BYTES_PER_S = 10_000_000  # what a value's transfer adds to the deadline
RENEW_SHARE = 0.3  # of a lease's life, after which it is renewed


class CacheActor(Protocol):
    """The cache: `deployments.segmentation_cache.RemoteCache`, or a fake."""

    async def acquire(self, key: str) -> Hit[bytes] | Lease | Busy: ...
    async def wait(self, key: str, timeout_s: float) -> None: ...
    async def renew(self, key: str, token: int) -> bool: ...
    async def release(self, key: str, token: int) -> None: ...
    async def put(self, key: str, value: bytes) -> None: ...


class CacheClient:
    """Calls the cache with a deadline.

    Args:
        actor: the cache.
        settings: deadline and lease.
        bypassed: called with each operation without an answer, and the id of its request.
    """

    def __init__(self, actor: CacheActor, settings: CacheSettings, bypassed: Callable[[str, str], None]) -> None:
        self._actor = actor
        self._settings = settings
        self._bypassed = bypassed
        self._resume_at = 0.0
        self._abandoned: set[asyncio.Future[None]] = set()

    async def acquire(self, key: CacheKey, request_id: str) -> Hit[bytes] | Lease | None:
        """Return the key's value or a lease to compute it, after waiting for another holder; None without a cache."""
        while time.monotonic() >= self._resume_at:
            pending = asyncio.ensure_future(self._actor.acquire(str(key)))
            try:
                reply = await self._call("acquire", request_id, asyncio.shield(pending))
            except asyncio.CancelledError:
                self._abandon(key, pending)
                raise
            if not isinstance(reply, Busy):
                if reply is None:
                    self._abandon(key, pending)
                return reply
            await self._call("wait", request_id, self._actor.wait(str(key), WAIT_S), extra_s=WAIT_S)
        return None

    @asynccontextmanager
    async def holding(self, key: CacheKey, lease: Lease | None, request_id: str) -> AsyncIterator[None]:
        """Renew the lease while the block runs, and release it at its end (a `put` has ended it already)."""
        if lease is None:
            yield
            return
        renewal = asyncio.create_task(self._renew(key, lease, request_id))
        try:
            yield
        finally:
            renewal.cancel()
            await self._call("release", request_id, self._actor.release(str(key), lease.token))

    async def put(self, key: CacheKey, value: bytes, request_id: str) -> None:
        """Store a value, if the cache answers."""
        await self._call("put", request_id, self._actor.put(str(key), value), extra_s=len(value) / BYTES_PER_S)

    async def _renew(self, key: CacheKey, lease: Lease, request_id: str) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s * RENEW_SHARE)
            await self._call("renew", request_id, self._actor.renew(str(key), lease.token))

    async def _call(self, operation: str, request_id: str, call: Awaitable[T], extra_s: float = 0.0) -> T | None:
        try:
            with span(f"cache {operation}"):
                async with asyncio.timeout(self._settings.call_deadline_s + extra_s):
                    return await call
        except Exception as error:  # the result is computed without the cache
            if not isinstance(error, TimeoutError):
                logger.warning("The cache could not %s: %s: %s", operation, type(error).__name__, error)
            if operation in ("acquire", "wait"):
                self._resume_at = time.monotonic() + PAUSE_S
            self._bypassed(operation, request_id)
            return None

    def _abandon(self, key: CacheKey, pending: asyncio.Future[Any]) -> None:
        """Release the lease that a pending call may still return, after its caller has gone."""

        async def give_back() -> None:
            try:
                reply = await pending
                if isinstance(reply, Lease):
                    await self._actor.release(str(key), reply.token)
            except Exception:
                return  # the cache is dead, and its lease with it

        task = asyncio.ensure_future(give_back())
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)

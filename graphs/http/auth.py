"""API-key authentication, and rate and concurrency limits per owner.

All routes require authentication except `PUBLIC_PATHS`; new routes are protected by default.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from cachetools import TLRUCache
from fastapi.security.utils import get_authorization_scheme_param
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import Scope

from graphs.http.context import ANONYMOUS_OWNER, RequestContext, path_of
from pipeline.api_keys import ApiKey, token_digest
from pipeline.errors import ConcurrencyLimited, RateLimited, Unauthorized
from pipeline.settings import OwnerLimits
from pipeline.store import KeyStore

PUBLIC_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"})
PUBLIC_ASSETS = "/static-offline-docs/"  # of /docs
KNOWN_FOR_S = 10.0  # how long a revoked key lives at most
MAX_KNOWN = 1024
WINDOW_S = 60


class AccessControl:
    """Authenticates requests and enforces their owner's limits.

    Args:
        keys: all API keys; without them a request needs none, and is everyone's.
        limits: of each owner.
    """

    def __init__(self, keys: KeyStore | None = None, limits: OwnerLimits | None = None) -> None:
        self._api_keys = None if keys is None else ApiKeyCache(keys)
        limits = limits or OwnerLimits()
        self._rate = None if limits.requests_per_minute is None else RateLimiter(limits.requests_per_minute)
        self._max_concurrent = limits.concurrent_requests
        self._in_flight: Counter[str] = Counter()  # requests by owner

    @asynccontextmanager
    async def admit(self, scope: Scope) -> AsyncIterator[None]:
        """Authenticate a request, and count it as in flight while the block runs; its context gets owner and headers.

        Raises:
            Unauthorized: it has no key, or none the service knows.
            RateLimited, ConcurrencyLimited: its owner has had, or has, too many already.
        """
        path = path_of(scope)
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_ASSETS):
            yield
            return
        context = RequestContext.of(scope)
        context.key = await self._authenticate(scope)
        context.owner = owner = ANONYMOUS_OWNER if context.key is None else context.key.owner
        context.reauthenticate = partial(self._authenticate, scope)
        if self._rate is not None:
            allowance = self._rate.hit(owner)
            context.headers |= allowance.headers  # of refusals as well
            if not allowance.granted:
                raise RateLimited(limit=allowance.limit, retry_after_s=allowance.reset_s)
        with self._slot(owner):
            yield

    async def _authenticate(self, scope: Scope) -> ApiKey | None:
        if self._api_keys is None:
            return None  # whatever the header says: OpenAI's client always sends one
        scheme, token = get_authorization_scheme_param(Headers(scope=scope).get("authorization"))
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized(problem="This needs an API key.")
        key = await self._api_keys.authenticate(token)
        if key is None:
            raise Unauthorized(problem="The service does not know this API key, or it was revoked.")
        return key

    @contextmanager
    def _slot(self, owner: str) -> Iterator[None]:
        if self._max_concurrent is not None and self._in_flight[owner] >= self._max_concurrent:
            raise ConcurrencyLimited(limit=self._max_concurrent)
        self._in_flight[owner] += 1
        try:
            yield
        finally:
            self._in_flight[owner] -= 1
            if not self._in_flight[owner]:
                del self._in_flight[owner]


class ApiKeyCache:
    """Caches the key of each valid token for 10 s, so that not every request queries the database.

    Only valid tokens are cached: a new key works at once, and guesses take no memory.
    """

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._known: TLRUCache[str, tuple[ApiKey, float]] = TLRUCache(  # key and expiry, by digest
            MAX_KNOWN, ttu=lambda _, known, __: known[1], timer=lambda: time.monotonic()
        )

    def __len__(self) -> int:
        return len(self._known)

    async def authenticate(self, token: str) -> ApiKey | None:
        """Return the key of a token; None if it is unknown or revoked."""
        digest, now = token_digest(token), time.monotonic()
        known = self._known.get(digest)
        if known is not None:
            return known[0]
        key = await asyncio.to_thread(self._keys.authenticate, token)
        if key is not None:
            self._known[digest] = key, now + KNOWN_FOR_S  # of the time before the lookup: it was valid then
        return key


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimitStatus:
    """How many requests an owner may still send."""

    granted: bool  # the one that was just counted
    limit: int  # within a minute
    remaining: int
    reset_s: int  # until the oldest request that counts does so no more

    @property
    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers says it."""
        return {
            "RateLimit-Policy": f'"default";q={self.limit};w={WINDOW_S}',
            "RateLimit": f'"default";r={self.remaining};t={self.reset_s}',
        }


class RateLimiter:
    """Counts each owner's requests of the last minute.

    Args:
        limit: of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = RateLimitItemPerMinute(limit)
        self._windows = MovingWindowRateLimiter(MemoryStorage())

    def hit(self, owner: str) -> RateLimitStatus:
        """Count a request, if it is granted."""
        granted = self._windows.hit(self._limit, owner)
        window = self._windows.get_window_stats(self._limit, owner)
        reset_s = min(WINDOW_S, max(1, math.ceil(window.reset_time - time.time())))
        return RateLimitStatus(granted=granted, limit=self._limit.amount, remaining=window.remaining, reset_s=reset_s)

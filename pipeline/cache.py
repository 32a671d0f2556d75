"""The policy of the shared cache: who computes, who waits, what is evicted. No clock of its own, no locks, no I/O.

A key is asked for with `acquire`. The answer is a `Hit` (here it is), a `Lease` (compute it: nobody else will while
the lease lives) or `Busy` (somebody is computing it: wait, then ask again). Leases end by `put`, `release` or time,
so a crashed holder delays others by one lease at most.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

from pipeline.artifacts import FORMAT_VERSION

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """What decides a result: the pixels, what was done to them, by which model, with which parameters."""

    digest: str  # of the image
    stage: str
    model: str  # fingerprint; empty where no model takes part
    parameters: str  # digest of everything else that decides the result

    def __str__(self) -> str:
        return f"{self.digest}/{self.stage}/{self.model}/{self.parameters}/v{FORMAT_VERSION}"


def parameter_digest(*parts: str) -> str:
    """Shorten a stage's parameters, and the keys of the results it builds on, to 16 hex digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit(Generic[T]):
    """The value is here."""

    value: T


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The caller is to compute the value."""

    token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Somebody else is computing the value."""


@dataclass(kw_only=True, slots=True)
class CacheStats:
    """Counts since the cache was made; `size_bytes` and `entries` as of now."""

    hits: int = 0
    misses: int = 0  # leases given
    waits: int = 0  # callers told to wait
    evictions: int = 0
    entries: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class _Grant:
    token: int
    expires_at: float  # on the cache's clock


@dataclass(slots=True)
class LeasedLru(Generic[T]):
    """An LRU of values, bounded in bytes, with leases on what is missing.

    Args:
        max_bytes: what all values together may take; a larger value is not kept at all.
        lease_s: how long a lease lives unless renewed.
        clock: seconds that only grow.
    """

    max_bytes: int
    lease_s: float
    clock: Callable[[], float]
    stats: CacheStats = field(default_factory=CacheStats)
    _values: OrderedDict[str, tuple[T, int]] = field(default_factory=OrderedDict)
    _leases: dict[str, _Grant] = field(default_factory=dict)
    _tokens: count[int] = field(default_factory=lambda: count(1))

    def acquire(self, key: str) -> Hit[T] | Lease | Busy:
        """Ask for a key's value, or for the right to compute it."""
        if key in self._values:
            self._values.move_to_end(key)
            self.stats.hits += 1
            return Hit(value=self._values[key][0])
        if self._leased(key):
            self.stats.waits += 1
            return Busy()
        self.stats.misses += 1
        grant = _Grant(next(self._tokens), self.clock() + self.lease_s)
        self._leases[key] = grant
        return Lease(token=grant.token)

    def renew(self, key: str, token: int) -> bool:
        """Prolong a lease; False if it ran out and is someone else's now."""
        grant = self._leases.get(key)
        if grant is None or grant.token != token:
            return False
        grant.expires_at = self.clock() + self.lease_s
        return True

    def release(self, key: str, token: int) -> None:
        """Give a lease back without a value: the next caller computes."""
        grant = self._leases.get(key)
        if grant is not None and grant.token == token:
            del self._leases[key]

    def put(self, key: str, value: T, size_bytes: int) -> None:
        """Keep a value, whoever holds the lease (equal keys have equal values), and evict the least recently used."""
        self._leases.pop(key, None)
        self._drop(key)
        if size_bytes > self.max_bytes:
            return
        self._values[key] = (value, size_bytes)
        self.stats.size_bytes += size_bytes
        while self.stats.size_bytes > self.max_bytes:
            self._drop(next(iter(self._values)))
            self.stats.evictions += 1
        self.stats.entries = len(self._values)

    def is_busy(self, key: str) -> bool:
        """Whether waiting for the key makes sense: it has no value, and a living lease."""
        return key not in self._values and self._leased(key)

    def _leased(self, key: str) -> bool:
        grant = self._leases.get(key)
        if grant is not None and grant.expires_at <= self.clock():
            del self._leases[key]
            grant = None
        return grant is not None

    def _drop(self, key: str) -> None:
        if key in self._values:
            self.stats.size_bytes -= self._values.pop(key)[1]
            self.stats.entries = len(self._values)

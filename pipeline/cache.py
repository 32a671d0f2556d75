"""The policy of the shared cache: who computes, who waits, what is evicted. No clock of its own, no locks, no I/O.

A key is asked for with `acquire`. The answer is a `Hit` (here it is), a `Lease` (compute it: nobody else will while
the lease lives) or `Busy` (somebody is computing it: wait, then ask again). Leases end by `put`, `release` or time,
so a crashed holder delays others by one lease at most.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from pipeline.artifacts import FORMAT_VERSION

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """What decides a result: the pixels, what was done to them, by which model, with which parameters.

    And whose it is: nobody is answered faster because somebody else had the same picture analyzed, as that would tell.
    """

    owner: str
    digest: str  # of the image
    stage: str
    model: str  # fingerprint; `-` where no model takes part
    parameters: str  # digest of everything else that decides the result

    def __str__(self) -> str:
        return f"{self.owner}/{self.digest}/{self.stage}/{self.model}/{self.parameters}/v{FORMAT_VERSION}"


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


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """Counts since the cache was made; `size_bytes` and `entries` as of now."""

    hits: int
    misses: int  # leases given
    waits: int  # callers told to wait
    evictions: int
    entries: int
    size_bytes: int


class SizedLru(Generic[K, T]):
    """A table bounded in bytes; the least recently used values are dropped first.

    Args:
        max_bytes: what all values together may take; a larger value is not kept at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.evictions = 0
        self._values: OrderedDict[K, tuple[T, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K) -> T | None:
        """Read a value and count it as used."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key][0]

    def put(self, key: K, value: T, size_bytes: int) -> None:
        """Keep a value, in place of an older one of this key, and drop what is too much."""
        if key in self._values:
            self.size_bytes -= self._values.pop(key)[1]
        if size_bytes > self.max_bytes:
            return
        self._values[key] = (value, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self.max_bytes:
            _, (_, dropped_bytes) = self._values.popitem(last=False)
            self.size_bytes -= dropped_bytes
            self.evictions += 1


@dataclass(slots=True)
class _Grant:
    token: int
    expires_at: float  # on the cache's clock


class LeasedLru(Generic[T]):
    """A `SizedLru` with leases on what is missing.

    Args:
        max_bytes: what all values together may take.
        lease_s: how long a lease lives unless renewed.
        clock: seconds that only grow.
    """

    def __init__(self, max_bytes: int, lease_s: float, clock: Callable[[], float]) -> None:
        self._values: SizedLru[str, T] = SizedLru(max_bytes)
        self._lease_s = lease_s
        self._clock = clock
        self._leases: dict[str, _Grant] = {}
        self._tokens = count(1)
        self._hits = self._misses = self._waits = 0

    @property
    def stats(self) -> CacheStats:
        """What happened so far."""
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            waits=self._waits,
            evictions=self._values.evictions,
            entries=len(self._values),
            size_bytes=self._values.size_bytes,
        )

    def acquire(self, key: str) -> Hit[T] | Lease | Busy:
        """Ask for a key's value, or for the right to compute it."""
        value = self._values.get(key)
        if value is not None:
            self._hits += 1
            return Hit(value=value)
        if self._leased(key):
            self._waits += 1
            return Busy()
        self._misses += 1
        grant = _Grant(next(self._tokens), self._clock() + self._lease_s)
        self._leases[key] = grant
        return Lease(token=grant.token)

    def renew(self, key: str, token: int) -> bool:
        """Prolong a lease; False if it ran out and is someone else's now."""
        grant = self._leases.get(key)
        if grant is None or grant.token != token:
            return False
        grant.expires_at = self._clock() + self._lease_s
        return True

    def release(self, key: str, token: int) -> None:
        """Give a lease back without a value: the next caller computes."""
        grant = self._leases.get(key)
        if grant is not None and grant.token == token:
            del self._leases[key]

    def put(self, key: str, value: T, size_bytes: int) -> None:
        """Keep a value, whoever holds the lease: equal keys have equal values."""
        self._leases.pop(key, None)
        self._values.put(key, value, size_bytes)

    def expire(self) -> list[str]:
        """Drop the leases that ran out; returns their keys."""
        return [key for key in list(self._leases) if not self._leased(key)]

    def is_busy(self, key: str) -> bool:
        """Whether waiting for the key makes sense: it has no value, and a living lease."""
        return key not in self._values and self._leased(key)

    def _leased(self, key: str) -> bool:
        grant = self._leases.get(key)
        if grant is not None and grant.expires_at <= self._clock():
            del self._leases[key]
            grant = None
        return grant is not None

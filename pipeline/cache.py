"""The policy of the shared cache: single flight by leases, and LRU eviction. No clock of its own, no locks, no I/O.

`acquire` returns a `Hit` (the value), a `Lease` (compute the value: no other caller will while the lease lives) or
`Busy` (another holder is computing it: wait, then acquire again). A lease ends by `put`, `release` or expiry, so a
crashed holder delays others by one lease at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from operator import itemgetter
from typing import Generic, TypeVar

from cachetools import LRUCache

from pipeline.artifacts import FORMAT_VERSION

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheKey:
    """What determines a result: the pixels, the stage, the model and the parameters.

    The owner is part of it, so that response times don't reveal whether another owner has analyzed the same picture.
    """

    owner: str
    digest: str  # of the image
    stage: str
    model: str  # fingerprint; `-` for stages without a model
    parameters: str  # digest of everything else that determines the result

    def __str__(self) -> str:
        return f"{self.owner}/{self.digest}/{self.stage}/{self.model}/{self.parameters}/v{FORMAT_VERSION}"


def parameter_digest(*parts: str) -> str:
    """Hash a stage's parameters, and the keys of the results it depends on, to 16 hex digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit(Generic[T]):
    """The value was found."""

    value: T


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    """The caller holds the lease and must compute the value."""

    token: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """Another holder is computing the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheStats:
    """Counts since the cache was created; `size_bytes` and `entries` are current values."""

    hits: int
    misses: int  # leases granted
    waits: int  # `Busy` answers
    evictions: int
    entries: int
    size_bytes: int


class _CountingLru(LRUCache[K, tuple[T, int]]):
    """An LRU cache of values with their sizes in bytes, which counts its evictions."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, getsizeof=itemgetter(1))
        self.evictions = 0

    def popitem(self) -> tuple[K, tuple[T, int]]:
        self.evictions += 1
        return super().popitem()


class SizedLru(Generic[K, T]):
    """An LRU cache bounded in bytes.

    Args:
        max_bytes: of all values together; a larger value is not stored at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self._values: _CountingLru[K, T] = _CountingLru(max_bytes)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    @property
    def size_bytes(self) -> int:
        """Of all values together."""
        return int(self._values.currsize)

    @property
    def evictions(self) -> int:
        """Values dropped for lack of space so far."""
        return self._values.evictions

    def get(self, key: K) -> T | None:
        """Return a value and mark it as used."""
        found = self._values.get(key)
        return None if found is None else found[0]

    def put(self, key: K, value: T, size_bytes: int) -> None:
        """Store a value, replacing an older one of this key; evict the least recently used ones beyond the bound."""
        self._values.pop(key, None)
        if size_bytes <= self._values.maxsize:
            self._values[key] = value, size_bytes


@dataclass(slots=True)
class _Grant:
    token: int
    expires_at: float  # by the cache's clock


class LeasedLru(Generic[T]):
    """A `SizedLru` with leases on missing values.

    Args:
        max_bytes: of all values together.
        lease_s: how long a lease lives unless renewed.
        clock: a monotonic clock, in seconds.
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
        """The counts so far."""
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            waits=self._waits,
            evictions=self._values.evictions,
            entries=len(self._values),
            size_bytes=self._values.size_bytes,
        )

    def acquire(self, key: str) -> Hit[T] | Lease | Busy:
        """Return a key's value, a lease to compute it, or `Busy`."""
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
        """Renew a lease; return False if it has expired or has another holder."""
        grant = self._leases.get(key)
        if grant is None or grant.token != token:
            return False
        grant.expires_at = self._clock() + self._lease_s
        return True

    def release(self, key: str, token: int) -> None:
        """Release a lease without a value: the next caller gets a lease."""
        grant = self._leases.get(key)
        if grant is not None and grant.token == token:
            del self._leases[key]

    def put(self, key: str, value: T, size_bytes: int) -> None:
        """Store a value, from the lease holder or any other caller: equal keys have equal values."""
        self._leases.pop(key, None)
        self._values.put(key, value, size_bytes)

    def expire(self) -> list[str]:
        """Drop the leases that have expired; return their keys."""
        return [key for key in list(self._leases) if not self._leased(key)]

    def is_busy(self, key: str) -> bool:
        """Return whether a key is being computed: it has no value, and an unexpired lease."""
        return key not in self._values and self._leased(key)

    def _leased(self, key: str) -> bool:
        grant = self._leases.get(key)
        if grant is not None and grant.expires_at <= self._clock():
            del self._leases[key]
            grant = None
        return grant is not None

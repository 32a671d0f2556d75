from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from pipeline.cache import Busy, CacheKey, CacheStats, Hit, Lease, LeasedLru, SizedLru, parameter_digest

KEY = CacheKey(owner="o", digest="d", stage="segment", model="m", parameters="p")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> LeasedLru[bytes]:
    return LeasedLru(max_bytes=100, lease_s=10, clock=clock)


def kept(lru: SizedLru[str, str], keys: str) -> str:
    return "".join(key for key in keys if key in lru)


def test_the_least_recently_used_value_is_evicted_first():
    lru = SizedLru(3)
    for key in "abc":
        lru.put(key, key.upper(), 1)
    assert lru.get("a") == "A"
    lru.put("d", "D", 1)
    assert kept(lru, "abcd") == "acd"
    lru.put("e", "E", 2)
    assert kept(lru, "abcde") == "de"
    assert lru.evictions == 3


def test_a_membership_test_is_not_a_use():
    lru = SizedLru(2)
    lru.put("a", "A", 1)
    lru.put("b", "B", 1)
    assert "a" in lru
    lru.put("c", "C", 1)
    assert kept(lru, "abc") == "bc"


def test_a_value_of_exactly_the_maximum_size_is_kept():
    lru = SizedLru(3)
    lru.put("a", "A", 3)
    assert (lru.get("a"), lru.size_bytes, lru.evictions) == ("A", 3, 0)


def test_an_oversized_value_evicts_only_its_own_previous_value():
    lru = SizedLru(3)
    lru.put("a", "old", 1)
    lru.put("b", "B", 1)
    lru.put("a", "new", 4)
    assert lru.get("a") is None
    assert (kept(lru, "ab"), len(lru), lru.size_bytes, lru.evictions) == ("b", 1, 1, 0)


def test_putting_a_key_again_replaces_value_and_size():
    lru = SizedLru(10)
    lru.put("a", "old", 8)
    lru.put("a", "new", 3)
    assert (lru.get("a"), len(lru), lru.size_bytes, lru.evictions) == ("new", 1, 3, 0)


def test_the_size_is_exact_and_never_exceeds_the_maximum():
    random, lru, sizes = Random(0), SizedLru(50), {}
    for _ in range(2000):
        key = random.randrange(20)
        if random.random() < 0.5:
            lru.get(key)
        else:
            sizes[key] = random.randrange(60)
            lru.put(key, "value", sizes[key])
        assert lru.size_bytes == sum(sizes[k] for k in sizes if k in lru) <= 50


def test_one_caller_gets_the_lease_and_the_others_wait(cache):
    lease = cache.acquire("k")
    assert isinstance(lease, Lease)
    assert cache.acquire("k") == cache.acquire("k") == Busy()
    assert cache.is_busy("k")
    cache.put("k", b"value", 5)
    assert not cache.is_busy("k")
    assert cache.acquire("k") == Hit(value=b"value")


def test_an_empty_value_is_a_hit(cache):
    cache.put("k", b"", 0)
    assert cache.acquire("k") == Hit(value=b"")


def test_each_key_has_its_own_lease(cache):
    leases = [cache.acquire(key) for key in "abc"]
    assert len({lease.token for lease in leases}) == 3


def test_a_lease_expires_and_the_next_caller_gets_a_new_one(cache, clock):
    first = cache.acquire("k")
    clock.now_s += 9.9
    assert cache.acquire("k") == Busy()
    clock.now_s += 0.1
    assert not cache.is_busy("k")
    second = cache.acquire("k")
    assert isinstance(second, Lease)
    assert second.token != first.token


def test_expired_leases_are_returned_once_and_dropped(cache, clock):
    cache.acquire("old")
    clock.now_s += 6
    cache.acquire("young")
    clock.now_s += 6
    assert cache.expire() == ["old"]
    assert cache.expire() == []
    assert cache.is_busy("young")


def test_a_renewed_lease_does_not_expire(cache, clock):
    lease = cache.acquire("k")
    for _ in range(5):
        clock.now_s += 9
        assert cache.renew("k", lease.token)
        assert cache.acquire("k") == Busy()


def test_an_expired_lease_can_neither_be_renewed_nor_release_the_new_one(cache, clock):
    late = cache.acquire("k")
    clock.now_s += 10
    current = cache.acquire("k")
    assert not cache.renew("k", late.token)
    cache.release("k", late.token)
    assert cache.acquire("k") == Busy()
    assert cache.renew("k", current.token)


def test_after_a_release_the_next_caller_gets_a_lease(cache):
    lease = cache.acquire("k")
    cache.release("k", lease.token)
    assert not cache.is_busy("k")
    assert isinstance(cache.acquire("k"), Lease)


def test_a_value_put_after_expiry_is_kept_and_ends_the_new_lease(cache, clock):
    cache.acquire("k")
    clock.now_s += 10
    current = cache.acquire("k")
    cache.put("k", b"late", 4)
    assert cache.acquire("k") == Hit(value=b"late")
    assert not cache.renew("k", current.token)


def test_release_after_put_keeps_the_value(cache):
    lease = cache.acquire("k")
    cache.put("k", b"value", 5)
    cache.release("k", lease.token)
    assert cache.acquire("k") == Hit(value=b"value")


def test_an_oversized_value_ends_its_lease(cache):
    cache.acquire("k")
    cache.put("k", bytes(101), 101)
    assert not cache.is_busy("k")
    assert isinstance(cache.acquire("k"), Lease)


def test_an_evicted_value_is_leased_again(cache):
    cache.put("a", b"A", 60)
    cache.put("b", b"B", 60)
    assert isinstance(cache.acquire("a"), Lease)
    assert cache.acquire("b") == Hit(value=b"B")


def test_stats_count_the_outcomes_of_acquire(cache):
    for _ in range(3):
        cache.acquire("k")
    cache.put("k", b"value", 70)
    cache.acquire("k")
    cache.put("other", b"other", 40)
    assert cache.stats == CacheStats(hits=1, misses=1, waits=2, evictions=1, entries=1, size_bytes=40)


@pytest.mark.parametrize("part", ["owner", "digest", "stage", "model", "parameters"])
def test_keys_differ_in_every_field(part):
    other = replace(KEY, **{part: "another"})
    assert other != KEY
    assert str(other) != str(KEY)


def test_equal_keys_share_a_value(cache):
    cache.put(str(KEY), b"value", 5)
    assert cache.acquire(str(replace(KEY))) == Hit(value=b"value")


def test_a_parameter_digest_is_short_stable_and_separates_its_parts():
    assert parameter_digest("a", "b") == parameter_digest("a", "b")
    assert len({parameter_digest(*parts) for parts in (("a", "b"), ("ab",), ("ab", ""), ("b", "a"), ())}) == 5
    assert len(parameter_digest("a" * 10_000)) == 16

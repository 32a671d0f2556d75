"""The admission limiter: a bounded number of requests, and an estimated Retry-After."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from graphs.concurrency import AdmissionLimiter
from pipeline.errors import Overloaded


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr("graphs.concurrency.time", SimpleNamespace(monotonic=lambda: clock.now_s))
    return clock


def work(limiter: AdmissionLimiter, clock: SimpleNamespace, seconds: float) -> None:
    with limiter.admit("r"):
        clock.now_s += seconds


def test_requests_up_to_the_limit_are_admitted_and_the_next_raises():
    limiter = AdmissionLimiter("images", 2)
    with limiter.admit("a"), limiter.admit("b"):
        with pytest.raises(Overloaded, match="already has 2 images") as rejected, limiter.admit("c"):
            pass
        assert len(limiter) == 2
        assert "c" not in limiter
    assert rejected.value.retry_after_s == 1
    assert len(limiter) == 0


def test_an_admitted_request_holds_one_slot_however_often_it_enters():
    limiter = AdmissionLimiter("analyses", 1)
    with limiter.admit("a"):
        with limiter.admit("a"), limiter.admit("a"):
            assert len(limiter) == 1
        with pytest.raises(Overloaded), limiter.admit("b"):
            pass
    with limiter.admit("b"):
        assert "b" in limiter
        assert "a" not in limiter


def test_a_slot_is_released_on_success_and_on_failure():
    limiter = AdmissionLimiter("images", 1)
    with pytest.raises(ValueError, match="odd"), limiter.admit("a"):
        raise ValueError("odd")
    with limiter.admit("b"):
        assert len(limiter) == 1


def test_limiters_are_independent():
    full, free = AdmissionLimiter("images", 1), AdmissionLimiter("analyses", 1)
    with full.admit("a"), free.admit("b"):
        assert "a" not in free


def test_retry_after_follows_the_duration_of_the_work(clock):
    limiter = AdmissionLimiter("images", 4)
    for _ in range(100):
        work(limiter, clock, 20)
    assert limiter.retry_after_s == 10
    for _ in range(100):
        work(limiter, clock, 6)
    assert limiter.retry_after_s == pytest.approx(3, abs=1)


@pytest.mark.parametrize(("seconds", "retry_after_s"), [(0.001, 1), (10_000, 60)])
def test_retry_after_is_between_one_second_and_a_minute(clock, seconds, retry_after_s):
    limiter = AdmissionLimiter("images", 4)
    for _ in range(100):
        work(limiter, clock, seconds)
    assert limiter.retry_after_s == retry_after_s


def test_rejections_do_not_shorten_retry_after(clock):
    limiter = AdmissionLimiter("images", 1)
    for _ in range(100):
        work(limiter, clock, 20)
    with limiter.admit("another"):
        for _ in range(100):
            with pytest.raises(Overloaded) as rejected:
                work(limiter, clock, 0)
    assert rejected.value.retry_after_s == 10

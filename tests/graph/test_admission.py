"""The gate: a bounded number of requests, and a sensible time to come back."""

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


def work(gate: AdmissionLimiter, clock: SimpleNamespace, seconds: float) -> None:
    with gate.admit("r"):
        clock.now_s += seconds


def test_as_many_as_the_limit_are_let_in_and_the_next_is_told_why():
    gate = AdmissionLimiter("images", 2)
    with gate.admit("a"), gate.admit("b"):
        with pytest.raises(Overloaded, match="already has 2 images") as refused, gate.admit("c"):
            pass
        assert len(gate) == 2
        assert "c" not in gate
    assert refused.value.retry_after_s == 1
    assert len(gate) == 0


def test_a_request_that_is_in_takes_one_place_however_often_it_enters():
    gate = AdmissionLimiter("analyses", 1)
    with gate.admit("a"):
        with gate.admit("a"), gate.admit("a"):
            assert len(gate) == 1
        with pytest.raises(Overloaded), gate.admit("b"):
            pass
    with gate.admit("b"):
        assert "b" in gate
        assert "a" not in gate


def test_a_place_is_free_again_when_its_work_ends_well_or_badly():
    gate = AdmissionLimiter("images", 1)
    with pytest.raises(ValueError, match="odd"), gate.admit("a"):
        raise ValueError("odd")
    with gate.admit("b"):
        assert len(gate) == 1


def test_a_full_gate_says_nothing_of_another():
    full, free = AdmissionLimiter("images", 1), AdmissionLimiter("analyses", 1)
    with full.admit("a"), free.admit("b"):
        assert "a" not in free


def test_the_time_to_come_back_follows_how_long_work_takes(clock):
    gate = AdmissionLimiter("images", 4)
    for _ in range(100):
        work(gate, clock, 20)
    assert gate.retry_after_s == 10
    for _ in range(100):
        work(gate, clock, 6)
    assert gate.retry_after_s == pytest.approx(3, abs=1)


@pytest.mark.parametrize(("seconds", "retry_after_s"), [(0.001, 1), (10_000, 60)])
def test_the_time_to_come_back_is_one_second_to_a_minute(clock, seconds, retry_after_s):
    gate = AdmissionLimiter("images", 4)
    for _ in range(100):
        work(gate, clock, seconds)
    assert gate.retry_after_s == retry_after_s


def test_refusals_do_not_shorten_the_time_to_come_back(clock):
    gate = AdmissionLimiter("images", 1)
    for _ in range(100):
        work(gate, clock, 20)
    with gate.admit("another"):
        for _ in range(100):
            with pytest.raises(Overloaded) as refused:
                work(gate, clock, 0)
    assert refused.value.retry_after_s == 10

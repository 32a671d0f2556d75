from __future__ import annotations

import random
from collections import Counter

import pytest

from pipeline.engines.diffusion.batching import Entry, StepScheduler

BUCKETS = (1, 2, 4, 8)
SMALL, LARGE = (8, 8), (16, 16)


def entry(key, shape=SMALL, rows=2, owner="", pinned=None):
    return Entry(key=str(key), shape=shape, rows=rows, owner=owner, pinned=pinned)


def keys(batch):
    return [e.key for e in batch.entries]


def test_without_entries_there_is_no_batch():
    scheduler = StepScheduler(BUCKETS)
    assert scheduler.next_batch() is None
    scheduler.admit(entry("a"))
    scheduler.remove("a")
    scheduler.remove("a")
    assert scheduler.next_batch() is None
    assert len(scheduler) == 0


def test_an_admitted_entry_joins_the_next_step():
    scheduler = StepScheduler(BUCKETS)
    scheduler.admit(entry("a"))
    assert (keys(batch := scheduler.next_batch()), batch.rows) == (["a"], 2)
    scheduler.admit(entry("b"))
    scheduler.admit(entry("c", rows=1))
    assert (keys(batch := scheduler.next_batch()), batch.rows) == (["a", "b", "c"], 8)


def test_resolutions_alternate():
    scheduler = StepScheduler(BUCKETS)
    for i in range(3):
        scheduler.admit(entry(i))
    scheduler.admit(entry("large", LARGE))
    assert [keys(scheduler.next_batch()) for _ in range(4)] == [["0", "1", "2"], ["large"]] * 2


def test_pinned_entries_run_in_batches_of_their_size():
    scheduler = StepScheduler(BUCKETS)
    scheduler.admit(entry("a"))
    for i in range(3):
        scheduler.admit(entry(f"pinned{i}", pinned=4))
    scheduler.admit(entry("alone", pinned=2))
    taken = [(keys(batch := scheduler.next_batch()), batch.rows) for _ in range(4)]
    assert taken == [(["a"], 2), (["pinned0", "pinned1"], 4), (["alone"], 2), (["a"], 2)]
    with pytest.raises(ValueError, match="largest batch of 4"):
        scheduler.admit(entry("b", rows=5, pinned=4))


def test_in_a_full_batch_the_first_entry_of_each_owner_precedes_any_second_one():
    scheduler = StepScheduler(BUCKETS)
    for i in range(10):
        scheduler.admit(entry(f"x{i}", owner="x"))
    for owner in "yz":
        scheduler.admit(entry(f"{owner}0", owner=owner))
    assert keys(scheduler.next_batch()) == ["x0", "y0", "z0", "x1"]


def test_a_new_owner_does_not_wait_for_the_queues_of_others():
    scheduler = StepScheduler((2, 4))
    for number in range(3):
        for owner in "abcd":
            scheduler.admit(entry(f"{owner}{number}", owner=owner))
    served = [keys(scheduler.next_batch()) for _ in range(2)]
    scheduler.admit(entry("e0", owner="e"))
    served += [keys(scheduler.next_batch()) for _ in range(3)]
    assert served == [["a0", "b0"], ["b0", "c0"], ["c0", "d0"], ["d0", "e0"], ["e0", "a0"]]


def test_many_sizes_of_one_owner_do_not_reduce_another_owner_s_share():
    scheduler = StepScheduler(BUCKETS)
    for side in range(1, 9):
        scheduler.admit(entry(f"x{side}", (side, side), owner="x"))
    scheduler.admit(entry("y", LARGE, owner="y"))
    served = [key for _ in range(16) for key in keys(scheduler.next_batch())]
    assert served.count("y") == 8
    assert {f"x{side}" for side in range(1, 9)} <= set(served)


def test_duplicate_and_oversized_entries_raise():
    scheduler = StepScheduler(BUCKETS)
    scheduler.admit(entry("a"))
    with pytest.raises(ValueError, match="there already"):
        scheduler.admit(entry("a"))
    with pytest.raises(ValueError, match="largest batch"):
        scheduler.admit(entry("b", rows=9))


@pytest.mark.parametrize("round_", range(60))
def test_random_arrivals_never_starve_and_each_step_runs_once(seed, round_):  # noqa: PLR0915  # one simulation
    rng = random.Random(f"{seed} {round_}")
    buckets = rng.choice([BUCKETS, (2, 4, 8, 16), (4,), (2, 8)])
    scheduler = StepScheduler(buckets)
    head_since: dict[str, int] = {}
    owners = [f"owner {i}" for i in range(rng.randint(1, 5))]
    shapes = [SMALL, LARGE, (8, 16)][: rng.randint(1, 3)]
    sizes = rng.choice([(1,), (2,), (1, 2)])
    live: dict[str, Entry] = {}
    left: Counter[str] = Counter()
    last_served: dict[str, int] = {}
    gone: set[str] = set()
    total, step = rng.randint(1, 40), 0
    while live or len(last_served) + len(gone) < total:
        while len(last_served) + len(gone - last_served.keys()) < total and rng.random() < 0.4:
            key = f"{len(last_served) + len(gone)}-{step}"
            rows, pinned = rng.choice(sizes), rng.choice([None, None, 2])
            new = entry(key, rng.choice(shapes), rows, rng.choice(owners), pinned)
            scheduler.admit(new)
            live[key], left[key], last_served[key] = new, rng.randint(1, 30), step
        if live and rng.random() < 0.03:
            key = rng.choice(list(live))
            scheduler.remove(key)
            del live[key]
            gone.add(key)
        batch = scheduler.next_batch()
        step += 1
        assert (batch is None) == (not live)
        if batch is None:
            continue
        check_batch(batch, live, buckets)
        for served in keys(batch):
            left[served] -= 1
            last_served[served] = step
            if left[served] == 0:
                scheduler.remove(served)
                del live[served]
        heads = {(e.owner, e.group): key for key, e in reversed(live.items())}
        head_since = {key: head_since.get(key, step) for key in heads.values()}
        longest = len(owners) * 2 * len(shapes)  # each owner is served in turn, and each of its groups
        assert all(step - max(last_served[key], head_since[key]) <= longest for key in heads.values())
        assert step < 100_000
    assert all(left[key] == 0 for key in last_served.keys() - gone)
    assert len(scheduler) == 0


def check_batch(batch, live, buckets):
    """Assert the invariants of every batch."""
    taken = keys(batch)
    assert len(set(taken)) == len(taken)
    assert set(taken) <= live.keys()  # no finished or cancelled entry
    assert len({e.group for e in batch.entries}) == 1
    pinned = batch.entries[0].pinned
    buckets = buckets if pinned is None else (pinned,)
    used = sum(e.rows for e in batch.entries)
    assert used <= batch.rows
    assert batch.rows in buckets
    left_out = [e for e in live.values() if e.group == batch.entries[0].group and e.key not in taken]
    if left_out:
        assert used + 2 > buckets[-1]
    if len({e.rows for e in live.values()}) == 1:
        in_it = Counter(e.owner for e in batch.entries)
        assert all(in_it[e.owner] >= max(in_it.values()) - 1 for e in left_out)

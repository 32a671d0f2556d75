"""`kill -9` of all processes, again and again, in the middle of work: what was acknowledged is there after it.

`./scripts/test --chaos` kills 20 times. `--chaos-seed` gives the clients the work of an earlier run again, though how
their calls interleave, and so what a kill hits, is up to the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.chaos.clients import BusyClient, Countdown
from tests.chaos.ledger import Session
from tests.chaos.litter import leave_halves, litter, make_old
from tests.chaos.verification import losses
from tests.service_process import RunningService, serving, wait_until

SESSIONS = ("ada", "bob", "cleo", "dan")
MIN_ANSWERS, MAX_ANSWERS = 4, 16  # to /generate before a kill


def test_what_was_acknowledged_survives(tmp_path: Path, rounds: int, seed: int, capsys: pytest.CaptureFixture[str]):
    sessions = [Session(name) for name in SESSIONS]
    data_dir = tmp_path / "data"
    for number in range(1, rounds + 1):
        print(f"round {number}, seed {seed}")  # where a client was when it failed
        with serving(tmp_path) as service:
            expect_everything(service, sessions, f"before round {number}, seed {seed}")
            acknowledged = work_until_killed(service, sessions, Random(f"{seed} {number}"))
        with capsys.disabled():
            in_hand = sum(session.in_hand for session in sessions)
            print(
                f"\nseed {seed}, round {number}: {dict(acknowledged)} acknowledged, {in_hand} changes in hand", end=""
            )
        leave_halves(data_dir)

    make_old(data_dir)
    with serving(tmp_path) as service:
        expect_everything(service, sessions, f"after round {rounds}, seed {seed}")
        wait_until(lambda: litter(data_dir, sessions) == [], give_up=False)  # the sweep at the start
        assert litter(data_dir, sessions) == [], f"not swept, seed {seed}"
        expect_everything(service, sessions, f"after the sweep, seed {seed}")


def expect_everything(service: RunningService, sessions: Sequence[Session], when: str) -> None:
    lost = losses(service, sessions)
    assert not lost, "\n".join([when, *lost])


def work_until_killed(service: RunningService, sessions: Sequence[Session], random: Random) -> Counter[str]:
    """Keep the service busy until it is killed at a random answer; returns how many calls of each kind it answered."""
    countdown = Countdown(service, random.randint(MIN_ANSWERS, MAX_ANSWERS))
    clients = [BusyClient(service, session, countdown, Random(random.random())) for session in sessions]
    with ThreadPoolExecutor(len(clients)) as pool:
        for working in [pool.submit(client.work) for client in clients]:
            working.result()
    return sum((client.acknowledged for client in clients), Counter())

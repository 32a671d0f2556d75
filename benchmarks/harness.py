"""Compares two implementations of one workload, timed in interleaved rounds in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    suite: str
    case: str
    ours: float
    naive: float
    unit: str
    ratio: float  # how many times better ours is, by the medians
    ratio_min: float  # of single rounds
    ratio_max: float
    fidelity: str  # how the results agree, in words
    goal: str


def compare(
    suite: str,
    case: str,
    ours: Callable[[], Any],
    naive: Callable[[], Any],
    *,
    rounds: int,
    goal: str,
    fidelity: Callable[[Any, Any], str],
    per: int = 1,
) -> Result:
    """Time two implementations in interleaved rounds, after a warm-up round, whose results are compared.

    Args:
        suite: a name.
        case: a name.
        ours: our implementation.
        naive: the baseline.
        rounds: number of rounds, without the warm-up.
        goal: in words.
        fidelity: describes how the results of both agree.
        per: work items per call; times are per item.
    """
    words = fidelity(ours(), naive())
    times = [(timed(ours) / per, timed(naive) / per) for _ in range(rounds)]
    ratios = [slow / quick for quick, slow in times]
    quick, slow = (median(column) for column in zip(*times, strict=True))
    return Result(
        suite=suite,
        case=case,
        ours=1000 * quick,
        naive=1000 * slow,
        unit="ms",
        ratio=slow / quick,
        ratio_min=min(ratios),
        ratio_max=max(ratios),
        fidelity=words,
        goal=goal,
    )


def timed(work: Callable[[], Any]) -> float:
    """Seconds that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def tabulate(results: list[Result]) -> Table:
    """Results as a table for a terminal."""
    table = Table("suite", "case", "ours", "naive", "ratio", "goal", "fidelity")
    for result in results:
        table.add_row(
            result.suite,
            result.case,
            f"{result.ours:.1f} {result.unit}",
            f"{result.naive:.1f} {result.unit}",
            f"{result.ratio:.1f} ({result.ratio_min:.1f}-{result.ratio_max:.1f})",
            result.goal,
            result.fidelity,
        )
    return table


def as_json(results: list[Result]) -> list[dict[str, Any]]:
    """Results as plain data."""
    return [asdict(result) for result in results]

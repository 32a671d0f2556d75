"""A record of a test run and its summary, which `python -m tests.report record.jsonl …` prints.

Each pytest process of a run appends to its own file; the summary joins them.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

NUM_SLOWEST = 10


@dataclass(frozen=True)
class Phase:
    """A test's set-up, call or tear-down."""

    test: str
    when: str  # "setup", "call", "teardown"
    outcome: str  # "passed", "failed", "skipped"
    seconds: float
    reason: str = ""  # of a skip

    @property
    def group(self) -> str:
        """The folder in tests/."""
        return self.test.split("/")[1] if self.test.count("/") > 1 else "tests"


class Recorder:
    """A pytest plug-in that appends each phase to a file as it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else ""
        phase = Phase(report.nodeid, report.when or "", report.outcome, report.duration, reason)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(phase)) + "\n")

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        with self._path.open("a") as file:
            for item in items:
                phase = Phase(item.nodeid, "setup", "skipped", 0.0, "Deselected: it needs a flag, see scripts/test")
                file.write(json.dumps(asdict(phase)) + "\n")


def read_record(path: Path) -> list[Phase]:
    """Read what a `Recorder` wrote."""
    return [Phase(**json.loads(line)) for line in path.read_text().splitlines()]


def summarize(phases: Sequence[Phase]) -> str:
    """Return tests and seconds by group, the slowest tests, the skipped ones with reasons, and the failed ones."""
    seconds: defaultdict[str, float] = defaultdict(float)
    tests: defaultdict[str, set[str]] = defaultdict(set)
    by_test: defaultdict[str, float] = defaultdict(float)
    for phase in phases:
        seconds[phase.group] += phase.seconds
        if phase.outcome != "skipped":
            tests[phase.group].add(phase.test)
        by_test[phase.test] += phase.seconds
    slowest = sorted(by_test.items(), key=lambda entry: -entry[1])
    lines = ["", "group         tests  seconds"]
    lines += [f"{group:<12} {len(tests[group]):>6} {seconds[group]:>8.1f}" for group in sorted(seconds)]
    lines += [f"{'all':<12} {sum(map(len, tests.values())):>6} {sum(seconds.values()):>8.1f}"]
    lines += ["", f"the {NUM_SLOWEST} slowest"]
    lines += [f"{took:>8.1f} s  {test}" for test, took in slowest[:NUM_SLOWEST]]
    if skipped := [phase for phase in phases if phase.outcome == "skipped"]:
        lines += ["", "skipped"]
        lines += [f"  {phase.test}: {phase.reason.removeprefix('Skipped: ')}" for phase in skipped]
    if failed := {phase.test: None for phase in phases if phase.outcome == "failed"}:
        lines += ["", "FAILED", *(f"  {test}" for test in failed)]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summarize([phase for path in sys.argv[1:] for phase in read_record(Path(path))]))

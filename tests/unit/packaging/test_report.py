"""The summary at the end of a test run."""

from __future__ import annotations

from pathlib import Path

from tests.report import Phase, Recorder, read_record, summarize

PHASES = [
    Phase("tests/unit/test_a.py::test_x", "setup", "passed", 1.0),
    Phase("tests/unit/test_a.py::test_x", "call", "passed", 0.5),
    Phase("tests/unit/test_a.py::test_y", "setup", "skipped", 0.0, "Skipped: there is no haproxy"),
    Phase("tests/cluster/test_c.py::test_w", "setup", "skipped", 0.0, "it needs a flag"),
    Phase("tests/integration/test_b.py::test_z", "call", "failed", 2.0),
]


def test_a_summary_lists_groups_and_the_slowest_skipped_and_failed_tests():
    assert summarize(PHASES).splitlines() == [
        "",
        "group         tests  seconds",
        "cluster           0      0.0",
        "integration       1      2.0",
        "unit              1      1.5",
        "all               2      3.5",
        "",
        "the 10 slowest",
        "     2.0 s  tests/integration/test_b.py::test_z",
        "     1.5 s  tests/unit/test_a.py::test_x",
        "     0.0 s  tests/unit/test_a.py::test_y",
        "     0.0 s  tests/cluster/test_c.py::test_w",
        "",
        "skipped",
        "  tests/unit/test_a.py::test_y: there is no haproxy",
        "  tests/cluster/test_c.py::test_w: it needs a flag",
        "",
        "FAILED",
        "  tests/integration/test_b.py::test_z",
    ]


def test_a_record_can_be_read(pytester, tmp_path: Path):
    pytester.makepyfile(
        """
        import pytest

        def test_passes(): pass

        @pytest.mark.skip(reason="no tool")
        def test_is_skipped(): pass

        def test_fails(): assert False
        """
    )
    record = tmp_path / "record.jsonl"
    pytester.inline_run(plugins=[Recorder(record)])
    outcomes = {(phase.test.split("::")[1], phase.outcome, phase.reason) for phase in read_record(record)}
    assert ("test_passes", "passed", "") in outcomes
    assert ("test_is_skipped", "skipped", "Skipped: no tool") in outcomes
    assert ("test_fails", "failed", "") in outcomes

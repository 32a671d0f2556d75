"""The benchmarks run; what they measure here means nothing."""

from __future__ import annotations

import json

from benchmarks import gpu
from benchmarks.harness import compare


def test_the_gpu_benchmark_runs_with_small_parts(tmp_path):
    gpu.main(["--tiny", "--json", str(tmp_path / "gpu.json")])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [result["suite"] for result in results] == ["diffusion", "diffusion", "crops", "everything"]
    assert results[0]["fidelity"] in {"≤ 0/255", "≤ 1/255"}
    assert "cosine ≥ 1.0" in results[2]["fidelity"]
    assert "100.0% of theirs" in results[3]["fidelity"]


def test_two_ways_take_turns_after_a_round_that_is_compared_but_not_counted():
    calls = []
    result = compare(
        "suite",
        "case",
        ours=lambda: calls.append("ours") or 1,
        naive=lambda: calls.append("naive") or 2,
        rounds=2,
        goal="",
        fidelity=lambda ours, naive: f"{ours} and {naive}",
    )
    assert calls == ["ours", "naive"] * 3
    assert result.fidelity == "1 and 2"
    assert result.ratio_min <= result.ratio <= result.ratio_max

"""The benchmarks run; their figures here mean nothing."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from benchmarks import cpu_speed, untrained
from benchmarks.capacity import scale
from benchmarks.capacity.validation import done_within
from benchmarks.cpu_seconds import OTHER, role_of
from benchmarks.cpu_speed import Pace
from benchmarks.engines import gpu
from benchmarks.engines.everything import draw_scenes, last
from benchmarks.harness import compare
from pipeline.engines.clip import ClipEngine
from pipeline.engines.diffusion.engine import DiffusionEngine
from pipeline.engines.sam2.engine import Sam2Engine
from pipeline.settings import ServiceSettings


def test_the_gpu_benchmark_runs_with_small_parts(tmp_path):
    gpu.main(["--tiny", "--rounds", "1", "--json", str(tmp_path / "gpu.json")])
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [result["suite"] for result in results] == ["crops", "everything", "diffusion", "diffusion"]
    assert "cosine ≥ 1.0" in results[0]["fidelity"]
    assert "100.0% of theirs" in results[1]["fidelity"]
    assert results[2]["fidelity"] in {"≤ 0/255", "≤ 1/255"}


def test_a_profile_of_untrained_sd14_models_can_be_created(tmp_path):
    untrained.main([str(tmp_path), "--tiny"])
    profile = ServiceSettings(profile=str(tmp_path / "sd14.yaml")).load_profile()
    assert (profile.name, profile.diffusion.defaults.steps) == ("sd14", untrained.TINY.steps)
    described = ClipEngine(profile.clip, "cpu").describe([np.zeros((32, 32, 3), np.uint8)], profile.clip.labelling)
    assert described.vectors.shape[0] == 1
    assert len(last(Sam2Engine(profile.sam2, "cpu"), draw_scenes(1)[0], profile.sam2.everything)) >= 1
    assert DiffusionEngine(profile.diffusion, "cpu").count_tokens(["a red apple"]) == [5]


def test_two_ways_alternate_after_a_warm_up_round():
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


def test_calls_count_by_their_share_within_the_measurement():
    assert done_within([(0.0, 2.0), (2.0, 3.0), (3.0, 7.0), (8.0, 9.0)], opened=1.0, closed=4.0) == pytest.approx(1.75)


def test_processes_of_a_service_are_classified():
    titles = ["ray::ServeReplica:pipeline:Ingress", "ray::SegmentationCache.put", "ray::ProxyActor", "raylet"]
    assert [role_of(title) for title in titles] == ["Ingress", "SegmentationCache", "Proxy", OTHER]


def test_a_cluster_is_simulated_from_the_committed_costs(tmp_path, capsys):
    scale.main(["--gpus", "1", "16", "--json", str(tmp_path / "scale.json"), "--plot", str(tmp_path / "scale.png")])
    points = json.loads((tmp_path / "scale.json").read_text())
    made = {(point["gpus"], point["variant"]): point["made"] / point["offered"] for point in points}
    as_configured, *_, everything_lifted = (variant.name for variant in scale.VARIANTS)
    assert made[1, as_configured] > 0.95
    assert made[16, as_configured] < 0.5
    assert made[16, everything_lifted] > 0.95
    assert (tmp_path / "scale.png").stat().st_size > 0
    assert "Assumed, not measured: steps" in capsys.readouterr().out


def test_slowness_is_the_mean_relative_to_the_undisturbed_rate(monkeypatch: pytest.MonkeyPatch):
    ticked = threading.Semaphore(0)
    ticks = iter([9.0, 2.0, 3.0, 4.0])  # warm-up of torch, before the block, within the block

    def tick(_: Pace) -> float:
        ticked.release()
        return next(ticks, 3.0)

    monkeypatch.setattr(Pace, "tick", tick)
    monkeypatch.setattr(cpu_speed, "EVERY_S", 0.001)
    watching = Pace(tick_s=2.0)
    with watching.watched() as slowness:
        assert all(ticked.acquire(timeout=10) for _ in range(5))
    assert slowness.factor == 1.5
    assert watching.slowness() == 1.5

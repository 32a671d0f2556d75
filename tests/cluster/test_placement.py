"""Placement of replicas: on GPUs with room for their share, and never on a head without CPUs."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testing.service_process import QUICK_SCALING, wait_until
from tests.cluster.applications import MODELS, TWO, application, small_profile
from tests.cluster.conftest import CPUS
from tests.cluster.load import impatient_load
from tests.cluster.running_cluster import Node, RunningCluster

SHARES = {"Diffusion": 0.6, "Clip": 0.15, "Segmenter": 0.2}  # two Diffusions never fit on one GPU
SCALED_WITHIN_S = 180
MAX_REPLICAS = 3

pytestmark = pytest.mark.long_cluster


def test_shares_of_a_gpu_are_reserved_and_never_exceeded(
    cluster: RunningCluster, workers: list[Node], spare: Node, tmp_path: Path
):
    idle = cluster.add_node(num_cpus=CPUS)  # CPUs, but no GPU
    options = {"profile": small_profile(tmp_path), "num_gpus": SHARES}
    cluster.update(application(cluster, replicas=TWO | {"Diffusion": 3, "Clip": 2}, **options))
    assert_reserved(cluster, SHARES)
    with ThreadPoolExecutor(1) as pool:
        updated = pool.submit(cluster.update, application(cluster, replicas=TWO | {"Diffusion": 4}, **options))
        wait_until(lambda: cluster.status()["deployments"]["Diffusion"]["replicas"].get("STARTING") == 1)
        assert_reserved(cluster, SHARES)
        another = cluster.add_node(num_cpus=CPUS, num_gpus=1)
        updated.result()
    assert another.replicas("Diffusion") == 1
    assert_reserved(cluster, SHARES)
    for node in (idle, another):
        cluster.kill(node)


def test_replicas_scale_up_under_load_and_down_after_it(
    cluster: RunningCluster, workers: list[Node], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    scaling = {"min_replicas": 1, "max_replicas": MAX_REPLICAS, "target_ongoing_requests": 1, **QUICK_SCALING}
    profile = small_profile(tmp_path)
    with_one = dict.fromkeys(TWO, 1) | {"Ingress": 2}
    del with_one["Diffusion"]
    deployments = {"Diffusion": {"autoscaling_config": scaling}}
    cluster.update(application(cluster, replicas=with_one, deployments=deployments, profile=profile))
    with impatient_load(cluster, clients=8, steps=40) as load:
        wait_until(lambda: cluster.running("Diffusion") == MAX_REPLICAS, SCALED_WITHIN_S)
        placed = [node.replicas("Diffusion") for node in workers]
        assert_reserved(cluster, {"Diffusion": 0.35, "Clip": 0.1, "Segmenter": 0.2})
    wait_until(lambda: cluster.running("Diffusion") == 1, SCALED_WITHIN_S)
    with capsys.disabled():
        print(f"\nscaling to {MAX_REPLICAS} replicas and back: {load}", end="")

    assert load.failed == []
    assert sum(placed) >= MAX_REPLICAS
    cluster.finished(load.accepted)


def assert_reserved(cluster: RunningCluster, shares: dict[str, float]) -> None:
    """Assert that every model replica has its share of a GPU, and that no replica is on the head."""
    head = cluster.nodes[0]
    assert head.processes("ray::ServeReplica") == []
    assert {title for title in ("ray::SegmentationCache", "ray::EventHub") if head.processes(title)} == set()
    assert head.processes("ray::ServeController")

    def expected() -> dict[str, float]:
        by_node: Counter[str] = Counter()
        for node in cluster.nodes:
            for name in MODELS:
                by_node[node.node_id] += round(shares[name] * node.replicas(name), 4)
        return {node_id: round(share, 4) for node_id, share in by_node.items() if share}

    def is_reserved() -> bool:
        taken = {node_id: taken for node_id, (_, taken) in cluster.gpus().items() if taken}
        return taken == expected()

    wait_until(is_reserved)
    assert all(taken <= total for total, taken in cluster.gpus().values())

"""Updates and node failures lose no request or job that was accepted: the short version."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.service_process import wait_until
from tests.cluster.applications import ONE, TWO, application, small_profile
from tests.cluster.load import impatient_load, patient_load
from tests.cluster.running_cluster import Node, RunningCluster

BACK_WITHIN_S = 300


@pytest.fixture
def is_long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("cluster"))


def test_an_update_fails_no_request(
    cluster: RunningCluster, workers: list[Node], is_long: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    replicas, clients, more = (TWO, 4, 100) if is_long else (ONE, 2, 10)
    before, after = (small_profile(tmp_path, guidance=guidance) for guidance in (3.0, 4.0))
    cluster.update(application(cluster, replicas=replicas, profile=before))
    with impatient_load(cluster, clients=clients) as load:
        wait_until(lambda: load.answered.total() >= 10)
        cluster.update(application(cluster, replicas=replicas, profile=after))
        answered = load.answered.total()
        wait_until(lambda: load.answered.total() >= answered + more)
    with capsys.disabled():
        print(f"\nupdate: {load}", end="")

    assert load.failed == []
    with cluster.client() as client:
        assert {client.get("/").json()["defaults"]["guidance"] for _ in range(10)} == {4.0}
    cluster.finished(load.accepted)


def test_a_killed_node_loses_no_accepted_job(
    cluster: RunningCluster, workers: list[Node], is_long: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    replicas, clients, more = (TWO, 6, 50) if is_long else (ONE, 3, 5)
    if cluster.status() is None:
        cluster.update(application(cluster, replicas=replicas, profile=small_profile(tmp_path)))
    (lost,) = [node for node in workers if node.processes("ray::SegmentationCache")]

    def is_back() -> bool:
        named = all(cluster.processes(title) for title in ("ray::SegmentationCache", "ray::EventHub"))
        return named and all(sum(node.replicas(name) for node in cluster.nodes) >= replicas[name] for name in replicas)

    with patient_load(cluster, clients=clients) as load:
        wait_until(lambda: load.answered["generate"] >= 5)
        cluster.kill(lost)
        wait_until(is_back, BACK_WITHIN_S)
        answered = load.answered["regions"]
        wait_until(lambda: load.answered["regions"] >= answered + more, BACK_WITHIN_S)
    with capsys.disabled():
        print(f"\nlost node: {load}", end="")

    assert load.failed == []
    cluster.finished(load.accepted)

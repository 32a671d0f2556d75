"""A failing update keeps the running version and reports the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.service_process import wait_until
from tests.cluster.applications import TWO, application, small_profile
from tests.cluster.load import impatient_load
from tests.cluster.running_cluster import RunningCluster

REASONS = {"Diffusion": "/nowhere/diffusion", "Ingress": "127.0.0.1"}  # by deployment
FAILED_WITHIN_S = 240

pytestmark = pytest.mark.long_cluster


def test_an_application_that_cannot_be_built_changes_nothing(
    resting: RunningCluster, capsys: pytest.CaptureFixture[str]
):
    cluster = resting
    with impatient_load(cluster, clients=3) as load:
        wait_until(lambda: load.answered.total() >= 3)
        failed = cluster.deploy(application(cluster, replicas=TWO, profile="nowhere"))
        answered = load.answered.total()
        wait_until(lambda: load.answered.total() >= answered + 10)
    with capsys.disabled():
        print(f"\nnot to be built: {load}", end="")

    assert failed.returncode == 1
    assert "No profile 'nowhere'" in words(failed.stdout)
    assert cluster.status()["status"] == "DEPLOY_FAILED"
    assert "No profile 'nowhere'" in cluster.status()["message"]
    assert load.failed == []
    assert guidance(cluster) == {5.0}
    with cluster.client() as client:
        assert client.get("/readyz").status_code == 200
    cluster.finished(load.accepted)


def test_replicas_that_cannot_start_do_not_replace_running_ones(
    resting: RunningCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A model without weights and an ingress without a database: each deployment keeps its replicas."""
    cluster = resting
    profile = small_profile(tmp_path, guidance=6.0)
    broken = yaml.safe_load(Path(profile).read_text())
    broken["diffusion"]["model"]["source"] = "/nowhere/diffusion"
    Path(profile).write_text(yaml.safe_dump(broken))
    storage = cluster.storage | {"database": "postgresql+psycopg://nobody@127.0.0.1:1/nothing"}

    def deployment(name: str) -> dict[str, Any]:
        found: dict[str, Any] = cluster.status()["deployments"][name]
        return found

    with impatient_load(cluster, clients=3) as load:
        wait_until(lambda: load.answered.total() >= 3)
        failed = cluster.deploy(application(cluster, replicas=TWO, profile=profile, storage=storage))
        wait_until(lambda: all(deployment(name)["status"] == "DEPLOY_FAILED" for name in REASONS), FAILED_WITHIN_S)
        answered = load.answered.total()
        wait_until(lambda: load.answered.total() >= answered + 10)
    with capsys.disabled():
        print(f"\nnot to be started: {load}", end="")

    assert failed.returncode == 1
    assert any(reason in words(failed.stdout) for reason in REASONS.values())  # of the first failure
    assert all(reason in deployment(name)["message"] for name, reason in REASONS.items())
    assert load.failed == []
    assert guidance(cluster) == {5.0}
    cluster.finished(load.accepted)


def words(text: str) -> str:
    """Return a text without line breaks."""
    return " ".join(text.split())


def guidance(cluster: RunningCluster) -> set[float]:
    """Return the profile's guidance, as reported by the ingress replicas."""
    with cluster.client() as client:
        return {client.get("/").json()["defaults"]["guidance"] for _ in range(10)}

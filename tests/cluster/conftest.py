"""One cluster for all of these tests: a head without CPUs, and workers with a logical GPU each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testing.service_process import wait_until
from tests.cluster.applications import TWO, application, small_profile
from tests.cluster.running_cluster import Node, RunningCluster, running_cluster

WORKERS = 2
CPUS = 4  # logical


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the long tests unless `--cluster` is given."""
    if config.getoption("cluster"):
        return
    long = [item for item in items if item.get_closest_marker("long_cluster")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture(scope="package")
def cluster() -> Iterator[RunningCluster]:
    with running_cluster() as running:
        yield running


@pytest.fixture(scope="package")
def profile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The profile of the service in its default state."""
    return small_profile(tmp_path_factory.mktemp("profile"), guidance=5.0)


@pytest.fixture
def workers(cluster: RunningCluster) -> list[Node]:
    """Two nodes with a GPU each, which replace those that earlier tests have killed."""
    wait_until(lambda: len(cluster.gpus()) == len(cluster.nodes))
    while len(cluster.nodes) <= WORKERS:
        cluster.add_node(num_cpus=CPUS, num_gpus=1)
    return cluster.nodes[1:]


@pytest.fixture
def spare(cluster: RunningCluster, workers: list[Node]) -> Iterator[Node]:
    """One more such node, for one test."""
    node = cluster.add_node(num_cpus=CPUS, num_gpus=1)
    yield node
    if node in cluster.nodes:
        cluster.kill(node)


@pytest.fixture
def resting(cluster: RunningCluster, workers: list[Node], profile: str) -> RunningCluster:
    """The cluster with the service deployed."""
    cluster.update(application(cluster, replicas=TWO, profile=profile))
    return cluster

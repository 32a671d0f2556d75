"""Requests in flight when a replica or node is removed finish, and streams resume elsewhere."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from httpx_sse import connect_sse

from testing.service_process import wait_until
from tests.cluster.applications import MAX_STEPS, TWO, application, small_profile
from tests.cluster.load import impatient_load
from tests.cluster.running_cluster import Node, RunningCluster

DRAINED_WITHIN_S = 240

pytestmark = pytest.mark.long_cluster


class Reader(threading.Thread):
    """Subscribes to all events, and resumes after the last one it saw when its stream ends."""

    def __init__(self, cluster: RunningCluster) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.sequences: list[int] = []
        self.jobs: list[str] = []  # that succeeded
        self.streams = 0
        self.broken: list[str] = []
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            with suppress(httpx.ConnectError), self.cluster.client() as client:
                try:
                    self.follow(client)
                except httpx.TransportError as error:
                    self.broken.append(repr(error))

    def follow(self, client: httpx.Client) -> None:
        known = {"Last-Event-ID": str(self.sequences[-1] if self.sequences else 0)}
        with connect_sse(client, "GET", "/v1/events", headers=known) as source:
            self.streams += source.response.is_success
            for event in source.iter_sse():
                facts = event.json() if event.data else {}
                if "sequence" in facts:  # else it isn't logged
                    self.sequences.append(facts["sequence"])
                if event.event == "job.succeeded":
                    self.jobs.append(facts["job_id"])
                if self.over.is_set():
                    return


def test_an_update_lets_long_requests_finish_and_streams_resume(
    resting: RunningCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Requests of a minute: by default, Serve ends a replica after 20 s, even with requests in flight."""
    cluster = resting
    after = small_profile(tmp_path, guidance=2.5)
    reader = Reader(cluster)
    reader.start()

    def generate(seed: int) -> httpx.Response:
        with cluster.client() as client:
            body = {"prompt": "pear", "seed": seed, "steps": MAX_STEPS, "width": 160, "height": 160}
            return client.post("/generate", json=body)

    with ThreadPoolExecutor(2) as pool, impatient_load(cluster, clients=1) as load:
        pending = [pool.submit(generate, seed) for seed in range(2)]
        wait_until(lambda: busy(cluster) >= 2)
        old = {process.pid for process in cluster.processes("ray::ServeReplica:")}
        cluster.update(application(cluster, replicas=TWO, profile=after))
        answers = [answer.result() for answer in pending]
        wait_until(lambda: not old & {p.pid for p in cluster.processes("ray::ServeReplica:")}, DRAINED_WITHIN_S)
    cluster.finished(load.accepted)
    wait_until(lambda: set(load.accepted) <= set(reader.jobs))
    reader.over.set()
    with cluster.client() as client:
        client.post("/generate", json={"prompt": "the last event it reads"}).raise_for_status()
    reader.join(60)
    with capsys.disabled():
        seconds = [round(answer.elapsed.total_seconds()) for answer in answers]
        print(
            f"\nlong work of {seconds} s: {[answer.status_code for answer in answers]}; {load}; "
            f"{len(reader.sequences)} events over {reader.streams} streams, disconnects {reader.broken}",
            end="",
        )

    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    assert load.failed == []
    assert not reader.is_alive()
    assert reader.streams > 1
    assert reader.broken == []
    assert reader.sequences == sorted(set(reader.sequences))
    assert len(reader.jobs) == len(set(reader.jobs))


def test_a_removed_node_is_drained_first(
    resting: RunningCluster, workers: list[Node], spare: Node, capsys: pytest.CaptureFixture[str]
):
    cluster = resting
    leaving = max(workers, key=lambda node: len(node.processes("ray::ServeReplica:")))
    had = len(leaving.processes("ray::ServeReplica:"))
    with impatient_load(cluster, clients=3) as load:
        wait_until(lambda: load.answered.total() >= 5)
        cluster.drain(leaving, within_s=DRAINED_WITHIN_S)
        wait_until(lambda: not leaving.processes("ray::ServeReplica:"), DRAINED_WITHIN_S)
        cluster.kill(leaving)
        answered = load.answered.total()
        wait_until(lambda: load.answered.total() >= answered + 10, DRAINED_WITHIN_S)
    with capsys.disabled():
        print(f"\na node of {had} replicas emptied: {load}", end="")

    assert had > 0
    assert load.failed == []
    cluster.finished(load.accepted)


def busy(cluster: RunningCluster) -> int:
    """Return the number of long jobs that are running."""
    with cluster.client() as client:
        jobs = client.get("/v1/jobs", params={"state": "running"}).raise_for_status().json()["jobs"]
    return sum(job["request"]["steps"] == MAX_STEPS for job in jobs)

"""A cluster under test: nodes with logical GPUs, shared storage, a load balancer in front of their proxies, and
deployment by the command line."""

from __future__ import annotations

import json
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from ai_pipeline_client import Client, Retries
from cli.environment import RAY_ENVIRONMENT, child_environment
from testing.ports import quiet_port
from testing.servers import S3, postgres, s3
from testing.service_process import ROOT
from tests.cluster.balancer import balancing

APPLICATION = "pipeline"
NODES = 12  # at most over the whole run; the load balancer has a port for each
PATIENCE = Retries(attempts=20, within_s=240, connection_attempts=20)
DEPLOYED_WITHIN_S = 900
ANSWER_WITHIN_S = 300
GONE_WITHIN_S = 120
LOST_NODES_ARE_NOTICED_SOON = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
OBJECT_STORE_BYTES = 200 << 20


@dataclass(eq=False, kw_only=True)
class Node:
    """A node of the cluster."""

    node_id: str
    raylet: psutil.Process

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Return the node's processes whose title contains this text, such as `ray::SegmentationCache`."""
        found = []
        with suppress(psutil.NoSuchProcess):
            for process in self.raylet.children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if title in " ".join(process.cmdline()):
                        found.append(process)
        return found

    def replicas(self, deployment: str) -> int:
        """Return the number of replicas of a deployment on this node."""
        return len(self.processes(f"ray::ServeReplica:{APPLICATION}:{deployment}"))

    def kill(self) -> list[psutil.Process]:
        """Kill all of its processes at once, like a power failure; return them."""
        family = [self.raylet, *self.processes()]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return family


@dataclass(kw_only=True)
class RunningCluster:
    """The cluster and its process tree.

    Attributes:
        url: of the load balancer.
        port: of the head's proxy.
        ports: of the proxies of future nodes.
        nodes: those alive, the head first.
        lost: the processes of killed nodes.
    """

    url: str
    folder: Path
    storage: dict[str, str]
    process: subprocess.Popen[str]
    port: int
    ports: list[int]
    address: str = ""
    nodes: list[Node] = field(default_factory=list)
    lost: list[psutil.Process] = field(default_factory=list)

    def add_node(self, *, num_cpus: int, num_gpus: int = 0) -> Node:
        """Start a node whose proxy is behind the load balancer."""
        options: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        options |= {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        if self.nodes:
            options["env_vars"] = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(self.ports.pop())}
        added = self._execute("add", options)
        self.address = added["address"]
        node = Node(node_id=added["node_id"], raylet=psutil.Process(added["raylet"]))
        self.nodes.append(node)
        return node

    def kill(self, node: Node) -> None:
        """Kill a node."""
        self.nodes.remove(node)
        self.lost += node.kill()

    def drain(self, node: Node, *, within_s: int) -> None:
        """Drain a node as an autoscaler does before it removes the machine."""
        arguments = ["drain-node", "--address", self.address, "--node-id", node.node_id]
        arguments += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "a test takes it away"]
        ray = Path(sys.executable).with_name("ray")
        subprocess.run(
            [ray, *arguments, "--deadline-remaining-seconds", str(within_s)],
            check=True,
            capture_output=True,
            timeout=300,
        )

    def deploy(self, application: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
        """Deploy as an operator does, and wait for the outcome."""
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config["applications"] = [application]
        path = self.folder / f"{uuid.uuid4().hex}.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "cli.main", "serve", "--address", self.address, "--serve-config", str(path)]
        command += ["--port", str(self.port), "--data-dir", str(self.folder / "data")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEPLOYED_WITHIN_S)

    def update(self, application: Mapping[str, Any]) -> None:
        """Deploy, and assert success."""
        deployed = self.deploy(application)
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr

    def finished(self, job_ids: Sequence[str]) -> None:
        """Wait until all of these jobs have succeeded."""
        with Client(self.url, retries=PATIENCE) as client:
            assert len(client.jobs.wait(*job_ids)) == len(job_ids) > 0

    def status(self) -> dict[str, Any]:
        """Return Serve's status of the application."""
        status: dict[str, Any] = self._execute("status", APPLICATION)
        return status

    def running(self, deployment: str) -> int:
        """Return the number of running replicas of a deployment."""
        replicas: dict[str, int] = self.status()["deployments"][deployment]["replicas"]
        return replicas.get("RUNNING", 0)

    def gpus(self) -> dict[str, tuple[float, float]]:
        """Return the total and reserved GPUs of each node that Ray considers alive."""
        found: dict[str, tuple[float, float]] = self._execute("gpus", None)
        return {node_id: (total, round(total - free, 4)) for node_id, (total, free) in found.items()}

    def processes(self, title: str) -> list[psutil.Process]:
        """Return the processes of all nodes with a title."""
        return [process for node in self.nodes for process in node.processes(title)]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=330, **options)

    def _execute(self, command: str, argument: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({command: argument}) + "\n")
        self.process.stdin.flush()
        answered, _, _ = select.select([self.process.stdout], [], [], ANSWER_WITHIN_S)
        assert answered, f"no answer to {command} within {ANSWER_WITHIN_S} s"
        answer = self.process.stdout.readline()
        assert answer, (self.folder / "nodes.txt").read_text()
        return json.loads(answer)


@contextmanager
def running_cluster() -> Iterator[RunningCluster]:
    """Run PostgreSQL, an S3, a load balancer and a head without CPUs until the block ends; leave no process behind."""
    folder = Path(tempfile.mkdtemp(prefix="aipc-"))  # Ray's sockets need a short path
    (folder / "ray").mkdir()
    (folder / "token").write_text(secrets.token_hex(32))
    ports = [quiet_port() for _ in range(NODES)]
    try:
        with (
            postgres() as database,
            s3() as cloud,
            balancing(folder, ports) as url,
            child_environment(_environment(folder, cloud)),
            (folder / "nodes.txt").open("w") as log,
        ):
            url_of_database = database.url.replace("postgresql:", "postgresql+psycopg:")
            storage = {"database": url_of_database, "blobs": cloud.new_bucket()}
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.nodes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
            )
            cluster = RunningCluster(
                url=url, folder=folder, storage=storage, process=process, port=ports[0], ports=ports[1:]
            )
            with _ended(cluster):
                yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended(cluster: RunningCluster) -> Iterator[None]:
    root = psutil.Process(cluster.process.pid)
    try:
        cluster.add_node(num_cpus=0)
        yield
    finally:
        family = root.children(recursive=True) + [process for node in cluster.nodes for process in node.processes()]
        assert cluster.process.stdin is not None
        assert cluster.process.stdout is not None
        cluster.process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            cluster.process.wait(GONE_WITHIN_S)
        cluster.process.stdout.close()
        _, alive = psutil.wait_procs([root, *family, *cluster.lost], timeout=GONE_WITHIN_S)
        for left in alive:
            left.kill()
    assert alive == []


def _environment(folder: Path, cloud: S3) -> dict[str, str]:
    own = {"RAY_TMPDIR": str(folder), "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    return RAY_ENVIRONMENT | LOST_NODES_ARE_NOTICED_SOON | cloud.environment | own

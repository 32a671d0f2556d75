"""The nodes of a Ray cluster on this machine, in their own process: Ray reads its environment when it is imported.

`python -m tests.cluster.nodes` reads one command per line, as JSON, and answers each with a line of JSON:

- `{"add": {"num_cpus": 4, …}}`, arguments of `ray.cluster_utils.Cluster.add_node`: the node's id, its raylet's pid;
- `{"status": NAME}`: Serve's status of an application;
- `{"gpus": null}`: the total and free GPUs of each node that is alive.

The cluster ends with the input.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.cluster_utils import Cluster


class Nodes:
    """Executes the commands."""

    def __init__(self) -> None:
        self._cluster = Cluster()

    def add(self, options: dict[str, Any]) -> dict[str, Any]:
        node = self._cluster.add_node(**options)
        (raylet,) = node.all_processes["raylet"]
        return {"address": self._cluster.address, "node_id": node.node_id, "raylet": raylet.process.pid}

    def status(self, name: str) -> dict[str, Any] | None:
        self._connect()
        from ray import serve

        overview = serve.status().applications.get(name)
        if overview is None:
            return None
        return {
            "status": overview.status.value,
            "message": overview.message,
            "deployments": {
                name: {"status": d.status.value, "message": d.message, "replicas": dict(d.replica_states)}
                for name, d in overview.deployments.items()
            },
        }

    def gpus(self, _: None) -> dict[str, tuple[float, float]]:
        self._connect()
        free = available_resources_per_node()
        return {
            node["NodeID"]: (node["Resources"].get("GPU", 0.0), free.get(node["NodeID"], {}).get("GPU", 0.0))
            for node in ray.nodes()
            if node["Alive"]
        }

    def _connect(self) -> None:
        if not ray.is_initialized():
            ray.init(address=self._cluster.address, log_to_driver=False)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray's own output goes to stderr
    nodes = Nodes()
    for line in sys.stdin:
        ((command, argument),) = json.loads(line).items()
        print(json.dumps(getattr(nodes, command)(argument)), file=answers, flush=True)


if __name__ == "__main__":
    main()

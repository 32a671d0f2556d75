"""Writes what the manifests take from elsewhere: `python -m configs.kuberay.write_manifests`. A test compares the two.

`ray.env` is what Ray's processes find in their environment, from `cli/`; `rules.yaml` is Prometheus' rules as its
operator takes them; each overlay's `serve_config.yaml` is the project's own, with what a cluster wants otherwise.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import indent
from typing import Any

import yaml

from cli.config import LaunchOptions, load_config
from cli.environment import RAY_ENVIRONMENT, WORKER_ENVIRONMENT
from cli.proxies import node_environment
from pipeline.settings import PROJECT_ROOT, ServiceSettings

HERE = Path(__file__).parent
HEAD = "# Written by `python -m configs.kuberay.write_manifests`: change it there, or in {origin}.\n"
EVERYWHERE: dict[str, Any] = {"data_dir": "/data", "log_format": "json", "keys": "required"}
OVERLAYS: dict[str, dict[str, Any]] = {
    "cpu": {"profile": "mini", "accelerator": "cpu"},
    "gpu": {"profile": "sd14", "accelerator": "cuda"},  # GPUs may come only when a replica asks for one
}
RULES = ("recording_rules.yml", "alerts.yml")
SHIM = {"RAY_SERVE_HAPROXY_BINARY_PATH": "/app/.venv/bin/ai-pipeline-haproxy"}  # in our image
BY_KUBERAY = ("RAY_AUTH_MODE",)  # `authOptions` sets it, with the token


def files() -> dict[Path, str]:
    """What is written: the content of each file."""
    patches = {HERE / "overlays" / name / "serve_config.yaml": serve_patch(args) for name, args in OVERLAYS.items()}
    return {HERE / "base" / "ray.env": environment_file(), HERE / "monitoring" / "rules.yaml": rules(), **patches}


def environment_file() -> str:
    """The environment of every Ray node, HAProxy's part included."""
    request_within_s = ServiceSettings().admission.deadline_s
    variables = RAY_ENVIRONMENT | WORKER_ENVIRONMENT | node_environment(request_within_s) | SHIM
    lines = [f"{name}={value}\n" for name, value in sorted(variables.items()) if name not in BY_KUBERAY]
    return HEAD.format(origin="cli/environment.py and cli/proxies.py") + "".join(lines)


def rules() -> str:
    """Recording rules and alerts as one PrometheusRule."""
    folder = PROJECT_ROOT / "configs" / "prometheus"
    groups = [group for name in RULES for group in yaml.safe_load((folder / name).read_text())["groups"]]
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "ai-pipeline"},
        "spec": {"groups": groups},
    }
    return HEAD.format(origin="configs/prometheus") + yaml.safe_dump(resource, sort_keys=False, width=120)


def serve_patch(args: dict[str, Any]) -> str:
    """The patch that gives a RayService its Serve configuration."""
    config = load_config(LaunchOptions()).listening_on("0.0.0.0")  # HAProxy calls replicas on other nodes
    (application,) = config["applications"]
    application["args"] |= EVERYWHERE | args
    for deployment in application["deployments"]:
        if deployment["name"] == "Ingress":
            deployment["max_replicas_per_node"] = 1  # one must outlive any node
    text = yaml.safe_dump(config, sort_keys=False, width=120)
    resource = "apiVersion: ray.io/v1\nkind: RayService\nmetadata: {name: ai-pipeline}\nspec:\n  serveConfigV2: |\n"
    return HEAD.format(origin="serve_config.yaml") + resource + indent(text, "    ")


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)

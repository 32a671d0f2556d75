"""What is deployed to the cluster: modified copies of `serve_config.yaml` and the miniature profile."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from testing.service_process import ROOT
from tests.cluster.running_cluster import RunningCluster

MODELS = ("Diffusion", "Clip", "Segmenter")
ONE = {"Ingress": 2, "Diffusion": 1, "Clip": 1, "Segmenter": 1, "Renderer": 1}  # replicas
TWO = ONE | {"Diffusion": 2}
MAX_STEPS = 1000  # of the models' training


def application(
    cluster: RunningCluster, *, replicas: Mapping[str, int], deployments: Mapping[str, Any] | None = None, **args: Any
) -> dict[str, Any]:
    """Return the application of `serve_config.yaml` with these numbers of replicas and these arguments.

    Args:
        deployments: other options by deployment.
    """
    (found,) = yaml.safe_load((ROOT / "serve_config.yaml").read_text())["applications"]
    found["args"] |= {"storage": cluster.storage, "reactions": {"enabled": False}, **args}
    for entry in found["deployments"]:
        if entry["name"] in replicas:
            entry.pop("autoscaling_config", None)
            entry["num_replicas"] = replicas[entry["name"]]
        entry |= (deployments or {}).get(entry["name"], {})
    return dict(found)


def small_profile(folder: Path, **defaults: Any) -> str:
    """Write a copy of the miniature profile for small images on one thread or long ones; return its path."""
    profile = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text())
    profile["threads"] = dict.fromkeys(profile["threads"], 1)
    profile["diffusion"]["defaults"] |= {"width": 64, "height": 64, "steps": 2} | defaults
    profile["diffusion"]["limits"]["max_steps"] = MAX_STEPS
    path = folder / f"{uuid.uuid4().hex}.yaml"
    path.write_text(yaml.safe_dump(profile))
    return str(path)

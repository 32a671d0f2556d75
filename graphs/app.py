"""The app builder: the only place that binds deployments together.

`serve_config.yaml` names `graphs.app:build`. This module has no `from __future__ import annotations`: with it, Serve
would pass the builder a plain dict instead of validated settings.
"""

from typing import Any

import ray
from ray.serve import Application

from deployments.clip import Clip
from deployments.diffusion import Diffusion
from deployments.renderer import Renderer
from deployments.segmenter import Segmenter
from graphs.ingress import Ingress
from pipeline.settings import ServiceSettings

SHUTDOWN_GRACE_S = 10.0  # after a request's deadline, for its cleanup


def build(settings: ServiceSettings) -> Application:
    """Compose the application.

    Replica counts and autoscaling come from the `deployments:` section of the configuration; GPU fractions from
    `settings.num_gpus`, applied unless the accelerator is the CPU.

    Raises:
        ValueError: there are several nodes, and each would keep images of its own.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) > 1 and settings.storage.is_local:
        raise ValueError(
            f"This cluster has {len(nodes)} nodes, and the storage is on the disk of one: the others would not find "
            "its images. Set storage.database to a PostgreSQL and storage.blobs to an object store in the "
            "application's args, or PIPELINE_DATABASE and PIPELINE_BLOBS on every node."
        )
    if settings.accelerator == "auto" and not ray.cluster_resources().get("GPU"):
        settings = settings.model_copy(update={"accelerator": "cpu"})
    accelerator = settings.accelerator
    profile = settings.load_profile()
    threads = profile.threads

    def sized(deployment: Any) -> Any:
        num_gpus = settings.num_gpus.get(deployment.name, 0) if accelerator != "cpu" else 0
        return deployment.options(
            ray_actor_options={**(deployment.ray_actor_options or {}), "num_gpus": num_gpus},
            # A draining replica may finish its requests in flight: Serve's default is 20 s.
            graceful_shutdown_timeout_s=settings.admission.deadline_s + SHUTDOWN_GRACE_S,
        )

    return sized(Ingress).bind(
        settings,
        diffusion=sized(Diffusion).bind(profile.diffusion, accelerator, threads.diffusion, settings.traces),
        clip=sized(Clip).bind(profile.clip, accelerator, threads.clip, settings.traces),
        segmenter=sized(Segmenter).bind(profile.sam2, accelerator, threads.sam2, profile.sam3, settings.traces),
        renderer=sized(Renderer).bind(settings.traces),
    )

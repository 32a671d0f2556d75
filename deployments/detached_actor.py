"""Detached actors: they outlive the process that started them, and are found by name."""

from __future__ import annotations

from typing import Any

import ray

from pipeline.settings import RAY_NAMESPACE


def find_or_start(actor: Any, name: str, *args: object, num_cpus: float) -> ray.actor.ActorHandle:
    """Return the running actor of this name, starting it if there is none; Ray restarts it when it dies.

    Args:
        actor: the class, wrapped by `ray.remote`.
        args: of the constructor, for a new actor.
    """
    return actor.options(
        name=name,
        namespace=RAY_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_task_retries=0,
        num_cpus=num_cpus,
    ).remote(*args)

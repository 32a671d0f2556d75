"""CPU cost of a call to the cache actor at saturation: a part of `benchmarks stage-costs`.

Runs in a process of its own, because Ray reads the environment when it is imported.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import ray

from cli.environment import prepare_environment
from deployments.segmentation_cache import SegmentationCache
from pipeline.settings import CacheSettings

CALLERS = 3
IN_FLIGHT = 32  # keys of each caller
KEYS = 600  # of each caller
WARM_UP = 50
VALUE = bytes(4_000)  # a segmentation, about


class MeasuredCache(SegmentationCache):
    """A cache actor that returns its process id."""

    async def pid(self) -> int:
        """Of this process."""
        return os.getpid()


async def call_again_and_again(cache: Any, name: str, keys: int) -> None:
    """Make the cache calls of a stage for many keys, several concurrently."""
    places = asyncio.Semaphore(IN_FLIGHT)

    async def compute(key: str) -> None:
        async with places:
            lease = await cache.acquire.remote(key)
            await cache.put.remote(key, VALUE)
            await cache.release.remote(key, lease.token)

    await asyncio.gather(*(compute(f"{name}-{number}") for number in range(keys)))


def cache_call_s(folder: Path) -> float:
    """CPU seconds of the actor's process per call; each key takes three calls.

    Args:
        folder: for Ray's token.
    """
    prepare_environment(folder)
    command = [sys.executable, "-m", "benchmarks.capacity.cache_costs"]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Measure, and print the seconds."""
    ray.init(address="local", include_dashboard=False, num_cpus=2 * CALLERS, log_to_driver=False, logging_level="error")
    try:
        actor = ray.remote(concurrency_groups={"waiters": 100})(MeasuredCache)
        cache = actor.options(num_cpus=0.1).remote(CacheSettings())
        process = psutil.Process(ray.get(cache.pid.remote()))
        ray.get([_caller.remote(cache, f"warm-{number}", WARM_UP) for number in range(CALLERS)])
        before = process.cpu_times()
        ray.get([_caller.remote(cache, str(number), KEYS) for number in range(CALLERS)])
        after = process.cpu_times()
        print((after.user + after.system - before.user - before.system) / (3 * CALLERS * KEYS))
    finally:
        ray.shutdown()


@ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
def _caller(cache: Any, name: str, keys: int) -> None:
    asyncio.run(call_again_and_again(cache, name, keys))


if __name__ == "__main__":
    main()

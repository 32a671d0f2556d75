"""What the model deployments share: loading an engine, or keeping the reason for a failure, and running it in a thread.

Torch is imported when a replica starts, so this module imports it, and the engines, inside functions only.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import cache, partial
from typing import Generic, TypeVar

import ray
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.metrics import Counter, Gauge

from deployments.priority_lock import PriorityLock
from pipeline.errors import ModelNotReady
from pipeline.records import ModelStatus
from pipeline.settings import Accelerator

E = TypeVar("E")
T = TypeVar("T")

LOAD_AGAIN_S = 60.0  # after a failed load: the hub may be reachable, or memory free, by then
NICENESS = 10  # of a replica on a CPU: proxies and ingress go before inference

logger = logging.getLogger("ray.serve")


class EngineReplica(Generic[E]):
    """One engine in one replica, used by one call at a time, never on the event loop.

    A replica that can't load its engine starts and reports why, unless others are running already: an update that can't
    be loaded must not replace them, nor get a share of their calls.

    Args:
        model: the deployment's name.
        load: creates the engine on a device.
        accelerator: where to compute.
        threads: torch's threads on a CPU.
        fingerprint: returns the digest of an engine's weights.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[str], E],
        accelerator: Accelerator,
        threads: int,
        fingerprint: Callable[[E], str],
    ) -> None:
        self._model = model
        self._engine: E | None = None
        self._lock = PriorityLock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=model)
        self._calls = Counter(
            "pipeline_engine_calls", description="Calls an engine began to work on.", tag_keys=("model",)
        )
        self._calls.set_default_tags({"model": model})
        self._load_engine = load
        self._fingerprint = fingerprint
        self._status = ModelStatus(ready=False, device="", fingerprint="", reason="it is being loaded")
        self._load_again_at = 0.0
        self._prepare = partial(_prepare_process, accelerator, threads)
        self._device = ""
        is_one_more = self._thread.submit(_has_running_siblings).result()  # first: later siblings don't count
        self._thread.submit(self._load).result()  # compiled code belongs to the thread that will run it
        if is_one_more and not self._status.ready:
            raise RuntimeError(f"The {model} model could not be loaded: {self._status.reason}")

    def status(self) -> ModelStatus:
        """Return whether the engine is loaded, or why not; also retries a failed load."""
        if not self._status.ready and time.monotonic() >= self._load_again_at:
            self._load_again_at = math.inf
            self._thread.submit(self._load)
        return self._status

    def _load(self) -> None:
        try:
            self._device = self._device or self._prepare()
            self._engine = self._load_engine(self._device)
            self._status = ModelStatus(
                ready=True, device=self._device, fingerprint=self._fingerprint(self._engine), reason=""
            )
        except Exception as error:  # raising would make Serve restart a replica without siblings for ever
            logger.exception("The %s model could not be loaded", self._model)
            self._status = ModelStatus(ready=False, device="", fingerprint="", reason=str(error))
        self._load_again_at = time.monotonic() + LOAD_AGAIN_S

    @property
    def fingerprint(self) -> str:
        """The digest of the loaded weights; empty before they are loaded."""
        return self._status.fingerprint

    @property
    def engine(self) -> E:
        """The engine.

        Raises:
            ModelNotReady: it could not be loaded, with the reason.
        """
        if self._engine is None:
            raise ModelNotReady(model=self._model, reason=self._status.reason)
        return self._engine

    def count_call(self) -> None:
        """Count one of several calls that share the engine.

        Raises:
            ModelNotReady: it could not be loaded, with the reason.
        """
        _ = self.engine
        self._calls.inc()

    async def run_shared(self, work: Callable[[E], T]) -> T:
        """Run work shared by several calls, such as a batch."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self.engine)

    async def run_exclusive(self, work: Callable[[E], T]) -> T:
        """Run one call's work with exclusive use of the engine."""
        engine = self.engine
        async with self._lock.acquire(background=False):
            self._calls.inc()
            return await self._in_thread(partial(work, engine))

    async def stream(
        self, start: Callable[[E], Generator[T, None, None]], background: bool = False
    ) -> AsyncGenerator[T, None]:
        """Run a generator; at each item a cancelled call stops, and background work yields to interactive calls."""
        engine = self.engine
        async with self._lock.acquire(background) as yield_to_interactive:
            self._calls.inc()
            iterator = start(engine)
            done = object()
            try:
                while (item := await self._in_thread(partial(next, iterator, done))) is not done:
                    yield item
                    await yield_to_interactive()
            finally:
                # A step may still be running; the thread closes the iterator after it.
                self._thread.submit(iterator.close)

    async def run_to_result(self, start: Callable[[E], Generator[T, None, None]], background: bool = False) -> T:
        """Run work that yields progress first and its result last; return the result."""
        async with aclosing(self.stream(start, background)) as items:
            *_, last = [item async for item in items]
        return last

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Run work in the engine's thread, in the span of the caller."""
        return asyncio.get_running_loop().run_in_executor(self._thread, contextvars.copy_context().run, work)


def _has_running_siblings() -> bool:
    """Return whether other replicas of this deployment are running; without a cluster there are none."""
    try:
        context = serve.get_replica_context()
    except RayServeException:
        return False
    application = serve.status().applications.get(context.app_name)
    deployment = application and application.deployments.get(context.deployment)
    return bool(deployment and deployment.replica_states.get("RUNNING"))


@cache  # a replica may have several engines
def _prepare_process(accelerator: Accelerator, threads: int) -> str:
    """Choose the device and apply process-wide settings; return the device."""
    import torch

    from pipeline.engines.device import pick_device, use_cpu

    device = pick_device(accelerator)
    share = 0.0
    if device == "cpu":
        use_cpu(threads)
        os.nice(NICENESS)
    else:
        share = min(1.0, ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0))
        torch.cuda.set_per_process_memory_fraction(share)
    report_gpu_memory(device, share)
    return device


REPORT_INTERVAL_S = 2.0  # a gauge that isn't set repeatedly vanishes from the exporter


def report_gpu_memory(device: str, share: float) -> None:
    """Start reporting in a thread of its own.

    Args:
        device: where the replica computes, as torch names it; on a CPU it holds no GPU memory.
        share: of the GPU's memory that it may take, 0 to 1.
    """
    threading.Thread(target=_report, args=(device, share), name="gpu-memory", daemon=True).start()


def _report(device: str, share: float) -> None:
    held = Gauge("pipeline_replica_gpu_bytes", description="GPU memory that torch holds in a replica.")
    limit = Gauge("pipeline_replica_gpu_limit_bytes", description="GPU memory that a replica may hold.")
    while True:
        held_bytes, limit_bytes = (0.0, 0.0) if device == "cpu" else _held_and_limit(device, share)
        held.set(held_bytes)
        limit.set(limit_bytes)
        time.sleep(REPORT_INTERVAL_S)


def _held_and_limit(device: str, share: float) -> tuple[float, float]:
    import torch

    return torch.cuda.memory_reserved(device), share * torch.cuda.get_device_properties(device).total_memory

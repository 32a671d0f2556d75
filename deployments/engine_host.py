"""What the model deployments have in common: load an engine or keep the reason why not, and run it in a thread.

The first lines of a replica's life import torch, so this module imports it, and the engines, inside functions only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Generic, Literal, TypeVar

import ray
from ray.serve.metrics import Counter

from pipeline.errors import ModelNotReady
from pipeline.records import ModelStatus

E = TypeVar("E")
T = TypeVar("T")

NICENESS = 10  # of a replica on a CPU: proxies and ingress answer first, inference takes what is left

logger = logging.getLogger("ray.serve")


class EngineHost(Generic[E]):
    """One engine in one replica, used by one call at a time, never on the event loop.

    Args:
        model: the deployment's name.
        load: makes the engine on a device.
        accelerator: `cpu` or `cuda`.
        threads: torch's threads on a CPU.
    """

    def __init__(
        self,
        model: str,
        load: Callable[[str], E],
        accelerator: Literal["auto", "cpu", "cuda"],
        threads: int,
        fingerprint: Callable[[E], str],
    ) -> None:
        self._model = model
        self._engine: E | None = None
        self._turn = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=model)
        self._calls = Counter(
            "pipeline_engine_calls", description="Calls an engine began to work on.", tag_keys=("model",)
        )
        self._calls.set_default_tags({"model": model})
        self._status = ModelStatus(ready=False, device="", fingerprint="", reason="")
        try:
            device = _prepare_process(accelerator, threads)
            self._engine = load(device)
            self._status = ModelStatus(ready=True, device=device, fingerprint=fingerprint(self._engine), reason="")
        except Exception as error:  # raising would have Serve start this replica over and over
            logger.exception("The %s model could not be loaded", model)
            self._status = ModelStatus(ready=False, device="", fingerprint="", reason=str(error))

    @property
    def status(self) -> ModelStatus:
        """Whether the engine is loaded, and why not."""
        return self._status

    @property
    def engine(self) -> E:
        """The engine.

        Raises:
            ModelNotReady: it could not be loaded; says why.
        """
        if self._engine is None:
            raise ModelNotReady(model=self._model, reason=self._status.reason)
        return self._engine

    async def call(self, work: Callable[[E], T]) -> T:
        """Run one piece of work to its end."""
        engine = self.engine
        async with self._turn:
            self._calls.inc()
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, engine)

    async def stream(self, start: Callable[[E], Generator[T, None, None]]) -> AsyncGenerator[T, None]:
        """Run work that yields; a caller who goes away stops it at its next yield."""
        engine = self.engine
        loop = asyncio.get_running_loop()
        async with self._turn:
            self._calls.inc()
            iterator = start(engine)
            done = object()
            try:
                while (item := await loop.run_in_executor(self._thread, next, iterator, done)) is not done:
                    yield item  # type: ignore[misc]  # the sentinel is the only other type
            finally:
                # A step may still be running; the thread takes this up after it.
                self._thread.submit(iterator.close)

    async def last(self, start: Callable[[E], Generator[T, None, None]]) -> T:
        """Run work that yields progress first and its result last; return the result."""
        async with aclosing(self.stream(start)) as items:
            *_, last = [item async for item in items]
        return last


def _prepare_process(accelerator: Literal["auto", "cpu", "cuda"], threads: int) -> str:
    import torch

    from pipeline.engines.device import pick_device, use_threads

    device = pick_device(accelerator)
    if device == "cpu":
        use_threads(threads)
        os.nice(NICENESS)
    else:
        share = ray.get_runtime_context().get_assigned_resources().get("GPU", 1.0)
        torch.cuda.set_per_process_memory_fraction(min(1.0, share))
    return device

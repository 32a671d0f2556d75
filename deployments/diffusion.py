"""The diffusion deployment: text to image, one step after the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.metrics import Counter

from deployments.engine_host import EngineHost
from pipeline.records import Computed, GenerationRequest, ModelStatus, Pixels, StepProgress
from pipeline.settings import Accelerator, DiffusionSettings

if TYPE_CHECKING:
    from pipeline.engines.diffusion import DiffusionEngine


@serve.deployment(
    max_ongoing_requests=2,
    max_queued_requests=64,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.25},
)
class Diffusion:
    """A shell round `DiffusionEngine`."""

    def __init__(self, settings: DiffusionSettings, accelerator: Accelerator, threads: int) -> None:
        def load(device: str) -> DiffusionEngine:
            from pipeline.engines.diffusion import DiffusionEngine

            return DiffusionEngine(settings, device)

        self._host = EngineHost("Diffusion", load, accelerator, threads, lambda engine: engine.fingerprint)
        self._steps = Counter("pipeline_engine_steps", description="Denoising steps computed.")

    async def generate(self, request: GenerationRequest) -> AsyncIterator[StepProgress | Computed[Pixels]]:
        """Yield the progress of each step, and the image, (h, w, 3) uint8, last."""
        async with aclosing(self._host.stream(lambda engine: engine.generate(request))) as items:
            async for item in items:
                if isinstance(item, StepProgress):
                    self._steps.inc()
                    yield item
                else:
                    yield Computed(value=item, model=self._host.fingerprint)

    def status(self) -> ModelStatus:
        """Tell whether the model is loaded."""
        return self._host.status()

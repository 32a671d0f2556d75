"""The SAM2 deployment: segmentation. Calls for one image are routed to one replica, which caches its encoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.config import RequestRouterConfig

from deployments import HEALTH_INTERVAL_S
from deployments.engine_replica import EngineReplica
from deployments.tracing import traced
from pipeline.errors import ModelNotReady
from pipeline.records import Computed, ModelStatus, Pixels, PointsAndBox, Segmentation, StepProgress
from pipeline.settings import UNTRACED, Accelerator, AutomaticMaskSettings, Sam2Settings, Sam3Settings, TraceSettings
from pipeline.traces import open_traces

if TYPE_CHECKING:
    from pipeline.engines.sam2.engine import Sam2Engine
    from pipeline.engines.sam3 import Sam3Engine

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


@serve.deployment(
    max_ongoing_requests=4,
    max_queued_requests=64,
    health_check_period_s=HEALTH_INTERVAL_S,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.25},
    request_router_config=RequestRouterConfig(request_router_class=ROUTER),
)
class Segmenter:
    """A wrapper around `Sam2Engine`, and `Sam3Engine` where the profile has one."""

    def __init__(
        self,
        settings: Sam2Settings,
        accelerator: Accelerator,
        threads: int,
        sam3: Sam3Settings | None = None,
        traces: TraceSettings = UNTRACED,
    ) -> None:
        def load(device: str) -> Sam2Engine:
            from pipeline.engines.sam2.engine import Sam2Engine

            return Sam2Engine(settings, device)

        self.traces = open_traces(traces, "Segmenter")
        self._replica = EngineReplica("Segmenter", load, accelerator, threads, lambda engine: engine.fingerprint)
        self._sam3 = None if sam3 is None else _sam3_replica(sam3, accelerator, threads)

    @traced
    async def segment(
        self, image: Pixels, parameters: AutomaticMaskSettings, background: bool = False
    ) -> Computed[Segmentation]:
        """Find every region of an image, (h, w, 3) uint8; background work yields to other calls between batches."""
        found: StepProgress | Segmentation = await self._replica.run_to_result(
            lambda engine: engine.segment(image, parameters), background
        )
        if not isinstance(found, Segmentation):
            raise RuntimeError("the engine ended without a segmentation")
        return Computed(value=found, model=self._replica.fingerprint)

    @traced
    async def segment_prompts(
        self, image: Pixels, prompts: Sequence[PointsAndBox], parameters: AutomaticMaskSettings
    ) -> Computed[Segmentation]:
        """Segment what prompts point at in an image, (h, w, 3) uint8: one region for each, in their order."""
        found = await self._replica.run_exclusive(lambda engine: engine.segment_prompts(image, prompts, parameters))
        return Computed(value=found, model=self._replica.fingerprint)

    @traced
    async def find(self, image: Pixels, text: str, parameters: Sam3Settings) -> Computed[Segmentation]:
        """Segment everything in an image, (h, w, 3) uint8, that a text names."""
        if self._sam3 is None:
            raise ModelNotReady(model="SAM3", reason="the profile has none")
        found = await self._sam3.run_exclusive(lambda engine: engine.find(image, text, parameters))
        return Computed(value=found, model=self._sam3.fingerprint)

    def status(self) -> ModelStatus:
        """Return whether the model is loaded."""
        return self._replica.status()


def _sam3_replica(settings: Sam3Settings, accelerator: Accelerator, threads: int) -> EngineReplica[Sam3Engine]:
    def load(device: str) -> Sam3Engine:
        from pipeline.engines.sam3 import Sam3Engine

        return Sam3Engine(settings, device)

    return EngineReplica("SAM3", load, accelerator, threads, lambda engine: engine.fingerprint)

"""The CLIP deployment: what an image and its regions show, and the vectors of texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ray import serve

from deployments.engine_host import EngineHost
from pipeline.records import Computed, Descriptions, ModelStatus, Pixels, Segmentation, Vectors
from pipeline.regions import masked_crops
from pipeline.settings import Accelerator, ClipSettings, Labelling

if TYPE_CHECKING:
    from pipeline.engines.clip import ClipEngine


@serve.deployment(
    max_ongoing_requests=4,
    max_queued_requests=64,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.25},
)
class Clip:
    """A shell round `ClipEngine`."""

    def __init__(self, settings: ClipSettings, accelerator: Accelerator, threads: int) -> None:
        def load(device: str) -> ClipEngine:
            from pipeline.engines.clip import ClipEngine

            return ClipEngine(settings, device)

        self._host = EngineHost("Clip", load, accelerator, threads, lambda engine: engine.fingerprint)

    async def describe(
        self, image: Pixels, segmentation: Segmentation | None, labelling: Labelling
    ) -> Computed[Descriptions]:
        """Classify an image, (h, w, 3) uint8, or each region of it: its crop, everything outside its mask blanked."""

        def work(engine: ClipEngine) -> Descriptions:
            pictures = [image] if segmentation is None else list(masked_crops(image, segmentation, engine.fill))
            return engine.describe(pictures, labelling)

        return Computed(value=await self._host.call(work), model=self._host.fingerprint)

    async def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, (n, d) unit norm."""
        return await self._host.call(lambda engine: engine.encode_texts(texts))

    def status(self) -> ModelStatus:
        """Tell whether the model is loaded."""
        return self._host.status()

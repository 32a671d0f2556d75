"""The renderer deployment: drawing, encoding and decoding, off every event loop."""

from __future__ import annotations

import asyncio

from ray import serve

from deployments import HEALTH_INTERVAL_S
from deployments.tracing import traced
from pipeline.imaging import codecs as images
from pipeline.imaging import codecs as uploads
from pipeline.imaging import drawing
from pipeline.records import Computed, Drawings, Encoding, Pixels, Segmentation, Upload
from pipeline.settings import RENDERER_THREADS, UNTRACED, DrawingSettings, TraceSettings
from pipeline.traces import open_traces


@serve.deployment(
    max_ongoing_requests=RENDERER_THREADS,
    max_queued_requests=256,
    health_check_period_s=HEALTH_INTERVAL_S,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.1},
)
class Renderer:
    """Draws, encodes and decodes in threads: OpenCV releases the GIL while it works."""

    def __init__(self, traces: TraceSettings = UNTRACED) -> None:
        self.traces = open_traces(traces, "Renderer")

    @traced
    async def render(self, image: Pixels, segmentation: Segmentation, style: DrawingSettings) -> Computed[Drawings]:
        """Draw the overlay and the spotlights of an image, (h, w, 3) uint8."""
        drawings = await asyncio.to_thread(drawing.render, image, segmentation, style)
        return Computed(value=drawings, model="")

    @traced
    async def decode_upload(self, data: bytes) -> Upload:
        """Decode an uploaded picture."""
        return await asyncio.to_thread(uploads.decode_upload, data)

    @traced
    async def encode(self, image: Pixels, encoding: Encoding) -> bytes:
        """Encode an image, (h, w, 3) uint8."""
        return await asyncio.to_thread(images.encode, image, encoding)

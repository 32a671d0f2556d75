"""Fake workers and a fake cache without a cluster: real behaviour, no models."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from graphs.workers.handles import ModelName, SharedImage, TextModelName, WorkerDied
from pipeline.cache import Busy, Hit, Lease, LeasedLru
from pipeline.engines.diffusion.img2img import origin_of
from pipeline.imaging import codecs as images
from pipeline.imaging import codecs as uploads
from pipeline.imaging import drawing
from pipeline.imaging.masks import Mask, encode_mask, outline
from pipeline.records import (
    Computed,
    Descriptions,
    Drawings,
    Encoding,
    GenerationRequest,
    ModelStatus,
    Pixels,
    PointsAndBox,
    Segmentation,
    StepProgress,
    Upload,
    Vectors,
)
from pipeline.settings import AutomaticMaskSettings, DrawingSettings, Sam3Settings, ZeroShotSettings

LABELS = ("apple", "plate", "cup", "bowl", "bottle", "table")
DIMENSIONS = 8
MAX_TOKENS = 77


class FakeWorkers:
    """Draws a disc at a position that depends on the seed; its regions are the disc and the rest."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.steps = 0
        self.deaths: Counter[str] = Counter()  # pending worker deaths by kind of call
        self.gate = asyncio.Event()  # calls wait until it is set
        self.gate.set()
        self.model = "weights-1"
        self.reason = ""  # why no model is ready
        self.unknown = 0.0  # the share of unknown content in every image

    async def generate(
        self, request: GenerationRequest, owner: str, source: SharedImage | None = None, previews: bool = False
    ) -> AsyncGenerator[StepProgress | Computed[Pixels], None]:
        await self._begin("generate")
        for step in range(1, request.steps + 1):
            await self.gate.wait()
            self.steps += 1
            preview = np.full((request.height // 4, request.width // 4, 3), step, np.uint8) if previews else None
            yield StepProgress(step=step, num_steps=request.steps, preview=preview)
        y, x = np.ogrid[: request.height, : request.width]
        pixels = np.zeros((request.height, request.width, 3), np.uint8)
        centre = 16 + request.seed % 32
        pixels[(y - centre) ** 2 + (x - centre) ** 2 < 12**2] = (200, 30, request.seed % 256)
        if source is not None and (origin := origin_of(request, source.pixels)) and origin.mask is not None:
            pixels = np.where(origin.mask[..., None], pixels, origin.pixels)
        yield Computed(value=pixels, model=self.model)

    async def describe(
        self, image: SharedImage, segmentation: Segmentation | None, labelling: ZeroShotSettings
    ) -> Computed[Descriptions]:
        await self._begin("describe" if segmentation is None else "describe_regions")
        n = 1 if segmentation is None else len(segmentation)
        return Computed(
            value=Descriptions(
                vectors=np.eye(n, DIMENSIONS, dtype=np.float32),
                labels=tuple(LABELS[i : i + 5] for i in range(n)),
                confidences=np.full((n, 5), 0.2, np.float32),
                unknown=np.full(n, self.unknown, np.float32),
            ),
            model=self.model,
        )

    async def encode_texts(self, texts: Sequence[str]) -> Vectors:
        await self._begin("encode_texts")
        return np.eye(1, DIMENSIONS, dtype=np.float32).repeat(len(texts), 0) * np.float32(0.125)

    async def count_tokens(self, model: TextModelName, texts: Sequence[str]) -> Sequence[int]:
        await self._begin("count_tokens")
        return [min(MAX_TOKENS, 2 + len(text.split())) for text in texts]

    async def segment(
        self, image: SharedImage, parameters: AutomaticMaskSettings, background: bool
    ) -> Computed[Segmentation]:
        await self._begin("segment")
        mask = image.pixels[..., 0] > 0
        return Computed(value=segmentation_of([mask, ~mask]), model=self.model)

    async def segment_prompts(
        self, image: SharedImage, prompts: Sequence[PointsAndBox], parameters: AutomaticMaskSettings
    ) -> Computed[Segmentation]:
        await self._begin("segment_prompts")
        mask = image.pixels[..., 0] > 0
        pointed_at = [mask[int(y), int(x)] for (x, y, _), *_ in (prompt.points for prompt in prompts)]
        return Computed(value=segmentation_of([mask == level for level in pointed_at]), model=self.model)

    async def find(self, image: SharedImage, text: str, parameters: Sam3Settings) -> Computed[Segmentation]:
        await self._begin("find")
        mask = image.pixels[..., 0] > 0
        return Computed(value=segmentation_of([mask] if text in LABELS else []), model=self.model)

    async def render(
        self, image: SharedImage, segmentation: Segmentation, style: DrawingSettings
    ) -> Computed[Drawings]:
        await self._begin("render")
        return Computed(value=drawing.render(image.pixels, segmentation, style), model="")

    async def encode(self, image: SharedImage, encoding: Encoding) -> bytes:
        await self._begin("encode")
        return images.encode(image.pixels, encoding)

    async def decode_upload(self, data: bytes) -> Upload:
        await self._begin("decode_upload")
        return uploads.decode_upload(data)

    async def status(self, model: ModelName) -> ModelStatus:
        return ModelStatus(
            ready=not self.reason, device="cpu", fingerprint="" if self.reason else self.model, reason=self.reason
        )

    async def _begin(self, kind: str) -> None:
        self.calls[kind] += 1
        await self.gate.wait()
        if self.deaths[kind]:
            self.deaths[kind] -= 1
            raise WorkerDied(kind)


def segmentation_of(masks: list[Mask]) -> Segmentation:
    height, width = masks[0].shape if masks else (0, 0)
    return Segmentation(
        size=(height, width),
        rles=tuple(map(encode_mask, masks)),
        boxes=np.array([[0, 0, width, height]] * len(masks), np.float32).reshape(-1, 4),
        predicted_iou=np.linspace(0.99, 0.96, len(masks), dtype=np.float32),
        stability=np.linspace(0.98, 0.97, len(masks), dtype=np.float32),
        polygons=tuple(map(outline, masks)),
    )


class FakeCache:
    """The actor's behaviour in this process; `silent` makes it a dead one."""

    def __init__(self) -> None:
        self.entries: LeasedLru[bytes] = LeasedLru(1 << 20, 10.0, time.monotonic)
        self.silent = False
        self.unanswered = 0  # number of calls
        self._changed = asyncio.Condition()

    async def acquire(self, key: str) -> Hit[bytes] | Lease | Busy:
        await self._answering()
        return self.entries.acquire(key)

    async def wait(self, key: str, timeout_s: float) -> None:
        await self._answering()
        async with self._changed:
            await self._changed.wait_for(lambda: not self.entries.is_busy(key))

    async def renew(self, key: str, token: int) -> bool:
        await self._answering()
        return self.entries.renew(key, token)

    async def release(self, key: str, token: int) -> None:
        await self._answering()
        self.entries.release(key, token)
        async with self._changed:
            self._changed.notify_all()

    async def put(self, key: str, value: bytes) -> None:
        await self._answering()
        self.entries.put(key, value, len(value))
        async with self._changed:
            self._changed.notify_all()

    async def _answering(self) -> None:
        if self.silent:
            self.unanswered += 1
            await asyncio.Event().wait()

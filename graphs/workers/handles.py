"""Typed handles of the model deployments: plain awaitables, our errors, cancellation that reaches the replica."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, get_current_span
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from pipeline.errors import Overloaded, PipelineError, StageFailed, WorkerLost
from pipeline.events import StageRetried
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
from pipeline.traces import ending, propagation, span, start_span, within

T = TypeVar("T")

ModelName = Literal["Diffusion", "Clip", "Segmenter"]
TextModelName = Literal["Diffusion", "Clip"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedImage:
    """An image in shared memory, for every worker."""

    digest: str
    pixels: Any  # a ray.ObjectRef of Pixels; the Pixels themselves without a cluster


class WorkerDied(Exception):
    """A replica died during a call; the call may be retried."""


class Workers(Protocol):
    """Calls to the model deployments."""

    def generate(
        self, request: GenerationRequest, owner: str, source: SharedImage | None = None, previews: bool = False
    ) -> AsyncGenerator[StepProgress | Computed[Pixels], None]: ...
    async def describe(
        self, image: SharedImage, segmentation: Segmentation | None, labelling: ZeroShotSettings
    ) -> Computed[Descriptions]: ...
    async def encode_texts(self, texts: Sequence[str]) -> Vectors: ...
    async def count_tokens(self, model: TextModelName, texts: Sequence[str]) -> Sequence[int]: ...
    async def segment(
        self, image: SharedImage, parameters: AutomaticMaskSettings, background: bool
    ) -> Computed[Segmentation]: ...
    async def segment_prompts(
        self, image: SharedImage, prompts: Sequence[PointsAndBox], parameters: AutomaticMaskSettings
    ) -> Computed[Segmentation]: ...
    async def find(self, image: SharedImage, text: str, parameters: Sam3Settings) -> Computed[Segmentation]: ...
    async def render(
        self, image: SharedImage, segmentation: Segmentation, style: DrawingSettings
    ) -> Computed[Drawings]: ...
    async def encode(self, image: SharedImage, encoding: Encoding) -> bytes: ...
    async def decode_upload(self, data: bytes) -> Upload: ...
    async def status(self, model: ModelName) -> ModelStatus: ...


class ServeWorkers:
    """`Workers` over Serve's deployment handles."""

    def __init__(
        self,
        *,
        diffusion: DeploymentHandle[Any],
        clip: DeploymentHandle[Any],
        segmenter: DeploymentHandle[Any],
        renderer: DeploymentHandle[Any],
    ) -> None:
        self._diffusion = diffusion
        self._clip = clip
        self._segmenter = segmenter
        self._renderer = renderer

    async def generate(
        self, request: GenerationRequest, owner: str, source: SharedImage | None = None, previews: bool = False
    ) -> AsyncGenerator[StepProgress | Computed[Pixels], None]:
        """Stream the progress of one image, every step with previews if a subscriber wants them, the image last."""
        pixels = None if source is None else source.pixels
        with ending(start_span("call generate", kind=SpanKind.CLIENT)) as call:
            method = self._diffusion.options(stream=True).generate
            stream = method.remote(request, owner, pixels, previews, **propagation(call))
            try:
                async for item in stream:
                    yield item
            except Exception as error:
                raise to_pipeline_error(error, "generate") from error
            finally:
                stream.cancel()  # does nothing to a stream that has ended

    async def describe(
        self, image: SharedImage, segmentation: Segmentation | None, labelling: ZeroShotSettings
    ) -> Computed[Descriptions]:
        """Classify the image, or each region of it."""
        return await _call("describe", self._clip.describe, image.pixels, segmentation, labelling)

    async def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Encode texts, (n, d)."""
        return await _call("encode_texts", self._clip.encode_texts, tuple(texts))

    async def count_tokens(self, model: TextModelName, texts: Sequence[str]) -> Sequence[int]:
        """Count the tokens of each text."""
        handle = {"Diffusion": self._diffusion, "Clip": self._clip}[model]
        return await _call("count_tokens", handle.count_tokens, tuple(texts))

    async def segment(
        self, image: SharedImage, parameters: AutomaticMaskSettings, background: bool
    ) -> Computed[Segmentation]:
        """Segment the image; background work yields to interactive calls."""
        return await _call("segment", self._segmenter_of(image).segment, image.pixels, parameters, background)

    async def segment_prompts(
        self, image: SharedImage, prompts: Sequence[PointsAndBox], parameters: AutomaticMaskSettings
    ) -> Computed[Segmentation]:
        """Cut out what prompts show, one region for each, in their order."""
        segment_prompts = self._segmenter_of(image).segment_prompts
        return await _call("segment_prompts", segment_prompts, image.pixels, prompts, parameters)

    async def find(self, image: SharedImage, text: str, parameters: Sam3Settings) -> Computed[Segmentation]:
        """Cut out everything that a text names, with SAM3."""
        return await _call("find", self._segmenter_of(image).find, image.pixels, text, parameters)

    async def render(
        self, image: SharedImage, segmentation: Segmentation, style: DrawingSettings
    ) -> Computed[Drawings]:
        """Draw overlay and spotlights."""
        return await _call("render", self._renderer.render, image.pixels, segmentation, style)

    async def encode(self, image: SharedImage, encoding: Encoding) -> bytes:
        """Encode the image itself."""
        return await _call("encode", self._renderer.encode, image.pixels, encoding)

    async def decode_upload(self, data: bytes) -> Upload:
        """Decode an upload."""
        return await _call("decode_upload", self._renderer.decode_upload, data)

    async def status(self, model: ModelName) -> ModelStatus:
        """Return the status of a deployment's model, from one replica."""
        handle = {"Diffusion": self._diffusion, "Clip": self._clip, "Segmenter": self._segmenter}[model]
        with within(Context()):  # shared by all callers: it belongs to no request's trace
            return await _call("status", handle.status)

    def _segmenter_of(self, image: SharedImage) -> DeploymentHandle[Any]:
        """The segmenter, routed to the replica that has this image encoded, if there is one."""
        return self._segmenter.options(session_id=image.digest)


async def retry_once(
    stage: str, request_id: str, work: Callable[[], Awaitable[T]], emit: Callable[[StageRetried], None]
) -> T:
    """Retry work once if its worker dies: the seed is in the request, so the result is the same.

    Raises:
        WorkerLost: it died twice.
    """
    try:
        return await work()
    except WorkerDied:
        get_current_span().add_event("worker lost", {"stage": stage})
        emit(StageRetried(request_id=request_id, stage=stage))
    try:
        return await work()
    except WorkerDied:
        raise WorkerLost(stage=stage) from None


async def _call(what: str, method: DeploymentHandle[T], *args: Any) -> T:
    """Call a replica within the caller's trace."""
    with span(f"call {what}", kind=SpanKind.CLIENT) as call:
        response: DeploymentResponse[T] = method.remote(*args, **propagation(call))
        try:
            answer: T = await response
            return answer
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise to_pipeline_error(error, what) from error


def to_pipeline_error(error: Exception, stage: str) -> Exception:
    """Translate an error of a call."""
    match error:
        case PipelineError():  # Ray raises a class derived from both the replica's error and its own
            cause = error.cause if isinstance(error, RayTaskError) else error
            return cause if isinstance(cause, PipelineError) else error
        case RayActorError() | ObjectLostError() | OutOfMemoryError() | ReplicaUnavailableError():
            return WorkerDied(stage)
        case BackPressureError():
            return Overloaded(waiting="many", what=f"requests for {stage!r}", retry_after_s=2)
        case RayTaskError():
            return StageFailed(stage=stage, reason=str(error.cause))
        case _:  # behind HAProxy calls go over gRPC, which brings a replica's exception as it is
            return StageFailed(stage=stage, reason=str(error))

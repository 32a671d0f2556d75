"""The deployments through Serve's handles, in this process: results, streams, and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, OutOfMemoryError, RayTaskError
from ray.serve.exceptions import BackPressureError

from graphs.workers.handles import ServeWorkers, SharedImage, WorkerDied
from pipeline.errors import ModelNotReady, Overloaded, StageFailed
from pipeline.records import Computed, Drawings, Encoding, ModelStatus, Pixels, PointsAndBox, StepProgress
from pipeline.settings import AutomaticMaskSettings, DrawingSettings, ZeroShotSettings
from testing.harness import a_request

pytestmark = pytest.mark.anyio


class Tiny:
    """A deployment that computes trivial results, or raises `failure`."""

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self.name = name
        self.failure = failure

    async def generate(self, request, owner, source, previews) -> AsyncIterator[StepProgress | Computed[Pixels]]:
        for step in range(1, request.steps + 1):
            yield StepProgress(step=step, num_steps=request.steps)
        self._fail()
        yield Computed(value=np.full((4, 4, 3), request.seed, np.uint8), model=self.name)

    async def describe(self, image, segmentation, labelling) -> Computed:
        self._fail()
        return Computed(value=(image.shape, segmentation, labelling.top_k), model=self.name)

    async def encode_texts(self, texts) -> np.ndarray:
        self._fail()
        return np.array([[len(text), len(self.name)] for text in texts], np.float32)

    async def segment(self, image, parameters, background) -> Computed:
        self._fail()
        return Computed(value=(image.shape, parameters.points_per_side), model=self.name)

    async def segment_prompts(self, image, prompts, parameters) -> Computed:
        self._fail()
        return Computed(value=(image.shape, prompts), model=self.name)

    async def render(self, image, segmentation, style) -> Computed[Drawings]:
        self._fail()
        return Computed(value=Drawings(overlay=self.name.encode(), spotlights=()), model="")

    async def encode(self, image, encoding) -> bytes:
        self._fail()
        return self.name.encode() + encoding.format.encode() + image.tobytes()

    async def status(self) -> ModelStatus:
        self._fail()
        return ModelStatus(ready=True, device="cpu", fingerprint=self.name, reason="")

    def _fail(self) -> None:
        if self.failure:
            raise self.failure


def workers_of(failure: Exception | None = None) -> ServeWorkers:
    names = ("Diffusion", "Clip", "Segmenter", "Renderer")
    handles = {
        name.lower(): serve.run(
            serve.deployment(Tiny).options(name=name).bind(name, failure), name=name, _local_testing_mode=True
        )
        for name in names
    }
    return ServeWorkers(**handles)


def as_ray_raises(error: Exception) -> Exception:
    """Return a replica's exception as raised on a cluster: a subclass of the error's class and Ray's."""
    return RayTaskError("method", "Traceback …", error).as_instanceof_cause()


IMAGE = SharedImage(digest="d1", pixels=np.zeros((2, 3, 3), np.uint8))
PROMPTS = (PointsAndBox(points=((1.0, 1.0, True),)),)

CALLS = {
    "generate": lambda w: collected(w),
    "describe": lambda w: w.describe(IMAGE, None, ZeroShotSettings()),
    "encode_texts": lambda w: w.encode_texts(["metal"]),
    "segment": lambda w: w.segment(IMAGE, AutomaticMaskSettings(), background=False),
    "segment_prompts": lambda w: w.segment_prompts(IMAGE, PROMPTS, AutomaticMaskSettings()),
    "render": lambda w: w.render(IMAGE, None, DrawingSettings()),
    "encode": lambda w: w.encode(IMAGE, Encoding()),
    "status": lambda w: w.status("Clip"),
}

every_call = pytest.mark.parametrize("stage", CALLS)
each_transport = pytest.mark.parametrize(
    "wrapped", [as_ray_raises, lambda error: error], ids=["through Ray", "through gRPC, behind HAProxy"]
)


async def collected(workers: ServeWorkers) -> list:
    return [item async for item in workers.generate(a_request(seed=7, steps=3), "public")]


async def test_a_stream_yields_its_steps_and_ends_with_the_image():
    *steps, image = await collected(workers_of())
    assert steps == [StepProgress(step=step, num_steps=3) for step in (1, 2, 3)]
    assert image.model == "Diffusion"
    assert (image.value == 7).all()


async def test_each_call_goes_to_its_deployment_with_its_arguments():
    workers = workers_of()
    described = await workers.describe(IMAGE, None, ZeroShotSettings(top_k=3))
    segmented = await workers.segment(IMAGE, AutomaticMaskSettings(points_per_side=8), background=False)
    prompted = await workers.segment_prompts(IMAGE, PROMPTS, AutomaticMaskSettings())
    drawn = await workers.render(IMAGE, None, DrawingSettings())
    assert described == Computed(value=((2, 3, 3), None, 3), model="Clip")
    assert segmented == Computed(value=((2, 3, 3), 8), model="Segmenter")
    assert prompted == Computed(value=((2, 3, 3), PROMPTS), model="Segmenter")
    assert drawn.value.overlay == b"Renderer"
    assert await workers.encode(IMAGE, Encoding()) == b"Renderer" + b"png" + IMAGE.pixels.tobytes()
    assert (await workers.encode_texts(["metal"])).tolist() == [[5, len("Clip")]]
    for name in ("Diffusion", "Clip", "Segmenter"):
        assert (await workers.status(name)).fingerprint == name


@every_call
@each_transport
async def test_model_not_ready_is_raised_through_the_handle(stage, wrapped):
    with pytest.raises(ModelNotReady, match="Clip model is not ready: no weights") as raised:
        await CALLS[stage](workers_of(wrapped(ModelNotReady(model="Clip", reason="no weights"))))
    assert type(raised.value) is ModelNotReady  # Ray's class would add the replica's stack to the message
    assert (raised.value.status, raised.value.retry_after_s) == (503, 10)


@every_call
@each_transport
async def test_any_other_error_of_a_replica_raises_stage_failed(stage, wrapped):
    with pytest.raises(StageFailed) as raised:
        await CALLS[stage](workers_of(wrapped(ZeroDivisionError("division by zero"))))
    assert str(raised.value) == f"The stage {stage!r} failed: division by zero"
    assert raised.value.status == 500


@every_call
@pytest.mark.parametrize(
    "lost",
    [
        ActorDiedError(),
        ActorUnavailableError("unreachable", None),
        OutOfMemoryError("killed"),
        ObjectLostError("00", None, ""),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_lost_replica_raises_worker_died(stage, lost):
    with pytest.raises(WorkerDied, match=stage):
        await CALLS[stage](workers_of(lost))


@every_call
async def test_a_full_queue_raises_overloaded(stage):
    with pytest.raises(Overloaded, match=stage) as raised:
        await CALLS[stage](workers_of(BackPressureError(num_queued_requests=9, max_queued_requests=8)))
    assert raised.value.retry_after_s == 2


async def test_a_stream_may_be_closed_after_any_step():
    stream = workers_of().generate(a_request(steps=50), "public")
    assert await anext(stream) == StepProgress(step=1, num_steps=50)
    await stream.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)

"""All in-process events, named in the past tense, with their union at the end.

Only `graphs/` emits events. Logs and metrics consume them and nothing else.
An event never contains a prompt: events are logged, and many can read logs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class _Event:
    request_id: str  # of the HTTP request that caused it


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationStarted(_Event):
    """A new image is being generated."""

    width: int  # pixels
    height: int  # pixels
    num_steps: int
    waited_s: float  # since its job was accepted


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationStepped(_Event):
    """One denoising step is done."""

    step: int  # from 1
    num_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviewShown(_Event):
    """The first preview of an image was sent."""

    seconds: float  # since its job was accepted


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageCreated(_Event):
    """An image was made or uploaded, and stored."""

    image_id: str
    owner: str
    digest: str
    seconds: float  # from admission to storage


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDeleted(_Event):
    """An image, and everything computed from it, was deleted."""

    image_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFinished(_Event):
    """A stage of the graph computed its result."""

    image_id: str
    stage: str
    seconds: float  # wall time of the stage itself, with the wait for a worker
    num_regions: int  # 0 for the image as a whole


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDescribed(StageFinished):
    """CLIP classified the whole image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSegmented(StageFinished):
    """SAM2 segmented the image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionsDescribed(StageFinished):
    """CLIP classified every region."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionsRendered(StageFinished):
    """Overlay and spotlights were drawn and encoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageProbed(_Event):
    """A text was compared with the image and its regions."""

    image_id: str
    seconds: float


Source = Literal["memory", "cache", "run", "store"]
"""Where a result came from: this replica's memory, the shared cache, a run in progress, or the store."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultReused(_Event):
    """A stage's result existed already, or another caller's run was joined."""

    image_id: str
    stage: str
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheBypassed(_Event):
    """The shared cache did not answer in time; the result was computed without it."""

    operation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRetried(_Event):
    """A worker was lost during a stage; another worker retries it."""

    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFinished(_Event):
    """An HTTP request has ended, successfully or not."""

    route: str  # the route's template, never the raw path
    method: str
    status: int
    seconds: float
    code: str  # of the error; empty on success
    detail: str  # of the error, for the log
    is_routine: bool = False  # a probe or a scrape, every few seconds


DomainEvent = (
    GenerationStarted
    | GenerationStepped
    | PreviewShown
    | ImageCreated
    | ImageDeleted
    | StageFinished
    | ImageProbed
    | ResultReused
    | CacheBypassed
    | StageRetried
    | RequestFinished
)


def event_type(event: DomainEvent) -> str:
    """Return an event's type as in event streams: "generation.stepped" for `GenerationStepped`."""
    what, done = re.findall("[A-Z][a-z]+", type(event).__name__)
    return f"{what}.{done}".lower()

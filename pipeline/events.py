"""Everything that can happen, in the past tense, closed by one union at the end.

Only `graphs/` emits events. Logs and metrics consume them and know nothing else.
Prompts never stand in an event: events reach logs, and logs reach many eyes.
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
    """The work on a new image has begun."""

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
    """The first look at an image that is being made."""

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
    """An image and all that was computed of it was removed."""

    image_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFinished(_Event):
    """A stage of the graph computed its result."""

    image_id: str
    stage: str
    seconds: float  # the work's own wall time, waiting for a worker included
    num_regions: int  # 0 for the image as a whole


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageDescribed(StageFinished):
    """CLIP classified the whole image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSegmented(StageFinished):
    """SAM2 took the image apart."""


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
"""Of a result: this replica's memory; the shared cache; a run in progress; the truth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultReused(_Event):
    """A stage's result was there already, or somebody else's run was joined."""

    image_id: str
    stage: str
    source: Source


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheBypassed(_Event):
    """The shared cache did not answer in time; the work went on without it."""

    operation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRetried(_Event):
    """A worker was lost during a stage; the stage was given to another one."""

    stage: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestFinished(_Event):
    """An HTTP request was answered, one way or another."""

    route: str  # the route's template, never the raw path
    method: str
    status: int
    seconds: float
    code: str  # of the error; empty when it went well
    detail: str  # of the error, for the log
    is_routine: bool = False  # a probe or a scrape, every few seconds


Event = (
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


def event_type(event: Event) -> str:
    """Name an event's kind as streams do: `GenerationStepped` is "generation.stepped"."""
    what, done = re.findall("[A-Z][a-z]+", type(event).__name__)
    return f"{what}.{done}".lower()

"""The stages as data: what each builds on, which event it emits, and the one call that does its work.

```
ImageCreated ─┬─ describe ──────────────────────── ImageDescribed
              └─ segment ── ImageSegmented ─┬─ describe_regions ── RegionsDescribed
                                            └─ render ──────────── RegionsRendered
```
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from graphs.workers.handles import ModelName, SharedImage, Workers
from pipeline.events import (
    ImageDescribed,
    ImageSegmented,
    RegionsDescribed,
    RegionsRendered,
    StageFinished,
)
from pipeline.records import Artifact, Computed, Descriptions, Drawings, Segmentation
from pipeline.settings import Profile

A = TypeVar("A", bound=Artifact, covariant=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(Generic[A]):
    """One node of the graph.

    Its work gets the workers, the image, the result it builds on (None for a stage that needs the image alone), its
    parameters, and whether it is background work.
    """

    name: str
    produces: type[A]
    builds_on: Stage[Artifact] | None
    emits: type[StageFinished]
    model: ModelName | None
    parameters: Callable[[Profile], BaseModel]
    work: Callable[[Workers, SharedImage, Any, Any, bool], Awaitable[Computed[A]]]
    num_regions: Callable[[A], int]


DESCRIBE: Stage[Descriptions] = Stage(
    name="describe",
    produces=Descriptions,
    builds_on=None,
    emits=ImageDescribed,
    model="Clip",
    parameters=lambda profile: profile.clip.labelling,
    work=lambda workers, image, _, labelling, __: workers.describe(image, None, labelling),
    num_regions=lambda _: 0,
)

SEGMENT: Stage[Segmentation] = Stage(
    name="segment",
    produces=Segmentation,
    builds_on=None,
    emits=ImageSegmented,
    model="Segmenter",
    parameters=lambda profile: profile.sam2.everything,
    work=lambda workers, image, _, everything, background: workers.segment(image, everything, background),
    num_regions=len,
)

DESCRIBE_REGIONS: Stage[Descriptions] = Stage(
    name="describe_regions",
    produces=Descriptions,
    builds_on=SEGMENT,
    emits=RegionsDescribed,
    model="Clip",
    parameters=lambda profile: profile.clip.labelling,
    work=lambda workers, image, segmentation, labelling, _: workers.describe(image, segmentation, labelling),
    num_regions=len,
)

RENDER: Stage[Drawings] = Stage(
    name="render",
    produces=Drawings,
    builds_on=SEGMENT,
    emits=RegionsRendered,
    model=None,
    parameters=lambda profile: profile.drawing,
    work=lambda workers, image, segmentation, style, _: workers.render(image, segmentation, style),
    num_regions=lambda drawings: len(drawings.spotlights),
)

STAGES: tuple[Stage[Artifact], ...] = (DESCRIBE, SEGMENT, DESCRIBE_REGIONS, RENDER)

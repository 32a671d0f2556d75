"""The service's responses as frozen records. Pixels are PNG bytes; sizes and boxes are in pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Self, TypeAlias, TypeVar

from ai_pipeline_client.decoding import decoded, wire

T = TypeVar("T")

Polygon = tuple[tuple[tuple[int, int], ...], ...]  # outer contours of one region, each of (x, y)
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, of which x1 and y1 are exclusive

STEPPED = "generation.stepped"
FINISHED = "generation.finished"
SUCCEEDED, FAILED, CANCELLED, DEAD = "succeeded", "failed", "cancelled", "dead"  # the ends of a job
ENDS = (SUCCEEDED, FAILED, CANCELLED, DEAD)


@dataclass(frozen=True, kw_only=True, slots=True)
class Defaults:
    """Default parameters of a generation."""

    width: int
    height: int
    steps: int
    guidance: float
    scheduler: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of a generation's parameters."""

    min_side: int
    max_side: int
    side_multiple: int
    max_steps: int
    max_guidance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """The service's status, device and profile."""

    status: str
    device: str  # such as "cpu" or "cuda:0"
    profile: str
    defaults: Defaults
    limits: Limits


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLengths:
    """A mask as COCO's compressed run lengths: `dataclasses.asdict` makes what `pycocotools.mask.decode` takes."""

    size: tuple[int, int]  # height and width
    counts: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The image that another one was made from."""

    image_id: str
    strength: float  # above 0 to 1: how much could change
    mask: RunLengths | None = None  # where it could change, at the new image's size; None: everywhere


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """All parameters of an image: the same request reproduces the same image."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    scheduler: str
    deterministic: bool = False
    source: Source | None = None  # None: made from noise alone


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerWarning:
    """A warning that comes with a successful response."""

    code: str  # such as "unknown_words" and "unknown_picture"
    detail: str  # a sentence
    words: tuple[str, ...] = ()  # those that the model doesn't know


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A stored image, and how it was made."""

    image_id: str
    created_at: datetime
    width: int
    height: int
    digest: str  # SHA-256 over shape and pixels, hex
    request: GenerationRequest | None  # None for an upload without that metadata
    warnings: tuple[AnswerWarning, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Uploaded:
    """An uploaded picture, now stored."""

    image_id: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An accepted piece of work, and its state."""

    job_id: str
    kind: str
    state: str  # "queued", "running", or one of `ENDS`
    attempts: int  # times it was started
    cancel_requested: bool
    request: Mapping[str, Any]
    result: Mapping[str, Any] | None  # once it succeeded
    problem: Mapping[str, Any] | None  # once it failed: the problem document
    created_at: datetime
    finished_at: datetime | None
    warnings: tuple[AnswerWarning, ...] = ()  # of the image it makes

    @property
    def has_ended(self) -> bool:
        """Whether its state is final, unless it is retried."""
        return self.state in ENDS

    @property
    def image_id(self) -> str | None:
        """Id of the image it made; None if it made none, or not yet."""
        return None if self.result is None else self.result.get("image_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The jobs that make the images of one call, in the order of their seeds."""

    request_id: str
    jobs: tuple[Job, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """One page of a list, newest first."""

    items: tuple[T, ...]
    next: str | None  # the cursor of the next page, as `before`; None on the last

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """A class that a picture shows, and its share of the confidence."""

    label: str
    confidence: float  # 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionLabels:
    """The classes that a region shows, best first."""

    region_id: int
    labels: tuple[Label, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Analysis:
    """The classes that an image and each of its regions show, best first."""

    image_id: str
    labels: tuple[Label, ...]
    regions: tuple[RegionLabels, ...]
    warnings: tuple[AnswerWarning, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A region of an image, its mask in the requested format."""

    region_id: int
    box: Box
    area: int  # pixels
    predicted_iou: float
    stability: float
    labels: tuple[Label, ...]  # best first
    score: float | None = None  # how well it matches the requested text, 0 to 1
    polygon: Polygon | None = None
    rle: RunLengths | None = None
    mask: bytes | None = None  # PNG of one bit a pixel, white where the region is


@dataclass(frozen=True, kw_only=True, slots=True)
class ConceptMatch:
    """How a concept matches a picture."""

    concept: str
    cosine: float  # of CLIP's vectors, -1 to 1
    match: float  # the cosine between the profile's bounds, 0 to 1
    share: float  # among all concepts and none of these, which together make 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConcepts:
    """How concepts match a region."""

    region_id: int
    label: str
    matches: tuple[ConceptMatch, ...]
    none_of_these: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Concepts:
    """How concepts match an image and each of its regions, in the order in which they were sent."""

    image_id: str
    matches: tuple[ConceptMatch, ...]
    none_of_these: float
    regions: tuple[RegionConcepts, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spotlight:
    """A region, and the picture with everything outside of it dimmed."""

    region_id: int
    label: str = wire("top_class")
    polygon: Polygon
    png: bytes = wire("spotlight_image")


@dataclass(frozen=True, kw_only=True, slots=True)
class Visualization:
    """All pictures of an image's regions."""

    overlay: bytes = wire("master_overlay")  # PNG of the image with all outlines
    spotlights: tuple[Spotlight, ...] = wire("individual_spotlights")


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """A denoising step of an image."""

    job_id: str
    number: int  # of the image among those of the call, from 0
    step: int  # steps done; 0 once it was accepted
    num_steps: int
    preview: bytes | None = None  # PNG of the image to come, smaller

    @classmethod
    def accepted(cls, job: Job, number: int) -> Self:
        """Return the progress of a job that hasn't started."""
        return cls(job_id=job.job_id, number=number, step=0, num_steps=int(job.request["steps"]))


OnProgress: TypeAlias = Callable[[Progress], object]  # may be a coroutine function for `AsyncClient`


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """An event of one's images and jobs."""

    type: str  # such as "image.created"
    sequence: int | None  # ascending; None for events that aren't stored
    job_id: str | None
    image_id: str | None
    facts: Mapping[str, Any] = field(repr=False)  # the whole payload as received

    @property
    def is_step(self) -> bool:
        """Whether it is a denoising step of an image."""
        return self.type == STEPPED

    def progress(self, number: int = 0) -> Progress:
        """Return a step as progress.

        Args:
            number: of the image among those of a call.
        """
        return decoded(Progress, {**self.facts, "number": number})

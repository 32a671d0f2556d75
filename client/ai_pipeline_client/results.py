"""The service's responses as frozen records. Pixels are PNG bytes; sizes and boxes are in pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any, Callable, Generic, Literal, Optional, Tuple, TypeVar, Union

from ai_pipeline_client.decoding import decoded, moment, wire

T = TypeVar("T")

Polygon = Tuple[Tuple[Tuple[int, int], ...], ...]  # outer contours of one region, each of (x, y)
Box = Tuple[int, int, int, int]  # x0, y0, x1, y1, of which x1 and y1 are exclusive

# The known values; a newer service may have more.
JobState = Union[Literal["queued", "running", "succeeded", "failed", "cancelled", "dead"], str]
DeliveryState = Union[Literal["pending", "delivered", "failed"], str]
Origin = Union[Literal["generated", "uploaded"], str]
Scheduler = Union[Literal["pndm", "ddim", "euler", "euler_a", "dpmpp_2m", "lcm", "unipc"], str]
Capability = Union[
    Literal[
        "generation",
        "variations",
        "edits",
        "segmentation",
        "text_search",
        "text_segmentation",
        "classification",
        "safety_checker",
        "embeddings",
    ],
    str,
]
EventType = Union[
    Literal[
        "job.submitted",
        "job.started",
        "job.requeued",
        "job.retried",
        "job.cancel_requested",
        "job.succeeded",
        "job.failed",
        "job.cancelled",
        "job.dead",
        "image.created",
        "image.deleted",
        "webhook.tested",
        "generation.stepped",
        "generation.finished",
    ],
    str,
]

STEPPED = "generation.stepped"
FINISHED = "generation.finished"
SUCCEEDED, FAILED, CANCELLED, DEAD = "succeeded", "failed", "cancelled", "dead"  # the ends of a job
SHOWN = 5  # labels in texts and notebooks
ENDS = (SUCCEEDED, FAILED, CANCELLED, DEAD)


@dataclass(frozen=True)
class Defaults:
    """Default parameters of a generation."""

    width: int
    height: int
    steps: int
    guidance: float
    scheduler: Scheduler


@dataclass(frozen=True)
class Limits:
    """Limits of a generation's parameters."""

    min_side: int
    max_side: int
    side_multiple: int
    max_steps: int
    max_guidance: float


@dataclass(frozen=True)
class About:
    """The service's status, device and profile."""

    status: str
    device: str  # such as "cpu" or "cuda:0"
    profile: str
    defaults: Defaults
    limits: Limits


@dataclass(frozen=True)
class RunLengths:
    """A mask as COCO's compressed run lengths: `dataclasses.asdict` makes what `pycocotools.mask.decode` takes."""

    size: Tuple[int, int]  # height and width
    counts: str


@dataclass(frozen=True)
class Source:
    """The image that another one was made from."""

    image_id: str
    strength: float  # above 0 to 1: how much could change
    mask: Optional[RunLengths] = None  # where it could change, at the new image's size; None: everywhere


@dataclass(frozen=True)
class GenerationRequest:
    """All parameters of an image: the same request reproduces the same image."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    scheduler: Scheduler
    deterministic: bool = False
    source: Optional[Source] = None  # None: made from noise alone


@dataclass(frozen=True)
class AnswerWarning:
    """A warning that comes with a successful response."""

    code: str  # such as "unknown_words" and "unknown_picture"
    detail: str  # a sentence
    words: Tuple[str, ...] = ()  # those that the model doesn't know


@dataclass(frozen=True)
class ImageModel:
    """The model that generated an image."""

    name: Optional[str]
    fingerprint: str  # of its weights


@dataclass(frozen=True)
class Uploaded:
    """An uploaded picture, now stored."""

    image_id: str
    width: int
    height: int


@dataclass(frozen=True)
class Job:
    """An accepted piece of work, and its state."""

    job_id: str
    kind: str
    state: JobState  # the ends are `ENDS`
    attempts: int  # times it was started
    cancel_requested: bool
    result: Optional[Mapping[str, Any]]  # once it succeeded
    problem: Optional[Mapping[str, Any]]  # once it failed: the problem document
    created_at: datetime
    finished_at: Optional[datetime]
    parameters: Mapping[str, Any] = wire("parameters", "request")  # of the image it makes
    warnings: Tuple[AnswerWarning, ...] = ()  # of the image it makes
    request_id: str = ""  # of the request that submitted it
    started_at: Optional[datetime] = None  # its last attempt
    step: Optional[int] = None  # denoising steps done, while it runs
    num_steps: Optional[int] = None
    preview_url: Optional[str] = None  # of the newest preview, a PNG; a path from the service's root
    metadata: Mapping[str, str] = field(default_factory=dict)  # for the image
    tags: Tuple[str, ...] = ()
    url: str = ""  # a path from the service's root

    @property
    def request(self) -> Mapping[str, Any]:
        """The same as `parameters`."""
        return self.parameters

    @property
    def has_ended(self) -> bool:
        """Whether its state is final, unless it is retried."""
        return self.state in ENDS

    @property
    def image_id(self) -> Optional[str]:
        """Id of the image it made; None if it made none, or not yet."""
        return None if self.result is None else self.result.get("image_id")


@dataclass(frozen=True)
class Accepted:
    """The jobs that make the images of one call, in the order of their seeds."""

    request_id: str
    jobs: Tuple[Job, ...]


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page of a list."""

    items: Tuple[T, ...]
    next: Optional[str]  # the cursor of the next page, as `after`; None on the last

    @property
    def has_more(self) -> bool:
        """Whether another page follows."""
        return self.next is not None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Label:
    """A class that a picture shows, and its share of the confidence."""

    label: str
    confidence: float  # 0 to 1


@dataclass(frozen=True)
class RegionLabels:
    """The classes that a region shows, best first."""

    region_id: int
    labels: Tuple[Label, ...]


@dataclass(frozen=True)
class Labels:
    """The classes that an image and each of its regions show, best first; iterates over the image's."""

    image_id: str
    labels: Tuple[Label, ...]
    regions: Tuple[RegionLabels, ...] = ()
    warnings: Tuple[AnswerWarning, ...] = ()

    def __iter__(self) -> Iterator[Label]:
        return iter(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rank: int) -> Label:
        return self.labels[rank]

    def __str__(self) -> str:
        return ", ".join(f"{label.label} {label.confidence:.0%}" for label in self.labels[:SHOWN])

    def _repr_html_(self) -> str:
        rows = (
            f"<tr><td>{escape(label.label)}</td><td><progress value='{label.confidence:.4f}'></progress> "
            f"{label.confidence:.0%}</td></tr>"
            for label in self.labels[:SHOWN]
        )
        return f"<table>{''.join(rows)}</table>"


Analysis = Labels  # its older name


@dataclass(frozen=True)
class Segment:
    """A region of an image, its mask in the requested format."""

    region_id: int
    box: Box
    area: int  # pixels
    predicted_iou: float
    stability: float
    labels: Tuple[Label, ...]  # best first
    score: Optional[float] = None  # how well it matches the requested text, 0 to 1
    polygon: Optional[Polygon] = None
    rle: Optional[RunLengths] = None
    mask: Optional[bytes] = None  # PNG of one bit a pixel, white where the region is


@dataclass(frozen=True)
class ConceptMatch:
    """How a concept matches a picture."""

    concept: str
    cosine: float  # of CLIP's vectors, -1 to 1
    match: float  # the cosine between the profile's bounds, 0 to 1
    share: float  # among all concepts and none of these, which together make 1


@dataclass(frozen=True)
class RegionConcepts:
    """How concepts match a region."""

    region_id: int
    label: str
    matches: Tuple[ConceptMatch, ...]
    none_of_these: float


@dataclass(frozen=True)
class Concepts:
    """How concepts match an image and each of its regions, in the order in which they were sent."""

    image_id: str
    matches: Tuple[ConceptMatch, ...]
    none_of_these: float
    regions: Tuple[RegionConcepts, ...]


@dataclass(frozen=True)
class Spotlight:
    """A region, and the picture with everything outside of it dimmed."""

    region_id: int
    polygon: Polygon
    label: str = wire("top_class")
    png: bytes = wire("spotlight_image")


@dataclass(frozen=True)
class Visualization:
    """All pictures of an image's regions."""

    overlay: bytes = wire("master_overlay")  # PNG of the image with all outlines
    spotlights: Tuple[Spotlight, ...] = wire("individual_spotlights")


@dataclass(frozen=True)
class Progress:
    """A denoising step of an image."""

    job_id: str
    number: int  # of the image among those of the call, from 0
    step: int  # steps done; 0 once it was accepted
    num_steps: int
    preview: Optional[bytes] = None  # PNG of the image to come, smaller

    @classmethod
    def accepted(cls, job: Job, number: int) -> Progress:
        """Return the progress of a job that hasn't started."""
        return cls(job_id=job.job_id, number=number, step=0, num_steps=int(job.parameters["steps"]))


OnProgress = Callable[[Progress], object]  # may be a coroutine function for `AsyncClient`


@dataclass(frozen=True)
class Event:
    """An event of one's images and jobs."""

    type: EventType
    sequence: Optional[int]  # ascending; None for events that aren't stored
    job_id: Optional[str]
    image_id: Optional[str]
    facts: Mapping[str, Any] = field(repr=False)  # the whole payload as received
    event_id: Optional[str] = None  # as `after` of a stream or list; None for events that aren't stored

    @classmethod
    def of(cls, type: str, facts: Mapping[str, Any]) -> Event:
        """Return an event by its payload."""
        ids = {name: facts.get(name) for name in ("sequence", "event_id", "job_id", "image_id")}
        return cls(type=type, facts=facts, **ids)

    @property
    def created_at(self) -> Optional[datetime]:
        """When it happened; None for events that aren't stored."""
        text = self.facts.get("created_at") or self.facts.get("time")
        return None if text is None else moment(text)

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


@dataclass(frozen=True)
class ModelReadiness:
    """Whether a model is loaded."""

    ready: bool
    device: str
    reason: str  # why it isn't; empty if it is


@dataclass(frozen=True)
class Readiness:
    """Whether the service is ready: true if every model is loaded."""

    ready: bool
    models: Mapping[str, ModelReadiness]  # by name

    def __bool__(self) -> bool:
        return self.ready

    @property
    def missing(self) -> Mapping[str, str]:
        """Why models aren't ready, by name."""
        return {name: model.reason for name, model in self.models.items() if not model.ready}


@dataclass(frozen=True)
class Model:
    """A model of the service. What follows `owned_by` is known of a model from `client.models.get` alone."""

    id: str
    created: int  # Unix time in seconds
    owned_by: str
    capabilities: Tuple[Capability, ...] = ()
    defaults: Optional[Defaults] = None  # None for a model that makes no images
    limits: Mapping[str, Any] = field(default_factory=dict, repr=False)  # of requests, such as `max_side`
    schedulers: Tuple[Scheduler, ...] = ()
    labels: Optional[Tuple[str, ...]] = field(default=None, repr=False)  # of classification; None if they are too many
    num_labels: int = 0
    fingerprint: Optional[str] = None  # of the weights; None while the model isn't ready
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)  # the JSON object


@dataclass(frozen=True)
class Key:
    """An API key."""

    key_id: str
    name: str
    created_at: datetime
    token: Optional[str] = field(default=None, repr=False)  # only of a key that was just created


@dataclass(frozen=True)
class OwnerLimits:
    """Limits of one owner; None is no limit."""

    requests_per_minute: Optional[int]  # to each replica of the service
    concurrent_requests: Optional[int]
    unfinished_jobs: Optional[int]
    webhooks: Optional[int]
    bytes: Optional[int]  # of stored images; beyond it the oldest are deleted
    retention_s: Optional[float]  # after which images and their events are deleted


@dataclass(frozen=True)
class OwnerUsage:
    """What an owner has."""

    images: int
    bytes: int  # of stored images
    unfinished_jobs: int
    webhooks: int


@dataclass(frozen=True)
class Me:
    """The caller: the owner of everything that its requests create."""

    owner: str
    key: Optional[Key]  # of the request; None where the service requires none
    limits: OwnerLimits
    usage: OwnerUsage


@dataclass(frozen=True)
class Webhook:
    """A receiver of events."""

    webhook_id: str
    url: str
    types: Tuple[EventType, ...]  # only these events; all if empty
    enabled: bool
    created_at: datetime
    disabled_at: Optional[datetime] = None  # when it was paused, or disabled by a 410
    disabled_reason: Optional[str] = None
    previous_secret_expires_at: Optional[datetime] = None  # until then deliveries are signed with both secrets
    secret: Optional[str] = field(default=None, repr=False)  # only of a webhook that was just created or rotated


@dataclass(frozen=True)
class DeliveryRequest:
    """What was sent to a receiver."""

    url: str
    headers: Mapping[str, str]
    body: str  # the CloudEvent as it was signed


@dataclass(frozen=True)
class DeliveryResponse:
    """What a receiver responded."""

    status: int
    headers: Mapping[str, str]
    body: str  # its beginning


@dataclass(frozen=True)
class Delivery:
    """One event for one webhook, and what became of it."""

    delivery_id: str  # the receiver's `webhook-id`, the same for every attempt
    event_id: str
    type: EventType
    subject: Optional[str]  # the image or job that it happened to
    state: DeliveryState
    attempts: int
    next_attempt_at: Optional[datetime]  # of a pending one
    last_error: Optional[str]  # why the last attempt failed
    created_at: datetime
    response_status: Optional[int] = wire("response_status", "last_status")  # of the last attempt
    finished_at: Optional[datetime] = wire("finished_at", "settled_at")  # noqa: RUF009
    request: Optional[DeliveryRequest] = None  # of the last attempt; from `client.webhooks.delivery` alone
    response: Optional[DeliveryResponse] = None

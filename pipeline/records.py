"""The records passed between engines, deployments and the graph.

Frozen, keyword-only, slotted; arrays are read-only. Nothing here validates input (that happens once, at the
HTTP edge) and nothing here imports torch or ray, so importing this module is cheap in every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (h, w, 3), RGB
Vectors = npt.NDArray[np.float32]  # (n, d), unit norm
Contour = list[list[int]]  # [[x, y], ...], at least 3 points
Polygon = list[Contour]  # outer contours of one region


class Scheduler(StrEnum):
    """The noise schedules a request may name."""

    PNDM = "pndm"  # Stable Diffusion 1's own; calls the UNet once more than it has steps
    DDIM = "ddim"
    EULER = "euler"
    EULER_A = "euler_a"  # draws fresh noise at every step
    DPMPP_2M = "dpmpp_2m"
    LCM = "lcm"  # for distilled models
    UNIPC = "unipc"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """The image that another one is made from, and how much of it may change."""

    image_id: str
    strength: float  # above 0 to 1: the share of the steps that are run; 1 replaces all that may change
    mask: str | None = None  # COCO run lengths of where it may change, at the request's size; None: everywhere


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """Everything that decides an image: the same request makes the same image again."""

    prompt: str
    negative_prompt: str
    width: int  # pixels
    height: int  # pixels
    steps: int
    guidance: float  # classifier-free guidance scale; 1 switches guidance off
    seed: int  # of the CPU generator of the initial noise
    scheduler: Scheduler
    deterministic: bool = False  # denoised in a batch of its own, so that the load can't change the last bits
    source: Source | None = None  # None: generated from noise alone

    def made_from(self, image_id: str) -> Self:
        """Return this request with another source image."""
        return replace(self, source=self.source and replace(self.source, image_id=image_id))

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Create a request from the output of `asdict`, or JSON of it; other keys are ignored."""
        source = facts.get("source")
        own = {name: value for name, value in facts.items() if name in cls.__slots__}
        return cls(**{**own, "scheduler": Scheduler(facts["scheduler"]), "source": source and Source(**source)})


class ImageFormat(StrEnum):
    """What a picture may be encoded as."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"

    @property
    def media_type(self) -> str:
        """The media type for HTTP."""
        return f"image/{self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How to encode a picture."""

    format: ImageFormat = ImageFormat.PNG
    size: tuple[int, int] | None = None  # width and height in pixels; None keeps its size
    quality: int = 90  # 1 to 100; ignored for PNG


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """An uploaded picture, and what is read of its metadata."""

    pixels: Pixels  # (h, w, 3)
    transparent: npt.NDArray[np.bool_] | None  # (h, w), True where fully transparent; None if nowhere
    parameters: str  # the PNG text `parameters`, which says how it was generated; empty if absent


@dataclass(frozen=True, kw_only=True, slots=True)
class StepProgress:
    """The progress that an engine's stream yields before its last item, the result."""

    step: int  # steps done, from 1
    num_steps: int
    preview: Pixels | None = field(default=None, compare=False)  # at the image's size or a quarter of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotations:
    """What a client attaches to its image, to find it again."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    def changed(self, metadata: Mapping[str, str | None], tags: Sequence[str] | None) -> Self:
        """Return these with other values by key, None for none, and other tags if given."""
        merged = {key: value for key, value in {**self.metadata, **metadata}.items() if value is not None}
        return replace(self, metadata=merged, tags=self.tags if tags is None else tuple(tags))

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Create annotations from the output of `asdict`, or JSON of it."""
        return cls(metadata=dict(facts["metadata"]), tags=tuple(facts["tags"]))


NO_ANNOTATIONS = Annotations()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRecord:
    """One stored image and how to generate it again."""

    image_id: str  # generated by the server: sorts by time, can't be guessed
    digest: str  # SHA-256 over shape and RGB bytes, hex: part of every result's key
    owner: str
    width: int  # pixels
    height: int  # pixels
    request: GenerationRequest | None  # for an upload, what its PNG text says, if anything
    model: str  # fingerprint of the diffusion model; empty for an upload
    created_at: datetime  # UTC
    model_name: str = ""  # name of the profile it was made with; empty for an upload, or if it isn't known
    job_id: str | None = None  # of the job that made it; None for an upload, or if it isn't known
    annotations: Annotations = NO_ANNOTATIONS

    @property
    def made_from(self) -> str | None:
        """The id of the image it was made from; None if it was uploaded, or generated from noise alone."""
        return self.request.source.image_id if self.model and self.request and self.request.source else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelStatus:
    """The state of a replica's model."""

    ready: bool
    device: str  # "cpu" or "cuda:0"
    fingerprint: str  # digest of the weights; empty while not ready
    reason: str  # why it isn't ready and how to fix it; empty when ready


@dataclass(frozen=True, kw_only=True, slots=True)
class PointsAndBox:
    """A segmentation prompt in pixels of the image: points, a box, or both."""

    points: tuple[tuple[float, float, bool], ...] = ()  # x, y and whether it lies inside the region
    box: tuple[float, float, float, float] | None = None  # x0, y0, x1, y1

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Create a prompt from the output of `asdict`, or JSON of it."""
        box = facts["box"]
        points = tuple((x, y, inside) for x, y, inside in facts["points"])
        return cls(points=points, box=None if box is None else tuple(box))


@dataclass(frozen=True, kw_only=True, slots=True)
class EditArea:
    """Where an image may change, by one of three: found when the job runs, since that takes a model."""

    region_ids: tuple[int, ...] = ()  # all of these
    text: str | None = None  # what matches it
    prompt: PointsAndBox | None = None

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Create an area from the output of `asdict`, or JSON of it."""
        prompt = facts["prompt"]
        return cls(
            region_ids=tuple(facts["region_ids"]),
            text=facts["text"],
            prompt=None if prompt is None else PointsAndBox.from_dict(prompt),
        )


FIRST_SELECTED_REGION = 1_000_000
"""The id of the first region of an image that was requested; automatic segmentation numbers its regions from 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionSelector:
    """What a region was requested by: points and a box, or a text, of which it is one of the matches."""

    prompt: PointsAndBox | None = None
    text: str | None = None
    match: int = 0  # the best one first

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Self:
        """Create a selector from the output of `asdict`, or JSON of it."""
        prompt = facts["prompt"]
        return cls(
            prompt=None if prompt is None else PointsAndBox.from_dict(prompt),
            text=facts["text"],
            match=facts["match"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """One segment of an image."""

    region_id: int
    rle: bytes  # COCO run lengths, column-major
    box: npt.NDArray[np.float32]  # (4,): x0, y0, x1, y1 in pixels, x1 and y1 exclusive
    predicted_iou: float
    stability: float
    polygon: Polygon


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmentation:
    """The regions of one image as a struct of arrays, most confident first; iterating yields `Region`s."""

    size: tuple[int, int]  # (h, w) in pixels
    rles: tuple[bytes, ...]
    boxes: npt.NDArray[np.float32]  # (n, 4)
    predicted_iou: npt.NDArray[np.float32]  # (n,)
    stability: npt.NDArray[np.float32]  # (n,)
    polygons: tuple[Polygon, ...]

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator[Region]:
        for i, rle in enumerate(self.rles):
            yield Region(
                region_id=i,
                rle=rle,
                box=self.boxes[i],
                predicted_iou=float(self.predicted_iou[i]),
                stability=float(self.stability[i]),
                polygon=self.polygons[i],
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelScore:
    """A label and the softmax share it got among all labels of the profile."""

    label: str
    confidence: float  # 0 to 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """CLIP's embedding and labels of one picture: a whole image or one region's crop."""

    vector: npt.NDArray[np.float32]  # (d,), unit norm
    top: tuple[LabelScore, ...]  # best first
    unknown: float  # the softmax share of none of the labels; 0 where the profile has no text for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Descriptions:
    """Descriptions of n pictures as a struct of arrays; iterating yields `Description`s."""

    vectors: Vectors  # (n, d)
    labels: tuple[tuple[str, ...], ...]  # n rows, best label first
    confidences: npt.NDArray[np.float32]  # (n, k)
    unknown: npt.NDArray[np.float32]  # (n,), see `Description`

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, end: int) -> Descriptions:
        """Return the descriptions from `start` up to `end`, exclusive."""
        own = slice(start, end)
        return Descriptions(
            vectors=self.vectors[own],
            labels=self.labels[own],
            confidences=self.confidences[own],
            unknown=self.unknown[own],
        )

    def __iter__(self) -> Iterator[Description]:
        rows = zip(self.vectors, self.labels, self.confidences, self.unknown, strict=True)
        for vector, labels, confidences, unknown in rows:
            top = tuple(
                LabelScore(label=label, confidence=float(c)) for label, c in zip(labels, confidences, strict=True)
            )
            yield Description(vector=vector, top=top, unknown=float(unknown))


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawings:
    """The pictures of a segmented image, as PNG bytes."""

    overlay: bytes
    spotlights: tuple[bytes, ...]  # one for each region, in the segmentation's order


class WarningCode(StrEnum):
    """What a warning is about."""

    UNKNOWN_WORDS = "unknown_words"  # the prompt has words that the model doesn't know
    UNKNOWN_PICTURE = "unknown_picture"  # the image resembles nothing that the models were trained on


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerWarning:
    """What a caller should know of an answer that is given nevertheless."""

    __pydantic_config__ = {"use_attribute_docstrings": True}  # noqa: RUF012  # descriptions in the OpenAPI document

    code: WarningCode
    """Stable name of the warning, for programs."""
    detail: str
    """What to know, as a sentence."""
    words: tuple[str, ...] = ()
    """The unknown words, in their order."""


Artifact = Segmentation | Descriptions | Drawings

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed(Generic[T_co]):
    """A worker's result, and the model that computed it."""

    value: T_co
    model: str  # fingerprint; empty for stages without a model

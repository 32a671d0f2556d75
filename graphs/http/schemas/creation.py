"""What clients send to make images: from a text, as variations, and as edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from graphs.generation.requests import SEEDS, with_consecutive_seeds
from graphs.http.schemas.generation import (
    MAX_IMAGES,
    GenerateBody,
    NumImages,
    Parameters,
    PlainText,
    Prompt,
    RequestBody,
    Strength,
)
from graphs.http.schemas.segments import MAX_POINTS, Box, Point, PointsAndBoxFields
from graphs.images import MAX_METADATA
from pipeline.records import NO_ANNOTATIONS, Annotations, EditArea, GenerationRequest, ImageFormat
from pipeline.store.regions import MAX_REGION_ID

MAX_MASK_CHARS = 1_000_000
MAX_TAGS = 20
MAX_AREA_REGIONS = 64
OLDER_AREA_FIELDS = {"mask": "mask", "region": "region_ids", "concept": "text", "points": "points", "box": "box"}


class Include(StrEnum):
    """What a response has of an image beside how it was made."""

    CONTENT = "content"
    LABELS = "labels"
    REGIONS = "regions"


MetadataKey = Annotated[str, StringConstraints(pattern=r"^[\w.:-]{1,40}$")]
MetadataValue = Annotated[PlainText, Field(max_length=500)]
Tag = Annotated[str, StringConstraints(pattern=r"^[\w.:/ -]{1,64}$", strip_whitespace=True)]


def unique(values: Sequence[str]) -> list[str]:
    """Return values without repetitions, in their order."""
    return list(dict.fromkeys(values))


Tags = Annotated[list[Tag], Field(max_length=MAX_TAGS), AfterValidator(unique)]


class NewImageFields(RequestBody):
    """What becomes of new images, and what the response has of them."""

    metadata: dict[MetadataKey, MetadataValue] = Field(
        {},
        max_length=MAX_METADATA,
        description="Your own values by key, to find the images by.",
        examples=[{"order": "7"}],
    )
    tags: Tags = Field([], description="Your own tags, to find the images by.", examples=[["fruit"]])
    include: list[Include] = Field(
        [], max_length=len(Include), description="What the response has of each image, beside how it was made."
    )
    output_format: ImageFormat = Field(ImageFormat.PNG, description="Format of the content that is included.")

    @property
    def annotations(self) -> Annotations:
        """The metadata and tags, as images keep them."""
        return NO_ANNOTATIONS.changed(dict(self.metadata), self.tags)


Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=SEEDS)]] | None,
    Field(min_length=1, max_length=MAX_IMAGES, description="A seed for each image, instead of `seed` and `n`."),
]


class SeveralImages(NewImageFields):
    """How many images, and their seeds."""

    n: NumImages = 1
    seeds: Seeds = None

    def each_seed(self, request: GenerationRequest) -> Sequence[GenerationRequest]:
        """Return the request of each image."""
        if self.seeds is None:
            return with_consecutive_seeds(request, self.n)
        return [replace(request, seed=seed) for seed in self.seeds]

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.seeds is not None and {"seed", "n"} & self.model_fields_set:
            raise ValueError("send seeds, or seed and n")
        return self


class CreateBody(GenerateBody, SeveralImages):
    """A text to make images of."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "a red apple", "n": 2},
                {"prompt": "a red apple", "seeds": [1, 5], "include": ["labels"]},
            ]
        },
    )


class VariationsBody(Parameters, SeveralImages):
    """How images like this one are to be made."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"n": 2, "strength": 0.6}]})

    prompt: Annotated[Prompt | None, Field(description="The image's own if left out, or what it shows.")] = None
    strength: Strength = 0.6


class AreaFields(PointsAndBoxFields):
    """The part of an image that is edited: a mask, regions, points with a box, or a text; all of it if empty."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "apple"}, {"region_ids": [0]}]})

    mask: Annotated[
        str | None,
        Field(max_length=MAX_MASK_CHARS, description="Base64 picture of the image's size, white where it may change."),
    ] = None
    region_ids: list[Annotated[int, Field(ge=0, le=MAX_REGION_ID)]] = Field(
        [], max_length=MAX_AREA_REGIONS, description="Ids of regions."
    )
    text: Annotated[Prompt | None, Field(description="What to find and change, such as `apple`.")] = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = (self.mask is not None, bool(self.region_ids), self.text is not None, self.has_prompt)
        if sum(given) > 1:
            raise ValueError("send one of mask, region_ids, text and points with a box, or none of them")
        return self

    def as_edit_area(self) -> EditArea | None:
        """Return what is to be found when the job runs; None if that is nothing."""
        if not (self.region_ids or self.text or self.has_prompt):
            return None
        return EditArea(
            region_ids=tuple(self.region_ids), text=self.text, prompt=self.as_prompt() if self.has_prompt else None
        )


class EditsBody(Parameters, SeveralImages):
    """What a part of an image is to show instead."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"prompt": "a green apple", "area": {"text": "apple"}},
                {"prompt": "a green apple", "area": {"points": [{"x": 64, "y": 64}]}},
            ]
        },
    )

    prompt: Prompt = Field(description="Text of what the part shows instead.")
    area: Annotated[AreaFields | None, Field(description="The part; the whole image if left out.")] = None
    strength: Strength = 1.0
    mask: Annotated[str | None, Field(max_length=MAX_MASK_CHARS, description="`area.mask`.", deprecated=True)] = None
    region: Annotated[int | None, Field(ge=0, le=MAX_REGION_ID, description="`area.region_ids`.", deprecated=True)] = (
        None
    )
    concept: Annotated[Prompt | None, Field(description="`area.text`.", deprecated=True)] = None
    points: list[Point] = Field([], max_length=MAX_POINTS, description="`area.points`.", deprecated=True)
    box: Annotated[Box | None, Field(description="`area.box`.", deprecated=True)] = None

    @model_validator(mode="before")
    @classmethod
    def _move_area(cls, body: Any) -> Any:
        """Move the older fields of an area to where they belong."""
        if not isinstance(body, dict):
            return body
        older = {name: body[name] for name in OLDER_AREA_FIELDS if body.get(name) not in (None, [])}
        if not older:
            return body
        if body.get("area") is not None:
            raise ValueError(f"send {', '.join(older)} within area")
        moved = {OLDER_AREA_FIELDS[name]: [value] if name == "region" else value for name, value in older.items()}
        return {name: value for name, value in body.items() if name not in OLDER_AREA_FIELDS} | {"area": moved}

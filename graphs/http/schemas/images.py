"""Images as resources: what clients of `/v1/images` send and get."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from graphs.http.schemas.common import Answer, JobStatus, Warnings
from graphs.http.schemas.generation import GenerateBody, GenerationParameters, NumImages, Parameters, Prompt, Strength
from graphs.http.schemas.segments import PointsAndBoxFields
from pipeline.records import AnswerWarning, ImageRecord

MAX_MASK_CHARS = 1_000_000


class CreateBody(GenerateBody):
    """A text to make images of."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "a red apple", "n": 2}]})

    n: NumImages = 1


class VariationsBody(Parameters):
    """How images like this one are to be made."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"n": 2, "strength": 0.6}]})

    prompt: Annotated[Prompt | None, Field(description="The image's own if left out, or what it shows.")] = None
    strength: Strength = 0.6
    n: NumImages = 1


class EditsBody(PointsAndBoxFields, Parameters):
    """What an image is to show instead, and where: in a mask, a region, what lies at points or in a box, or what a
    concept finds. Everywhere without.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "a green apple", "concept": "apple"}]}
    )

    prompt: Prompt = Field(description="Text of what the area shows instead.")
    mask: Annotated[
        str | None,
        Field(max_length=MAX_MASK_CHARS, description="Base64 picture of the image's size, white where it may change."),
    ] = None
    region: Annotated[int | None, Field(ge=0, description="The `region_id` of a region, whatever found it.")] = None
    concept: Annotated[Prompt | None, Field(description="What to find and change, such as `apple`.")] = None
    strength: Strength = 1.0
    n: NumImages = 1

    @model_validator(mode="after")
    def _one_area(self) -> Self:
        prompt = self.points or self.box
        if sum(bool(area) or area == 0 for area in (self.mask, self.region, self.concept, prompt)) > 1:
            raise ValueError("send one of mask, region, concept and points with a box, or none of them")
        return self


class StoredImage(BaseModel):
    """One image and how it was made."""

    image_id: str = Field(description="Id of the image.")
    created_at: datetime = Field(description="When it was stored.")
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    digest: str = Field(description="SHA-256 over shape and pixels.")
    content: str = Field(description="Where the picture itself is.", examples=["/v1/images/0198…/content"])
    request: GenerationParameters | None = Field(description="What it was made of; of an upload, what its PNG says.")
    warnings: Warnings

    @classmethod
    def of(cls, record: ImageRecord, warnings: Sequence[AnswerWarning]) -> Self:
        return cls(
            image_id=record.image_id,
            created_at=record.created_at,
            width=record.width,
            height=record.height,
            digest=record.digest,
            content=f"/v1/images/{record.image_id}/content",
            request=None if record.request is None else GenerationParameters.of(record.request),
            warnings=list(warnings),
        )


class History(BaseModel):
    """A page of images, newest first."""

    images: list[StoredImage] = Field(description="Images of this page.")
    next: str | None = Field(description="Send it as `before` to get the next page; null on the last.")


class CreatedImages(BaseModel):
    """New images, in the order of their seeds."""

    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    images: list[StoredImage] = Field(description="The new images.")


class AcceptedJobs(BaseModel):
    """The jobs that make the images, in the order of their seeds."""

    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    jobs: list[JobStatus] = Field(description="One job for each image.")


class Uploaded(Answer):
    """An image of one's own, now the last of its session."""

    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")

"""Images as resources: what clients of `/v1/images` get, and change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from graphs.http.pagination import MAX_PAGE, PageFields
from graphs.http.schemas.common import Answer, JobStatus, Warnings
from graphs.http.schemas.creation import MetadataKey, MetadataValue, Tags
from graphs.http.schemas.generation import GenerationParameters, RequestBody
from graphs.http.schemas.regions import Region
from graphs.http.schemas.segments import Label
from pipeline.records import AnswerWarning, ImageRecord

AS_DATA = "The same as `data`, without what is included."


class ImageOrigin(StrEnum):
    """Where an image is from."""

    GENERATED = "generated"
    UPLOADED = "uploaded"


class ImageModel(BaseModel):
    """The model that an image was generated with."""

    name: str | None = Field(description="Name of the model; null if it isn't known any more.", examples=["mini"])
    fingerprint: str = Field(description="Digest of its weights.")


class Image(BaseModel):
    """One image and how it was made."""

    image_id: str = Field(description="Id of the image.")
    url: str = Field(description="Path of the image.", examples=["/v1/images/0198…"])
    content_url: str = Field(description="Path of the picture itself.", examples=["/v1/images/0198…/content"])
    created_at: datetime = Field(description="When it was stored.")
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    digest: str = Field(description="SHA-256 over shape and pixels.")
    origin: ImageOrigin = Field(description="`generated` by this service, or `uploaded`.")
    job_id: str | None = Field(description="Id of the job that generated it; null of an upload.")
    model: ImageModel | None = Field(description="The model that generated it; null of an upload.")
    parameters: GenerationParameters | None = Field(
        description="What it was made of; of an upload, what its PNG says, if anything."
    )
    made_from: str | None = Field(description="Id of the image it is a variation or an edit of, else null.")
    metadata: dict[str, str] = Field(description="Your own values by key.", examples=[{"order": "7"}])
    tags: list[str] = Field(description="Your own tags.", examples=[["fruit"]])
    labels: list[Label] | None = Field(
        description="What it shows, best first, with `include=labels`. In lists null until it has been analyzed."
    )
    regions: list[Region] | None = Field(description="Its regions with run lengths, with `include=regions`.")
    content_b64: str | None = Field(description="The picture in Base64, with `include=content`.")
    warnings: Warnings
    content: str = Field(description="The same as `content_url`.", deprecated=True)
    request: GenerationParameters | None = Field(description="The same as `parameters`.", deprecated=True)

    def without_included(self) -> Self:
        """Return the image without what was included: for older fields that repeat it."""
        return self.model_copy(update={"labels": None, "regions": None, "content_b64": None})

    @classmethod
    def of(
        cls,
        record: ImageRecord,
        warnings: Sequence[AnswerWarning],
        *,
        labels: list[Label] | None = None,
        regions: list[Region] | None = None,
        content_b64: str | None = None,
    ) -> Self:
        url = f"/v1/images/{record.image_id}"
        model = ImageModel(name=record.model_name or None, fingerprint=record.model) if record.model else None
        parameters = None if record.request is None else GenerationParameters.of(record.request)
        return cls(
            image_id=record.image_id,
            url=url,
            content_url=f"{url}/content",
            created_at=record.created_at,
            width=record.width,
            height=record.height,
            digest=record.digest,
            origin=ImageOrigin.GENERATED if record.model else ImageOrigin.UPLOADED,
            job_id=record.job_id,
            model=model,
            parameters=parameters,
            made_from=record.made_from,
            metadata=dict(record.annotations.metadata),
            tags=list(record.annotations.tags),
            labels=labels,
            regions=regions,
            content_b64=content_b64,
            warnings=list(warnings),
            content=f"{url}/content",
            request=parameters,
        )


class ImageList(PageFields):
    """A page of images."""

    data: list[Image] = Field(description="Images of this page.")
    images: list[Image] = Field(description=AS_DATA, deprecated=True)


class CreatedImages(BaseModel):
    """New images, in the order of their seeds."""

    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    data: list[Image] = Field(description="The new images.")
    images: list[Image] = Field(description=AS_DATA, deprecated=True)


class FinishedJob(CreatedImages):
    """The image that a job has made."""

    job_id: str = Field(description="Id of the job.")
    image_id: str = Field(description="Id of the image.")


class AcceptedJobs(BaseModel):
    """The jobs that make the images, in the order of their seeds."""

    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    data: list[JobStatus] = Field(description="One job for each image.")
    jobs: list[JobStatus] = Field(description="The same as `data`.", deprecated=True)


class Uploaded(Answer, Image):
    """An uploaded image, now the last one of its session."""


class ImageChanges(RequestBody):
    """Changes of what a client attaches to its image."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"metadata": {"order": "7"}, "tags": ["fruit"]}]}
    )

    metadata: dict[MetadataKey, MetadataValue | None] = Field(
        {}, description="Values to set by key; null removes a key. Other keys stay."
    )
    tags: Tags | None = Field(None, description="The new tags; unchanged if left out.")


class ImageIds(RequestBody):
    """Images to delete."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"image_ids": ["0198…"]}]})

    image_ids: list[UUID] = Field(min_length=1, max_length=MAX_PAGE, description="Ids of the images.")


class Deletion(BaseModel):
    """What became of an image that was to be deleted."""

    image_id: str = Field(description="Id of the image.")
    deleted: bool = Field(description="Whether it was there; it is not any more.")


class Deletions(BaseModel):
    """What became of the images that were to be deleted, in the order of the request."""

    data: list[Deletion] = Field(description="One for each id.")

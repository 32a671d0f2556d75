"""What HTTP clients send and get. In the legacy calls' answers the legacy fields come first (docs/legacy-api.md)."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from graphs.generation.service import GeneratedImage
from graphs.http.schemas.generation import GenerationParameters, Prompt, RequestBody
from pipeline.jobs import Job, JobState
from pipeline.records import (
    AnswerWarning,
    Description,
    Descriptions,
    GenerationRequest,
    LabelScore,
    Polygon,
    Scheduler,
    Segmentation,
)
from pipeline.settings import GenerationDefaults, GenerationLimits

Warnings = Annotated[
    list[AnswerWarning], Field(description="What to know of this answer; empty if there is nothing to say.")
]


class ImageChoice(RequestBody):
    """Which image to work on; the session's last one if left out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    image_id: UUID | None = None


class ProbeBody(ImageChoice):
    """A text to compare with an image and its regions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "metal"}]})

    prompt: Prompt


class JobStatus(BaseModel):
    """A piece of work that was accepted, and what has become of it."""

    job_id: str
    kind: str = Field(examples=["generate"])
    state: JobState
    attempts: int = Field(description="Times it was begun; it is begun again when a worker dies under it.")
    cancel_requested: bool
    request: GenerationParameters
    result: dict[str, Any] | None = Field(description="Of a job that succeeded.", examples=[{"image_id": "0198…"}])
    problem: dict[str, Any] | None = Field(description="Of a job that failed: what went wrong.")
    created_at: datetime
    finished_at: datetime | None
    url: str = Field(examples=["/v1/jobs/0198…"])
    warnings: Warnings

    @classmethod
    def of(cls, job: Job, warnings: Sequence[AnswerWarning]) -> Self:
        return cls(
            job_id=job.job_id,
            kind=job.order.kind,
            state=job.state,
            attempts=job.attempts,
            cancel_requested=job.cancel_requested,
            request=GenerationParameters.of(GenerationRequest.from_dict(job.order.request)),
            result=None if job.result is None else dict(job.result),
            problem=None if job.problem is None else {k: v for k, v in job.problem.items() if k != "facts"},
            created_at=job.created_at,
            finished_at=job.finished_at,
            url=f"/v1/jobs/{job.job_id}",
            warnings=list(warnings),
        )


class Jobs(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobStatus]
    next: str | None = Field(description="Send it as `before` to get the next page; null on the last.")


class ClassScore(BaseModel):
    """One class of a zero-shot classification."""

    name: str = Field(alias="class", examples=["plate"])
    confidence: str = Field(examples=["60.64%"])

    @classmethod
    def of(cls, score: LabelScore) -> Self:
        return cls.model_validate({"class": score.label, "confidence": percent(score.confidence)})


def class_scores(description: Description) -> list[ClassScore]:
    """A description's classes, best first."""
    return [ClassScore.of(score) for score in description.top]


class Answer(BaseModel):
    request_id: str
    image_id: str


class Generated(Answer):
    """A new image."""

    request_id: str
    generated_image: str = Field(description="Base64 PNG.")
    clip_analysis: list[ClassScore]
    image_id: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int
    scheduler: Scheduler
    warnings: Warnings

    @classmethod
    def of(cls, generated: GeneratedImage, png: bytes, warnings: Sequence[AnswerWarning]) -> Self:
        return cls(
            request_id=generated.request_id,
            generated_image=base64_text(png),
            clip_analysis=[] if generated.description is None else class_scores(generated.description),
            image_id=generated.record.image_id,
            **asdict(generated.request),
            warnings=list(warnings),
        )


class SegmentationSummary(BaseModel):
    masks: list[str] = Field(examples=[["region_0", "region_1"]])
    polygons: list[Polygon]


class Analysis(Answer):
    """What an image shows, and where."""

    clip_scores: list[ClassScore]
    segmentation: SegmentationSummary
    warnings: Warnings


class RegionMatch(BaseModel):
    region_id: int
    class_label: str
    similarity_to_prompt: str = Field(examples=["15.65%"])


class ProbeAnswer(Answer):
    """How well a text matches an image and its regions."""

    probe_text: str
    global_match_score: str = Field(examples=["0.00%"])
    regional_matches: list[RegionMatch]


class SegmentedRegion(BaseModel):
    region_id: int
    sam_confidence: str = Field(examples=["0.99"])
    clip_analysis: list[ClassScore]
    polygon: Polygon


def segmented_regions(segmentation: Segmentation, descriptions: Descriptions) -> list[SegmentedRegion]:
    """Regions and what they show, side by side."""
    return [
        SegmentedRegion(
            region_id=region.region_id,
            sam_confidence=f"{region.predicted_iou:.2f}",
            clip_analysis=class_scores(description),
            polygon=region.polygon,
        )
        for region, description in zip(segmentation, descriptions, strict=True)
    ]


class SegmentAnswer(Answer):
    """The regions of an image, each classified on its own."""

    segmented_regions: list[SegmentedRegion]
    warnings: Warnings


class Spotlight(BaseModel):
    region_id: int
    top_class: str
    polygon: Polygon
    spotlight_image: str = Field(description="Base64 PNG: the image with everything outside the region dimmed.")


class Visualization(Answer):
    """The pictures of an image's regions."""

    status: str = Field(examples=["success"])
    total_regions: int
    master_overlay: str = Field(description="Base64 PNG: all outlines with their ids.")
    individual_spotlights: list[Spotlight]


class Online(BaseModel):
    """The service is there; what it computes on, and what a generation may ask of it."""

    status: str = Field(examples=["online"])
    device: str = Field(examples=["cpu"])
    profile: str = Field(examples=["mini"])
    defaults: GenerationDefaults
    limits: GenerationLimits


class ModelReadiness(BaseModel):
    ready: bool
    device: str
    reason: str


class Readiness(BaseModel):
    """Whether every model is loaded; which is not, and why."""

    ready: bool
    models: dict[str, ModelReadiness]


class Health(BaseModel):
    status: str = Field(examples=["alive"])


class Problem(BaseModel):
    """An error, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = None


class OpenAIErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error, as OpenAI's clients read it."""

    error: OpenAIErrorObject


def base64_text(png: bytes) -> str:
    """Bytes as Base64; the standard library's `b64encode` takes twice as long."""
    return b2a_base64(png, newline=False).decode("ascii")


def percent(share: float) -> str:
    """Write a share from 0 to 1 as the legacy API does: `60.64%`."""
    return f"{share * 100:.2f}%"

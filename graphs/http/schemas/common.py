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
from graphs.http.pagination import PageFields
from graphs.http.schemas.generation import GenerationParameters, Prompt, RequestBody
from pipeline.event_records import EventRecord
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

    image_id: UUID | None = Field(None, description="Id of the image; the session's last one if left out.")


class ProbeBody(ImageChoice):
    """A text to compare with an image and its regions."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "metal"}]})

    prompt: Prompt = Field(description="Text to compare with the image and its regions.")


class JobStatus(BaseModel):
    """A piece of work that was accepted, and what has become of it."""

    job_id: str = Field(description="Id of the job.")
    request_id: str = Field(description="Id of the request that submitted it; those of one request have the same.")
    kind: str = Field(examples=["generate"], description="What the job does.")
    state: JobState = Field(
        description="`dead` is a job whose workers were lost too often; `failed` one with a `problem`."
    )
    attempts: int = Field(description="Times it was begun; it is begun again when a worker dies under it.")
    cancel_requested: bool = Field(description="Whether a cancellation was requested; a running job stops soon after.")
    parameters: GenerationParameters = Field(description="What the job makes.")
    area: dict[str, Any] | None = Field(
        description="Of an edit: what to find and change, as `region_ids`, `text` or `prompt`; null of other jobs.",
        examples=[{"region_ids": [1], "text": None, "prompt": None}],
    )
    metadata: dict[str, str] = Field(description="Your own values by key, for the image.")
    tags: list[str] = Field(description="Your own tags, for the image.")
    step: int | None = Field(description="Denoising steps done; null unless it is running.")
    num_steps: int | None = Field(description="Denoising steps in all; null unless it is running.")
    preview_url: str | None = Field(description="Path of the newest preview, as PNG; null if there is none.")
    result: dict[str, Any] | None = Field(description="Of a job that succeeded.", examples=[{"image_id": "0198…"}])
    problem: dict[str, Any] | None = Field(description="Of a job that failed: what went wrong.")
    created_at: datetime = Field(description="When it was accepted.")
    started_at: datetime | None = Field(description="When its last attempt began; null before.")
    finished_at: datetime | None = Field(description="When it ended; null while it is queued or running.")
    url: str = Field(examples=["/v1/jobs/0198…"], description="Path of the job.")
    warnings: Warnings
    request: GenerationParameters = Field(description="The same as `parameters`.", deprecated=True)

    @classmethod
    def of(cls, job: Job, warnings: Sequence[AnswerWarning], newest_step: EventRecord | None = None) -> Self:
        parameters = GenerationParameters.of(GenerationRequest.from_dict(job.order.request))
        step = {} if newest_step is None or job.state is not JobState.RUNNING else newest_step.payload
        url = f"/v1/jobs/{job.job_id}"
        return cls(
            job_id=job.job_id,
            request_id=job.order.request_id,
            kind=job.order.kind,
            state=job.state,
            attempts=job.attempts,
            cancel_requested=job.cancel_requested,
            parameters=parameters,
            area=None if job.area is None else asdict(job.area),
            metadata=dict(job.annotations.metadata),
            tags=list(job.annotations.tags),
            step=step.get("step"),
            num_steps=step.get("num_steps"),
            preview_url=f"{url}/preview.png" if step.get("preview") else None,
            result=None if job.result is None else dict(job.result),
            problem=None if job.problem is None else {k: v for k, v in job.problem.items() if k != "facts"},
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            url=url,
            warnings=list(warnings),
            request=parameters,
        )


class JobList(PageFields):
    """A page of jobs."""

    data: list[JobStatus] = Field(description="Jobs of this page.")
    jobs: list[JobStatus] = Field(description="The same as `data`.", deprecated=True)


class ClassScore(BaseModel):
    """One class of a zero-shot classification."""

    name: str = Field(alias="class", examples=["plate"], description="Name of the class.")
    confidence: str = Field(examples=["60.64%"], description="Its share of the confidence, in percent.")

    @classmethod
    def of(cls, score: LabelScore) -> Self:
        return cls.model_validate({"class": score.label, "confidence": percent(score.confidence)})


def class_scores(description: Description) -> list[ClassScore]:
    """A description's classes, best first."""
    return [ClassScore.of(score) for score in description.top]


class Answer(BaseModel):
    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    image_id: str = Field(description="Id of the image.")


class Generated(Answer):
    """A new image."""

    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    generated_image: str = Field(description="Base64 PNG.")
    clip_analysis: list[ClassScore] = Field(description="What the image shows, best first.")
    image_id: str = Field(description="Id of the image.")
    prompt: str = Field(description="Text of what the image shows.")
    negative_prompt: str = Field(description="Text of what to avoid.")
    seed: int = Field(description="Seed of the initial noise.")
    steps: int = Field(description="Denoising steps.")
    guidance: float = Field(description="Classifier-free guidance scale.")
    width: int = Field(description="In pixels.")
    height: int = Field(description="In pixels.")
    scheduler: Scheduler = Field(description="Noise schedule and solver.")
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
    masks: list[str] = Field(examples=[["region_0", "region_1"]], description="Names of the regions.")
    polygons: list[Polygon] = Field(
        examples=[[[[[40, 60], [120, 44], [200, 60]]]]],
        description="Outlines of each region, in the order of the names.",
    )


class Analysis(Answer):
    """What an image shows, and where."""

    clip_scores: list[ClassScore] = Field(description="What the image shows, best first.")
    segmentation: SegmentationSummary = Field(description="The regions of the image.")
    warnings: Warnings


class RegionMatch(BaseModel):
    region_id: int = Field(description="Number of the region.")
    class_label: str = Field(description="What the region shows.")
    similarity_to_prompt: str = Field(examples=["15.65%"], description="Match with the text, in percent.")


class ProbeAnswer(Answer):
    """How well a text matches an image and its regions."""

    probe_text: str = Field(description="The text.")
    global_match_score: str = Field(
        examples=["0.00%"], description="Match of the whole image with the text, in percent."
    )
    regional_matches: list[RegionMatch] = Field(description="Match of each region with the text.")


class SegmentedRegion(BaseModel):
    region_id: int = Field(description="Number of the region.")
    sam_confidence: str = Field(examples=["0.99"], description="SAM2's predicted IoU of the region, 0 to 1.")
    clip_analysis: list[ClassScore] = Field(description="What the region shows, best first.")
    polygon: Polygon = Field(description="Outlines of the region, as lists of points [x, y] in pixels.")


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

    segmented_regions: list[SegmentedRegion] = Field(description="The regions, most confident first.")
    warnings: Warnings


class Spotlight(BaseModel):
    region_id: int = Field(description="Number of the region.")
    top_class: str = Field(description="What the region shows.")
    polygon: Polygon = Field(description="Outlines of the region, as lists of points [x, y] in pixels.")
    spotlight_image: str = Field(description="Base64 PNG: the image with everything outside the region dimmed.")


class Visualization(Answer):
    """The pictures of an image's regions."""

    status: str = Field(examples=["success"], description="Always `success`.")
    total_regions: int = Field(description="Number of regions.")
    master_overlay: str = Field(description="Base64 PNG: all outlines with their ids.")
    individual_spotlights: list[Spotlight] = Field(description="A picture for each region.")


class Online(BaseModel):
    """The service is there; what it computes on, and what a generation may ask of it."""

    status: str = Field(examples=["online"], description="Always `online`.")
    device: str = Field(examples=["cpu"], description="What images are computed on.")
    profile: str = Field(examples=["mini"], description="Name of the profile: the models and their settings.")
    defaults: GenerationDefaults = Field(description="Parameters of a request that leaves them out.")
    limits: GenerationLimits = Field(description="Bounds of the parameters of a request.")


class ModelReadiness(BaseModel):
    ready: bool = Field(description="Whether the model is loaded.")
    device: str = Field(description="What it computes on.")
    reason: str = Field(description="Why it is not ready; empty if it is.")


class Readiness(BaseModel):
    """Whether every model is loaded; which is not, and why."""

    ready: bool = Field(description="Whether every model is loaded.")
    models: dict[str, ModelReadiness] = Field(description="Readiness by the name of the deployment.")


class Health(BaseModel):
    status: str = Field(examples=["alive"], description="Always `alive`.")


class Problem(BaseModel):
    """An error, as in RFC 9457."""

    type: str = Field(description="URI of the kind of problem.")
    title: str = Field(description="Name of the kind of problem.")
    status: int = Field(description="HTTP status.")
    detail: str = Field(description="What is wrong, and what to send instead.")
    code: str = Field(description="Stable name of the kind of problem, for programs.")
    request_id: str = Field(description="Id of the request, as in `X-Request-ID`.")
    errors: list[dict[str, Any]] | None = Field(None, description="Each wrong field or parameter, with its problem.")
    image_ids: list[str] | None = Field(
        None, description="Images that the request has made all the same; they are kept."
    )


class OpenAIErrorObject(BaseModel):
    message: str = Field(description="What is wrong, and what to send instead.")
    type: str = Field(description="Kind of error: `invalid_request_error`, `rate_limit_error` or `server_error`.")
    param: str | None = Field(description="The wrong parameter, if it is one.")
    code: str = Field(description="Stable name of the error, for programs.")


class OpenAIError(BaseModel):
    """An error, as OpenAI's clients read it."""

    error: OpenAIErrorObject = Field(description="The error.")


def base64_text(png: bytes) -> str:
    """Bytes as Base64; the standard library's `b64encode` takes twice as long."""
    return b2a_base64(png, newline=False).decode("ascii")


def percent(share: float) -> str:
    """Write a share from 0 to 1 as the legacy API does: `60.64%`."""
    return f"{share * 100:.2f}%"

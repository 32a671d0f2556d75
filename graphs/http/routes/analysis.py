"""Analysis of an image: classes, regions, concepts, and pictures of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from graphs.analysis.regions import FoundRegions
from graphs.analysis.stages import RENDER
from graphs.http.context import Caller, CallerDep, ServicesDep
from graphs.http.deprecation import deprecated_by
from graphs.http.drawings import ANALYSIS_PROBLEMS, DRAWING_RESPONSES, ImageDep, picture_response
from graphs.http.errors import error_responses
from graphs.http.pagination import split_commas
from graphs.http.responses import RegionIdPath, V1Route, json_response
from graphs.http.schemas.analysis import (
    MAX_LABEL_CHARS,
    MAX_LABEL_TEXTS,
    ConceptsBody,
    ImageConcepts,
    ImageLabels,
    image_concepts,
    image_labels,
)
from graphs.http.schemas.generation import PlainText
from graphs.http.schemas.segments import CocoDocument, SegmentFormat, Segments, SegmentsBody, segments_of
from graphs.http.validation import REFUSALS
from graphs.services import Services
from pipeline.answer_warnings import image_warnings
from pipeline.errors import InvalidRequest
from pipeline.records import ImageRecord

Labels = Annotated[
    Sequence[PlainText],
    Query(
        max_length=MAX_LABEL_TEXTS,
        description="Your own labels, instead of the model's; repeat it for several. A single one is split at commas.",
    ),
]
Templates = Annotated[
    Sequence[str], Query(description="Prompts with `{label}` in them, whose vectors are averaged.", max_length=20)
]


router = APIRouter(
    prefix="/v1/images/{image_id}",
    route_class=V1Route,
    tags=["analysis"],
    dependencies=REFUSALS,
)


@router.get("/labels", response_model=ImageLabels, responses=ANALYSIS_PROBLEMS)
async def get_labels(
    image: ImageDep,
    services: ServicesDep,
    caller: CallerDep,
    label: Labels = (),
    template: Templates = (),
) -> Response:
    """Classify an image and each of its regions, by the profile's labels or your own."""
    own = split_commas([label[0]]) if len(label) == 1 else [each for each in label if each]
    return await _classified(image, services, caller, own, template)


@router.get(
    "/analysis",
    response_model=ImageLabels,
    responses=ANALYSIS_PROBLEMS,
    **deprecated_by("/v1/images/{image_id}/labels"),
)
async def classify_image(
    image: ImageDep,
    services: ServicesDep,
    caller: CallerDep,
    labels: Annotated[str, Query(max_length=10_000, description="Your own labels, as in `cat,dog`.")] = "",
    templates: Templates = (),
) -> Response:
    """Classify an image and each of its regions, by the profile's labels or your own."""
    return await _classified(image, services, caller, split_commas([labels]), templates)


async def _classified(
    image: ImageRecord, services: Services, caller: Caller, labels: Sequence[str], templates: Sequence[str]
) -> Response:
    labelling, own = services.profile.clip.labelling, list(dict.fromkeys(labels))
    names, unknown = (own, None) if own else (labelling.names, labelling.unknown)
    prompts = templates or [labelling.template]
    _check_prompts(names, prompts)
    found = await services.queries.classify(image, names, prompts, caller.request_id, unknown)
    warnings = image_warnings(services.profile, image, await services.stages.describe(image, caller.request_id))

    def write() -> ImageLabels:
        return image_labels(found, request_id=caller.request_id, image_id=image.image_id, warnings=warnings)

    return json_response(await asyncio.to_thread(write))


@router.get(
    "/segments",
    response_model=Segments | CocoDocument,
    responses=ANALYSIS_PROBLEMS,
    **deprecated_by("/v1/images/{image_id}/regions"),
)
async def list_segments(
    image: ImageDep,
    services: ServicesDep,
    caller: CallerDep,
    format_: Annotated[SegmentFormat, Query(alias="format", description="Form of the masks.")] = SegmentFormat.POLYGONS,
) -> Response:
    """Segment an image: every region with its mask, as polygons, run lengths, PNG, or one COCO document."""
    return await _written(image, await services.regions.all(image, caller.request_id), format_, caller)


@router.post(
    "/segments",
    response_model=Segments | CocoDocument,
    responses=ANALYSIS_PROBLEMS | error_responses(400, 413, 415),
    **deprecated_by("/v1/images/{image_id}/regions"),
)
async def find_segments(image: ImageDep, body: SegmentsBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Segment what lies at points or in a box, or find the regions of a text; none, if it isn't there."""
    found = await services.regions.requested(image, body.prompt_of(image), body.text, caller.request_id)
    return await _written(image, found, body.format, caller)


@router.post("/probe", response_model=ImageConcepts, responses=ANALYSIS_PROBLEMS | error_responses(400, 413, 415))
async def probe_image(image: ImageDep, body: ConceptsBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Score concepts against an image and each of its regions, independently and relative to each other."""
    found = await services.queries.match(image, body.concepts, caller.request_id)
    return json_response(image_concepts(found, request_id=caller.request_id, image_id=image.image_id))


@router.get("/overlay.png", response_class=Response, responses=DRAWING_RESPONSES)
async def get_overlay(image: ImageDep, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Return the image with the outlines of all regions, as PNG."""
    drawings = await services.stages.result(RENDER, image, caller.request_id)
    return picture_response(request, drawings.overlay)


@router.get(
    "/spotlights/{region_id}.png",
    response_class=Response,
    responses=DRAWING_RESPONSES,
    **deprecated_by("/v1/images/{image_id}/regions/{region_id}/spotlight.png"),
)
async def draw_spotlight(
    image: ImageDep, region_id: RegionIdPath, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Return the image with everything outside of a region dimmed, as PNG."""
    return picture_response(request, await services.regions.spotlight(image, region_id, caller.request_id))


async def _written(record: ImageRecord, found: FoundRegions, format_: SegmentFormat, caller: Caller) -> Response:
    def write() -> BaseModel:
        if format_ is SegmentFormat.COCO:
            return CocoDocument.of(record, found)
        return Segments(
            request_id=caller.request_id,
            image_id=record.image_id,
            width=record.width,
            height=record.height,
            segments=segments_of(found, format_),
        )

    return json_response(await asyncio.to_thread(write))


def _check_prompts(labels: Sequence[str], templates: Sequence[str]) -> None:
    if len(labels) * len(templates) > MAX_LABEL_TEXTS:
        raise InvalidRequest(
            problem=f"{len(labels)} labels in {len(templates)} templates: send {MAX_LABEL_TEXTS} at most."
        )
    if any("{label}" not in template for template in templates):
        raise InvalidRequest(problem="A template lacks {label}. Send one such as 'a photo of a {label}'.")
    if any(len(text) > MAX_LABEL_CHARS for text in (*labels, *templates)):
        raise InvalidRequest(problem=f"A label or template is too long: send {MAX_LABEL_CHARS} characters at most.")

"""Analysis of an image: classes, regions, concepts, and pictures of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from graphs.analysis.regions import FoundRegions
from graphs.analysis.stages import RENDER
from graphs.http.context import Caller, CallerDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.responses import BYTES, ImageIdPath, RegionIdPath, V1Route, binary_content, content, json_response
from graphs.http.schemas.analysis import (
    ConceptsBody,
    ImageConcepts,
    ImageLabels,
    image_concepts,
    image_labels,
)
from graphs.http.schemas.segments import CocoDocument, Segment, SegmentFormat, Segments, SegmentsBody, segments_of
from graphs.http.validation import REFUSALS
from pipeline.answer_warnings import image_warnings
from pipeline.errors import InvalidRequest
from pipeline.imaging.codecs import digest_of_bytes
from pipeline.records import ImageRecord

MAX_TEXTS = 256  # labels times templates
MAX_LABEL_CHARS = 100
PNG = "image/png"

_PNG_CONTENT = binary_content(PNG, BYTES)
_PROBLEMS = error_responses(401, 404, 422, 429, 500, 503, 504)
_PICTURE = _PROBLEMS | {
    200: {"content": _PNG_CONTENT},
    206: {"description": "Partial Content", "content": _PNG_CONTENT},
    304: {"description": "Not Modified"},
    416: {"description": "Range Not Satisfiable"},
}

Labels = Annotated[str, Query(max_length=10_000, description="Your own labels, as in `cat,dog`; else the profile's.")]
Templates = Annotated[
    list[str] | None, Query(description="Prompts with `{label}` in them, whose vectors are averaged.", max_length=20)
]


router = APIRouter(
    prefix="/v1/images/{image_id}",
    route_class=V1Route,
    tags=["analysis"],
    dependencies=REFUSALS,
)


async def get_image(image_id: ImageIdPath, services: ServicesDep, caller: CallerDep) -> ImageRecord:
    """Return the image that the path names."""
    return await services.images.find(str(image_id), owner=caller.owner, session="")


ImageDep = Annotated[ImageRecord, Depends(get_image)]


@router.get("/analysis", response_model=ImageLabels, responses=_PROBLEMS)
async def classify_image(
    image: ImageDep, services: ServicesDep, caller: CallerDep, labels: Labels = "", templates: Templates = None
) -> Response:
    """Classify an image and each of its regions, by the profile's labels or your own."""
    labelling, own = services.profile.clip.labelling, _labels(labels)
    names, unknown = (own, None) if own else (labelling.names, labelling.unknown)
    prompts = templates or [labelling.template]
    _check_prompts(names, prompts)
    found = await services.queries.classify(image, names, prompts, caller.request_id, unknown)
    warnings = image_warnings(services.profile, image, await services.stages.describe(image, caller.request_id))

    def write() -> ImageLabels:
        return image_labels(found, request_id=caller.request_id, image_id=image.image_id, warnings=warnings)

    return json_response(await asyncio.to_thread(write))


@router.get("/segments", response_model=Segments | CocoDocument, responses=_PROBLEMS)
async def list_regions(
    image: ImageDep,
    services: ServicesDep,
    caller: CallerDep,
    format_: Annotated[SegmentFormat, Query(alias="format", description="Form of the masks.")] = SegmentFormat.POLYGONS,
) -> Response:
    """Segment an image: every region with its mask, as polygons, run lengths, PNG, or one COCO document."""
    return await _written(image, await services.regions.all(image, caller.request_id), format_, caller)


@router.post("/segments", response_model=Segments | CocoDocument, responses=_PROBLEMS | error_responses(400, 413, 415))
async def find_regions(image: ImageDep, body: SegmentsBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Segment what lies at points or in a box, or find the regions of a text; none, if it isn't there."""
    prompt = body.prompt_of(image)
    if prompt is not None:
        found = await services.regions.cut_out(image, prompt, caller.request_id)
    else:
        found = await services.regions.find(image, str(body.text), caller.request_id)
    return await _written(image, found, body.format, caller)


@router.get("/regions/{region}", response_model=Segment, responses=_PROBLEMS)
async def get_region(image: ImageDep, region: RegionIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return one region, with its mask in every form."""
    found = await services.regions.get(image, region, caller.request_id)
    forms = (SegmentFormat.POLYGONS, SegmentFormat.RLE, SegmentFormat.PNG)
    (written,) = await asyncio.to_thread(segments_of, found, *forms)
    return json_response(written)


@router.post("/probe", response_model=ImageConcepts, responses=_PROBLEMS | error_responses(400, 413, 415))
async def probe_image(image: ImageDep, body: ConceptsBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Score concepts against an image and each of its regions, independently and relative to each other."""
    found = await services.queries.match(image, body.concepts, caller.request_id)
    return json_response(image_concepts(found, request_id=caller.request_id, image_id=image.image_id))


@router.get("/overlay.png", response_class=Response, responses=_PICTURE)
async def get_overlay(image: ImageDep, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Return the image with the outlines of all regions, as PNG."""
    drawings = await services.stages.result(RENDER, image, caller.request_id)
    return _picture(request, drawings.overlay)


@router.get("/spotlights/{region}.png", response_class=Response, responses=_PICTURE)
async def get_spotlight(
    image: ImageDep, region: RegionIdPath, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Return the image with everything outside of a region dimmed, as PNG."""
    return _picture(request, await services.regions.spotlight(image, region, caller.request_id))


def _picture(request: Request, png: bytes) -> Response:
    return content(request, png, PNG, digest_of_bytes(png), for_ever=False)  # another model draws another


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


def _labels(value: str) -> list[str]:
    return list(dict.fromkeys(label.strip() for label in value.split(",") if label.strip()))


def _check_prompts(labels: Sequence[str], templates: Sequence[str]) -> None:
    if len(labels) * len(templates) > MAX_TEXTS:
        raise InvalidRequest(problem=f"{len(labels)} labels in {len(templates)} templates: send {MAX_TEXTS} at most.")
    if any("{label}" not in template for template in templates):
        raise InvalidRequest(problem="A template lacks {label}. Send one such as 'a photo of a {label}'.")
    if any(len(text) > MAX_LABEL_CHARS for text in (*labels, *templates)):
        raise InvalidRequest(problem=f"A label or template is too long: send {MAX_LABEL_CHARS} characters at most.")

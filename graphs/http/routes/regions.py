"""Regions of an image: those of automatic segmentation, and those requested by points, a box or a text."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from graphs.analysis.regions import FoundRegions
from graphs.http.context import Caller, CallerDep, ServicesDep
from graphs.http.drawings import ANALYSIS_PROBLEMS, DRAWING_RESPONSES, ImageDep, picture_response
from graphs.http.errors import error_responses
from graphs.http.pagination import SplitCommas
from graphs.http.responses import RegionIdPath, V1Route, json_response
from graphs.http.schemas.generation import Prompt
from graphs.http.schemas.regions import ALL_FORMS, MaskForm, RegionList, RegionsBody, RegionWithAliases, regions_of
from graphs.http.schemas.segments import CocoDocument
from graphs.http.validation import REFUSALS
from pipeline.records import ImageRecord

MAX_PADDING = 1024

router = APIRouter(
    prefix="/v1/images/{image_id}/regions", route_class=V1Route, tags=["analysis"], dependencies=REFUSALS
)
coco_router = APIRouter(prefix="/v1/images/{image_id}", route_class=V1Route, tags=["analysis"], dependencies=REFUSALS)

Text = Annotated[
    Prompt | None, Query(description="Only the regions that match this text, best first; none, if it isn't there.")
]
Forms = Annotated[
    Sequence[MaskForm], SplitCommas, Query(alias="as", description="Forms of the masks; repeat it for several.")
]
Padding = Annotated[int, Query(ge=0, le=MAX_PADDING, description="Pixels around the region's box.")]


@router.get("", response_model=RegionList, responses=ANALYSIS_PROBLEMS)
async def list_regions(
    image: ImageDep,
    services: ServicesDep,
    caller: CallerDep,
    text: Text = None,
    as_: Forms = (MaskForm.POLYGONS,),
) -> Response:
    """List the regions that automatic segmentation finds, or those that match a text."""
    found = await services.regions.matching(image, text, caller.request_id)
    return await _written(image, found, as_, caller)


@router.post(
    "", response_model=RegionList, status_code=201, responses=ANALYSIS_PROBLEMS | error_responses(400, 413, 415)
)
async def create_regions(image: ImageDep, body: RegionsBody, services: ServicesDep, caller: CallerDep) -> Response:
    """Segment what lies at points or in a box, or what matches a text. The regions are kept with the image."""
    found = await services.regions.requested(image, body.prompt_of(image), body.text, caller.request_id)
    return await _written(image, found, body.as_, caller, status_code=201)


@router.get("/{region_id}", response_model=RegionWithAliases, responses=ANALYSIS_PROBLEMS)
async def get_region(image: ImageDep, region_id: RegionIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return one region, with its mask in every form."""
    found = await services.regions.get(image, region_id, caller.request_id)
    (region,) = await asyncio.to_thread(regions_of, image.image_id, found, ALL_FORMS)
    return json_response(RegionWithAliases.with_aliases(region))


@router.get("/{region_id}/mask.png", response_class=Response, responses=DRAWING_RESPONSES)
async def get_region_mask(
    image: ImageDep, region_id: RegionIdPath, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Return a region's mask as PNG of the image's size, white where the region is."""
    return picture_response(request, await services.regions.mask_png(image, region_id, caller.request_id))


@router.get("/{region_id}/cutout.png", response_class=Response, responses=DRAWING_RESPONSES)
async def get_region_cutout(
    image: ImageDep,
    region_id: RegionIdPath,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    padding: Padding = 0,
) -> Response:
    """Return a region alone as RGBA PNG, cropped to its box and transparent around it."""
    return picture_response(request, await services.regions.cutout(image, region_id, padding, caller.request_id))


@router.get("/{region_id}/spotlight.png", response_class=Response, responses=DRAWING_RESPONSES)
async def get_region_spotlight(
    image: ImageDep, region_id: RegionIdPath, request: Request, services: ServicesDep, caller: CallerDep
) -> Response:
    """Return the image with everything outside of a region dimmed, as PNG."""
    return picture_response(request, await services.regions.spotlight(image, region_id, caller.request_id))


@coco_router.get("/regions.coco.json", response_model=CocoDocument, responses=ANALYSIS_PROBLEMS)
async def get_coco_document(image: ImageDep, services: ServicesDep, caller: CallerDep, text: Text = None) -> Response:
    """Return the regions in COCO's object detection format."""
    found = await services.regions.matching(image, text, caller.request_id)
    return json_response(await asyncio.to_thread(CocoDocument.of, image, found))


async def _written(
    image: ImageRecord, found: FoundRegions, forms: Collection[MaskForm], caller: Caller, *, status_code: int = 200
) -> Response:
    def write() -> RegionList:
        return RegionList.of(image, found, forms, request_id=caller.request_id)

    return json_response(await asyncio.to_thread(write), status_code=status_code)

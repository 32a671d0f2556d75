"""The five calls of the legacy API (docs/legacy-api.md): generate, analyze, probe, segment, visualize."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Body, Depends, Header, Query, Request
from starlette.responses import Response

from graphs.analysis.stages import DESCRIBE_REGIONS, RENDER, SEGMENT
from graphs.concurrency import SingleFlight, task_group
from graphs.generation.service import GeneratedImage
from graphs.http.context import Caller, KeyDep, LegacyCallerDep, ServicesDep, job_specs
from graphs.http.errors import error_responses
from graphs.http.responses import RESPOND_ASYNC, JsonRoute, json_response
from graphs.http.schemas import common as schemas
from graphs.http.schemas.common import class_scores, percent
from graphs.http.schemas.generation import GenerateBody
from graphs.http.sse import EVENT_STREAM, as_event, sse_response
from graphs.services import Services
from pipeline.answer_warnings import image_warnings
from pipeline.cache import SizedLru
from pipeline.event_records import EventRecord
from pipeline.records import Descriptions, Drawings, ImageRecord, Segmentation

MAX_VISUALIZATION_BYTES = 64 << 20

_USUAL_PROBLEMS = error_responses(400, 401, 413, 422, 429, 500, 503, 504)

router = APIRouter(route_class=JsonRoute, tags=["legacy"])

ImageId = Annotated[UUID | None, Query(description="Instead of the session's last image.")]


async def find_image(services: Services, caller: Caller, image_id: UUID | None) -> ImageRecord:
    """Look an image up by its id, or else the last one of the caller's session.

    Raises:
        ImageNotFound, NoImageYet: there is none.
    """
    return await services.images.find(str(image_id) if image_id else None, owner=caller.owner, session=caller.session)


async def get_chosen_image(
    services: ServicesDep,
    caller: LegacyCallerDep,
    body: Annotated[schemas.ImageChoice | None, Body()] = None,
    image_id: ImageId = None,
) -> ImageRecord:
    """Return the image that the body or the query names, or else the last one of the caller's session."""
    return await find_image(services, caller, (body and body.image_id) or image_id)


ChosenImage = Annotated[ImageRecord, Depends(get_chosen_image)]


@router.post(
    "/generate",
    response_model=schemas.Generated,
    responses=_USUAL_PROBLEMS
    | error_responses(409)
    | {
        200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}},
        202: {"model": schemas.JobStatus, "description": "Accepted, with `Prefer: respond-async`"},
    },
)
async def legacy_generate(
    body: GenerateBody,
    request: Request,
    services: ServicesDep,
    caller: LegacyCallerDep,
    key: KeyDep,
    prefer: Annotated[str, Header(description=f"`{RESPOND_ASYNC}` answers at once, with the job.")] = "",
) -> Response:
    """Generate an image from a text, and classify it.

    With `Accept: text/event-stream` events come first: `generation.stepped` carries a `preview` (base64 PNG). The last
    one is `generation.finished` with the response, or `error` with the problem.
    With `Prefer: respond-async` the job is returned at once; it survives disconnects and restarts. Without, a client
    that disconnects cancels it, unless it sent an `Idempotency-Key`.
    """
    specs = job_specs([body.resolve(services.profile.diffusion)], caller, key)
    if RESPOND_ASYNC in prefer:
        (submitted,) = await services.generation.submit(specs)
        job = schemas.JobStatus.of(submitted, services.generation.job_warnings(submitted))
        response = json_response(job, status_code=202)
        response.headers.update({"Location": job.url, "Preference-Applied": RESPOND_ASYNC})
    elif EVENT_STREAM in request.headers.get("accept", ""):
        items = with_generated(services, services.generation.stream(specs, describe=True))
        response = await sse_response(request.scope, items, as_event)
    else:
        (generated,) = await services.generation.run(specs, describe=True)
        response = await generated_response(services, generated)
    caller.set_session_cookie(response)
    return response


async def generated_response(services: Services, generated: GeneratedImage) -> Response:
    """Write a new image that was described."""
    png = await services.images.png(generated.record)
    return json_response(schemas.Generated.of(generated, png, services.generation.warnings(generated)))


async def with_generated(
    services: Services, items: AsyncGenerator[EventRecord | GeneratedImage | list[GeneratedImage], None]
) -> AsyncGenerator[EventRecord | Response, None]:
    """Pass events on, and write the image that comes last."""
    async with aclosing(items):
        async for item in items:
            if isinstance(item, EventRecord):
                yield item
            else:
                (generated,) = item if isinstance(item, list) else [item]
                yield await generated_response(services, generated)


@router.post("/analyze", response_model=schemas.Analysis, responses=_USUAL_PROBLEMS | error_responses(404))
async def legacy_analyze(image: ChosenImage, services: ServicesDep, caller: LegacyCallerDep) -> Response:
    """Classify and segment an image."""
    async with task_group() as group:
        describing = group.create_task(services.stages.describe(image, caller.request_id))
        segmenting = group.create_task(services.stages.result(SEGMENT, image, caller.request_id))
    description, segmentation = describing.result(), segmenting.result()
    return json_response(
        schemas.Analysis(
            request_id=caller.request_id,
            clip_scores=class_scores(description),
            segmentation=schemas.SegmentationSummary(
                masks=[f"region_{i}" for i in range(len(segmentation))], polygons=list(segmentation.polygons)
            ),
            image_id=image.image_id,
            warnings=list(image_warnings(services.profile, image, description)),
        )
    )


@router.post("/probe", response_model=schemas.ProbeAnswer, responses=_USUAL_PROBLEMS | error_responses(404))
async def legacy_probe(
    body: schemas.ProbeBody, services: ServicesDep, caller: LegacyCallerDep, image_id: ImageId = None
) -> Response:
    """Score a text against an image and each of its regions."""
    image = await find_image(services, caller, body.image_id or image_id)
    found = await services.queries.probe(image, body.prompt, caller.request_id)
    matches = zip(found.region_labels, found.region_matches, strict=True)
    return json_response(
        schemas.ProbeAnswer(
            request_id=caller.request_id,
            probe_text=body.prompt,
            global_match_score=percent(found.image_match),
            regional_matches=[
                schemas.RegionMatch(region_id=i, class_label=label, similarity_to_prompt=percent(match))
                for i, (label, match) in enumerate(matches)
            ],
            image_id=image.image_id,
        )
    )


@router.post("/segment", response_model=schemas.SegmentAnswer, responses=_USUAL_PROBLEMS | error_responses(404))
async def legacy_segment(image: ChosenImage, services: ServicesDep, caller: LegacyCallerDep) -> Response:
    """Segment an image and classify each region."""
    async with task_group() as group:
        segmenting = group.create_task(services.stages.result(SEGMENT, image, caller.request_id))
        describing_regions = group.create_task(services.stages.result(DESCRIBE_REGIONS, image, caller.request_id))
        describing = group.create_task(services.stages.describe(image, caller.request_id))
    return json_response(
        schemas.SegmentAnswer(
            request_id=caller.request_id,
            segmented_regions=schemas.segmented_regions(segmenting.result(), describing_regions.result()),
            image_id=image.image_id,
            warnings=list(image_warnings(services.profile, image, describing.result())),
        )
    )


@router.post("/visualize", response_model=schemas.Visualization, responses=_USUAL_PROBLEMS | error_responses(404))
async def legacy_visualize(
    image: ChosenImage, request: Request, services: ServicesDep, caller: LegacyCallerDep
) -> Response:
    """Draw an image's regions: all outlines in one picture, and a spotlight on each."""
    async with task_group() as group:
        segmenting = group.create_task(services.stages.result(SEGMENT, image, caller.request_id))
        describing = group.create_task(services.stages.result(DESCRIBE_REGIONS, image, caller.request_id))
        rendering = group.create_task(services.stages.result(RENDER, image, caller.request_id))
    writer: VisualizationWriter = request.app.state.visualizations
    body = await writer.write(
        (segmenting.result(), describing.result(), rendering.result()),
        request_id=caller.request_id,
        image_id=image.image_id,
    )
    return Response(body, media_type="application/json")


Regions = tuple[Segmentation, Descriptions, Drawings]


class VisualizationWriter:
    """Writes answers of `/visualize`: megabytes of Base64, written once for as long as their results are in memory."""

    def __init__(self, max_bytes: int = MAX_VISUALIZATION_BYTES) -> None:
        # By identity: the same results are the same objects while they are in memory. Keeping them keeps their ids.
        self._written: SizedLru[tuple[int, ...], tuple[Regions, bytes]] = SizedLru(max_bytes)
        self._writing: SingleFlight[tuple[int, ...], bytes] = SingleFlight()

    async def write(self, regions: Regions, *, request_id: str, image_id: str) -> bytes:
        """Write an image's regions as the JSON of a `schemas.Visualization`."""
        key = tuple(map(id, regions))
        written = self._written.get(key)
        if written is None:
            # In a thread: it takes long enough to block other requests.
            written = regions, await self._writing.run(key, lambda: asyncio.to_thread(write_regions, *regions))
            size_bytes = len(written[1]) + len(regions[2].overlay) + sum(map(len, regions[2].spotlights))
            self._written.put(key, written, size_bytes)
        ids = orjson.dumps({"request_id": request_id, "image_id": image_id})
        return b"".join((ids[:-1], written[1]))


def write_regions(segmentation: Segmentation, regions: Descriptions, drawings: Drawings) -> bytes:
    """All that follows the ids."""
    answer = schemas.Visualization(
        request_id="",
        image_id="",
        status="success",
        total_regions=len(segmentation),
        master_overlay=schemas.base64_text(drawings.overlay),
        individual_spotlights=[
            schemas.Spotlight(
                region_id=region.region_id,
                top_class=description.top[0].label,
                polygon=region.polygon,
                spotlight_image=schemas.base64_text(png),
            )
            for region, description, png in zip(segmentation, regions, drawings.spotlights, strict=True)
        ],
    )
    return b"," + answer.model_dump_json(by_alias=True, exclude={"request_id", "image_id"}).encode()[1:]

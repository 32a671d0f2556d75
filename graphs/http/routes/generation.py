"""Generation of images: from a text, as variations, and as edits."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from graphs.generation.requests import GenerationJobSpec
from graphs.generation.service import GeneratedImage
from graphs.http.context import Caller, CallerDep, KeyDep, ServicesDep, job_specs
from graphs.http.errors import error_responses
from graphs.http.image_responses import created_images
from graphs.http.preferences import RESPOND_ASYNC, WAIT, Preferences, PreferHeader, preferences_of
from graphs.http.responses import ImageIdPath, V1Route, json_response
from graphs.http.schemas.common import JobStatus
from graphs.http.schemas.creation import CreateBody, EditsBody, NewImageFields, VariationsBody
from graphs.http.schemas.images import AcceptedJobs, CreatedImages
from graphs.http.sse import EVENT_STREAM, as_event, sse_response
from graphs.http.validation import REFUSALS
from graphs.services import Services
from pipeline.event_records import EventRecord

MAKING_PROBLEMS = error_responses(400, 401, 404, 409, 413, 415, 422, 429, 500, 503, 504)
MAKING_ANSWERS: dict[int | str, dict[str, Any]] = MAKING_PROBLEMS | {
    201: {
        "model": CreatedImages,
        "description": "Made. With `Accept: text/event-stream` the status is 200, and this the last event.",
    },
    200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}, "description": "Events, with that `Accept`"},
    202: {
        "model": AcceptedJobs,
        "description": f"Accepted, with `Prefer: {RESPOND_ASYNC}`, or not finished within `{WAIT}`",
    },
}


router = APIRouter(prefix="/v1/images", route_class=V1Route, tags=["images"], dependencies=REFUSALS)


@router.post("", status_code=201, responses=MAKING_ANSWERS)
async def create_images(
    body: CreateBody,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    key: KeyDep,
    _prefer: PreferHeader = None,
) -> Response:
    """Generate images from a text, with consecutive seeds, concurrently.

    With `Accept: text/event-stream` events come first, each with its `job_id`; with `Prefer: respond-async` the jobs
    are returned at once, with `Prefer: wait=10` if the images aren't there within 10 seconds.
    """
    wanted = await services.generation.find_request(caller.owner, key) or body.resolve(services.profile.diffusion)
    specs = job_specs(body.each_seed(wanted), caller, key, body.annotations)
    return await _generate(services, specs, body, request, caller)


@router.post("/{image_id}/variations", status_code=201, responses=MAKING_ANSWERS)
async def create_variations(
    image_id: ImageIdPath,
    body: VariationsBody,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    key: KeyDep,
    _prefer: PreferHeader = None,
) -> Response:
    """Generate variations (img2img): the less strength, the more alike."""
    wanted = await services.generation.find_request(caller.owner, key)
    if wanted is None:
        record = await services.images.find(str(image_id), owner=caller.owner, session="")
        wanted = await services.edits.variation(record, body.options, body.prompt, body.strength, caller.request_id)
    specs = job_specs(body.each_seed(wanted), caller, key, body.annotations)
    return await _generate(services, specs, body, request, caller)


@router.post("/{image_id}/edits", status_code=201, responses=MAKING_ANSWERS)
async def create_edits(
    image_id: ImageIdPath,
    body: EditsBody,
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    key: KeyDep,
    _prefer: PreferHeader = None,
) -> Response:
    """Edit a part of an image (inpainting): within a mask, regions, or what matches points, a box or a text.

    All else stays. The part is found when the job runs.
    """
    wanted = await services.generation.find_request(caller.owner, key)
    if wanted is None:
        record = await services.images.find(str(image_id), owner=caller.owner, session="")
        mask = None
        if body.area is not None:
            body.area.check_inside(record)
            mask = body.area.mask
        wanted = await services.edits.edit(record, body.options, body.prompt, body.strength, mask, caller.request_id)
    area = None if body.area is None else body.area.as_edit_area()
    specs = job_specs(body.each_seed(wanted), caller, key, body.annotations, area)
    return await _generate(services, specs, body, request, caller)


async def _generate(
    services: Services,
    specs: Sequence[GenerationJobSpec],
    body: NewImageFields,
    request: Request,
    caller: Caller,
) -> Response:
    """Make images and return them, their jobs, or the events on the way, as the caller prefers."""
    preferences = preferences_of(request)
    if preferences.respond_async or preferences.wait_s is not None:
        return await _submit(services, specs, body, caller, preferences)
    if EVENT_STREAM in request.headers.get("accept", ""):
        return await sse_response(request.scope, _stream(services, specs, body, caller), as_event)
    return await _created(services, await services.generation.run(specs), body, caller)


async def _submit(
    services: Services,
    specs: Sequence[GenerationJobSpec],
    body: NewImageFields,
    caller: Caller,
    preferences: Preferences,
) -> Response:
    """Submit the jobs, and return the images if they are there within the time to wait, else the jobs."""
    jobs = await services.generation.submit(specs)
    made = None
    if preferences.wait_s is not None:
        made = await services.generation.finished_within(jobs, preferences.wait_s)
    if made is not None:
        response = await _created(services, made, body, caller)
    else:
        if preferences.wait_s is not None:
            jobs = [await services.jobs.get(job.job_id, caller.owner) for job in jobs]
        statuses = [JobStatus.of(job, services.generation.job_warnings(job)) for job in jobs]
        accepted = AcceptedJobs(request_id=caller.request_id, data=statuses, jobs=statuses)
        response = json_response(accepted, status_code=202)
        several = f"/v1/jobs?request_id={jobs[0].order.request_id}"
        response.headers.update({"Location": statuses[0].url if len(jobs) == 1 else several, "Retry-After": "1"})
    response.headers["Preference-Applied"] = preferences.applied
    return response


async def _stream(
    services: Services, specs: Sequence[GenerationJobSpec], body: NewImageFields, caller: Caller
) -> AsyncGenerator[EventRecord | Response, None]:
    async with aclosing(services.generation.stream(specs)) as items:
        async for item in items:
            yield item if isinstance(item, EventRecord) else await _created(services, item, body, caller)


async def _created(
    services: Services, generated: Sequence[GeneratedImage], body: NewImageFields, caller: Caller
) -> Response:
    created = await created_images(services, generated, caller, body.include, body.output_format)
    response = json_response(created, status_code=201)
    if len(generated) == 1:
        response.headers["Location"] = f"/v1/images/{generated[0].record.image_id}"
    return response

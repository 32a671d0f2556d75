"""Jobs: list, read, follow, cancel, retry."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from graphs.generation.service import GeneratedImage
from graphs.http.context import Caller, CallerDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.image_responses import created_images
from graphs.http.pagination import PageDep, SplitCommas, split_page
from graphs.http.responses import BYTES, JobIdPath, V1Route, binary_content, json_response
from graphs.http.routes.events import Resume
from graphs.http.schemas import common as schemas
from graphs.http.schemas.generation import PlainText
from graphs.http.schemas.images import FinishedJob
from graphs.http.sse import EVENT_STREAM, live_sse_response
from graphs.http.validation import REFUSALS
from graphs.services import Services
from pipeline.errors import PreviewNotFound
from pipeline.event_records import EventRecord
from pipeline.jobs import Job, JobState

router = APIRouter(prefix="/v1/jobs", route_class=V1Route, tags=["jobs"], dependencies=REFUSALS)


def _status(services: Services, job: Job) -> schemas.JobStatus:
    step = services.feed.newest_step(job.job_id)
    return schemas.JobStatus.of(job, services.generation.job_warnings(job), step)


@router.get("", response_model=schemas.JobList, responses=error_responses(401, 422, 429, 503))
async def list_jobs(
    services: ServicesDep,
    caller: CallerDep,
    page: PageDep,
    state: Annotated[
        Sequence[JobState], SplitCommas, Query(description="Only jobs in this state; repeat it for several.")
    ] = (),
    request_id: Annotated[
        PlainText | None, Query(max_length=128, description="Only the jobs of this request, by its `X-Request-ID`.")
    ] = None,
) -> Response:
    """List your jobs, newest first."""
    found = await services.jobs.list(caller.owner, page, states=state, request_id=request_id)
    shown, fields = split_page(found, page, lambda job: job.job_id)
    jobs = [_status(services, job) for job in shown]
    return json_response(schemas.JobList(data=jobs, jobs=jobs, **fields))


@router.get("/{job_id}", response_model=schemas.JobStatus, responses=error_responses(401, 404, 422, 429, 503))
async def get_job(job_id: JobIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return a job's state, and its result or problem."""
    return json_response(_status(services, await services.jobs.get(str(job_id), caller.owner)))


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses=error_responses(401, 404, 422, 429, 503)
    | {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
async def stream_job_events(
    job_id: JobIdPath, request: Request, services: ServicesDep, caller: CallerDep, after: Resume
) -> Response:
    """Stream a job's events, past and future, and its image as the last one, `generation.finished`.

    `Last-Event-ID` resumes a stream. Steps with previews are sent only while they happen.
    """
    await services.jobs.get(str(job_id), caller.owner)
    items = services.generation.stream_job(str(job_id), caller.owner, after or 0)
    return live_sse_response(request.scope, _with_image(services, str(job_id), items, caller), after or 0)


async def _with_image(
    services: Services, job_id: str, items: AsyncGenerator[EventRecord | GeneratedImage, None], caller: Caller
) -> AsyncGenerator[EventRecord | Response, None]:
    """Pass events on, and write the image that comes last."""
    async with aclosing(items):
        async for item in items:
            if isinstance(item, EventRecord):
                yield item
            else:
                made = await created_images(services, [item], caller)
                yield json_response(FinishedJob(**dict(made), job_id=job_id, image_id=item.record.image_id))


@router.get(
    "/{job_id}/preview.png",
    response_class=Response,
    responses=error_responses(401, 404, 422, 429, 503) | {200: {"content": binary_content("image/png", BYTES)}},
)
async def get_job_preview(job_id: JobIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Return the newest preview of a running job, as PNG."""
    await services.jobs.get(str(job_id), caller.owner)
    step = services.feed.newest_step(str(job_id))
    preview = step and step.payload["preview"]
    if not preview:
        raise PreviewNotFound(job_id=str(job_id))
    return Response(b64decode(preview), media_type="image/png", headers={"Cache-Control": "no-store"})


@router.post(
    "/{job_id}/cancel",
    response_model=schemas.JobStatus,
    responses=error_responses(401, 404, 422, 429, 503)
    | {202: {"model": schemas.JobStatus, "description": "Cancellation requested: the job is still running"}},
)
async def cancel_job(job_id: JobIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Cancel a job; one that has ended is left as it is."""
    job = await services.jobs.cancel(str(job_id), caller.owner)
    return json_response(_status(services, job), status_code=200 if job.state.is_final else 202)


@router.post(
    "/{job_id}/retry",
    response_model=schemas.JobStatus,
    status_code=202,
    responses=error_responses(401, 404, 409, 422, 429, 503),
)
async def retry_job(job_id: JobIdPath, services: ServicesDep, caller: CallerDep) -> Response:
    """Retry a job that failed, was cancelled or is dead."""
    return json_response(_status(services, await services.jobs.retry(str(job_id), caller.owner)), status_code=202)

"""Jobs: list, read, follow, cancel, retry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from graphs.http.context import CallerDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.responses import PAGE, Before, JobIdPath, Limit, V1Route, json_response, split_page
from graphs.http.routes.events import Resume
from graphs.http.routes.legacy import with_generated
from graphs.http.schemas import common as schemas
from graphs.http.sse import EVENT_STREAM, live_sse_response
from graphs.http.validation import REFUSALS
from graphs.services import Services
from pipeline.jobs import Job, JobState

router = APIRouter(prefix="/v1/jobs", route_class=V1Route, tags=["jobs"], dependencies=REFUSALS)


def _status(services: Services, job: Job) -> schemas.JobStatus:
    return schemas.JobStatus.of(job, services.generation.job_warnings(job))


@router.get("", response_model=schemas.Jobs, responses=error_responses(401, 422, 429, 503))
async def list_jobs(
    services: ServicesDep,
    caller: CallerDep,
    limit: Limit = PAGE,
    before: Before = None,
    state: Annotated[list[JobState] | None, Query(description="Only these.")] = None,
) -> Response:
    """List your jobs, newest first."""
    found = await services.jobs.list(
        caller.owner, limit=limit + 1, before=str(before) if before else None, states=state or ()
    )
    page, last = split_page(found, limit, lambda job: job.job_id)
    return json_response(schemas.Jobs(jobs=[_status(services, job) for job in page], next=last))


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
    """Stream a job's events, past and future, and its result as the last one, `generation.finished`.

    `Last-Event-ID` resumes a stream. Steps with previews are sent only while they happen.
    """
    await services.jobs.get(str(job_id), caller.owner)
    items = services.generation.stream_job(str(job_id), caller.owner, after or 0)
    return live_sse_response(request.scope, with_generated(services, items), after or 0)


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

"""The jobs one has submitted. No logic: each route asks the flow and writes down the answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from graphs.flow import Flow
from graphs.generation.service import GeneratedImage
from graphs.http.context import AnyCaller
from graphs.http.responses import error_responses, json_response
from graphs.http.routes.events import EVENT_STREAM, Resume
from graphs.http.schemas import common as schemas
from graphs.http.sse import live_sse_response
from pipeline.jobs import Job, JobState
from pipeline.notices import Notice

PAGE, MAX_PAGE = 20, 100
RESPOND_ASYNC = "respond-async"  # RFC 7240


def job_routes(flow: Flow) -> APIRouter:
    """Routes of the jobs a caller owns."""
    router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

    def written(job: Job) -> schemas.JobStatus:
        return schemas.JobStatus.of(job, flow.job_warnings(job))

    @router.get("", response_model=schemas.Jobs, responses=error_responses(401, 422, 429, 503))
    async def jobs(
        caller: AnyCaller,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = PAGE,
        before: Annotated[UUID | None, Query(description="The `next` of the page before.")] = None,
        state: Annotated[list[JobState] | None, Query(description="Only these.")] = None,
    ) -> Response:
        """List the jobs one submitted, newest first."""
        found = await flow.jobs.list(
            caller.owner, limit=limit + 1, before=str(before) if before else None, states=state or ()
        )
        page = found[:limit]
        last = page[-1].job_id if len(found) > limit else None
        return json_response(schemas.Jobs(jobs=[written(job) for job in page], next=last))

    @router.get("/{job_id}", response_model=schemas.JobStatus, responses=error_responses(401, 404, 422, 429, 503))
    async def job(job_id: UUID, caller: AnyCaller) -> Response:
        """Tell where a job stands."""
        return json_response(written(await flow.jobs.get(str(job_id), caller.owner)))

    @router.get(
        "/{job_id}/events",
        response_class=Response,
        responses=error_responses(401, 404, 422, 429, 503)
        | {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
    )
    async def events(job_id: UUID, request: Request, caller: AnyCaller, after: Resume) -> Response:
        """Follow a job: what has happened to it, what happens, and what it made as the last, `generation.finished`.

        With `Last-Event-ID` from there on. Steps with their previews come to those who listen while they happen.
        """
        await flow.jobs.get(str(job_id), caller.owner)
        following = flow.generations.following(str(job_id), caller.owner, after or 0)
        return live_sse_response(request.scope, generated(following), after or 0)

    @router.post(
        "/{job_id}/cancel", response_model=schemas.JobStatus, responses=error_responses(401, 404, 422, 429, 503)
    )
    async def cancel(job_id: UUID, caller: AnyCaller) -> Response:
        """Stop a job; one that has ended stays as it is."""
        return json_response(written(await flow.jobs.cancel(str(job_id), caller.owner)))

    @router.post(
        "/{job_id}/retry",
        response_model=schemas.JobStatus,
        status_code=202,
        responses=error_responses(401, 404, 409, 422, 429, 503),
    )
    async def retry(job_id: UUID, caller: AnyCaller) -> Response:
        """Begin a job again that failed, was cancelled or is dead."""
        return json_response(written(await flow.jobs.retry(str(job_id), caller.owner)), status_code=202)

    return router


async def generated(items: AsyncGenerator[Notice | GeneratedImage, None]) -> AsyncGenerator[Notice | Response, None]:
    """Write the image down that comes last."""
    async with aclosing(items):
        async for item in items:
            yield json_response(schemas.Generated.of(item)) if isinstance(item, GeneratedImage) else item

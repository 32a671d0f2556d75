"""The event stream."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from graphs.http.context import CallerDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.responses import V1Route
from graphs.http.sse import EVENT_STREAM, live_sse_response
from graphs.http.validation import REFUSALS
from pipeline.errors import InvalidRequest
from pipeline.event_records import STEPPED, TYPES

MAX_SEQUENCE = 2**63 - 1

router = APIRouter(prefix="/v1", route_class=V1Route, tags=["events"], dependencies=REFUSALS)


async def get_resumption(
    last_event_id: Annotated[
        int | None,
        Header(ge=0, le=MAX_SEQUENCE, description="Resume after this event; browsers send it by themselves."),
    ] = None,
    after: Annotated[int | None, Query(ge=0, le=MAX_SEQUENCE, description="The same, for the first call.")] = None,
) -> int | None:
    """Return the last event a reader knows, the header's before the query's."""
    return after if last_event_id is None else last_event_id


Resume = Annotated[int | None, Depends(get_resumption)]


@router.get(
    "/events",
    response_class=Response,
    responses=error_responses(401, 422, 429, 503) | {200: {"content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
async def stream_events(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    after: Resume,
    types: Annotated[str, Query(alias="type", description="Only these, such as `image.created,job.failed`.")] = "",
    follow: Annotated[
        bool, Query(description="`false`: only what has happened so far, and `stream.finished` as the last event.")
    ] = True,
) -> Response:
    """Stream the events of your images and jobs, from now on or from `Last-Event-ID` on; 0 is the beginning.

    Each logged event is sent once, in order, with its sequence number as `id`. Steps (`generation.stepped`) have none:
    they are sent while they happen, or not at all.
    """
    wanted = frozenset(name.strip() for name in types.split(",") if name.strip())
    if unknown := wanted.difference(TYPES, [STEPPED]):
        there_are = ", ".join((*TYPES, STEPPED))
        raise InvalidRequest(problem=f"No event is a {' or '.join(sorted(unknown))}. Send types of {there_are}.")
    if not follow:
        past = services.feed.past(caller.owner, after=after or 0, types=wanted)
        return live_sse_response(request.scope, past, after or 0, says_end=True)
    begin = await services.feed.latest_sequence() if after is None else after
    return live_sse_response(request.scope, services.feed.follow(caller.owner, after=begin, types=wanted), begin)

"""The event stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import AfterValidator
from starlette.responses import Response

from graphs.http.context import CallerDep, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.pagination import MAX_PAGE, SplitCommas
from graphs.http.responses import V1Route
from graphs.http.schemas.events import Event, EventList
from graphs.http.schemas.generation import PlainText
from graphs.http.sse import EVENT_STREAM, facts, live_sse_response
from graphs.http.validation import REFUSALS
from pipeline.event_records import STEPPED, TYPES, EventRecord

MAX_SEQUENCE = 2**63 - 1
ALL_TYPES = (*TYPES, STEPPED)

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


def _known_types(types: Sequence[str]) -> Sequence[str]:
    if unknown := set(types).difference(ALL_TYPES):
        raise ValueError(f"no event is a {' or '.join(sorted(unknown))}; send types of {', '.join(ALL_TYPES)}")
    return types


Types = Annotated[
    Sequence[str],
    SplitCommas,
    AfterValidator(_known_types),
    Query(alias="type", description="Only these types, such as `image.created`; repeat it for several."),
]


@router.get(
    "/events",
    response_class=Response,
    responses=error_responses(401, 422, 429, 503)
    | {200: {"model": EventList, "content": {EVENT_STREAM: {"schema": {"type": "string"}}}}},
)
async def stream_events(
    request: Request,
    services: ServicesDep,
    caller: CallerDep,
    after: Resume,
    types: Types = (),
    request_id: Annotated[
        PlainText | None, Query(max_length=128, description="Only those of this request, by its `X-Request-ID`.")
    ] = None,
    follow: Annotated[
        bool, Query(description="`false`: only what has happened so far, and `stream.finished` as the last event.")
    ] = True,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Number of events on a page of the list.")] = MAX_PAGE,
) -> Response:
    """Stream the events of your images and jobs, from now on or from `Last-Event-ID` on; 0 is the beginning.

    Each logged event is sent once, in order, with its sequence number as `id`. Steps (`generation.stepped`) have none:
    they are sent while they happen, or not at all. With `Accept: application/json` the response is a page of the log
    instead, oldest first.
    """
    wanted = frozenset(types)
    if "application/json" in request.headers.get("accept", ""):
        page = await services.feed.page(
            caller.owner, after=after or 0, types=wanted, request_id=request_id, limit=limit + 1
        )
        return _listed(page, limit)
    if not follow:
        past = services.feed.past(caller.owner, after=after or 0, types=wanted, request_id=request_id)
        return live_sse_response(request.scope, past, after or 0, says_end=True)
    begin = await services.feed.latest_sequence() if after is None else after
    items = services.feed.follow(caller.owner, after=begin, types=wanted, request_id=request_id)
    return live_sse_response(request.scope, items, begin)


def _listed(found: Sequence[EventRecord], limit: int) -> Response:
    """Return a page of events, each as streams have it: without what it doesn't have."""
    shown = [Event(**facts(record)) for record in found[:limit]]
    has_more = len(found) > limit
    page = EventList(data=shown, has_more=has_more, next=shown[-1].event_id if has_more else None)
    written = page.model_dump(mode="json")
    written["data"] = [event.model_dump(mode="json", exclude_none=True) for event in shown]
    return Response(orjson.dumps(written), media_type="application/json")

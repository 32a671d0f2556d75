"""Images made from others. No logic: each route asks the flow and writes down the answer."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from graphs.flow import Flow
from graphs.generation.edits import EditArea, EditRequests
from graphs.generation.requests import with_consecutive_seeds
from graphs.http.context import AnyCaller, Key, orders_of
from graphs.http.responses import JsonRoute
from graphs.http.routes.images import MAKING_ANSWERS, Prefer, made
from graphs.http.schemas.images import EditsBody, VariationsBody


def edit_routes(flow: Flow, edits: EditRequests) -> APIRouter:
    """Routes of images that are made from others."""
    router = APIRouter(prefix="/v1/images/{image_id}", route_class=JsonRoute, tags=["images"])

    @router.post("/variations", status_code=201, responses=MAKING_ANSWERS)
    async def variations(
        image_id: UUID, body: VariationsBody, request: Request, caller: AnyCaller, key: Key, prefer: Prefer = ""
    ) -> Response:
        """Make images like this one: the less strength, the more alike."""
        wanted = await flow.generations.ordered(caller.owner, key)
        if wanted is None:
            record = await flow.images.find(str(image_id), owner=caller.owner, session="")
            wanted = await edits.variation(record, body.options, body.prompt, body.strength, caller.request_id)
        return await made(flow, orders_of(with_consecutive_seeds(wanted, body.n), caller, key), request, caller, prefer)

    @router.post("/edits", status_code=201, responses=MAKING_ANSWERS)
    async def edited(
        image_id: UUID, body: EditsBody, request: Request, caller: AnyCaller, key: Key, prefer: Prefer = ""
    ) -> Response:
        """Make images that show something else in a mask, a region, or what a concept finds; all else stays."""
        wanted = await flow.generations.ordered(caller.owner, key)
        if wanted is None:
            record = await flow.images.find(str(image_id), owner=caller.owner, session="")
            area = EditArea(picture=body.mask, region=body.region, concept=body.concept)
            wanted = await edits.edit(record, body.options, body.prompt, body.strength, area, caller.request_id)
        return await made(flow, orders_of(with_consecutive_seeds(wanted, body.n), caller, key), request, caller, prefer)

    return router

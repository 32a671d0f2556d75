"""The caller, and its owner's API keys."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from graphs.http.context import CallerDep, RequestContext, ServicesDep
from graphs.http.errors import error_responses
from graphs.http.pagination import PageDep, split_page
from graphs.http.responses import V1Route, json_response
from graphs.http.schemas.keys import Key, KeyBody, KeyList, KeyWithToken, Me
from graphs.http.validation import REFUSALS
from pipeline.api_keys import MAX_VALID_KEYS
from pipeline.errors import KeyNotFound, KeysNotRequired

router = APIRouter(prefix="/v1", route_class=V1Route, tags=["keys"], dependencies=REFUSALS)

KeyIdPath = Annotated[UUID, Path(description="Id of the API key.")]


@router.get("/me", response_model=Me, responses=error_responses(401, 422, 429, 503))
async def get_me(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Return the owner and the API key of this request, with the owner's limits and usage."""
    usage = await asyncio.to_thread(services.usage.of, caller.owner)
    return json_response(Me.of(caller.owner, RequestContext.of(request.scope).key, services.settings, usage))


@router.get("/keys", response_model=KeyList, responses=error_responses(401, 422, 429, 503))
async def list_keys(services: ServicesDep, caller: CallerDep, page: PageDep) -> Response:
    """List your valid API keys, newest first, without their tokens."""
    found = await asyncio.to_thread(services.keys.page, caller.owner, page)
    shown, fields = split_page(found, page, lambda key: key.key_id)
    return json_response(KeyList(data=[Key.of(key) for key in shown], **fields))


@router.post(
    "/keys",
    response_model=KeyWithToken,
    status_code=201,
    responses=error_responses(400, 401, 409, 413, 415, 422, 429, 503),
)
async def create_key(body: KeyBody, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Create another API key for your own images and jobs. Its token is shown once.

    Each request creates a key, whatever its `Idempotency-Key`: a token isn't stored, so it can't be repeated. If a
    response is lost, revoke its key. The operator creates an owner's first key, by `ai-pipeline keys create`.
    """
    _require_keys(request)
    own = RequestContext.of(request.scope).key
    key, token = await asyncio.to_thread(
        services.keys.create, caller.owner, body.name, MAX_VALID_KEYS, None if own is None else own.key_id
    )
    created = json_response(KeyWithToken(**dict(Key.of(key)), token=token), status_code=201)
    created.headers["Cache-Control"] = "no-store"
    return created


@router.delete("/keys/{key_id}", status_code=204, responses=error_responses(401, 404, 409, 422, 429, 503))
async def revoke_key(key_id: KeyIdPath, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Revoke one of your API keys; it may be the one of this request. It is accepted for 10 s more at most.

    The response is 204 also if the key is revoked already, or you have no such key.
    """
    _require_keys(request)
    with suppress(KeyNotFound):
        await asyncio.to_thread(services.keys.revoke, str(key_id), caller.owner)
    return Response(status_code=204)


def _require_keys(request: Request) -> None:
    """Check that the service runs with keys.

    Raises:
        KeysNotRequired: it doesn't.
    """
    if RequestContext.of(request.scope).key is None:
        raise KeysNotRequired

"""JSON responses, conditional and range requests."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import Path, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response
from werkzeug.http import parse_etags, parse_range_header

from graphs.http.validation import require_json

ONE_YEAR_S = 365 * 24 * 3600
RESPOND_ASYNC = "respond-async"  # RFC 7240
BYTES = "application/octet-stream"


def json_response(model: BaseModel, status_code: int = 200) -> Response:
    """Serialise an answer once: FastAPI would validate it again."""
    return Response(model.model_dump_json(by_alias=True), status_code=status_code, media_type="application/json")


ImageIdPath = Annotated[UUID, Path(description="Id of the image.")]
RegionIdPath = Annotated[int, Path(description="Id of the region, unique within its image.")]
JobIdPath = Annotated[UUID, Path(description="Id of the job.")]
WebhookIdPath = Annotated[UUID, Path(description="Id of the webhook.")]
DeliveryIdPath = Annotated[UUID, Path(description="Id of the delivery.")]


class _OrjsonRequest(Request):
    async def json(self) -> Any:
        return orjson.loads(await self.body())


class JsonRoute(APIRoute):
    """Reads bodies with orjson: NaN, invalid UTF-8 and endless nesting are errors, not surprises."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_orjson(request: Request) -> Response:
            return await handle(_OrjsonRequest(request.scope, request.receive))

        return handle_orjson


class V1Route(JsonRoute):
    """A JSON route that refuses bodies of other media types."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            require_json(request)
            return await handle(request)

        return handle_json


def binary_content(*media_types: str) -> dict[str, Any]:
    """Document binary content of any of these media types."""
    return {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}


def caching_headers(etag: str, *, for_ever: bool) -> dict[str, str]:
    """Caching headers: immutable, or to be revalidated by ETag."""
    keep = f"private, max-age={ONE_YEAR_S}, immutable" if for_ever else "private, no-cache"
    return {"ETag": f'"{etag}"', "Cache-Control": keep, "Accept-Ranges": "bytes"}


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has it already, by `If-None-Match`."""
    return parse_etags(request.headers.get("if-none-match")).contains_weak(etag)


def not_modified(etag: str, *, for_ever: bool = True) -> Response:
    """The response to a client that has it already."""
    return Response(status_code=304, headers=caching_headers(etag, for_ever=for_ever))


def content(request: Request, body: bytes, media_type: str, etag: str, *, for_ever: bool = True) -> Response:
    """Send bytes, or the one requested range of them; several ranges get the whole.

    Args:
        media_type: of the bytes; a client that accepts `application/octet-stream` alone gets that.
        etag: names these bytes.
        for_ever: whether the same URL will always give them.
    """
    headers = caching_headers(etag, for_ever=for_ever)
    media_type = BYTES if request.headers.get("accept") == BYTES else media_type
    if is_known(request, etag):
        return not_modified(etag, for_ever=for_ever)
    wanted = parse_range_header(request.headers.get("range"))
    is_fresh = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    if wanted is None or wanted.units != "bytes" or len(wanted.ranges) > 1 or not is_fresh:
        return Response(body, media_type=media_type, headers=headers)
    span = wanted.range_for_length(len(body))
    if span is None:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(body)}"})
    start, end = span
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
    return Response(body[start:end], status_code=206, media_type=media_type, headers=headers)

"""JSON responses, conditional and range requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

import orjson
from fastapi import Query, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

ONE_YEAR_S = 365 * 24 * 3600
PAGE, MAX_PAGE = 20, 100
RESPOND_ASYNC = "respond-async"  # RFC 7240

T = TypeVar("T")

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def json_response(model: BaseModel, status_code: int = 200) -> Response:
    """Serialise an answer once: FastAPI would validate it again."""
    return Response(model.model_dump_json(by_alias=True), status_code=status_code, media_type="application/json")


Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Before = Annotated[UUID | None, Query(description="The `next` of the page before.")]


def split_page(found: Sequence[T], limit: int, id_of: Callable[[T], str]) -> tuple[Sequence[T], str | None]:
    """Split a list of up to `limit` + 1 items into a page and the `next` of the following page, if there is one."""
    page = found[:limit]
    return page, id_of(page[-1]) if len(found) > limit else None


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


def caching_headers(etag: str, *, for_ever: bool) -> dict[str, str]:
    """Caching headers: immutable, or to be revalidated by ETag."""
    keep = f"private, max-age={ONE_YEAR_S}, immutable" if for_ever else "private, no-cache"
    return {"ETag": f'"{etag}"', "Cache-Control": keep, "Accept-Ranges": "bytes"}


def is_known(request: Request, etag: str) -> bool:
    """Whether the client has it already, by `If-None-Match`."""
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return f'"{etag}"' in tags or "*" in tags


def not_modified(etag: str, *, for_ever: bool = True) -> Response:
    """The response to a client that has it already."""
    return Response(status_code=304, headers=caching_headers(etag, for_ever=for_ever))


def content(request: Request, body: bytes, media_type: str, etag: str, *, for_ever: bool = True) -> Response:
    """Send bytes, or the one requested range of them; several ranges get the whole.

    Args:
        etag: names these bytes.
        for_ever: whether the same URL will always give them.
    """
    headers = caching_headers(etag, for_ever=for_ever)
    if is_known(request, etag):
        return not_modified(etag, for_ever=for_ever)
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    is_fresh = request.headers.get("if-range", headers["ETag"]) == headers["ETag"]
    if wanted is None or not is_fresh or not _is_range(*wanted.groups()):
        return Response(body, media_type=media_type, headers=headers)
    if wanted[1]:
        start, end = int(wanted[1]), min(int(wanted[2] or len(body)), len(body) - 1)
    else:  # the last so many
        start, end = max(0, len(body) - int(wanted[2])), len(body) - 1
    if start > end:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
    return Response(body[start : end + 1], status_code=206, media_type=media_type, headers=headers)


def _is_range(first: str, last: str) -> bool:
    """Whether it is one at all: others are ignored (RFC 9110, section 14.1.2)."""
    return bool(first or last) and not (first and last and int(last) < int(first))

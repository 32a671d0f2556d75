"""JSON answers, conditional and range requests, and the error answers that OpenAPI documents."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.responses import Response

from graphs.http.middleware import PROBLEM_JSON
from graphs.http.schemas import common as schemas

ONE_YEAR_S = 365 * 24 * 3600

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


def json_response(model: BaseModel, status_code: int = 200) -> Response:
    """Serialise an answer once: FastAPI would validate it again."""
    return Response(model.model_dump_json(by_alias=True), status_code=status_code, media_type="application/json")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers of a route."""
    content = {PROBLEM_JSON: {"schema": schemas.Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def openai_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers of a route that OpenAI's clients call."""
    return {status: {"description": HTTPStatus(status).phrase, "model": schemas.OpenAIError} for status in statuses}


def document_proxy_errors(app: FastAPI) -> None:
    """Document what the proxy before the application answers of its own: 400 in plain text, for what is no HTTP."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = describe()
        if is_new:
            for operation in (operation for path in document["paths"].values() for operation in path.values()):
                bad = operation["responses"].setdefault("400", {"description": HTTPStatus.BAD_REQUEST.phrase})
                bad.setdefault("content", {})["text/plain"] = {"schema": {"type": "string"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


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
    """Headers of something that may be kept: for ever, or as long as asking says that it is the same."""
    keep = f"private, max-age={ONE_YEAR_S}, immutable" if for_ever else "private, no-cache"
    return {"ETag": f'"{etag}"', "Cache-Control": keep, "Accept-Ranges": "bytes"}


def is_known(request: Request, etag: str) -> bool:
    """Whether the client says that it has it already."""
    said = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return f'"{etag}"' in said or "*" in said


def not_modified(etag: str, *, for_ever: bool = True) -> Response:
    """The answer to a client who has it already."""
    return Response(status_code=304, headers=caching_headers(etag, for_ever=for_ever))


def content(request: Request, body: bytes, media_type: str, etag: str, *, for_ever: bool = True) -> Response:
    """Send bytes, or the one range of them that is asked for; several ranges are answered by the whole.

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

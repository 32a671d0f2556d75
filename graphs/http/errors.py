"""Error responses: problem+json (RFC 9457), OpenAI's error object on its routes, and both in the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from graphs.http.context import RequestContext, path_of
from graphs.http.schemas import common as schemas
from graphs.http.validation import body_fields, malformed_id, suggestion
from pipeline.errors import (
    InvalidRequest,
    MalformedBody,
    MethodNotAllowed,
    PipelineError,
    RouteNotFound,
    TooManyRequests,
    Unauthorized,
)
from pipeline.jobs import SERVER_ERROR

PROBLEM_JSON = "application/problem+json"

# The routes that speak OpenAI's API.
GENERATIONS, EDITS, EMBEDDINGS, MODELS = "/v1/images/generations", "/v1/images/edits", "/v1/embeddings", "/v1/models"

BAD_REQUEST = 400
MAX_ERRORS = 20  # of one response
MAX_ECHOED_CHARS = 100  # of what was sent


def error_response(scope: Scope, error: PipelineError, **extra: Any) -> Response:
    """Write an error as problem+json, or as OpenAI does on its routes, and note it for the log."""
    context = RequestContext.of(scope)
    context.error = error
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    if error.status == Unauthorized.status:
        headers["WWW-Authenticate"] = "Bearer"  # RFC 6750
    if is_openai_route(scope):
        body = orjson.dumps(openai_error(error, extra.get("errors")))
        return Response(body, status_code=openai_status(error), media_type="application/json", headers=headers)
    content = {
        "type": f"urn:ai-pipeline:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": context.request_id,
        **extra,
    }
    return Response(orjson.dumps(content), status_code=error.status, media_type=PROBLEM_JSON, headers=headers)


def add_exception_handlers(app: FastAPI) -> None:
    """Make the application write every error it knows in the one shape."""

    @app.exception_handler(PipelineError)
    async def pipeline_error(request: Request, error: PipelineError) -> Response:
        extra = {name: error.facts[name] for name in ("errors", "image_ids") if name in error.facts}
        return error_response(request.scope, error, **extra)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_response(request.scope, MalformedBody(problem=first["ctx"]["error"]))
        if not_found := malformed_id(error.errors()):
            return error_response(request.scope, not_found)
        known = body_fields(request.scope.get("route"))
        errors = [{"field": _field(e), "problem": _sentence(e, known)} for e in error.errors()[:MAX_ERRORS]]
        sentence = "; ".join(f"{e['field']}: {e['problem']}" for e in errors)
        return error_response(request.scope, InvalidRequest(problem=f"{sentence}."), errors=errors)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}"
        if error.status_code == MethodNotAllowed.status:
            allowed = (error.headers or {})["Allow"]
            response = error_response(request.scope, MethodNotAllowed(what=what, allowed=allowed))
            response.headers["Allow"] = allowed
            return response
        if error.status_code == RouteNotFound.status:
            return error_response(request.scope, RouteNotFound(what=what))
        return error_response(request.scope, MalformedBody(problem=error.detail))


def _sentence(error: dict[str, Any], known: Sequence[str]) -> str:
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])[:MAX_ECHOED_CHARS]
        return f"there is no such field{suggestion(name, known if len(error['loc']) == 2 else ())}"
    if error["type"] == "enum":
        values = re.findall(r"'(\w+)'", error["ctx"]["expected"])
        sent = str(error["input"])[:MAX_ECHOED_CHARS]
        return f"{sent!r} is none of {error['ctx']['expected']}{suggestion(sent, values)}"
    return str(error["msg"]).removeprefix("Value error, ")


def _field(error: dict[str, Any]) -> str:
    return ".".join(str(part)[:MAX_ECHOED_CHARS] for part in error["loc"] if part != "body") or "body"


def is_openai_route(scope: Scope) -> bool:
    """Whether a request is for a route of OpenAI's API."""
    path = path_of(scope)
    return path in (GENERATIONS, EDITS, EMBEDDINGS, MODELS) or path.startswith(f"{MODELS}/")


def openai_status(error: PipelineError) -> int:
    """OpenAI's status for what we call 422 is 400."""
    return BAD_REQUEST if error.status == InvalidRequest.status else error.status


def openai_error(error: PipelineError, errors: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it.

    Args:
        errors: the fields that could not be read, each with its `field`.
    """
    kind = "invalid_request_error"
    if isinstance(error, TooManyRequests):
        kind = "rate_limit_error"
    elif error.status >= SERVER_ERROR:
        kind = "server_error"
    param = errors[0]["field"] if errors else error.facts.get("param")
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error responses of a route."""
    content = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}  # see `graphs.http.openapi`
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def openai_error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error responses of a route of OpenAI's API."""
    return {status: {"description": HTTPStatus(status).phrase, "model": schemas.OpenAIError} for status in statuses}

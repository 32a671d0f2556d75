"""The routes that speak OpenAI's API, and how they say what went wrong."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from graphs.http.paths import path_of
from pipeline.errors import InvalidRequest, PipelineError

GENERATIONS, EDITS, EMBEDDINGS, MODELS = "/v1/images/generations", "/v1/images/edits", "/v1/embeddings", "/v1/models"

BAD_REQUEST, RATE_LIMITED, SERVER_ERROR = 400, 429, 500


def speaks_openai(scope: Scope) -> bool:
    """Whether a request is for one of these routes."""
    path = path_of(scope)
    return path in (GENERATIONS, EDITS, EMBEDDINGS, MODELS) or path.startswith(f"{MODELS}/")


def openai_status(error: PipelineError) -> int:
    """Theirs for what we call 422 is 400."""
    return BAD_REQUEST if error.status == InvalidRequest.status else error.status


def openai_error(error: PipelineError, errors: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """An error as OpenAI's clients read it.

    Args:
        errors: the fields that could not be read, each with its `field`.
    """
    status = openai_status(error)
    kind = "invalid_request_error"
    if status == RATE_LIMITED:
        kind = "rate_limit_error"
    elif status >= SERVER_ERROR:
        kind = "server_error"
    param = errors[0]["field"] if errors else error.facts.get("param")
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}

"""How routes write their answers down, and document their errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.responses import Response

from graphs.http.middleware import PROBLEM_JSON
from graphs.http.schemas import common as schemas


def answer(model: BaseModel, status_code: int = 200) -> Response:
    """Serialise an answer once: FastAPI would validate it again."""
    return Response(model.model_dump_json(by_alias=True), status_code=status_code, media_type="application/json")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers of a route."""
    content = {PROBLEM_JSON: {"schema": schemas.Problem.model_json_schema()}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def openai_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document error answers of a route that OpenAI's clients call."""
    return {status: {"description": HTTPStatus(status).phrase, "model": schemas.OpenAIError} for status in statuses}


def document_proxy(app: FastAPI) -> None:
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

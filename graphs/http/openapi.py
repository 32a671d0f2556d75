"""The OpenAPI document: what FastAPI can't derive from the handlers, in a form that code generators understand."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from graphs.http import deprecation
from graphs.http.errors import error_responses
from graphs.http.event_catalogue import cloud_event_schema, webhook_operations
from graphs.http.openapi_examples import add_examples
from graphs.http.schemas import common as schemas

TITLE = "ai-pipeline API"
DESCRIPTION = """
Generate images from text, classify and segment them; every result is stored and reused.

A service that requires API keys takes them as `Authorization: Bearer …`; owners can't access each other's images.
Where an owner has a rate limit, `RateLimit` headers have the remaining requests, and a 429 has `Retry-After`.
"""
TAGS = [
    {"name": "images", "description": "Generate, upload, edit, list, download and delete images."},
    {"name": "analysis", "description": "Classify and segment images, score texts against them, draw their regions."},
    {"name": "jobs", "description": "Follow, cancel and retry the durable jobs that make images."},
    {"name": "events", "description": "Stream what happens to your images and jobs, resumable."},
    {"name": "webhooks", "description": "Receive events by signed HTTP requests."},
    {"name": "keys", "description": "API keys, limits and usage."},
    {"name": "OpenAI", "description": "OpenAI's Images, Embeddings and Models API, for its clients."},
    {
        "name": "legacy",
        "description": "The calls of the first version, kept unchanged; new programs use /v1. Without an `image_id` "
        "they mean the last image of the caller's session: that of the `X-Session-ID` header, else of the "
        "`session_id` cookie that `/generate` sets, else the one that all callers without either share.",
    },
    {"name": "service", "description": "Liveness, readiness, metrics, defaults and limits."},
]
LICENSE = {"name": "AGPL-3.0-or-later", "identifier": "AGPL-3.0-or-later"}

_VALIDATION = ("HTTPValidationError", "ValidationError")  # FastAPI's own, which this service never answers


def operation_id(route: APIRoute) -> str:
    """Return the name of a route's handler in camel case, such as `listImages`."""
    first, *others = route.name.split("_")
    return first + "".join(word.capitalize() for word in others)


def complete_openapi(app: FastAPI) -> None:
    """Make the application's document complete when it is requested."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = describe()
        if is_new:
            _complete(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    components = document["components"]["schemas"]
    components["Problem"] = schemas.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components |= components["Problem"].pop("$defs", {})
    for path, operation in _operations(document):
        responses = operation["responses"]
        if path.startswith("/v1/") and "OpenAI" not in operation["tags"]:
            responses["422"] = error_responses(422)[422]  # every call refuses unknown query parameters
        elif _is_validation_error(responses.get("422", {})):
            del responses["422"]  # as 400, where it is documented
        # What the proxy before the application answers of its own, for what is no HTTP.
        bad = responses.setdefault("400", {"description": HTTPStatus.BAD_REQUEST.phrase})
        bad.setdefault("content", {})["text/plain"] = {"schema": {"type": "string"}}
        operation["responses"] = dict(sorted(responses.items()))
        if operation.get("deprecated"):
            _add_headers(operation["responses"], deprecation.HEADERS)
    components["CloudEvent"] = cloud_event_schema()
    document["webhooks"] = webhook_operations()
    for name in _VALIDATION:
        components.pop(name, None)
    add_examples(components)


def _add_headers(responses: dict[str, Any], headers: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status.startswith("2"):
            response["headers"] = response.get("headers", {}) | headers


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _is_validation_error(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith(_VALIDATION)

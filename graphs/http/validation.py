"""Refusal of what a call does not know: unknown query parameters, malformed ids, unsupported media types.

Unknown fields of bodies are refused by their models. The legacy calls and OpenAI's ignore what they don't know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from graphs.http.context import RequestContext
from graphs.http.deprecation import DEPRECATION
from pipeline.errors import (
    DeliveryNotFound,
    ImageNotFound,
    InvalidRequest,
    JobNotFound,
    KeyNotFound,
    NotFound,
    UnsupportedMediaType,
    WebhookNotFound,
)

JSON_TYPES = ("application/json", "+json")

KEYED_PARAMETER = re.compile(r"(\w+)\[(.*)\]", re.DOTALL)  # such as `metadata[order]`, documented as `metadata[key]`

_NOT_FOUND: Mapping[str, type[NotFound]] = {
    "image_id": ImageNotFound,
    "job_id": JobNotFound,
    "webhook_id": WebhookNotFound,
    "delivery_id": DeliveryNotFound,
    "key_id": KeyNotFound,
}


async def reject_unknown_parameters(request: Request) -> None:
    """Refuse a query parameter that the route doesn't have, and announce a deprecated one; as a dependency of a router.

    Raises:
        InvalidRequest: there is one; names those that the route has.
    """
    parameters = _query_parameters(request.scope["route"].dependant)
    is_deprecated = {name: bool(field.deprecated) for name, field in parameters}
    known = list(is_deprecated)
    if any(is_deprecated.get(name) for name in request.query_params):
        RequestContext.of(request.scope).headers["Deprecation"] = DEPRECATION
    problems = [
        {"field": f"query.{name}", "problem": f"there is no such parameter{suggestion(name, known)}"}
        for name in dict.fromkeys(request.query_params)
        if name not in known and not _is_keyed(name, known)
    ]
    if problems:
        takes = f"This call takes {', '.join(known)}." if known else "This call takes no query parameters."
        sentence = "; ".join(f"{each['field']}: {each['problem']}" for each in problems)
        raise InvalidRequest(problem=f"{sentence}. {takes}", errors=problems)


def _is_keyed(name: str, known: Sequence[str]) -> bool:
    keyed = KEYED_PARAMETER.fullmatch(name)
    return keyed is not None and f"{keyed[1]}[key]" in known


REFUSALS = (Depends(reject_unknown_parameters),)
"""Dependencies of the routers of the v1 API."""


def require_json(request: Request) -> None:
    """Refuse a body of another media type; a body that may be left out may be.

    Raises:
        UnsupportedMediaType: the Content-Type isn't JSON, or missing.
    """
    kind = media_type_of(request)
    if not kind and _may_be_left_out(request):
        return
    if not kind.endswith(JSON_TYPES):
        raise UnsupportedMediaType(given=kind or "missing", accepted="application/json")


def _may_be_left_out(request: Request) -> bool:
    body = request.scope["route"].body_field
    has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    return not has_body and body is not None and not body.field_info.is_required()


def media_type_of(request: Request) -> str:
    """Return the media type of the request's body without its parameters, in lower case; empty if missing."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def query_parameters(route: APIRoute) -> list[str]:
    """Return the names of a route's query parameters."""
    return list(dict.fromkeys(name for name, _ in _query_parameters(route.dependant)))


def _query_parameters(dependant: Dependant) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the names of query parameters, and what is known of them."""
    yield from ((parameter.alias, parameter.field_info) for parameter in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _query_parameters(dependency)


def body_fields(route: APIRoute | None) -> list[str]:
    """Return the names of the fields of a route's JSON body; none if it has no such body."""
    if route is None or route.body_field is None:
        return []
    model = route.body_field.field_info.annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known name; empty if none is near."""
    near = get_close_matches(name.lower(), list(known), n=1, cutoff=0.6)
    return f", did you mean {near[0]}?" if near else ""


def malformed_id(errors: Sequence[Mapping[str, Any]]) -> NotFound | None:
    """Return the error for an id in the path that can't be one: there is nothing by that name."""
    for error in errors:
        if error["loc"][0] == "path" and (not_found := _NOT_FOUND.get(str(error["loc"][-1]))):
            return not_found(**{str(error["loc"][-1]): error["input"]})
    return None
